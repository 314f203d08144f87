"""What the commands for labelled sets say and keep: `data check`, `data render`, `evaluate`, `train`."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import skysky as package
from skysky import read_image
from skysky.scenes import write_scenes
from skysky.train.sets import PairFolder
from skysky.write_images import write_image

ROOT = Path(package.__file__).parent.parent
CODE = "from skysky.cli import main; main(prog_name='skysky')"


def run(*args, cwd, root=ROOT, home=None):
    env = os.environ | {"PYTHONPATH": str(root)} | ({"HOME": str(home)} if home else {})
    return subprocess.run([sys.executable, "-c", CODE, *map(os.fspath, args)], cwd=cwd, env=env, capture_output=True,
                          encoding="utf-8", errors="backslashreplace")


def check(cwd, said, *more, status=1):
    done = run("data", "check", *more, "set", cwd=cwd)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    for text in said: assert text in done.stdout, done.stdout
    return done.stdout


@pytest.fixture
def masks(tmp_path):
    "The masks of a set of three scenes with sky."
    write_scenes(tmp_path/"set", 3, (64, 96), seed=12)
    return sorted((tmp_path/"set"/"masks").iterdir())


def repaint(masks, paint):
    for path in masks: paint(np.asarray(Image.open(path)) == 255).save(path)


def paletted(index, *colors):
    im = Image.fromarray(index.astype(np.uint8))
    im.putpalette([c for color in colors for c in color])
    return im


@pytest.mark.parametrize("paint,said", [
    (lambda sky: Image.fromarray(np.uint8([[0, 0, 0], [255, 0, 0]])[sky.astype(int)]), ["colours: 3", "#ff0000"]),
    (lambda sky: paletted(sky, (0, 0, 0), (255, 255, 0)), ["colours: 3", "#ffff00"]),
    (lambda sky: Image.fromarray(np.where(sky, 300, 0).astype(np.uint16)), ["class range: 3", "16-bit", "8 bits"]),
    (lambda sky: Image.fromarray(sky.astype(np.uint8)*7), ["class range: 3", "value 7", "--sky", "(and 2 more)"]),
    (lambda sky: Image.fromarray(np.full(sky.shape, 128, np.uint8)), ["all void: 3", "nothing judged"]),
    (lambda sky: Image.fromarray(np.zeros(sky.shape, np.uint8)), ["no sky: 1", "3 labels", "mean sky 0.0%"]),
], ids=["red", "palette", "16 bit", "0 and 7", "void", "no sky"])
def test_check_says_what_is_wrong_with_labels(tmp_path, masks, paint, said):
    repaint(masks, paint)
    assert "nan" not in check(tmp_path, said)


def test_check_says_when_no_image_has_a_label(tmp_path, masks):
    for path in masks: path.rename(path.with_name(f"{path.stem}_sky.png"))
    done = run("data", "check", "set", cwd=tmp_path)
    assert done.returncode == 1 and "no label and 5 more" in done.stderr, done.stderr
    assert "data check" not in done.stderr


def test_check_says_what_it_guesses(tmp_path, masks):
    before = [s.targ for s in PairFolder(tmp_path/"set")]
    repaint(masks, lambda sky: Image.fromarray(sky.astype(np.uint8)))
    check(tmp_path, ["note: labels of 0 and 1: 1 is sky", "0 problems"], status=0)
    assert all((a == b.targ).all() for a, b in zip(before, PairFolder(tmp_path/"set"), strict=True))
    for path in masks:
        Image.fromarray(np.asarray(Image.open(path))*np.uint8(255)).save(path.with_suffix(".jpg"), quality=75)
        path.unlink()
    check(tmp_path, ["note: soft greys: sky from 128 on", "0 problems"], status=0)


def test_painted_labels_are_read_by_the_colour_of_the_sky(tmp_path, masks):
    repaint(masks, lambda sky: Image.fromarray(np.uint8([[90, 30, 20], [70, 130, 180]])[sky.astype(int)]))
    check(tmp_path, ["colours: 3", "--sky", "(and 2 more)"])
    check(tmp_path, ["0 problems"], "--sky", "#4682b4", status=0)


def test_labels_that_say_the_same_are_read(tmp_path, masks):
    before = [s.targ for s in PairFolder(tmp_path/"set")]
    for paint in (lambda sky: Image.fromarray(sky.astype(np.uint16)*65535),
                  lambda sky: paletted(sky, (0, 0, 0), (255, 255, 255)), Image.fromarray):
        repaint([m for m in masks if shutil.copy(m, tmp_path/m.name)], paint)
        assert all((a == b.targ).all() for a, b in zip(before, PairFolder(tmp_path/"set"), strict=True))
        for m in masks: shutil.copy(tmp_path/m.name, m)


def test_nothing_of_a_labelled_set_vanishes(tmp_path, masks):
    image = sorted((tmp_path/"set"/"images").iterdir())[0]
    for name in ("q", "q_mask"):
        write_image(read_image(image), tmp_path/f"set/images/{name}.jpg")
        write_image(read_image(masks[0])[..., 0], tmp_path/f"set/masks/{name}.png")
    check(tmp_path, ["5 pairs", "0 problems"], status=0)
    write_image(read_image(image), image.with_suffix(".png"))
    check(tmp_path, ["4 pairs", "same name: 1", image.name, image.with_suffix(".png").name])
    done = run("evaluate", "set", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1 and "same name" in done.stderr and not (tmp_path/"out").exists()


def test_check_says_that_a_cityscapes_folder_holds_only_train_ids(tmp_path):
    write_scenes(tmp_path/"set", 10, (64, 96), "cityscapes", seed=5)
    for path in (tmp_path/"set"/"gtFine").rglob("*_labelIds.png"):
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.select([ids == 23, ids == 11], [10, 2], 255).astype(np.uint8)).save(
            str(path).replace("labelIds", "labelTrainIds"))
        path.unlink()
    check(tmp_path, ["labelTrainIds", "0 problems"], status=0)


def test_training_refuses_what_cannot_be_learnt(tmp_path, masks):
    repaint(masks, lambda sky: Image.fromarray(np.full(sky.shape, 128, np.uint8)))
    (tmp_path/"c.yaml").write_text("data: [{path: set}]\nvalid: [{scenes: 2}]\nroot: .\nweights: none\n")
    for more, said in (((), "void"), (("--set", "data=[{path: set, match: '('}]"), "regular expression"),
                       (("--set", "data=[{scenes: 3, match: moon}]"), "none of 3"), (("--set", "bs=0"), "'bs'"),
                       (("--set", "arch_args={x: 1}"), "arch_args")):
        done = run("train", "c.yaml", "-o", "run", "--device", "cpu", *more, cwd=tmp_path)
        assert done.returncode == 1 and said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_place_for_a_run_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path/"c.yaml").write_text("data: [{scenes: 4}]\nvalid: [{scenes: 2}]\nweights: none\n")
    for out in ("c.yaml", "c.yaml/run", "/proc/run"):
        for command in (("train", "c.yaml"), ("evaluate", "set")):
            write_scenes(tmp_path/"set", 1, (64, 96))
            done = run(*command, "-o", out, cwd=tmp_path)
            assert done.returncode == 1 and "cannot write" in done.stderr, done.stderr
            assert len(done.stderr.strip().splitlines()) == 1 and "epoch" not in done.stdout


def test_render_and_evaluate_replace_nothing_of_the_users(tmp_path):
    for name in ("photos/images/00000_x.jpg", "out/report.txt"):
        (tmp_path/name).parent.mkdir(parents=True)
        (tmp_path/name).write_bytes(b"mine")
    done = run("data", "render", "photos", "-n", "1", "--size", "64x96", cwd=tmp_path)
    assert done.returncode == 1 and "photos" in done.stderr
    for _ in range(2): assert run("data", "render", "~/set", "-n", "2", "--size", "64x96", cwd=tmp_path,
                                  home=tmp_path).returncode == 0
    done = run("evaluate", "set", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1 and "report.txt" in done.stderr
    assert [p.read_bytes() for p in tmp_path.glob("*/report.txt")] == [b"mine"]
    for _ in range(2): assert run("evaluate", "set", "-o", "~/other", cwd=tmp_path, home=tmp_path).returncode == 0
    assert (tmp_path/"other"/"report.txt").is_file()


def test_the_card_of_an_installed_model_stays_as_it_is(tmp_path):
    site = tmp_path/"site-packages"
    shutil.copytree(ROOT/"skysky", site/"skysky")
    cards = {p: p.read_bytes() for p in site.rglob("*.json")}
    write_scenes(tmp_path/"set", 1, (64, 96), seed=5)
    done = run("evaluate", "set", "-o", "out", "--record", "mine", cwd=tmp_path, root=site)
    assert done.returncode == 0 and "--record" in done.stderr, done.stderr
    assert cards and all(p.read_bytes() == was for p, was in cards.items())


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no Unicode")
def test_names_that_are_no_unicode(tmp_path):
    write_scenes(tmp_path/"set", 2, (64, 96), seed=5)
    for folder in ("images", "masks"):
        path = sorted((tmp_path/"set"/folder).iterdir())[0]
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/a\xff$b$" + os.fsencode(path.suffix)))
    check(tmp_path, ["2 pairs", "0 problems"], status=0)
    done = run("evaluate", "set", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a\\udcff$b$" in (tmp_path/"out"/"per_image.csv").read_text(encoding="utf-8")
