"""The widgets in a real browser: JupyterLab and Voilà on loopback, headless Chromium, a fake camera that plays rendered scenes.

Nothing stands between page and model. Figures are printed, screenshots go to out/browser/. SKYSKY_SOAK=300 lets the camera run for 300
seconds rather than a few, to see whether memory grows."""
import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from skysky.scenes import render_scene

ROOT = Path(__file__).parent.parent
OUT = ROOT/"out"/"browser"
TOKEN = "sky"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP sky.test 127.0.0.1"]
CELL = 16  # px, side of a cell of the bar code
BITS = 7


# A clip whose every frame says which one it is

def bars(number):
    "Cells of a bar code: the bits of a number and their parity."
    bits = [number >> i & 1 for i in range(BITS)]
    return [*bits, sum(bits)%2]


def read_bars(img):
    "The number in the lower left corner of a picture; None where it cannot be read."
    cells = img[-CELL:, :CELL*(BITS + 1)].mean(2).reshape(CELL, BITS + 1, CELL)[4:-4, :, 4:-4].mean((0, 2))
    if ((cells > 70) & (cells < 185)).any(): return None
    *bits, parity = (cells > 128).astype(int).tolist()
    return sum(b << i for i, b in enumerate(bits)) if sum(bits)%2 == parity else None


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "A camera that pans over three places: the file for Chromium, and the true sky of each frame."
    path, truth, jpegs = tmp_path_factory.mktemp("clip")/"clip.mjpeg", [], []
    for seed, kind in ((112, "mountains"), (102, "sea"), (112, "snow")):
        scene = render_scene(seed, (360, 760), kind, "clear")
        for x in range(0, 80, 2):
            frame = scene.img[:, x:x + 640].copy()
            frame[-CELL:, :CELL*(BITS + 1)] = np.repeat(np.uint8(bars(len(truth)))*255, CELL)[:, None]
            truth.append(scene.alpha[:, x:x + 640] >= .5)
            jpegs.append(cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    path.write_bytes(b"".join(jpegs))
    return path, truth


# Servers and browsers, ended however the test ends

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def server(command, url, folder):
    "A server process with settings of its own, ready when it answers; ended by a signal to its own process."
    env = os.environ | {f"JUPYTER_{k}_DIR": str(folder/k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    env |= {"IPYTHONDIR": str(folder/"ipython"), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (folder/"log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            for _ in range(300):
                assert process.poll() is None, (folder/"log").read_text()
                try: urlopen(url, timeout=1).close()
                except (URLError, OSError): time.sleep(.2)
                else: break
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address of JupyterLab with a copy of the demo notebook, and its folder."
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    shutil.copy(ROOT/"nbs"/"52_live_camera.ipynb", folder)
    url = f"http://127.0.0.1:{port}"
    command = ["jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}",
               f"--ServerApp.root_dir={folder}", "--ServerApp.allow_remote_access=True", "--LabApp.expose_app_in_browser=True"]
    with server(command, f"{url}/api?token={TOKEN}", folder): yield url, folder


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as p: yield p


@contextmanager
def chromium(playwright, *flags):
    "A fresh page of a fresh browser."
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
    finally: browser.close()


def fake_camera(clip):
    return ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={clip[0]}"]


@pytest.fixture(scope="module")
def page(playwright, lab, clip):
    "The demo notebook in JupyterLab, run from its first cell."
    with chromium(playwright, *fake_camera(clip)) as page:
        open_notebook(page, lab[0])
        yield page


def command(page, name):
    "Run a command of JupyterLab, as its menus do."
    page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


def open_notebook(page, url, name="52_live_camera.ipynb"):
    page.goto(f"{url}/lab/tree/{name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".skysky-camera")


# What a person sees

def picture(page, selector):
    "H,W,3 uint8 RGB of a canvas."
    url = page.evaluate("s => document.querySelector(s).toDataURL('image/png')", selector)
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR_RGB)


def screenshot(page, name, selector):
    OUT.mkdir(parents=True, exist_ok=True)
    page.locator(selector).first.screenshot(path=OUT/f"{name}.png")
