"`skysky mask` and its neighbours as a user runs them: a process of their own, real files, good and bad."
import csv
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from skysky import read_image
from skysky.cli import main
from skysky.core import MARK
from skysky.layouts import LAYOUTS, OUTPUTS
from skysky.manifest import MANIFEST
from skysky.model_file import file_sha256
from skysky.weights import DEFAULT_MODEL

SKYSKY = [sys.executable, "-c", "from skysky.cli import main; main(prog_name='skysky')"]


def photo(path, share=.4, size=(400, 300)):
    "A picture, blue above and grey below; `share` of it is sky."
    img = np.full((size[1], size[0], 3), 128, np.uint8)
    img[:round(share*size[1])] = (80, 140, 220)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(img).save(path)
    return path


def skysky(*args, cwd=None, **kwargs):
    "Run the command; returns status, stdout and stderr."
    return subprocess.run([*SKYSKY, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120, **kwargs)


def as_anybody():
    "Before a program is started: of root's rights over files (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) it has none."
    for right in 1, 2: ctypes.CDLL(None).prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP; others have nothing to lose


def table(path):
    "A table as any program reads it: file name -> row."
    with path.open(newline="", encoding="utf-8") as f: rows = list(csv.DictReader(f))
    found = {Path(row["path"]).name: row for row in rows}
    assert len(found) == len(rows), "each picture once"
    assert all(None not in row and None not in row.values() for row in rows), "whole rows"
    return found


def files(folder):
    "What is in a folder and below, hidden files too, but for the records of what was done."
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() and p.name != MANIFEST)


def outputs(folder):
    "All that a job has written into a folder, but for its record."
    return [p for p in folder.iterdir() if p.name != MANIFEST]


def share(path):
    "Share of white in a mask file, which must be 0 and 255 only."
    with Image.open(path) as im: mask = np.asarray(im)
    assert set(np.unique(mask)) <= {0, 255}
    return (mask == 255).mean()


# Good input

