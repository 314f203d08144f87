"`skysky mask` and its neighbours as a user runs them: a process of their own, real files, good and bad."
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from skysky.cli import main
from skysky.images import LAYOUTS, OUTPUTS
from skysky.weights import DEFAULT_MODEL, file_sha256

SKYSKY = [sys.executable, "-c", "from skysky.cli import main; main(prog_name='skysky')"]


@pytest.fixture(scope="session", autouse=True)
def model(tmp_path_factory):
    "A model whose answers are known, and the default model during these tests: blue is sky."
    folder = tmp_path_factory.mktemp("models")
    consts = {"weights": np.float32([[-.1], [0], [.1]]), "offset": np.float32(-2), "last": np.int64([-1])}
    nodes = [helper.make_node("Cast", ["img"], ["rgb"], to=TensorProto.FLOAT),
             helper.make_node("MatMul", ["rgb", "weights"], ["score"]),
             helper.make_node("Squeeze", ["score", "last"], ["flat"]),
             helper.make_node("Add", ["flat", "offset"], ["logit"]),
             helper.make_node("Sigmoid", ["logit"], ["prob"])]
    graph = helper.make_graph(nodes, "sky",
                              [helper.make_tensor_value_info("img", TensorProto.UINT8, ["n", "h", "w", 3])],
                              [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["n", "h", "w"])],
                              [numpy_helper.from_array(v, k) for k, v in consts.items()])
    file = folder/"blue.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


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


def files(folder):
    "What is in a folder and below, hidden files too."
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


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
    assert files(out) == ["a/x_mask.png", "b/x.jpg_mask.png", "b/x.png_mask.png", "top_mask.png"]
    assert [round(share(out/f), 2) for f in files(out)] == [.2, .4, .6, 0]
    assert before == {p: p.read_bytes() for p in (tmp_path/"in").rglob("*.*")}, "the pictures are never touched"
    lines = run.stdout.splitlines()
    assert re.match(r"blue at 512 px, openvino on CPU: .+ \((bf16|f32), \d+ threads?\)$", lines[0])
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
    assert run.returncode == 1 and "would overwrite the pictures" in run.stderr


def test_skip_existing_and_table(tmp_path, model):
    for name in ("x.jpg", "y.jpg"): photo(tmp_path/"in"/name)
    args = ("mask", tmp_path/"in", "--model", model, "--skip-existing")
    assert "2 of 2 done" in skysky(*args).stdout
    (tmp_path/"in_sky/y_mask.png").unlink()
    kept = (tmp_path/"in_sky/x_mask.png").stat().st_mtime_ns
    run = skysky(*args, "--csv", tmp_path/"table.csv")
    assert "1 of 2 done" in run.stdout and "1 already there" in run.stdout
    assert (tmp_path/"in_sky/x_mask.png").stat().st_mtime_ns == kept
    with (tmp_path/"table.csv").open(newline="", encoding="utf-8") as f: [row] = csv.DictReader(f)
    assert (Path(row["path"]).name, row["width"], row["height"], row["has_sky"]) == ("y.jpg", "400", "300", "1")
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
    for path in (tmp_path/"in_sky").iterdir(): assert (share(path) > 0) == (path.name == "sliver_mask.png")
    with (tmp_path/"table.csv").open(newline="", encoding="utf-8") as f: table = list(csv.DictReader(f))
    for row in table:
        if Path(row["path"]).stem == "sliver": assert row["has_sky"] == "1" and float(row["horizon_offset"]) < .2
        else: assert (row["sky"], row["has_sky"], row["horizon_angle"], row["horizon_offset"]) == ("0.0", "0", "", "")
    run = skysky("mask", "in/wall.png", "--model", model, "--layout", "colmap", "-o", "out", cwd=tmp_path)
    assert "no sky" in run.stdout and share(tmp_path/"out/wall.png.png") == 1, "nothing is masked out"


def test_quiet(tmp_path, model):
    run = skysky("mask", photo(tmp_path/"in/x.jpg"), "--model", model, "-q")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


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
    (root/"out/letter_mask.png").write_bytes(b"an earlier mask")
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
    assert (bad/"out/letter_mask.png").read_bytes() == b"an earlier mask", "what a failure leaves is what was there"
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
    written = list((tmp_path/"in_sky").iterdir())
    assert 0 < len(written) < 80 and not [p for p in written if p.name.startswith(".")]
    for path in written:
        with Image.open(path) as im: im.load()
    assert 1 < len((tmp_path/"table.csv").read_text(encoding="utf-8").splitlines()) < 41


def test_closed_pipe(tmp_path, model):
    for i in range(3): photo(tmp_path/f"in/{i}.jpg")
    process = subprocess.Popen([*SKYSKY, "mask", "in", "--model", model], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)


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
    assert command[1:3] == ["-m", "jupyterlab"] and Path(command[3]).name == "nbs" and command[4] == "--no-browser"


def test_rendered_set_from_check_to_report(tmp_path, model):
    run = skysky("data", "render", "set", "-n", 3, "--size", "96x160", "--seed", 5, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(files(tmp_path/"set")) == 6
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
