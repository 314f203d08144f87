"""The widgets in a real browser: JupyterLab and Voilà on loopback, headless Chromium, a camera with rendered scenes.

Nothing stands between page and model. Figures are printed, screenshots go to out/browser/. With SKYSKY_SOAK=300 the
camera runs for 300 seconds rather than a few, to see whether memory grows."""
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

import cv2
import nbformat
import numpy as np
import psutil
import pytest
from playwright.sync_api import sync_playwright

from skysky.frames import video_frame
from skysky.scenes import render_scene
from skysky.train.sets import PairFolder
from skysky.write_video import VideoWriter

pytestmark = pytest.mark.alone  # a browser

ROOT = Path(__file__).parent.parent
OUT = ROOT/"out"/"browser"
TOKEN = "sky"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP sky.test 127.0.0.1"]
CAMERA = ".skysky-camera"
EXPLORER = ".skysky-explorer"
PAINT = (0, 255, 0)  # a colour that no scene has
SOAK = float(os.environ.get("SKYSKY_SOAK", 6))  # s
AT_FIRST = {"Threshold": .5, "Opacity": .5, "Smoothing": .3, "Colour": "#ff0080", "View": "overlay"}


# A clip whose every frame says which one it is

CELL, BITS = 16, 7  # px, side of a cell of the bar code; bits of a number


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


