"That no test waits for ever: what holds them, in conftest.py, and what they ask for."
import ast
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.alone  # a browser

HERE = Path(__file__).parent

WAITING = """
import subprocess, sys, pytest
from playwright.sync_api import sync_playwright

SLEEP = [sys.executable, "-c", "import time; time.sleep(999)", "{name}"]
LOST = f"import subprocess; subprocess.Popen({{SLEEP!r}}, start_new_session=True)"

@pytest.mark.timeout(5)
def test_waits_for_a_process_that_waits_for_one(): subprocess.run([sys.executable, "-c", LOST + ".wait()"], check=True)

@pytest.mark.timeout(15)
def test_waits_for_a_browser():
    with sync_playwright() as p:
        page = p.chromium.launch(executable_path="{chromium}", args=["--no-sandbox", "--{name}"]).new_page()
        page.evaluate("new Promise(() => {{}})")

def test_leaves_a_process_without_a_parent(): subprocess.run([sys.executable, "-c", LOST], check=True)
"""


def test_what_waits_for_ever_fails_and_nothing_of_it_is_left(tmp_path):
    name, chromium = tmp_path.name, shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    shutil.copy(HERE/"conftest.py", tmp_path)
    (tmp_path/"test_waiting.py").write_text(WAITING.format(name=name, chromium=chromium))
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", tmp_path, "-p", "no:cacheprovider"]
    start = time.monotonic()
    run = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=120)
    assert time.monotonic() - start < 90
    for said in ("not done in 4 s", "not done in 12 s", "2 failed, 1 passed"): assert said in run.stdout, run.stdout
    assert not [p for p in psutil.process_iter(["cmdline"]) if any(name in word for word in p.info["cmdline"] or ())]


def waits(source):
    "Lines that wait for something of this process, which nobody kills, without a limit."
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call): continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        most = {"join": 0, "wait": 0, "result": 0, "get": 0, "acquire": 0, "communicate": 1, "urlopen": 9}.get(name, -1)
        if len(node.args) <= most and "timeout" not in {k.arg for k in node.keywords}: yield node.lineno


def test_waits_have_a_limit():
    assert [*waits("q.get()\nq.get(timeout=1)\nt.join()\n', '.join(x)\nurlopen(x, None)\np.wait(5)")] == [1, 3, 5]
    found = [f"{path.name}:{line}" for path in sorted(HERE.glob("*.py")) for line in waits(path.read_text("utf-8"))]
    assert not found, found
