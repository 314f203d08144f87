"What the widgets' notebooks cannot show: what happens without their packages, and the app that has no notebook."
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from click.testing import CliRunner

from skysky.cli import main

pytestmark = pytest.mark.alone  # a browser

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", ["anywidget", "ipywidgets"])
def test_a_missing_package_is_named(package):
    code = f"""import sys
sys.modules["{package}"] = None
import skysky.widgets"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1] == ("skysky.core.SkyError: widgets need " + package +
                                           ", which is not here: run `pip install '.[notebook]'` in the clone")


def test_live_opens_the_demo_on_loopback_with_a_token(monkeypatch):
    from voila.app import Voila
    started, opened = [], []
    monkeypatch.setattr(Voila, "launch_instance", classmethod(lambda cls, argv: started.append((cls, argv))))
    monkeypatch.setattr("webbrowser.open", opened.append)
    CliRunner().invoke(main, ["live", "--port=9999"], catch_exceptions=False)
    [(app, [notebook, *options])] = started
    assert Path(notebook) == ROOT/"nbs"/"tutorials"/"52_live_camera.ipynb" and options == ["--token", "--port=9999"]
    assert app.ip.default_value == "localhost"
    monkeypatch.setattr(Voila, "display_url", "http://localhost:9999/?token=abc&x")
    monkeypatch.setattr(Voila, "stop", lambda self: None)
    live = app()
    live.launch_browser()
    [address] = opened
    door = Path(url2pathname(urlsplit(address).path))
    assert address.startswith("file:") and "abc" not in address, "arguments of a browser can be read by every user"
    assert "url=http://localhost:9999/?token=abc&amp;x" in door.read_text()
    assert sys.platform == "win32" or stat.S_IMODE(door.stat().st_mode) == 0o600
    live.stop()
    assert not door.exists()


def test_live_without_voila_or_notebooks_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "voila.app", None)
    run = CliRunner().invoke(main, ["live"])
    assert (run.exit_code, run.stderr.count("\n")) == (1, 1) and "pip install '.[notebook]'" in run.stderr
    monkeypatch.setattr("skysky.__file__", str(tmp_path/"skysky"/"__init__.py"))
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(main, ["live"])
    assert (run.exit_code, run.stderr.count("\n")) == (1, 1) and "clone the project" in run.stderr
