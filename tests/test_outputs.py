"""Text that a chapter shows is what its cells print today; times, sizes, addresses and names of devices may differ.

Of all chapters with such text those that take a few seconds; the others' is held by their own assertions.
As a script, it runs the notebooks that it is given, one after the other, and prints their text as JSON.
"""
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHAPTERS = [
    "00_core", "00c_compositing", "01_images", "01a_search", "01c_layouts", "01e_mask", "02_refine", "02b_model_file",
    "02f_processor", "02h_runtimes", "04_weights", "05_segment", "06e_sequence", "20_cli", "commands/02_pictures",
    "commands/03a_fixed", "measure/00_metrics", "measure/00a_sky_only", "scenes/00_skies", "sphere/02a_sun",
    "train/00a_sets", "train/02_models", "train/00c_data", "train/01_augment", "train/02a_config"]
SKIPPED = re.compile(r"(?m)^#\|\s*(eval:\s*false|slow|cuda|camera)\b")
NUMBER = re.compile(r"(?<![\w.])-?(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d\d?)?(?!\w)")
MASKED = [(re.compile(pattern), name) for pattern, name in (
    (r"\bon CPU\b.*?\(.*\)|'cpu': '[^']*'|'(threads|limit)': \d+", "DEVICE"),
    (r"[\d.]+ ?(ms|s|min|h|a second)\b|\d+:\d\d:\d\d", "TIME"), (r"[\d.,]+ ?[kMG]?B\b", "SIZE"),
    (r"\b0x[0-9a-f]+|https?://(127\.0\.0\.1|localhost):\d+|/tmp/[\w./-]+", "ADDRESS"))]


def texts(outputs):
    "What a cell prints, and its value where that is no picture."
    def text(x): return "".join(x)
    said = [text(o["text"]) for o in outputs if o["output_type"] == "stream" and o["name"] == "stdout"]
    said += [text(o["data"]["text/plain"]) for o in outputs if "text/plain" in o.get("data", ())
             and not any(kind.startswith(("image/", "application/", "text/html")) for kind in o["data"])]
    return "".join(said).strip()


def cells(path):
    "Number -> cell, of those that run."
    found = enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"])
    return {str(i): c for i, c in found if c["cell_type"] == "code" and not SKIPPED.search("".join(c["source"]))
            and "nbdev_export()" not in "".join(c["source"])}


def differ(stored, today):
    "Whether two texts say other things: other words, or numbers that are not within a hundredth or two last digits."
    for pattern, name in MASKED: stored, today = pattern.sub(name, stored), pattern.sub(name, today)
    if NUMBER.sub("#", stored).split() != NUMBER.sub("#", today).split(): return True
    for a, b in zip(NUMBER.findall(stored), NUMBER.findall(today), strict=True):
        if "." not in a and "." not in b and a != b: return True
        digits = len(re.sub(r"e.*", "", a).partition(".")[2])
        scale = 10**float(a.partition("e")[2] or 0)
        if float(a) != pytest.approx(float(b), rel=.01, abs=2.01*10**-digits*scale): return True
    return False


@pytest.fixture(scope="module")
def today():
    "Chapter -> number of a cell -> its text, or the error that ended the chapter."
    env = os.environ | {"IN_TEST": "1", "PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, __file__, *CHAPTERS], capture_output=True, text=True, env=env, cwd=ROOT)
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_text_that_is_shown_is_todays(today, chapter):
    shown = {i: texts(c["outputs"]) for i, c in cells(ROOT/"nbs"/f"{chapter}.ipynb").items()}
    assert any(shown.values()), "nothing to compare: take it from the list"
    wrong = {i: (text, today[chapter][i]) for i, text in shown.items() if differ(text, today[chapter][i])}
    assert not wrong, f"execute {chapter} again"


def test_the_comparison_sees_what_it_must_see():
    assert not differ("flicker .264%, 12.5 ms", "flicker .263%, 31 ms")
    assert not differ("openvino on CPU: a chip (f32, 2 threads)", "openvino on CPU: another (bf16, 1 thread; measured)")
    assert differ("flicker .264%", "flicker .364%")
    assert differ("3 files", "4 files") and differ("IoU 0.94", "iou 0.94")
    assert differ("a b", "a b c") and differ("", "a")


if __name__ == "__main__":
    from execnb.shell import CaptureShell
    run = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for chapter in sys.argv[1:]:
            path = ROOT/"nbs"/f"{chapter}.ipynb"
            os.chdir(path.parent)
            shell, run[chapter] = CaptureShell(path), {}
            for i, cell in cells(path).items():
                run[chapter][i] = texts(shell.run("".join(cell["source"])) or [])
                if shell.exc: raise SystemExit(f"{chapter}, cell {i}: {shell.exc!r}")
            shell.close()
    print(json.dumps(run))