def test_tree_is_kept_and_twins_do_not_collide(tmp_path, model):
    for name, part in (("a/x.jpg", .2), ("b/x.jpg", .4), ("b/x.png", .6), ("top.png", 0)):
        photo(tmp_path/"in"/name, part)
    before = {p: p.read_bytes() for p in (tmp_path/"in").rglob("*.*")}
    run = skysky("mask", "in", "--model", model, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    out = tmp_path/"in_sky"
    assert files(out) == ["a/x_mask.png", "b/x.png_mask.png", "b/x_mask.png", "top_mask.png"]
    assert [round(share(out/f), 2) for f in files(out)] == [.2, .6, .4, 0]
    assert before == {p: p.read_bytes() for p in (tmp_path/"in").rglob("*.*")}, "the pictures are never touched"
    lines = run.stdout.splitlines()
    assert re.match(r"blue at 512 px, openvino on CPU: .+ \((bf16|f32), \d+ threads?(; measured: .+)?\)$", lines[0])
    assert re.match(r"\[1/4\] a/x.jpg  400×300  sky 20\.\d%  \d+ ms$", lines[1])
    assert re.match(r"\[4/4\] top.png  400×300  no sky  \d+ ms$", lines[4])
    assert re.match(r"4 of 4 done in [\d.]+ s, 1 without sky; outputs in in_sky$", lines[5])


def test_files_of_one_name_in_two_folders(tmp_path, model):
    sources = [photo(tmp_path/d/"x.jpg", s) for d, s in (("a", .2), ("b", .6))]
    assert skysky("mask", *sources, "--model", model, "-o", tmp_path/"out").returncode == 0
    assert files(tmp_path/"out") == ["a/x_mask.png", "b/x_mask.png"]
    assert share(tmp_path/"out/a/x_mask.png") < .3 < share(tmp_path/"out/b/x_mask.png")


def test_folder_with_pictures_deep_below(tmp_path, model):
    photo(tmp_path/"in/a/b/x.jpg")
    for source in (tmp_path/"in", tmp_path/"in/**/*.jpg"):
        assert skysky("mask", source, "--model", model, "-o", tmp_path/"out").returncode == 0
        assert files(tmp_path/"out") == ["a/b/x_mask.png"]


def test_every_kind_of_output_for_a_single_picture(tmp_path, model):
    photo(tmp_path/"x.jpg")
    run = skysky("mask", "x.jpg", "--model", model, "--save", ",".join(OUTPUTS), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert sorted(tmp_path.iterdir()) == [tmp_path/"sky", tmp_path/"x.jpg"]
    assert files(tmp_path/"sky") == sorted(f"x{suffix}" for suffix in OUTPUTS.values())
    assert f"overlay: {Path('sky')/'x_overlay.jpg'}" in run.stdout.splitlines()
    with Image.open(tmp_path/"sky/x_cutout.png") as im: assert im.mode == "RGBA" and im.getpixel((5, 5))[3] == 0
    with Image.open(tmp_path/"sky/x_overlay.jpg") as im: assert im.size == (400, 300)


def test_layouts(tmp_path, model):
    photo(tmp_path/"images/s/x.jpg")
    assert skysky("mask", "images", "--model", model, "--layout", "colmap", cwd=tmp_path).returncode == 0
    assert files(tmp_path/"masks") == ["s/x.jpg.png"]
    assert abs(share(tmp_path/"masks/s/x.jpg.png") - .6) < .01, "sky is 0: ignored"
    for _ in range(2):  # the masks of the first run lie beside the pictures: they are no pictures for the second
        assert skysky("mask", "images", "--model", model, "--layout", "odm", cwd=tmp_path).returncode == 0
        assert files(tmp_path/"images") == ["s/x.jpg", "s/x_mask.png"]
    both = ("images/s/x.jpg", "images/s/x_mask.png")  # as the shell expands images/s/*
    assert skysky("mask", *both, "--model", model, "--layout", "odm", cwd=tmp_path).returncode == 0
    assert files(tmp_path/"images") == ["s/x.jpg", "s/x_mask.png"]
    run = skysky("mask", "images", "--model", model, "--layout", "vggt", "-o", "images", cwd=tmp_path)
    assert run.returncode == 1 and "would replace a picture" in run.stderr


def test_skip_existing_and_table(tmp_path, model):
    for name in ("x.jpg", "y.jpg"): photo(tmp_path/"in"/name)
    args = ("mask", tmp_path/"in", "--model", model, "--skip-existing")
    assert "2 of 2 done" in skysky(*args).stdout
    (tmp_path/"in_sky/y_mask.png").unlink()
    kept = (tmp_path/"in_sky/x_mask.png").stat().st_mtime_ns
    run = skysky(*args, "--csv", tmp_path/"table.csv")
    assert "1 of 2 done" in run.stdout and "1 already there" in run.stdout
    assert (tmp_path/"in_sky/x_mask.png").stat().st_mtime_ns == kept
    [(name, row)] = table(tmp_path/"table.csv").items()
    assert (name, row["width"], row["height"], row["has_sky"]) == ("y.jpg", "400", "300", "1")
    assert abs(float(row["sky"]) - .4) < .01 and abs(float(row["horizon_offset"]) - .4) < .01
    assert abs(float(row["horizon_angle"])) < 1 and float(row["ms"]) > 0
    assert skysky(*args).returncode == 0, "nothing to do is no error"


def test_no_sky_is_an_empty_mask(tmp_path, model):
    "One that is grey, one with a bluish wall of which the model says .7, one with a speck of certain sky; and a sky."
    photo(tmp_path/"in/grey.png", 0)
    for name, size, where, color in (("wall", (300, 400, 3), np.s_[150:250, 100:300], (128, 128, 156)),
                                     ("speck", (900, 1200, 3), np.s_[100:106, 500:580], (80, 140, 220)),
                                     ("sliver", (900, 1200, 3), np.s_[100:140, 500:530], (80, 140, 220))):
        img = np.full(size, 128, np.uint8)
        img[where] = color
        Image.fromarray(img).save(tmp_path/f"in/{name}.png")
    run = skysky("mask", "in", "--model", model, "--csv", "table.csv", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = [line.split("  ") for line in run.stdout.splitlines()[1:]]
    assert {line[0].split()[1]: line[2] for line in lines[:-1]} == {
        "grey.png": "no sky", "sliver.png": "sky 0.1%", "speck.png": "no sky", "wall.png": "no sky"}
    assert "4 of 4 done in" in run.stdout and ", 3 without sky;" in run.stdout
    for path in outputs(tmp_path/"in_sky"): assert (share(path) > 0) == (path.name == "sliver_mask.png")
    for name, row in table(tmp_path/"table.csv").items():
        if name == "sliver.png": assert row["has_sky"] == "1" and float(row["horizon_offset"]) < .2
        else: assert (row["sky"], row["has_sky"], row["horizon_angle"], row["horizon_offset"]) == ("0.0", "0", "", "")
    run = skysky("mask", "in/wall.png", "--model", model, "--layout", "colmap", "-o", "out", cwd=tmp_path)
    assert "no sky" in run.stdout and share(tmp_path/"out/wall.png.png") == 1, "nothing is masked out"


def test_quiet(tmp_path, model):
    run = skysky("mask", photo(tmp_path/"in/x.jpg"), "--model", model, "-q")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# What the user owns, and where things lie

def refused(run, why):
    "A run ended with one line that holds `why`."
    assert run.returncode == 1 and run.stdout == "" and run.stderr.startswith("skysky: "), run
    assert run.stderr.count("\n") == 1 and why in run.stderr, run.stderr


def test_a_table_never_replaces_a_picture_or_another_table(tmp_path, model):
    for name in "abc": photo(tmp_path/f"in/{name}.jpg")
    before = (tmp_path/"in/a.jpg").read_bytes()
    refused(skysky("mask", "--csv", *sorted((tmp_path/"in").iterdir()), "--model", model, cwd=tmp_path), "a.jpg")
    refused(skysky("mask", "--csv", "in/a.jpg", "in", "--overwrite", "--model", model, cwd=tmp_path), "a.jpg")
    assert (tmp_path/"in/a.jpg").read_bytes() == before and files(tmp_path) == ["in/a.jpg", "in/b.jpg", "in/c.jpg"]
    for text in ("path,width\n/x.jpg,400\n", f"frame,sky,{MARK}\n1,.5,0\n", ""):
        (tmp_path/"mine.csv").write_text(text)
        run = skysky("mask", "in", "--csv", "mine.csv", "--model", model, cwd=tmp_path)
        if text: refused(run, "--overwrite")
        assert (tmp_path/"mine.csv").read_text().startswith(text)
    (tmp_path/"mine.csv").write_text("path,width\n/x.jpg,400\n")
    assert skysky("mask", "in", "--csv", "mine.csv", "--overwrite", "--model", model, cwd=tmp_path).returncode == 0
    assert sorted(table(tmp_path/"mine.csv")) == ["a.jpg", "b.jpg", "c.jpg"]
    mask = (tmp_path/"in_sky/a_mask.png").read_bytes()  # known as ours, but no table
    refused(skysky("mask", "in", "--csv", "in_sky/a_mask.png", "--model", model, cwd=tmp_path), "a_mask.png")
    assert (tmp_path/"in_sky/a_mask.png").read_bytes() == mask


@pytest.mark.parametrize(("layout", "drawn"), [("skysky", "images_sky/b_mask.png"), ("colmap", "masks/b.jpg.png"),
                                               ("odm", "images/b_mask.png"), ("metashape", "masks/b_mask.png"),
                                               ("vggt", "images_sky_masks/b.jpg")])
def test_masks_that_the_user_drew_are_kept(tmp_path, model, layout, drawn):
    for name in "ab": photo(tmp_path/f"images/{name}.jpg")
    mine = photo(tmp_path/drawn, size=(40, 30)).read_bytes()
    command = ("mask", "images", "--layout", layout, "--model", model)
    refused(skysky(*command, cwd=tmp_path), Path(drawn).name)
    assert (tmp_path/drawn).read_bytes() == mine
    assert len(files(tmp_path)) == 3, "nothing is written before all is known to be allowed"
    run = skysky(*command, "--skip-existing", cwd=tmp_path)
    assert run.returncode == 0 and "1 already there" in run.stdout and (tmp_path/drawn).read_bytes() == mine
    assert skysky(*command, "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path/drawn).read_bytes() != mine
    assert skysky(*command, cwd=tmp_path).returncode == 0, "what skysky wrote it may write again"


def test_a_table_is_completed(tmp_path, model):
    for name in "ab": photo(tmp_path/f"in/{name}.jpg")
    command = ("mask", "in", "--csv", "new/sky.csv", "--model", model)
    for more in ((), ("--skip-existing",)): assert skysky(*command, *more, cwd=tmp_path).returncode == 0
    first = table(tmp_path/"new/sky.csv")
    photo(tmp_path/"in/c.jpg", 0)
    photo(tmp_path/"in/b.jpg", .7)
    (tmp_path/"in_sky/b_mask.png").unlink()
    assert "2 of 3 done" in skysky(*command, "--skip-existing", cwd=tmp_path).stdout
    second = table(tmp_path/"new/sky.csv")
    assert sorted(first) == ["a.jpg", "b.jpg"] and sorted(second) == ["a.jpg", "b.jpg", "c.jpg"]
    assert second["a.jpg"] == first["a.jpg"] and second["b.jpg"]["sky"][:3] == "0.7"
    assert second["c.jpg"]["has_sky"] == "0"
    assert list(first["a.jpg"])[-1] == MARK


@pytest.mark.parametrize("cut", [1, 3, 30, 70, 150])
def test_a_table_that_was_cut_off_is_mended(tmp_path, model, cut):
    for name in "abc": photo(tmp_path/f"in/{name}.jpg")
    command = ("mask", "in", "--csv", "sky.csv", "--skip-existing", "--model", model)
    assert skysky(*command, cwd=tmp_path).returncode == 0
    whole = table(tmp_path/"sky.csv")
    os.truncate(tmp_path/"sky.csv", (tmp_path/"sky.csv").stat().st_size - cut)
    assert skysky(*command, cwd=tmp_path).returncode == 0
    mended = table(tmp_path/"sky.csv")
    def facts(rows): return {name: {k: row[k] for k in row if k != "ms"} for name, row in rows.items()}
    assert facts(mended) == facts(whole)


def test_a_kill_costs_no_row(tmp_path, model):
    for i in range(40): photo(tmp_path/f"in/{i}.jpg", size=(1200, 900))
    process = subprocess.Popen([*SKYSKY, "mask", "in", "--model", model, "--csv", "sky.csv"], cwd=tmp_path,
                               stdout=subprocess.DEVNULL)
    out = tmp_path/"in_sky"
    while len(list(out.glob("[0-9]*_mask.png"))) < 5:
        assert process.poll() is None
        time.sleep(.01)
    process.kill()
    process.wait(60)
    done = {p.stem.removesuffix("_mask") for p in out.glob("[0-9]*_mask.png")}
    rows = {Path(name).stem for name in table(tmp_path/"sky.csv")}
    assert rows <= done and len(done - rows) <= 2, "at most those in the middle of being written"
    assert len(rows) >= 3


def test_project_folder_of_another_program(tmp_path, model):
    "Run in the project, on the project, or on its pictures: the masks lie where the program looks, time after time."
    wanted = {"colmap": "masks/{}.jpg.png", "vggt": "images_sky_masks/{}.jpg", "odm": "images/{}_mask.png",
              "metashape": "masks/{}_mask.png"}
    for layout, name in wanted.items():
        project = tmp_path/layout
        for picture in ("cam 1/a", "b"): photo(project/f"images/{picture}.jpg")
        photo(project/"logo.png")
        want = sorted(["images/b.jpg", "images/cam 1/a.jpg", "logo.png", name.format("b"), name.format("cam 1/a")])
        for source, folder in ((".", project), (layout, tmp_path), (project/"images", tmp_path),
                               (".", project/"images")):
            run = skysky("mask", source, "--layout", layout, "--model", model, cwd=folder)
            assert run.returncode == 0 and "2 of 2 done" in run.stdout, run
            assert files(project) == want


def test_what_is_left_out_is_said(tmp_path, model):
    photo(tmp_path/"in/a.jpg")
    photo(tmp_path/"in/b.jfif.png").rename(tmp_path/"in/b.jfif")
    (tmp_path/"in/c.PSD").write_bytes(b"8BPS")
    run = skysky("mask", "in", "--model", model, cwd=tmp_path)
    assert run.returncode == 0 and "2 of 2 done" in run.stdout and run.stderr == ""
    assert any("1 picture left out (.psd)" in line for line in run.stdout.splitlines())
    assert skysky("mask", "in", "--model", model, "-q", cwd=tmp_path).stdout == ""


def test_a_folder_that_cannot_be_searched_costs_a_line(tmp_path, model):
    for name in ("a", "secret/b", "c/d"): photo(tmp_path/f"in/{name}.jpg")
    code = """import os, sys
scandir = os.scandir
def refuse(path):  # root may search every folder
    if os.fspath(path).endswith("secret"): raise PermissionError(13, "Permission denied", os.fspath(path))
    return scandir(path)
os.scandir = refuse
from skysky.cli import main
main(prog_name="skysky")"""
    run = subprocess.run([sys.executable, "-c", code, "mask", "in", "--model", str(model)], cwd=tmp_path,
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 1 and "2 of 2 done" in run.stdout
    assert run.stderr == "skysky: in/secret: cannot be searched (Permission denied); check its permissions\n"
    assert files(tmp_path/"in_sky") == ["a_mask.png", "c/d_mask.png"]


@pytest.mark.parametrize(("source", "out", "masks"), [
    ("proj", "proj/images", ["images/images/a_mask.png", "images/images/s/b_mask.png"]),
    ("proj", "proj", ["images/a_mask.png", "images/s/b_mask.png"]),
    ("proj", "proj/new", ["new/images/a_mask.png", "new/images/s/b_mask.png"]),
    ("proj/images", "proj/images/s", ["images/s/a_mask.png", "images/s/s/b_mask.png"])])
def test_outputs_among_the_pictures(tmp_path, model, source, out, masks):
    for name in ("a", "s/b"): photo(tmp_path/f"proj/images/{name}.jpg")
    for _ in range(2):
        run = skysky("mask", source, "-o", out, "--model", model, cwd=tmp_path)
        assert run.returncode == 0 and "2 of 2 done" in run.stdout, run
        assert files(tmp_path/"proj") == sorted(["images/a.jpg", "images/s/b.jpg", *masks])


def test_a_file_as_output(tmp_path, model):
    photo(tmp_path/"in/x.jpg")
    photo(tmp_path/"in/y.jpg")
    for name in ("m.png", "new/m.tif"):
        run = skysky("mask", "in/x.jpg", "-o", name, "--model", model, cwd=tmp_path)
        assert run.returncode == 0 and f"mask: {name}" in run.stdout and abs(share(tmp_path/name) - .4) < .01
    run = skysky("mask", "in/x.jpg", "-o", "in/x.png", "--layout", "vggt", "--model", model, cwd=tmp_path)
    assert run.returncode == 0 and abs(share(tmp_path/"in/x.png") - .6) < .01
    (tmp_path/"in/x.png").unlink()
    refused(skysky("mask", "in", "-o", "m.png", "--model", model, cwd=tmp_path), "name a folder")
    refused(skysky("mask", "in/x.jpg", "--save", "mask,prob", "-o", "n.png", "--model", model, cwd=tmp_path), "name a")
    before = (tmp_path/"in/x.jpg").read_bytes()
    for out in ("in/x.jpg", "in/../in/x.jpg"):
        refused(skysky("mask", "in/x.jpg", "-o", out, "--overwrite", "--model", model, cwd=tmp_path), "x.jpg")
    (tmp_path/"link.jpg").symlink_to("in/x.jpg")
    refused(skysky("mask", "in/x.jpg", "-o", "link.jpg", "--overwrite", "--model", model, cwd=tmp_path), "link.jpg")
    assert (tmp_path/"in/x.jpg").read_bytes() == before
    refused(skysky("mask", "in/x.jpg", "-o", "in/y.jpg", "--model", model, cwd=tmp_path), "y.jpg")


def test_places_that_cannot_be_written_are_said_first(tmp_path, model):
    photo(tmp_path/"x.jpg")
    for args in (["-o", "x.jpg/out"], ["-o", "/proc/sky"], ["--csv", "/proc/sky/t.csv"], ["--csv", "x.jpg/t.csv"],
                 ["--csv", "."]):
        refused(skysky("mask", "x.jpg", *args, "--model", model, cwd=tmp_path), "cannot")
    assert files(tmp_path) == ["x.jpg"]
    for command in (["export", "none.safetensors"], ["quantize", model, "--images", "x.jpg"]):
        run = skysky(*command, "-o", "x.jpg/m.onnx", cwd=tmp_path)
        assert run.returncode == 1 and "cannot write" in run.stderr and "Traceback" not in run.stderr


def test_home_is_expanded_where_shells_do_not(tmp_path, model):
    home = tmp_path/"home"
    photo(home/"x.jpg")
    shutil.copy(model, home/"m.onnx")
    run = skysky("mask", "~/x.jpg", "--model=~/m.onnx", "-o~/out", "--csv=~/t.csv", cwd=tmp_path,
                 env=os.environ | {"HOME": str(home), "SKYSKY_CACHE": str(tmp_path/"cache")})
    assert run.returncode == 0, run.stderr
    assert {"out/x_mask.png", "t.csv"} < set(files(home)) and not (tmp_path/"~").exists()


def test_our_models_are_known_again(tmp_path, model):
    "By a card that fits; other files keep their place."
    photo(tmp_path/"in/x.jpg")
    command = ("quantize", model, "--images", "in", "-o", "m.onnx")
    for name in ("m.onnx", "m.json"):
        (tmp_path/name).write_text("{}")
        refused(skysky(*command, cwd=tmp_path), name)
        assert (tmp_path/name).read_text() == "{}"
        (tmp_path/name).unlink()
    mine = shutil.copy(model, tmp_path/"m.onnx")
    refused(skysky("quantize", mine, "--images", "in", "-o", mine, "--overwrite", cwd=tmp_path), "m.onnx")
    refused(skysky("export", mine, "-o", mine, "--overwrite", cwd=tmp_path), "m.onnx")
    card = {"name": "m", "file": "m.onnx", "sha256": file_sha256(mine), "arch": "blue"}
    (tmp_path/"m.json").write_text(json.dumps(card))
    run = skysky(*command, cwd=tmp_path)
    assert run.returncode == 0 and Path(mine).read_bytes() != model.read_bytes(), run


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_and_consoles(tmp_path, model):
    odd = [os.fsdecode(b"caf\xff.jpg"), "Wölkchen ☁.jpg", 'a,"b".jpg', "two\nlines.jpg"]
    for name in odd: photo(tmp_path/"in"/name)
    (tmp_path/"in"/os.fsdecode(b"bad\xff.jpg")).write_text("no picture")
    for encoding in ("utf-8", "ascii", "cp1251", "latin-1"):
        with (tmp_path/"stdout").open("wb") as stdout, (tmp_path/"stderr").open("wb") as stderr:
            run = subprocess.run([*SKYSKY, "mask", "in", "--csv", f"{encoding}.csv", "-v", "--model", str(model)],
                                 cwd=tmp_path, stdout=stdout, stderr=stderr, timeout=120,
                                 env=os.environ | {"PYTHONIOENCODING": encoding})
        errors = (tmp_path/"stderr").read_bytes()
        assert run.returncode == 1 and b"Traceback" not in errors and b"not a picture" in errors, errors
        assert b"4 of 5 done" in (tmp_path/"stdout").read_bytes()
        assert sorted(table(tmp_path/f"{encoding}.csv")) == sorted([r"caf\udcff.jpg", *odd[1:]])
        for args in (["mask", "--help"], ["models"], ["mask", odd[0]], ["mask", "in", "-o", "/".join(odd[:2])]):
            run = subprocess.run([*SKYSKY, *args], cwd=tmp_path, capture_output=True, timeout=120,
                                 env=os.environ | {"PYTHONIOENCODING": encoding})
            assert b"Traceback" not in run.stderr, run.stderr


# Sources that are no files of pictures

def test_python_m():
    run = subprocess.run([sys.executable, "-m", "skysky", "--version"], capture_output=True, text=True)
    assert run.stdout.startswith("python -m skysky ") and run.returncode == 0


def test_the_right_command_is_named(tmp_path, model):
    photo(tmp_path/"x.jpg")
    photo(tmp_path/"in/x.jpg")
    (tmp_path/"clip.MP4").write_bytes(b"a video")
    for args, hint in ((["x.jpg"], "skysky mask x.jpg"), (["in"], "skysky mask in"),
                       (["clip.MP4"], "skysky video clip.MP4"),
                       (["http://a.org/x.jpg"], "skysky mask http://a.org/x.jpg"), (["exprot"], "export")):
        run = skysky(*args, cwd=tmp_path)
        assert run.returncode == 2 and hint in run.stderr.splitlines()[-1], run.stderr
    refused(skysky("video", "x.jpg", cwd=tmp_path), "skysky mask x.jpg")
    run = skysky("mask", "x.jpg", "clip.MP4", "--model", model, cwd=tmp_path)
    assert run.returncode == 1 and "1 of 2 done" in run.stdout and "skysky video" in run.stderr
    assert run.stderr.count("\n") == 1
    refused(skysky("mask", "ftp://a.org/x.jpg", cwd=tmp_path), "http")


@pytest.fixture
def server(tmp_path):
    "The address of a server of the folder `www`."
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path/"www")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses(tmp_path, model, server):
    photo(tmp_path/"www/a/x y.jpg", .2)
    photo(tmp_path/"www/b/x y.jpg", .6)
    (tmp_path/"www/page.jpg").write_text("<html>")
    (tmp_path/"here").mkdir()
    run = skysky("mask", f"{server}/a/x%20y.jpg", "--csv", "t.csv", "--model", model, cwd=tmp_path/"here")
    assert run.returncode == 0 and "mask: sky/x y_mask.png" in run.stdout, run
    assert files(tmp_path/"here") == ["sky/x y_mask.png", "t.csv"]
    assert abs(share(tmp_path/"here/sky/x y_mask.png") - .2) < .01
    with (tmp_path/"here/t.csv").open() as f: assert next(csv.DictReader(f))["path"] == f"{server}/a/x%20y.jpg"
    addresses = [*(f"{server}/{p}/x%20y.jpg" for p in "abc"), f"{server}/page.jpg"]
    run = skysky("mask", *addresses, "--model", model, "-o", "out", cwd=tmp_path/"here")
    assert run.returncode == 1 and run.stderr.count("\n") == 2 and "2 of 4 done" in run.stdout, run
    assert f"skysky: {server}/c/x%20y.jpg: cannot be fetched (HTTP Error 404" in run.stderr
    assert f"skysky: {server}/page.jpg: not a picture" in run.stderr
    assert [round(share(p), 1) for p in sorted((tmp_path/"here/out").rglob("*.png"))] == [.2, .6]
    run = skysky("mask", f"{server}/a/x%20y.jpg", "--skip-existing", cwd=tmp_path/"here")
    assert "1 already there" in run.stdout
    refused(skysky("mask", f"{server}/a/x%20y.jpg", tmp_path/"www", cwd=tmp_path), "runs of their own")


def test_standard_input(tmp_path, model):
    picture = photo(tmp_path/"x.jpg").read_bytes()
    def pipe(data, *args): return subprocess.run([*SKYSKY, "mask", "-", *args, "--model", str(model)], input=data,
                                                 cwd=tmp_path, capture_output=True, timeout=120)
    run = pipe(picture)
    assert run.returncode == 0 and b"400\xc3\x97300" in run.stderr
    (tmp_path/"m.png").write_bytes(run.stdout)
    assert abs(share(tmp_path/"m.png") - .4) < .01 and run.stdout.startswith(b"\x89PNG")
    assert pipe(picture, "--save", "overlay").stdout.startswith(b"\xff\xd8")
    for data in (b"", b"a letter", picture[:len(picture)//2]):
        run = pipe(data)
        assert run.returncode == 1 and run.stdout == b"" and run.stderr.splitlines()[-1].startswith(b"skysky: -: "), run
    run = pipe(picture, "--save", "mask,prob")
    assert (run.returncode, run.stdout) == (1, b"") and b"one kind" in run.stderr
    assert pipe(picture, "--save", "mask,prob", "-o", "out").returncode == 0
    assert files(tmp_path/"out") == ["stdin_mask.png", "stdin_prob.png"]
    assert pipe(picture, "x.jpg").returncode == 1


def test_quantize_names_what_it_needs(tmp_path):
    code = """import sys
sys.modules["nncf"] = None  # as if it were not installed
from skysky.cli import main
main(["quantize", "mosaic", "--images", ".", "-o", "m.onnx"], prog_name="skysky")"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1 and "pip install '.[train,quantize]'" in run.stderr and "Traceback" not in run.stderr


# Masks for COLMAP, seen by COLMAP

STORED = {1: None, 2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE,
          6: Image.ROTATE_90, 7: Image.TRANSVERSE, 8: Image.ROTATE_270}  # how EXIF stores an upright picture


def turned(img, turn):
    "A picture with its pixels in another order."
    return Image.fromarray(img) if turn is None else Image.fromarray(img).transpose(turn)


def test_colmap_finds_no_features_in_the_sky_whatever_the_orientation(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR
    from sklearn.datasets import load_sample_image
    china, stored = load_sample_image("china.jpg"), {}
    (tmp_path/"images").mkdir()
    for name, orientation in {**{f"{code}.jpg": code for code in STORED}, "scan.tif": 6}.items():
        stored[name] = store = partial(turned, turn=STORED[orientation])
        exif = Image.Exif()
        exif[0x112] = orientation
        store(china).save(path := tmp_path/"images"/name, quality=95, exif=exif)
        assert np.abs(read_image(path).astype(int) - china).mean() < 3, "the picture is what it claims to be"
    assert skysky("mask", ".", "--layout", "colmap", cwd=tmp_path).returncode == 0
    assert skysky("mask", "images", "-o", "upright", cwd=tmp_path).returncode == 0

    def features(name, **options):
        pycolmap.extract_features(tmp_path/name, tmp_path/"images", camera_mode=pycolmap.CameraMode.PER_IMAGE,
                                  reader_options=pycolmap.ImageReaderOptions(**options), device=pycolmap.Device.cpu,
                                  extraction_options=pycolmap.FeatureExtractionOptions(num_threads=1))
        with pycolmap.Database.open(tmp_path/name) as db:
            return {i.name: db.read_keypoints(i.image_id)[:, :2].astype(int) for i in db.read_all_images()}

    everywhere, masked = features("all.db"), features("masked.db", mask_path=tmp_path/"masks")
    for name, store in stored.items():
        sky = read_image(tmp_path/f"upright/{Path(name).stem}_mask.png")[..., 0]
        there = np.asarray(store(sky)) > 0  # Pillow turns it, not skysky
        others, kept = (~there[xy[:, 1], xy[:, 0]] for xy in (everywhere[name], masked[name]))
        print(f"{name}: of {len(others)} key points {(~others).sum()} lie in the sky; with masks {(~kept).sum()}, and "
              f"{kept.sum()} of the {others.sum()} others, {kept.sum()/others.sum():.1%}")
        assert kept.all() and kept.sum() >= .97*others.sum() and others.sum() > 1000


# Bad input

@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    "Good pictures among bad ones; an output folder with an earlier run's file."
    root = tmp_path_factory.mktemp("bad")
    for name in ("good/1.jpg", "good/2.png", "zebra.jpg"): photo(root/"in"/name)
    (root/"in/letter.jpg").write_text("Dear diary, the sky was blue.")
    whole = photo(root/"whole.jpg", size=(1200, 900)).read_bytes()
    (root/"in/cut.jpg").write_bytes(whole[:len(whole)//2])
    (root/"in/empty.jpg").touch()
    Image.new("RGB", (1, 1)).save(root/"in/dot.png")
    (root/"in/gone.jpg").symlink_to(root/"nowhere.jpg")
    if os.geteuid():  # root reads everything
        photo(root/"in/secret.jpg").chmod(0)
    huge = Image.new("RGB", (12_000, 9000), (128, 128, 128))
    huge.paste((80, 140, 220), (0, 0, 12_000, 3600))
    huge.save(root/"in/huge.jpg")
    (root/"out").mkdir()
    (root/"out/letter_mask.png").write_bytes(b"an earlier mask, " + MARK.encode())
    return root


@pytest.mark.filterwarnings("ignore:Image size")  # Pillow, of the 108 megapixels that we want
def test_bad_files_cost_a_line_each(bad, model):
    with (bad/"stdout").open("w") as stdout, (bad/"stderr").open("w") as stderr:
        command = [*SKYSKY, "mask", bad/"in", "-o", bad/"out", "--model", model]
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    errors = (bad/"stderr").read_text(encoding="utf-8").splitlines()
    reasons = {"letter.jpg": "not a picture", "cut.jpg": "cut off", "empty.jpg": "empty", "dot.png": "1×1",
               "gone.jpg": "no such file"}
    if os.geteuid(): reasons["secret.jpg"] = "Permission denied"
    assert process.returncode == 1
    assert len(errors) == len(reasons), errors
    for name, why in reasons.items():
        assert any(e.startswith(f"skysky: {bad/'in'/name}: ") and why in e for e in errors), (name, errors)
    last = (bad/"stdout").read_text(encoding="utf-8").splitlines()[-1]
    assert last.startswith(f"4 of {4 + len(reasons)} done in ") and f"{len(reasons)} failed" in last
    assert files(bad/"out") == ["good/1_mask.png", "good/2_mask.png", "huge_mask.png", "letter_mask.png",
                                "zebra_mask.png"]
    assert b"an earlier mask" in (bad/"out/letter_mask.png").read_bytes(), "what a failure leaves is what was there"
    with Image.open(bad/"out/huge_mask.png") as im: assert im.size == (12_000, 9000)
    peak = usage.ru_maxrss/1e6*(1 if sys.platform == "linux" else 1e-3)
    print(f"peak memory {peak:.2f} GB")
    assert peak < 2.5


@pytest.mark.parametrize(("args", "why"), [
    (["--device", "cuda"], "device 'cuda'"), (["--device", "abacus"], "choose auto, cpu, cuda"),
    (["--model", "nimbus"], "no model named 'nimbus': choose "),
    (["--model", "nimbus.onnx"], "no model file nimbus.onnx"),
    (["--save", "mask,matte"], "unknown output 'matte'"),
    (["--layout", "nerf"], "unknown layout 'nerf'")])
def test_what_cannot_be_done_is_refused_in_one_line(tmp_path, args, why, model):
    photo(tmp_path/"x.jpg")
    run = skysky("mask", "x.jpg", *([] if "--model" in args else ["--model", model]), *args, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.startswith("skysky: ") and run.stderr.count("\n") == 1 and why in run.stderr
    assert files(tmp_path) == ["x.jpg"], "nothing is written"


def test_damaged_models(tmp_path, model):
    photo(tmp_path/"x.jpg")
    (tmp_path/"cut.onnx").write_bytes(model.read_bytes()[:150])
    run = skysky("mask", "x.jpg", "--model", "cut.onnx", cwd=tmp_path)
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "cannot read the model cut.onnx" in run.stderr
    (tmp_path/"blue.onnx").write_bytes(model.read_bytes())
    (tmp_path/"blue.json").write_text('{"name": "blue", "file": "blue.onnx", "sha256": "00", "arch": "blue"}')
    run = skysky("mask", "x.jpg", "--model", "blue", cwd=tmp_path, env=os.environ | {"SKYSKY_MODELS": str(tmp_path)})
    assert run.returncode == 1 and "is damaged (SHA-256 differs" in run.stderr


@pytest.mark.parametrize("args", [[], ["x.jpg", "--size", "7"], ["x.jpg", "--threshold", "50"], ["x.jpg", "--colour"]])
def test_usage_errors(args):
    assert skysky("mask", *args).returncode == 2


def test_interrupt_leaves_only_whole_files(tmp_path, model):
    # the child gets its own way with SIGINT: what runs in the background inherits that it is ignored
    for i in range(40): photo(tmp_path/f"in/{i}.jpg", size=(2000, 1500))
    process = subprocess.Popen([*SKYSKY, "mask", "in", "--model", model, "--save", "mask,prob16", "--csv", "table.csv"],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while len(list((tmp_path/"in_sky").glob("[0-9]*_prob16.png"))) < 2:  # so the first picture is done
        assert process.poll() is None
        time.sleep(.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines() == ["skysky: interrupted; what is written is whole"]
    written = outputs(tmp_path/"in_sky")
    assert 0 < len(written) < 80 and not [p for p in written if p.name.startswith(".")]
    for path in written:
        with Image.open(path) as im: im.load()
    whole = {p.name.removesuffix("_prob16.png") for p in written if p.name.endswith("_prob16.png")}
    assert {Path(name).stem for name in table(tmp_path/"table.csv")} == whole, "a row for each picture that is done"


def test_a_model_that_takes_minutes_is_interrupted_within_its_picture(tmp_path):
    layers, rng = 400, np.random.default_rng(0)
    consts = {"first": rng.normal(0, .1, (64, 3, 3, 3)), "layer": rng.normal(0, .04, (64, 64, 3, 3)),
              "last": rng.normal(0, .1, (1, 64, 1, 1))}
    nodes = [helper.make_node("Cast", ["img"], ["rgb"], to=TensorProto.FLOAT),
             helper.make_node("Transpose", ["rgb"], ["x"], perm=[0, 3, 1, 2]),
             helper.make_node("Conv", ["x", "first"], ["x0"], pads=[1]*4),
             *[helper.make_node("Conv", [f"x{i}", "layer"], [f"x{i + 1}"], pads=[1]*4) for i in range(layers)],
             helper.make_node("Conv", [f"x{layers}", "last"], ["logit"]),
             helper.make_node("Squeeze", ["logit", "channel"], ["flat"]),
             helper.make_node("Sigmoid", ["flat"], ["prob"])]
    img = helper.make_tensor_value_info("img", TensorProto.UINT8, ["n", "h", "w", 3])
    graph = helper.make_graph(nodes, "slow", [img],
                              [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["n", "h", "w"])],
                              [numpy_helper.from_array(v.astype("f"), k) for k, v in consts.items()] +
                              [numpy_helper.from_array(np.int64([1]), "channel")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path/"slow.onnx")
    photo(tmp_path/"x.jpg", size=(1600, 1200))
    args = "mask", "x.jpg", "--model", "slow.onnx", "--size", "1024", "--precision", "f32"
    process = subprocess.Popen([*SKYSKY, *args], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    time.sleep(12)
    assert process.poll() is None, "the model was no slow one"
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "skysky: interrupted; what is written is whole\n")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_request_to_end_is_taken_as_ctrl_c(tmp_path, model, number, status):
    for i in range(40): photo(tmp_path/f"in/{i}.jpg", size=(2000, 1500))
    process = subprocess.Popen([*SKYSKY, "mask", "in", "--model", model, "--save", "mask,prob16"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    while len(list((tmp_path/"in_sky").glob("[0-9]*_prob16.png"))) < 2:
        assert process.poll() is None
        time.sleep(.02)
    for _ in range(3): process.send_signal(number)  # a closing terminal sends more than one
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (status, "skysky: interrupted; what is written is whole\n")
    written = outputs(tmp_path/"in_sky")
    assert 0 < len(written) < 80 and not [p for p in written if p.name.startswith(".")]
    for path in written:
        with Image.open(path) as im: im.load()


def test_nohup_holds(tmp_path, model):
    for i in range(20): photo(tmp_path/f"in/{i}.jpg", size=(800, 600))
    process = subprocess.Popen([*SKYSKY, "mask", "in", "--model", model], cwd=tmp_path, stdout=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    while not list((tmp_path/"in_sky").glob("[0-9]*_mask.png")):
        assert process.poll() is None
        time.sleep(.02)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0 and len(files(tmp_path/"in_sky")) == 20


KILLED = """
import os, pathlib, signal
replace = pathlib.Path.replace
def killed(self, target): os.kill(os.getpid(), signal.SIGKILL) if self.suffix == ".png" else replace(self, target)
pathlib.Path.replace = killed
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_what_a_kill_left_is_cleared_away(tmp_path, model):
    photo(tmp_path/"in/x.jpg")
    out, args = tmp_path/"in_sky", ["mask", "in", "--model", str(model)]
    run = subprocess.run([sys.executable, "-c", KILLED + SKYSKY[-1], *args], cwd=tmp_path, timeout=120)
    assert run.returncode == -signal.SIGKILL and not list(out.glob("*.png")), "killed before the mask got its name"
    (out/".skysky-mine").mkdir()
    assert len([p for p in outputs(out) if p.name.startswith(".")]) == 2, "the kill has left something"
    assert skysky(*args, cwd=tmp_path).returncode == 0
    assert [p.name for p in outputs(out) if p.name.startswith(".")] == [".skysky-mine"]


def test_a_reader_that_has_enough_ends_no_job(tmp_path, model):
    for i in range(12): photo(tmp_path/f"in/{i}.jpg")
    process = subprocess.Popen([*SKYSKY, "mask", "in", "--model", model], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "skysky: standard output: nobody reads it any more; the work goes on without it\n"
    process.stderr.close()
    assert process.wait(timeout=60) == 0 and len(files(tmp_path/"in_sky")) == 12


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_standard_output_on_a_full_disk(tmp_path, model):
    for i in range(3): photo(tmp_path/f"in/{i}.jpg")
    for args in (["mask", "in", "--model", model], ["models"], ["--help"], ["mask", "--help"], ["--version"]):
        with open("/dev/full", "w") as full:
            run = subprocess.run([*SKYSKY, *map(str, args)], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
                                 text=True, timeout=120)
        assert run.returncode == 1 and run.stderr.count("\n") == 1 and "No space left" in run.stderr, (args, run)
    assert len(files(tmp_path/"in_sky")) == 3
    with open("/dev/full", "w") as full:
        run = subprocess.run([*SKYSKY, "mask", "-", "--model", model], cwd=tmp_path, stdout=full, timeout=120,
                             stderr=subprocess.PIPE, input=(tmp_path/"in/0.jpg").read_bytes())
    assert run.returncode == 1 and b"Traceback" not in run.stderr


def test_a_deleted_working_folder(tmp_path, model):
    gone = str(tmp_path/"gone")
    code = f"import os; os.mkdir({gone!r}); os.chdir({gone!r}); os.rmdir({gone!r}); " + SKYSKY[-1]
    for args in (["mask", photo(tmp_path/"x.jpg")], ["models"], ["video", "x.mp4"]):
        run = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=120,
                             env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
        assert (run.returncode, run.stderr) == (1, "skysky: the current folder is gone; change to another one\n")


# Tables that are no files, and names that want to be more

def test_a_table_is_written_into_what_is_no_file(tmp_path, model):
    for name in "ab": photo(tmp_path/f"in/{name}.jpg")
    command = ("mask", "in", "--model", model, "--csv")
    run = skysky(*command, "/dev/stdout", cwd=tmp_path)
    rows = list(csv.DictReader(run.stdout.splitlines()))
    assert run.returncode == 0 and {Path(r["path"]).name for r in rows} == {"a.jpg", "b.jpg"} and "2 of 2" in run.stderr
    with (tmp_path/"rows.csv").open("w") as out:
        run = subprocess.run([*SKYSKY, *map(str, command), "/dev/stdout"], cwd=tmp_path, stdout=out, timeout=120)
    assert run.returncode == 0 and sorted(table(tmp_path/"rows.csv")) == ["a.jpg", "b.jpg"]
    os.mkfifo(tmp_path/"pipe")
    run = skysky(*command, "pipe", cwd=tmp_path)
    assert run.returncode == 1 and "nobody reads this pipe" in run.stderr and run.stderr.count("\n") == 1
    with subprocess.Popen(["cat", tmp_path/"pipe"], stdout=subprocess.PIPE, text=True) as cat:
        assert skysky(*command, "pipe", cwd=tmp_path).returncode == 0
        assert len(cat.stdout.read().splitlines()) == 3
    assert (tmp_path/"pipe").is_fifo()
    if os.path.exists("/dev/full"):
        before = os.stat("/dev/full")
        run = skysky(*command, "/dev/full", "--overwrite", cwd=tmp_path)
        assert run.returncode == 1 and run.stderr == "skysky: cannot write /dev/full: No space left on device\n"
        assert os.stat("/dev/full").st_rdev == before.st_rdev
    for odd in (".", "/dev/stdin"):
        run = subprocess.run([*SKYSKY, *map(str, command), odd], cwd=tmp_path, capture_output=True, text=True,
                             timeout=120, stdin=(tmp_path/"in/a.jpg").open())
        assert run.returncode == 1 and "Traceback" not in run.stderr
    assert read_image(tmp_path/"in/a.jpg").shape == (300, 400, 3)


def test_names_drive_neither_terminal_nor_spreadsheet(tmp_path, model):
    odd = ["\x1b]0;title\x07\x1b[2J.jpg", "x\nskysky: all is well.jpg", "\r100 of 100.jpg", "\u202egpj.exe",
           "\x9b31m.jpg"]
    for i, name in enumerate(odd):
        if i % 2: photo(tmp_path/"in"/"x.jpg").rename(tmp_path/"in"/name)
        else:
            (tmp_path/"in").mkdir(exist_ok=True)
            (tmp_path/"in"/name).write_text("no picture")
    photo(tmp_path/"in"/"good.jpg")
    card = {"name": "a\x1b[31mb\nskysky: fine", "file": "m.onnx", "sha256": "", "arch": "x", "licence": "\x1b[2J"}
    (tmp_path/"own").mkdir()
    (tmp_path/"own/m.json").write_text(json.dumps(card))
    env = os.environ | {"SKYSKY_MODELS": str(tmp_path/"own")}
    for args in (["mask", "in", "-v", "--model", model], *(["mask", tmp_path/"in"/n, "--model", model] for n in odd),
                 ["mask", "\x1b[2J"], ["\x1b[2J.jpg"], ["mask", "--\x1b[2J"], ["--\x1b[2J"], ["video", "\x1b[2J"],
                 ["mask", "in", "--model", "\x1b[2J"], ["mask", "in", "--csv", "\x1b[2J/x\n", "--model", model]):
        run = skysky(*args, cwd=tmp_path, env=env)
        for text in (run.stdout, run.stderr):
            assert all(c.isprintable() for c in text.replace("\n", "")), (args, text)
            assert not re.search("^(skysky: all is well|100 of)", text, re.M), (args, text)
    run = skysky("models", cwd=tmp_path, env=env)
    assert r"a\x1b[31mb\nskysky: fine" in run.stdout and "\x1b" not in run.stdout
    for name in ("=1+cmd|' /C calc'!A0.jpg", "@a.jpg", "-b.jpg", "+c.jpg"): photo(tmp_path/"www"/name)
    assert skysky("mask", "www", "--csv", "t.csv", "--model", model, cwd=tmp_path).returncode == 0
    for row in csv.reader((tmp_path/"t.csv").open()): assert row[0][0] not in "=+-@\t\r"


def test_an_empty_or_cut_off_output_is_not_done(tmp_path, model):
    for name in "abc": photo(tmp_path/f"in/{name}.jpg", size=(800, 600))
    command = ("mask", "in", "--model", model, "--save", "mask,overlay", "--skip-existing")
    assert skysky(*command, cwd=tmp_path).returncode == 0
    out = tmp_path/"in_sky"
    os.truncate(out/"a_mask.png", 0)
    os.truncate(out/"b_overlay.jpg", (out/"b_overlay.jpg").stat().st_size//2)
    run = skysky(*command, cwd=tmp_path)
    assert run.returncode == 0 and "2 of 3 done" in run.stdout and "1 already there" in run.stdout, run
    for path in outputs(out):
        with Image.open(path) as im: im.load()


def test_permissions_stay(tmp_path, model):
    photo(tmp_path/"x.jpg")
    command = ("mask", "x.jpg", "--model", model, "--save", "mask,prob16,overlay,cutout", "-o", "out", "--csv", "t.csv")
    assert skysky(*command, cwd=tmp_path).returncode == 0
    written = [*(tmp_path/"out").iterdir(), tmp_path/"t.csv"]
    for path in written: path.chmod(0o600)
    assert skysky(*command, cwd=tmp_path).returncode == 0
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}


def test_memory_that_runs_out_costs_one_picture(tmp_path, model):
    "While its picture is painted, which OpenCV does."
    for name in ("a", "big", "z"): photo(tmp_path/f"in/{name}.jpg")
    code = """import cv2, numpy as np
from skysky import images, mask
def overlay(img, prob, *args):
    if seen.append(1) or len(seen) == 2: cv2.copyMakeBorder(img, 0, 2**30, 0, 2**30, 0)
    return img
seen = []
mask.SkyMask.overlay = lambda self, image: overlay(images.read_image(image), self.prob)
from skysky.cli import main
main(prog_name="skysky")"""
    run = subprocess.run([sys.executable, "-c", code, "mask", "in", "--save", "overlay", "--model", str(model)],
                         cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1 and "2 of 3 done" in run.stdout, run
    assert re.fullmatch(r"skysky: .*in/\w+\.jpg: not enough memory\n", run.stderr)


# The other commands

def commands(command=main, path=()):
    yield path
    for name, sub in getattr(command, "commands", {}).items(): yield from commands(sub, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help(path):
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0 and result.output.startswith("Usage:")


def test_help_of_mask_names_every_layout_and_kind():
    text = CliRunner().invoke(main, ["mask", "--help"]).output
    for name in [*LAYOUTS, *OUTPUTS]: assert re.search(rf"\b{name}\b", text), name


def test_help_loads_nothing_heavy():
    code = """import sys
from click.testing import CliRunner
from skysky.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
assert CliRunner().invoke(main, ["mask", "--help"]).exit_code == 0
heavy = {"numpy", "cv2", "PIL", "openvino", "torch", "fastai", "matplotlib", "onnx"}
print(*heavy & {m.split(".")[0] for m in sys.modules})"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "\n"), run.stderr


def test_version():
    from importlib.metadata import version
    assert skysky("--version").stdout == f"skysky {version('skysky')}\n"


def test_models_and_their_folder(tmp_path, model):
    own = tmp_path/"own"
    own.mkdir()
    shutil.copy(model, own/"mine.onnx")
    card = {"file": "mine.onnx", "sha256": "", "arch": "blue", "size": 256, "licence": "free"}
    figures = {"first": {"n": 3}, "my set": {"pooled_iou": .91}}
    for name, more in (("mine", {"metrics": figures}), ("noon", {"file": "noon.onnx", "metrics": figures}),
                       ("dusk", {"file": "dusk.onnx", "url": "https://sky.invalid/dusk.onnx"})):
        (own/f"{name}.json").write_text(json.dumps(card | {"name": name} | more))
    env = os.environ | {"SKYSKY_MODELS": str(own), "SKYSKY_CACHE": str(tmp_path/"cache"), "SKYSKY_MIRROR": ""}
    run = skysky("models", env=env, cwd=tmp_path)
    lines = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (0, "")
    assert lines[:3] == [
        "  dusk  256 px  free  no figures  not here: fetched when first used",
        "  mine  0.0 MB  256 px  free  sky IoU 0.91 on my set  own/mine.onnx",
        f"  noon  256 px  free  sky IoU 0.91 on my set  not here: copy noon.onnx into {tmp_path/'cache'}"]
    assert [line[2:].split()[0] for line in lines if line.startswith("* ")] == [DEFAULT_MODEL, "runs"]
    run = skysky("models", env=env | {"SKYSKY_MIRROR": "http://sky.invalid"}, cwd=tmp_path)
    assert run.stdout.count("not here: fetched when first used") >= 2
    run = skysky("models", env=os.environ | {"SKYSKY_MODELS": str(tmp_path/"nowhere")})
    assert run.returncode == 1 and "SKYSKY_MODELS" in run.stderr


def test_record_goes_to_the_home_of_the_card(tmp_path, model):
    "The file may lie in another folder than its card."
    for folder in ("cards", "cache"): (tmp_path/folder).mkdir()
    file = shutil.copy(model, tmp_path/"cache/far.onnx")
    card = {"name": "far", "file": "far.onnx", "sha256": file_sha256(file), "arch": "blue", "size": 96}
    (tmp_path/"cards/far.json").write_text(json.dumps(card | {"metrics": {"old": {"n": 1}}}))
    assert skysky("data", "render", "set", "-n", 1, "--size", "64x96", cwd=tmp_path).returncode == 0
    env = os.environ | {f"SKYSKY_{k}": str(tmp_path/v) for k, v in (("MODELS", "cards"), ("CACHE", "cache"))}
    run = skysky("evaluate", "set", "-o", "out", "--model", "far", "--record", "new", cwd=tmp_path, env=env)
    assert run.returncode == 0, run.stderr
    metrics = json.loads((tmp_path/"cards/far.json").read_text())["metrics"]
    assert metrics["old"] == {"n": 1} and metrics["new"]["n"] == 1 and metrics["new"]["ms"] > 0
    kept = [f for f in files(tmp_path/"cache") if not f.startswith("compiled")]
    assert kept == ["far.onnx"] and files(tmp_path/"cards") == ["far.json"]


def test_missing_extra_says_what_to_install(tmp_path):
    code = """import sys
sys.modules["torch"] = None  # as if it were not installed
from skysky.cli import main
main(["data", "check", "."], prog_name="skysky")"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 1
    assert "pip install '.[train]'" in run.stderr and "Traceback" not in run.stderr


def test_lab_starts_jupyterlab_in_the_notebooks(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda *args: started.append(args))
    CliRunner().invoke(main, ["lab", "--no-browser"], catch_exceptions=False)
    [(_, command)] = started
    assert command[1:3] == ["-m", "jupyterlab"] and Path(command[3]).name == "nbs" and command[-1] == "--no-browser"


def test_a_password_in_a_pictures_address_is_neither_printed_nor_written(tmp_path):
    for user in ("me:hidden@", "me:hid/hidden@", "hidden@"):
        run = skysky("mask", f"http://{user}127.0.0.1:9/a/b.jpg?id=3&key=hidden", "--csv", "t.csv", "-v", cwd=tmp_path)
        assert run.returncode == 1 and run.stderr.count("\n") == 1 and "127.0.0.1:9/a/b.jpg" in run.stderr
        assert "hidden" not in run.stdout + run.stderr
        assert "hidden" not in " ".join(f"{p} {p.read_text() if p.is_file() else ''}" for p in tmp_path.rglob("*"))


def test_rendered_set_from_check_to_report(tmp_path, model):
    run = skysky("data", "render", "set", "-n", 3, "--size", "96x160", "--seed", 5, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(files(tmp_path/"set")) == 7  # three pairs, and scenes.txt
    assert skysky("data", "check", "set", cwd=tmp_path).returncode == 0
    mine = shutil.copy(model, tmp_path/"mine.onnx")
    run = skysky("evaluate", "set", "-o", "report", "--model", mine, "--size", 160, "--record", "my set", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path/"report")
    assert json.loads((tmp_path/"mine.json").read_text())["metrics"]["my set"]["n"] == 3
    next((tmp_path/"set/images").iterdir()).write_text("no picture")
    run = skysky("data", "check", "set", cwd=tmp_path)
    assert run.returncode == 1 and "unreadable" in run.stdout


def test_bench_with_one_engine(tmp_path, model):
    "Neither torch nor ONNX Runtime is needed: what is measured against them stays open."
    mine = shutil.copy(model, tmp_path/"mine.onnx")
    run = skysky("bench", "-o", "out", "--quick", "--model", mine, "--size", "64x128", "--engines", "openvino",
                 "--precisions", "f32", "--threads", 1, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path/"out") == ["bench.json", "bench.png", "bench.txt"]
    report = json.loads((tmp_path/"out"/"bench.json").read_text(encoding="utf-8"))
    [row] = report["engines"]
    assert (row["engine"], row["precision"], row["speedup"], row["difference"]) == ("openvino", "f32", None, None)
    assert (report["machine"]["threads"], report["size"]) == (1, [64, 128])
    assert str(tmp_path) not in run.stdout + (tmp_path/"out"/"bench.json").read_text(encoding="utf-8")