# Servers and browsers, ended however a test ends

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def server(command, url, folder):
    "A server process with settings of its own, ready when it answers."
    env = os.environ | {f"JUPYTER_{k}_DIR": str(folder/k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    env |= {"IPYTHONDIR": str(folder/"ipython")}
    with (folder/"log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            for _ in range(300):
                assert process.poll() is None, (folder/"log").read_text()
                try: urlopen(url, timeout=2).close()
                except (URLError, OSError): time.sleep(.2)
                else: break
            yield process
        finally:
            process.terminate()
            process.wait(timeout=120)


SLOW = """import time
from skysky import SkyCamera

def stumble(frame, sky):
    stumbles.append(frame)
    if len(stumbles) < 6: raise ValueError("no tripod")

stumbles, camera = [], SkyCamera(on_mask=stumble)
infer = camera.seg.infer

def slow(img):
    time.sleep(.5)
    return infer(img)

camera.seg.infer = slow
camera"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab with two copies of the demo notebook and one with a slow model: its address and its process."
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    for name in ("demo", "other"): shutil.copy(ROOT/"nbs"/"tutorials"/"52_live_camera.ipynb", folder/f"{name}.ipynb")
    nb = json.loads((folder/"demo.ipynb").read_text())
    code = dict(cell_type="code", execution_count=None, id="0", metadata={}, outputs=[], source=SLOW)
    (folder/"slow.ipynb").write_text(json.dumps(nb | {"cells": [code]}))
    (folder/"brush.ipynb").write_text(json.dumps(nb | {"cells": [code | {"source": PAINTING}]}))
    news = folder/"config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = ["-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
               "--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True",
               "--ServerApp.allow_remote_access=True"]
    url = f"http://127.0.0.1:{port}"
    with server(command, f"{url}/api?token={TOKEN}", folder) as process: yield url, process


@pytest.fixture(scope="module")
def playwright():
    with sync_playwright() as p: yield p


SPY = """(() => {  // notes the tracks that the page opens; the camera is Chromium's
  window.tracks = [];
  const devices = navigator.mediaDevices, open = devices?.getUserMedia.bind(devices);
  if (open) devices.getUserMedia = async (wish) => {
    const stream = await open(wish);
    tracks.push(...stream.getTracks());
    return stream;
  };
})()"""


@contextmanager
def chromium(playwright, *flags):
    "A page of a fresh browser."
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.add_init_script(SPY)
        yield page
    except BaseException:
        OUT.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=OUT/"failed.png")
        raise
    finally: browser.close()


def fake_camera(clip):
    return ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-video-capture={clip[0]}"]


# JupyterLab by its own commands, the widgets by what a person sees and does

def do(page, command, **args):
    page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args) }", [command, args])


def run_notebook(page, url, name="demo.ipynb", app="lab/tree"):
    "Open a notebook and run it from its first cell."
    page.goto(f"{url}/{app}/{name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator", state="attached")
    page.evaluate("""async () => {
      const context = window.jupyterapp.shell.currentWidget.sessionContext;
      await context.ready;
      await context.session.kernel.info;  // cells that are run before are lost
    }""")
    do(page, "notebook:run-all-cells")
    page.wait_for_selector(CAMERA)


@pytest.fixture(scope="module")
def demo(playwright, lab, clip):
    "The demo notebook in JupyterLab, with a camera."
    with chromium(playwright, *fake_camera(clip)) as page:
        run_notebook(page, lab[0])
        yield page


@pytest.fixture
def page(demo):
    "The demo notebook with its camera off and its controls as they are at first, whatever test ran before."
    if button(demo, "Stop").count(): button(demo, "Stop").click()
    demo.locator(CAMERA).get_by_label("Source", exact=True).select_option("camera")
    for label, value in AT_FIRST.items(): set_to(demo, label, value)
    return demo


def wait(condition, seconds, what):
    "Wait for a condition, at most some seconds; returns the seconds it took."
    start = time.perf_counter()
    while not condition():
        assert time.perf_counter() - start < seconds, what
        time.sleep(.05)
    return time.perf_counter() - start


def button(page, name): return page.locator(CAMERA).get_by_role("button", name=name, exact=True)


def message(page): return page.locator(f"{CAMERA} .skysky-message").text_content()


def figures(page): return page.locator(f"{CAMERA} .skysky-figures").text_content()


def start(page):
    "Press Start and wait for masks; they are noted in the page."
    page.evaluate("""s => {
      window.masks = [];
      window.note ??= (e) => masks.push({...e.detail, at: performance.now()});
      document.querySelector(s).addEventListener("mask", note);
    }""", CAMERA)
    button(page, "Start").click()
    wait(lambda: "masks/s" in figures(page), 120, f"no masks: {message(page)}")


def set_to(page, label, value):
    page.locator(CAMERA).get_by_label(label, exact=True).evaluate("""(node, value) => {
      node.value = value;
      node.dispatchEvent(new Event("input", { bubbles: true }));
    }""", str(value))


def picture(page):
    "What the camera widget shows, H,W,3 uint8 RGB."
    url = page.evaluate("s => document.querySelector(s).toDataURL()", f"{CAMERA} canvas")
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR_RGB)


def painted(img): return np.abs(img.astype(int) - PAINT).max(2) < 90


def light_is_on(page): return page.evaluate("tracks.filter((t) => t.readyState === 'live').length") > 0


def screenshot(page, name, selector):
    OUT.mkdir(parents=True, exist_ok=True)
    page.locator(selector).first.screenshot(path=OUT/f"{name}.png")


def ious(page, truth, n):
    "IoU of what is painted with the truth of the frame that is shown, for `n` frames."
    for label, value in (("Opacity", 1), ("Smoothing", 0), ("Colour", "#00ff00")): set_to(page, label, value)
    wait(lambda: painted(picture(page)).any(), 120, "nothing is painted")
    found, last, end = [], None, time.monotonic() + 120
    while len(found) < n:
        assert time.monotonic() < end, f"{len(found)} of {n} frames in two minutes"
        img = picture(page)
        number = read_bars(img)
        if number is not None and number != last:
            mask, last = painted(img), number
            found.append((mask & truth[number]).sum()/(mask | truth[number]).sum())
    return np.array(found)


# The camera in JupyterLab

def test_masks_are_those_of_the_clip(page, clip):
    start(page)
    screenshot(page, "camera", CAMERA)
    found = ious(page, clip[1], 60)
    print(f"\nIoU with the truth: median {np.median(found):.3f}, {(found >= .85).sum()} of {len(found)} at .85 or more")
    assert (found >= .85).sum() >= 30 and np.median(found) >= .9


def memory(page, kernel, cdp):
    "MB that the kernel's process and the page's objects take."
    cdp.send("HeapProfiler.collectGarbage")
    metrics = {m["name"]: m["value"] for m in cdp.send("Performance.getMetrics")["metrics"]}
    return kernel.memory_info().rss/1e6, metrics["JSHeapUsedSize"]/1e6


def kernel_process(page, lab):
    "The process of the kernel that the page's notebook has."
    name = page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.id")
    [kernel] = (p for p in psutil.Process(lab[1].pid).children(recursive=True) if name in " ".join(p.cmdline()))
    return kernel


def clock(page): return np.array(page.evaluate("[masks.length, performance.now()]"))


@pytest.mark.timeout(300 + 2*SOAK)
def test_rate_and_memory(page, lab):
    "Figures are printed: they mean something on a machine that does nothing else."
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")
    kernel = kernel_process(page, lab)
    start(page)
    time.sleep(1)  # the first masks warm things up
    page.evaluate("masks.length = 0")
    used, rates = [memory(page, kernel, cdp)], []
    for _ in range(6):
        before = clock(page)
        time.sleep(SOAK/6)
        masks, ms = clock(page) - before
        rates.append(1000*masks/ms)
        used.append(memory(page, kernel, cdp))  # stops the page for a moment
    masks = page.evaluate("masks")
    trips, ms = (np.median([m[k] for m in masks]) for k in ("trip", "ms"))
    print(f"\n512×288: {np.median(rates):.1f} masks a second, round trip {trips:.0f} ms, model {ms:.0f} ms (medians)")
    print(f"memory over {SOAK:.0f} s, MB: kernel {' '.join(f'{k:.0f}' for k, _ in used)}, "
          f"page {' '.join(f'{p:.0f}' for _, p in used)}")
    assert [m["id"] for m in masks] == list(range(masks[0]["id"], masks[0]["id"] + len(masks))), "a mask for each frame"
    assert used[-1][0] - used[1][0] < 40 and used[-1][1] - used[1][1] < 20


def test_sliders_act_at_once(page):
    start(page)
    for label, value in (("Opacity", 1), ("Smoothing", 0), ("Colour", "#00ff00"), ("View", "overlay")):
        set_to(page, label, value)
    def share(**settings):
        for label, value in settings.items(): set_to(page, label, value)
        time.sleep(.3)  # a few video frames; masks come in between, and change little
        return painted(picture(page)).mean()
    strict, usual, generous = (share(Threshold=t) for t in (1, .5, 0))
    assert strict < .01 < usual < generous, (strict, usual, generous)
    assert share(Threshold=.5, Opacity=0) == 0
    set_to(page, "Opacity", 1)
    assert share(Colour="#0000ff") == 0
    for view in ("mask", "probability"):
        set_to(page, "View", view)
        time.sleep(.3)
        img = picture(page)
        assert (np.ptp(img, 2) == 0).all(), "grey"
        assert view != "mask" or ((img < 5) | (img > 250)).mean() > .9
    set_to(page, "View", "cut-out")
    time.sleep(.3)
    screenshot(page, "camera_cutout", CAMERA)
    url = page.evaluate("s => document.querySelector(s).toDataURL()", f"{CAMERA} canvas")
    img = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert .2 < (img[..., 3] < 9).mean() < .8, "the sky is transparent"


def test_keys_move_sliders_and_leave_the_notebook_alone(page):
    start(page)  # a button that does nothing yet takes no focus
    slider, cells = page.locator(CAMERA).get_by_label("Threshold", exact=True), page.locator(".jp-Cell").count()
    slider.focus()
    slider.press("ArrowRight")
    assert slider.input_value() == "0.51"
    button(page, "Snapshot").focus()
    page.keyboard.type("ddab")  # in a notebook: delete a cell, make new ones
    assert page.locator(".jp-Cell").count() == cells


def test_snapshot_and_recording(page, tmp_path):
    start(page)
    with page.expect_download() as download: button(page, "Snapshot").click()
    download.value.save_as(tmp_path/"sky.png")
    assert cv2.imread(str(tmp_path/"sky.png")).shape == (360, 640, 3)
    button(page, "Record").click()
    time.sleep(2)
    with page.expect_download() as download: button(page, "Stop recording").click()
    download.value.save_as(tmp_path/"sky.webm")
    button(page, "Stop").click()
    page.locator(CAMERA).get_by_label("Source", exact=True).select_option("file")
    page.locator(CAMERA).get_by_label("Video file").set_input_files(tmp_path/"sky.webm")  # the recording is a source
    wait(lambda: "masks/s" in figures(page), 120, f"no masks of the recording: {message(page)}")
    assert read_bars(picture(page)) is not None or picture(page).shape == (360, 640, 3)


def test_a_source_of_the_kernel(page, clip, tmp_path):
    frames = np.linspace(0, len(clip[1]) - 1, 12).astype(int)
    jpegs = clip[0].read_bytes().split(b"\xff\xd8\xff")[1:]
    with VideoWriter(tmp_path/"pan.mp4") as video:
        for i, n in enumerate(frames):
            img = cv2.imdecode(np.frombuffer(b"\xff\xd8\xff" + jpegs[n], np.uint8), cv2.IMREAD_COLOR_RGB)
            video.write(video_frame(img, i, Fraction(1, 4)))
    page.locator(CAMERA).get_by_label("Source", exact=True).select_option("kernel")
    address = page.locator(CAMERA).get_by_label("on the kernel's side")
    address.fill(str(tmp_path/"none.mp4"))
    button(page, "Start").click()
    wait(lambda: "no such file" in message(page), 120, "a file that is not there is not reported")
    address.fill(str(tmp_path/"pan.mp4"))
    start(page)
    found = ious(page, clip[1], 10)
    print(f"\na video of the kernel's: IoU with the truth, median {np.median(found):.3f}")
    assert (found >= .85).all(), "picture and mask belong together here"


def test_stop_turns_the_camera_off_and_start_on(page):
    start(page)
    assert light_is_on(page)
    button(page, "Stop").click()
    assert not light_is_on(page) and message(page) == "Stopped."
    start(page)
    assert light_is_on(page)
    do(page, "notebook:run-all-cells")
    wait(lambda: not light_is_on(page), 120, "a cell that runs again leaves the camera on")
    wait(lambda: message(page).startswith("Press Start"), 120, "no new widget")


def test_dark_and_small(page):
    start(page)
    do(page, "apputils:change-theme", theme="JupyterLab Dark")
    do(page, "application:toggle-left-area")
    time.sleep(1)
    for name, selector in (("camera_dark", CAMERA), ("explorer_dark", EXPLORER)): screenshot(page, name, selector)
    page.set_viewport_size({"width": 420, "height": 900})
    time.sleep(1)
    for name, selector in (("camera_small", CAMERA), ("explorer_small", EXPLORER)):
        screenshot(page, name, selector)
        wide = page.locator(selector).evaluate("node => node.scrollWidth - node.clientWidth")
        assert wide <= 0, f"{name} is {wide} px too wide"
    page.set_viewport_size({"width": 1280, "height": 1000})
    do(page, "apputils:change-theme", theme="JupyterLab Light")
    do(page, "application:toggle-left-area")


def test_restarted_kernel_turns_the_camera_off(page):
    start(page)
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    wait(lambda: not light_is_on(page), 120, "a restart leaves the camera on")
    assert "run the cell again" in message(page)
    do(page, "notebook:run-all-cells")
    wait(lambda: message(page).startswith("Press Start"), 120, "no new widget")


@contextmanager
def notebook(playwright, lab, clip, name):
    "Another notebook, with a kernel of its own, in another browser with a camera."
    with chromium(playwright, *fake_camera(clip)) as page:
        run_notebook(page, lab[0], name)
        start(page)
        yield page


def test_dead_kernel_is_reported(playwright, lab, clip):
    with notebook(playwright, lab, clip, "other.ipynb") as page:
        kernel_process(page, lab).send_signal(signal.SIGKILL)
        took = wait(lambda: "kernel" in message(page), 3, "a dead kernel is not reported")
        print(f"\ndead kernel reported after {took:.1f} s: {message(page)}")
        wait(lambda: not light_is_on(page), 120, "a dead kernel leaves the camera on")


def test_slow_kernel_gets_one_frame_at_a_time(playwright, lab, clip):
    with notebook(playwright, lab, clip, "slow.ipynb") as page:
        wait(lambda: "on_mask: ValueError: no tripod (line 6)" in message(page), 99, "an error in on_mask is not shown")
        screenshot(page, "camera_error", CAMERA)
        wait(lambda: len(page.evaluate("masks")) >= 12, 120, "masks stop after an error in on_mask")
        assert message(page) == ""
        masks = page.evaluate("masks")
        trips = [m["trip"] for m in masks]
        print(f"\nslow model: round trips {min(trips):.0f} to {max(trips):.0f} ms")
        assert [m["id"] for m in masks] == list(range(1, len(masks) + 1)), "a frame leaves when the last mask has come"
        assert min(trips) >= 500 and np.median(trips[-4:]) < 1.5*np.median(trips[:4]), "the lag stays"
        set_to(page, "Opacity", 1)
        set_to(page, "Colour", "#00ff00")
        assert wait(lambda: painted(picture(page)).any(), .4, "a slider waits for the kernel") < .4


# What the page's code computes, without a page around it

MODULE = """async (source) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  window.module = await import(url);
}"""


def module(page, name): page.evaluate(MODULE, (ROOT/"skysky"/"static"/name).read_text(encoding="utf-8"))


def test_palette_paints_what_python_calls_sky(playwright):
    with chromium(playwright) as page:
        module(page, "camera.js")
        def alpha(**style):
            style = dict(threshold=.5, opacity=1, color="#0a141e", view="overlay") | style
            colors = page.evaluate("style => Array.from(module.palette(style))", style)
            return np.array(colors, np.uint32).view(np.uint8).reshape(256, 4)
        rgba, level = alpha(), np.arange(256)/255
        assert (rgba[:, :3] == (10, 20, 30)).all() and (np.diff(rgba[:, 3].astype(int)) >= 0).all()
        for threshold in (.1, .5, .9): assert ((alpha(threshold=threshold)[:, 3] >= 128) == (level >= threshold)).all()
        assert alpha(opacity=0)[:, 3].max() == 0
        assert (alpha(view="probability")[:, 0] == np.arange(256)).all()


def test_pure_functions_of_the_page(playwright):
    with chromium(playwright) as page:
        module(page, "camera.js")
        run = page.evaluate
        assert run("module.fitSize(1280, 720, 512)") == [512, 288] and run("module.fitSize(3, 1, 2)") == [2, 1]
        assert run("Array.from(module.smooth(Float32Array.of(100), [200], .75))") == [125]
        assert run("Array.from(module.smooth(null, [7], .75))") == [7]
        assert run("module.median([5, 1, 3])") == 3
        assert run("Array.from(new Uint8Array(module.fromDataURL('data:image/jpeg;base64,AID/')))") == [0, 128, 255]
        link = """const link = new module.Link(() => time); let time = 0; const log = [link.send()];
          time = 40; log.push(link.busy, link.waited, link.answered(7), link.answered(1), link.answered(1));
          log.push(link.send()); time = 100; log.push(link.answered(2), link.trip, link.rate, link.busy); return log"""
        assert run(f"() => {{ {link} }}") == [1, True, 40, False, True, False, 2, True, 60, 1000/60, False]
        here = dict(vscode=False, allowed=True, host="sky.test", isSecureContext=True, mediaDevices={})
        why = lambda **place: run("place => module.obstacle(place)", here | place)
        assert why() is None and "VS Code" in why(vscode=True) and "a tab of its own" in why(allowed=False)
        assert "sky.test" in why(isSecureContext=False) and "sky.test" in why(mediaDevices=None)
        inside = lambda protocol, **data: run("x => module.inVSCode(...x)", [{"protocol": protocol}, {"dataset": data}])
        assert inside("vscode-webview:") and inside("https:", vscodeThemeKind="vscode-dark") and not inside("https:")
        module(page, "picture.js")
        assert run("module.parts(9, 4)") == [[0, 4], [4, 8], [8, 9]] and run("module.parts(0, 4)") == [[0, 0]]


# What can be in the way of a camera

def refusal(playwright, url, *flags):
    "What the widget says when Start is pressed in a browser with these flags."
    with chromium(playwright, *flags) as page:
        run_notebook(page, url, "slow.ipynb")
        button(page, "Start").click()
        wait(lambda: message(page) not in ("", "Opening the source…"), 120, "no message")
        assert not light_is_on(page)
        screenshot(page, "camera_refused", CAMERA)
        return message(page)


def test_refused_permission_is_said(playwright, lab):
    flags = ["--use-fake-device-for-media-stream", "--deny-permission-prompts"]
    assert refusal(playwright, lab[0], *flags).startswith("The camera was refused: allow it")


def test_no_camera_is_said(playwright, lab):
    assert "no camera" in refusal(playwright, lab[0], "--use-fake-ui-for-media-stream")


def test_insecure_page_is_said(playwright, lab, clip):
    url = lab[0].replace("127.0.0.1", "sky.test")
    assert "localhost pages only" in refusal(playwright, url, *fake_camera(clip))


FRAMES = "sandbox='allow-scripts allow-same-origin allow-forms allow-downloads' allow='autoplay; clipboard-read'"
MODEL = """{ get: (name) => ({ size: 512, threshold: .5, opacity: .5, smoothing: .3, color: '#ff0080', view: 'overlay',
  views: ['overlay', 'cut-out'], source: '' })[name], set() {}, save_changes() {}, on() {}, send() {} }"""


@contextmanager
def framed(playwright, clip, body):
    "The camera widget in a frame of another origin that passes no camera on, as VS Code's webviews are."
    page_of = {"https://editor.test/": f"<iframe src='https://webview.test/' {FRAMES} width=800 height=700></iframe>",
               "https://webview.test/": f"<body {body}><div></div></body>"}
    with chromium(playwright, *fake_camera(clip)) as page:
        page.route("https://*.test/**", lambda route: route.fulfill(content_type="text/html; charset=utf-8",
                                                                   body=page_of[route.request.url]))
        page.goto("https://editor.test/")
        frame = page.frames[1]
        frame.wait_for_load_state()
        module(frame, "camera.js")
        frame.add_style_tag(path=ROOT/"skysky"/"static"/"widgets.css")
        frame.evaluate(f"module.default.render({{ model: {MODEL}, el: document.querySelector('div') }})")
        yield frame


def test_vscode_is_recognised_and_offers_a_file(playwright, clip, tmp_path):
    colors = {"editor-background": "#1f1f1f", "editor-foreground": "#cccccc", "descriptionForeground": "#9d9d9d",
              "editorWidget-background": "#202020", "editorWidget-border": "#454545", "button-background": "#0078d4"}
    style = ";".join(f"--vscode-{name}: {color}" for name, color in colors.items())
    body = f"class='vscode-dark' data-vscode-theme-kind='vscode-dark' style='{style}'"
    with framed(playwright, clip, body) as frame:
        asked = "navigator.mediaDevices.getUserMedia({ video: true }).catch((e) => e.name)"
        assert frame.evaluate(f"isSecureContext && {asked}") == "NotAllowedError", "the frame is what it should be"
        source = frame.locator(CAMERA).get_by_label("Source", exact=True)
        assert source.input_value() == "file" and frame.locator("input[type=file]").is_visible()
        assert message(frame).startswith("VS Code opens no camera for a notebook: choose a video file")
        source.select_option("camera")
        button(frame, "Start").click()
        assert message(frame).startswith("VS Code opens no camera") and not light_is_on(frame)
        screenshot(frame, "camera_vscode", CAMERA)
        source.select_option("file")
        assert message(frame).startswith("Choose a video file")
        img = cv2.imdecode(np.frombuffer(clip[0].read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
        with VideoWriter(tmp_path/"still.mp4") as video:
            for i in range(30): video.write(video_frame(img, i, Fraction(1, 15)))
        frame.locator("input[type=file]").set_input_files(tmp_path/"still.mp4")
        wait(lambda: picture(frame).std() > 20, 120, f"the file is not played: {message(frame)}")


def test_frame_without_a_camera_is_said(playwright, clip):
    with framed(playwright, clip, "") as frame:
        assert "a tab of its own" in message(frame)


# The explorer

def shown(page):
    "What the explorer shows, H,W,3 uint8 RGB."
    url = page.evaluate("""async (s) => {
      const image = document.querySelector(s);
      await image.decode();
      const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
      canvas.getContext("2d").drawImage(image, 0, 0);
      const bytes = new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer());
      return btoa(bytes.reduce((text, b) => text + String.fromCharCode(b), ""));
    }""", f"{EXPLORER} img")
    return cv2.imdecode(np.frombuffer(base64.b64decode(url), np.uint8), cv2.IMREAD_COLOR_RGB)


def change(page, action):
    "Do something and wait for another picture; returns it, and the ms that took."
    source = page.locator(f"{EXPLORER} img")
    before = source.get_attribute("src")
    page.evaluate("""s => {
      const image = document.querySelector(s);
      window.arrived = null;
      addEventListener("keydown", () => window.pressed = performance.now(), { capture: true, once: true });
      image.addEventListener("load", () => window.arrived = performance.now(), { once: true });
    }""", f"{EXPLORER} img")
    action()
    wait(lambda: source.get_attribute("src") != before and page.evaluate("arrived"), 120, "the picture stays")
    return shown(page), page.evaluate("arrived - (window.pressed ?? NaN)")


def press(page, label, key):
    page.locator(EXPLORER).locator(".widget-hslider", has_text=label).locator(".noUi-handle").press(key)


def test_explorer(playwright, lab, tmp_path):
    with chromium(playwright) as page:
        run_notebook(page, lab[0])
        page.locator(EXPLORER).scroll_into_view_if_needed()
        wait(lambda: page.evaluate("s => document.querySelector(s)?.naturalWidth", f"{EXPLORER} img"), 99, "no picture")
        screenshot(page, "explorer", EXPLORER)
        first, took = shown(page), []
        for _ in range(9):
            img, ms = change(page, lambda: press(page, "Opacity", "ArrowRight"))
            took.append(ms)
        assert (img != first).any()
        print(f"\nfrom a key on the opacity slider to the picture: {np.median(took):.0f} ms")
        took = [change(page, lambda: press(page, "Threshold", "PageUp"))[1] for _ in range(3)]
        print(f"from a key on the threshold slider to the picture: {np.median(took):.0f} ms")
        for view in ("mask", "probability", "cut-out", "new sky"):
            img, _ = change(page, lambda view=view: page.locator(EXPLORER).get_by_label("View").select_option(view))
            assert view not in ("mask", "probability") or np.ptp(img, 2).max() < 4, "grey"
            screenshot(page, f"explorer_{view.replace(' ', '_')}", EXPLORER)
        large = tmp_path/"large.png"  # more than a message may have
        cv2.imwrite(str(large), np.random.default_rng(0).integers(0, 255, (2400, 2400, 3), np.uint8))
        assert large.stat().st_size > 12e6
        img, _ = change(page, lambda: page.set_input_files(f"{EXPLORER} input[type=file]", large))
        assert img.shape == (1024, 1024, 3) and "read_image('large.png')" in page.inner_text(f"{EXPLORER} pre")
        page.locator(EXPLORER).get_by_label("Or a file").fill("nowhere.jpg")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"{EXPLORER} .skysky-error:has-text('no such file')")
        page.locator(EXPLORER).get_by_role("button", name="Save").click()
        page.wait_for_selector(f"{EXPLORER} .skysky-note:has-text('large_newsky.jpg')")


# The brush

BRUSH = ".skysky-brush"
PAINTING = """from skysky import SkyBrush, Segmenter
brush = SkyBrush("photos", segmenter=Segmenter(size=320))
brush"""


def brushed(page):
    "The mask that the page shows: H,W uint8 of 255 sky, 128 open, 0 other; from the colours of its paint."
    url = page.evaluate("s => document.querySelectorAll(`${s} canvas`)[1].toDataURL()", BRUSH)
    img = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_UNCHANGED)
    return np.select([img[..., 3] == 0, img[..., 1] > 100], [np.uint8(0), np.uint8(128)], np.uint8(255))


def brush_message(page): return page.locator(f"{BRUSH} .skysky-brush-message").text_content()


def picture_name(page): return page.locator(f"{BRUSH} .skysky-brush-name").text_content()


def open_brush(page, url):
    page.goto(f"{url}/lab/tree/brush.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator", state="attached")
    page.evaluate("""async () => {
      const context = window.jupyterapp.shell.currentWidget.sessionContext;
      await context.ready;
      await context.session.kernel.info;
    }""")
    do(page, "notebook:run-all-cells")
    page.wait_for_selector(BRUSH)
    wait(lambda: picture_name(page), 120, "no picture")


def test_brush(playwright, lab):
    url, folder = lab[0], Path(psutil.Process(lab[1].pid).cwd())
    for i, kind in enumerate(("street", "mountains")):
        (folder/"photos").mkdir(exist_ok=True)
        img = cv2.resize(render_scene(112 + i, (480, 720), kind, "clear").img, (1728, 1152))  # two megapixels
        cv2.imwrite(str(folder/"photos"/f"{i}.png"), img[..., ::-1])
    pairs = folder/"photos_pairs"
    with chromium(playwright) as page:
        open_brush(page, url)
        stage = page.locator(f"{BRUSH} .skysky-easel")
        stage.scroll_into_view_if_needed()
        box, first, name = stage.bounding_box(), brushed(page), picture_name(page)
        assert first.shape == (1152, 1728)
        screenshot(page, "brush_open", BRUSH)
        middle = box["x"] + box["width"]/2, box["y"] + box["height"]/2
        page.evaluate("""s => {
          window.strokes = [];
          document.querySelector(s).addEventListener("stroke", (e) => strokes.push(e.detail));
        }""", BRUSH)
        press = lambda keys: [stage.press(key) for key in keys]
        press("e")
        page.mouse.move(middle[0] - 200, middle[1])
        page.mouse.down()
        page.mouse.move(middle[0] + 200, middle[1] - 40, steps=60)
        page.mouse.up()
        erased = brushed(page)
        assert (erased != first).sum() > 5000
        took = page.evaluate("strokes")
        print(f"\nfrom a move of the mouse to the painted frame: median {np.median(took):.0f} ms, 9 of 10 below "
              f"{np.quantile(took, .9):.0f} ms, of {len(took)}")
        press("z")
        assert (brushed(page) == first).all(), "undone"
        press("y")
        assert (brushed(page) == erased).all(), "done again"
        size = page.locator(f"{BRUSH} input[type=range]")
        before = int(size.input_value())
        press("]")
        page.mouse.wheel(0, -200)
        wait(lambda: int(size.input_value()) > before + 5, 10, "the brush does not grow")
        press(["s", "ArrowRight", "ArrowDown", "x"])  # without a mouse
        dabbed = brushed(page)
        assert (dabbed != erased).any()
        page.keyboard.down("Control")
        page.mouse.wheel(0, -600)
        page.keyboard.up("Control")
        layers = page.locator(f"{BRUSH} .skysky-layers")
        zoom = lambda: float(re.search(r"scale\(([\d.]+)\)", layers.get_attribute("style"))[1])
        wait(lambda: zoom() > 2, 10, "no zoom")
        press(["o", "x"])  # left open, where it is looked at closely
        assert (brushed(page) == 128).sum() > (dabbed == 128).sum()
        screenshot(page, "brush_zoomed", BRUSH)
        opened = brushed(page)
        press(["0", "f", "e"])
        page.mouse.click(middle[0], box["y"] + 12)
        shown_mask = brushed(page)
        assert (opened != shown_mask).mean() > .01, "nothing is filled"
        screenshot(page, "brush", BRUSH)
        wait(lambda: brush_message(page) == "kept", 20, "the draft is not kept")
        time.sleep(.5)  # of strokes, the last one is kept
        draft = cv2.imread(str(pairs/"drafts"/f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert (draft == shown_mask).all()
        open_brush(page, url)  # the page is loaded anew, and the kernel's widget made anew
        assert picture_name(page) == name and (brushed(page) == shown_mask).all(), "what was begun is lost"
        page.locator(BRUSH).get_by_role("button", name="Done, next").click()
        wait(lambda: picture_name(page) not in ("", name), 60, "no next picture")
        saved = cv2.imread(str(pairs/"masks"/f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert (saved == shown_mask).all() and not [*(pairs/"drafts").iterdir()]
        assert "1 of 2 done" in page.locator(BRUSH).text_content()
        page.set_viewport_size({"width": 560, "height": 900})
        wait(lambda: page.locator(f"{BRUSH} .skysky-easel").bounding_box()["width"] < 540, 20, "no small page")
        screenshot(page, "brush_small", BRUSH)
    assert len(PairFolder(pairs)) == 1


EASEL = """([picture, mask]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  let receive;
  const open = { kind: "picture", name: "a", done: false, done_pictures: 0, pictures: 1 };
  const model = { on: (kind, f) => { if (kind === "msg:custom") receive = f; }, off() {},
    send: (content) => content.kind === "open" && setTimeout(() => receive(open, [bytes(picture), bytes(mask)])) };
  const el = document.body.appendChild(document.createElement("div"));
  module.default.render({ model, el });
}"""


def test_fingers_and_pen_on_the_brush(playwright):
    "One finger paints, two zoom and leave no paint behind, and a pen paints with the hand resting beside it."
    with chromium(playwright) as page:
        module(page, "brush.js")
        page.add_style_tag(path=ROOT/"skysky"/"static"/"widgets.css")
        empty = np.zeros((300, 400), np.uint8)
        files = cv2.imencode(".png", empty + 90)[1], zlib.compress(empty)
        page.evaluate(EASEL, [base64.b64encode(file).decode() for file in files])
        wait(lambda: picture_name(page) == "a", 20, "no picture")
        devtools, box = page.context.new_cdp_session(page), page.locator(f"{BRUSH} .skysky-easel").bounding_box()
        at = lambda x, y: (box["x"] + x*box["width"], box["y"] + y*box["height"])  # of the easel, 0..1
        layers = page.locator(f"{BRUSH} .skysky-layers")
        zoom = lambda: float(re.search(r"scale\(([\d.]+)\)", layers.get_attribute("style"))[1])
        def touch(kind, *fingers):
            points = [dict(x=x, y=y, id=i) for i, (x, y) in enumerate(at(*finger) for finger in fingers)]
            devtools.send("Input.dispatchTouchEvent", dict(type=f"touch{kind}", touchPoints=points))
        def pen(kind, x, y):
            x, y = at(x, y)
            devtools.send("Input.dispatchMouseEvent", dict(type=f"mouse{kind}", x=x, y=y, button="left", buttons=1,
                                                           clickCount=1, pointerType="pen"))
        touch("Start", (.2, .3))
        for x in (.3, .4, .5): touch("Move", (x, .3))
        touch("End")
        painted = brushed(page)
        assert (painted[90, 90:190] == 255).all() and not painted[200:].any()
        whole = zoom()
        for fills in (False, True):
            if fills: page.locator(BRUSH).get_by_role("button", name="Fill to edges").click()
            page.locator(BRUSH).get_by_role("button", name="Whole picture").click()
            touch("Start", (.45, .7))
            touch("Start", (.45, .7), (.55, .7))
            touch("Move", (.35, .7), (.65, .7))
            touch("End")
            assert zoom() == pytest.approx(3*whole, rel=.05) and (brushed(page) == painted).all()
        page.locator(BRUSH).get_by_role("button", name="Fill to edges").click()
        page.locator(BRUSH).get_by_role("button", name="Whole picture").click()
        pen("Pressed", .2, .6)
        pen("Moved", .4, .6)
        touch("Start", (.8, .9))  # the hand
        pen("Moved", .6, .6)
        pen("Released", .6, .6)
        touch("End")
        drawn = brushed(page)
        assert (drawn[180, 80:240] == 255).all() and (drawn[:120] == painted[:120]).all() and not drawn[240:].any()


def test_pure_functions_of_the_brush(playwright):
    with chromium(playwright) as page:
        module(page, "brush.js")
        run = page.evaluate
        line = """const m = new Uint8Array(25); const box = module.paintLine(m, 5, 5, [0, 2], [4, 2], 1, 255);
          return [box, Array.from(m)]"""
        box, mask = run(f"() => {{ {line} }}")
        assert box == [0, 1, 5, 4] and [sum(v > 0 for v in mask[5*y:5*y + 5]) for y in range(5)] == [0, 5, 5, 5, 0]
        assert run("module.paintLine(new Uint8Array(4), 2, 2, [9, 9], [9, 9], 1, 255)") is None
        fill = """const m = new Uint8Array(4);
          const pixels = new Uint8ClampedArray([0, 0, 200, 200].flatMap((v) => [v, v, v, 255]));
          return [module.fillArea(m, pixels, 4, 1, [0, 0], 255), Array.from(m)]"""
        assert run(f"() => {{ {fill} }}") == [[0, 0, 2, 1], [255, 255, 0, 0]]
        back = """const m = Uint8Array.of(1, 2, 3, 4); const h = new module.History(); const box = [1, 0, 2, 2];
          const before = m.slice(); m[1] = 9; m[3] = 9; h.add(box, module.cut(before, 2, box), module.cut(m, 2, box));
          const now = (done) => done && Array.from(m);
          return [now(h.undo(m, 2)), h.undo(m, 2), now(h.redo(m, 2)), h.redo(m, 2)]"""
        assert run(f"() => {{ {back} }}") == [[1, 2, 3, 4], None, [1, 9, 3, 9], None]
        assert run("module.union([1, 1, 2, 2], [0, 1, 1, 5])") == [0, 1, 2, 5]
        assert run("module.union(null, null)") is None


# Other hosts of the same notebook

def test_notebook_7(playwright, lab, clip):
    with chromium(playwright, *fake_camera(clip)) as page:
        run_notebook(page, lab[0], app="notebooks")
        start(page)
        assert (ious(page, clip[1], 10) >= .85).sum() >= 6


def test_voila(playwright, clip, tmp_path):
    "`skysky live`, at the address that it prints."
    port = free_port()
    command = ["-c", "from skysky.cli import main; main()", "live", "--no-browser", f"--port={port}"]
    with server(command, f"http://127.0.0.1:{port}", tmp_path), chromium(playwright, *fake_camera(clip)) as page:
        page.goto(f"http://127.0.0.1:{port}")
        assert "/login" in page.url, "the page is open to whoever comes"
        address = next(line for line in (tmp_path/"log").read_text().splitlines() if "?token=" in line)
        page.goto(address)
        page.wait_for_selector(CAMERA)
        start(page)
        found = ious(page, clip[1], 40)
        print(f"\nVoilà: IoU with the truth, median {np.median(found):.3f}")
        assert (found >= .85).sum() >= 30
        for label, value in (("Opacity", .5), ("Colour", "#ff0080")): set_to(page, label, value)
        page.locator(EXPLORER).scroll_into_view_if_needed()
        before = shown(page)
        img, ms = change(page, lambda: press(page, "Opacity", "End"))
        assert (img != before).any()
        OUT.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=OUT/"voila.png", full_page=True)
        button(page, "Stop").click()
        assert not light_is_on(page)


def kernels(process):
    "The processes of a server's kernels."
    return [p for p in psutil.Process(process.pid).children(recursive=True) if "ipykernel" in " ".join(p.cmdline())]


def test_voila_gives_nothing_to_strangers_and_ends_the_kernel_of_a_page_that_is_gone(playwright, tmp_path):
    port = free_port()
    url, browser = f"http://127.0.0.1:{port}", tmp_path/"browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    browser.chmod(0o755)
    others = psutil.Process().children(recursive=True)  # browsers of the tests before
    command = ["-c", "import os; os.environ['BROWSER'] = '%s'; from skysky.cli import main; main()" % browser, "live",
               f"--port={port}", *(f"--MappingKernelManager.cull_{k}" for k in ("idle_timeout=10", "interval=2"))]
    with server(command, url, tmp_path) as process, chromium(playwright) as page:
        for file in ("../images/camera.jpg", "../../nbs/images/camera.jpg", "52_live_camera.ipynb"):
            assert page.request.get(f"{url}/voila/files/{file}", max_redirects=0).status != 200, file
        token = re.search(r"token=(\w+)", (tmp_path/"log").read_text())[1]
        wait((tmp_path/"asked").exists, 60, "no browser was asked for")
        said = (tmp_path/"asked").read_text()
        assert token not in said and not [p for p in psutil.process_iter() if token in " ".join(p.cmdline())]
        page.goto(re.search(r"file:\S+", said)[0])  # leads on to the app
        page.wait_for_selector(CAMERA)
        assert page.url.startswith(f"http://localhost:{port}")
        [kernel] = kernels(process)
        time.sleep(20)
        assert kernel.is_running(), "a page that is open keeps its kernel"
        browsers = [p for p in psutil.Process().children(recursive=True) if "--no-sandbox" in p.cmdline()]
        os.kill(next(p.pid for p in browsers if p not in others), signal.SIGKILL)  # without a word to the server
        wait(lambda: not kernel.is_running(), 120, "the kernel of a page that is gone lives")
    assert not Path(url2pathname(urlsplit(re.search(r"file:\S+", said)[0]).path)).exists()


def write_pictures(folder, clip):
    "The widgets, as README and notebooks show them; run this file as a script."
    with sync_playwright() as p, chromium(p, *fake_camera(clip)) as page:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = ["-c", "from skysky.cli import main; main()", "live", "--no-browser", f"--port={port}"]
        with server(command, url, folder):
            page.goto(next(line for line in (folder/"log").read_text().splitlines() if "?token=" in line))
            page.wait_for_selector(CAMERA)
            start(page)
            time.sleep(3)
            for name, selector in (("camera", CAMERA), ("explorer", EXPLORER)):
                page.locator(selector).screenshot(path=ROOT/f"nbs/images/{name}.jpg", type="jpeg", quality=80)
    demo = ROOT/"nbs"/"tutorials"/"52_live_camera.ipynb"
    nb = nbformat.read(demo, as_version=4)
    for name, first in (("camera", "camera = SkyCamera()"), ("explorer", "SkyExplorer()")):  # what a page shows at rest
        cell = next(c for c in nb.cells if c.source.startswith(first))
        jpeg = base64.b64encode((ROOT/f"nbs/images/{name}.jpg").read_bytes()).decode()
        cell.outputs = [nbformat.v4.new_output("display_data", {"image/jpeg": jpeg})]
    nbformat.write(nb, demo)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as tmp:
        scene = render_scene(112, (720, 1280), "mountains", "broken")
        file = Path(tmp)/"clip.mjpeg"
        file.write_bytes(cv2.imencode(".jpg", scene.img[..., ::-1])[1].tobytes()*3)
        write_pictures(Path(tmp), (file, None))
