"""The page in headless Chromium: its sums beside Python's on the same arrays, its masks beside the command's, and that
nothing but its own files is asked for. The runtime comes from npm, by `make web`: without it the sums alone are
compared. SKYSKY_PHOTOS=DIR takes twenty photos of a folder."""
import base64
import functools
import os
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from skysky import Segmenter, read_image
from skysky.compositing import SLIGHT, SURE, foreground
from skysky.core import MIN_SKY
from skysky.images import stored_view
from skysky.layouts import LAYOUTS, output_name
from skysky.refine import drop_unsure, shrink, upsample_guided
from skysky.scenes import render_scene
from skysky.segment import edge_band, edge_strips, second_look

ROOT = Path(__file__).parent.parent
WEB, OUT = ROOT/"web", ROOT/"out"/"web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
LONG = 40_000  # ms
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
needs_runtime = pytest.mark.skipif(not (WEB/"node_modules"/"onnxruntime-web").is_dir(),
                                   reason="the page's runtime is not here: make web")


@contextmanager
def served(folder):
    "The address of a folder."
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sums(browser):
    "A function that runs JavaScript with the modules of the page as `m` and `f` and arrays as arguments."
    with served(WEB) as address:
        page = browser.new_page()
        page.goto(f"{address}/style.css")

        def sums(code, **arrays):
            sent = {k: [base64.b64encode(np.ascontiguousarray(a)).decode(), str(a.dtype)] if isinstance(a, np.ndarray)
                    else [a, ""] for k, a in arrays.items()}
            answer = page.evaluate("""async ([code, sent]) => {
                const [m, f] = [await import("/maths.js"), await import("/files.js")];
                const kinds = { float32: Float32Array, uint8: Uint8Array, "": null };
                const values = Object.values(sent).map(([data, kind]) => kind === "" ? data :
                    new kinds[kind](Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer));
                const run = new (async () => {}).constructor("m", "f", ...Object.keys(sent), code);
                const out = await run(m, f, ...values);
                if (!ArrayBuffer.isView(out)) return { value: out };
                const bytes = new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
                let text = "";
                for (let i = 0; i < bytes.length; i += 9999)
                    text += String.fromCharCode(...bytes.subarray(i, i + 9999));
                return { data: btoa(text), kind: out.constructor.name.slice(0, -5).toLowerCase() };
            }""", [code, sent])
            if "value" in answer: return answer["value"]
            return np.frombuffer(base64.b64decode(answer["data"]), answer["kind"])

        yield sums
        page.close()


SCENE = render_scene(7, (300, 421), "mountains")
NOISE = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(150, 210), (96, 128), (320, 448), (64, 421), (37, 50)])
def test_a_picture_is_scaled_as_python_does(sums, size):
    theirs = sums("return m.shrink(img, H, W, h, w)", img=SCENE.img, H=300, W=421, h=size[0], w=size[1])
    off = np.abs(theirs.reshape(*size, 3).astype(int) - shrink(SCENE.img, *size))
    assert off.max() <= 1 and (off > 0).mean() < .2


@pytest.mark.parametrize("shape", [(160, 224), (96, 128), (32, 32), (64, 448)])
def test_a_mask_follows_edges_by_the_same_sums(sums, shape):
    small = shrink(SCENE.img, *shape)
    prob = cv2.GaussianBlur(cv2.resize(SCENE.alpha, shape[::-1], interpolation=cv2.INTER_AREA), (0, 0), 2)
    prob = np.clip(prob + NOISE.normal(0, .02, shape), 0, 1).astype(np.float32)
    theirs = sums("return m.upsampleGuided(prob, h, w, img, 300, 421, 2)", prob=prob, h=shape[0], w=shape[1],
                  img=SCENE.img).reshape(300, 421)
    ours = upsample_guided(prob, SCENE.img, small=small)
    assert np.abs(theirs - ours).max() < .02 and np.abs(theirs - ours).mean() < 2e-4
    assert ((theirs >= .5) != (ours >= .5)).mean() < 2e-4
    assert np.abs(ours - cv2.resize(prob, (421, 300))).max() > .1, "it is no mere enlargement"


def test_what_is_unsure_is_dropped_alike(sums):
    prob = cv2.GaussianBlur(NOISE.random((120, 160), np.float32), (0, 0), 4)
    prob = (prob - prob.min())/np.ptp(prob)
    for threshold, sure in ((.5, .6), (.5, .9), (.8, .6), (.3, 1)):
        theirs = sums("return m.dropUnsure(p, 120, 160, threshold, sure, least)", p=prob, threshold=threshold,
                      sure=sure, least=MIN_SKY)
        assert np.abs(theirs.reshape(prob.shape) - drop_unsure(prob, threshold, sure)).max() < 1e-6


def test_the_second_look_is_at_the_same_places(sums):
    prob = cv2.GaussianBlur(cv2.resize(SCENE.alpha, (96, 64)), (0, 0), 1)
    band = edge_band(prob, 300, 421)
    theirs = sums("return m.edgeBand(m.resizeLinear(prob, 64, 96, 300, 421), 300, 421)", prob=prob)
    assert np.abs(theirs.reshape(band.shape) - band).max() < 1e-3
    assert sums("return m.edgeStrips(band, 300, 421)", band=band) == [list(s) for s in edge_strips(band)]
    def model(imgs): return imgs[..., 0].astype(np.float32)/255
    theirs = sums("""return m.secondLook(prob, 64, 96, img, 300, 421,
        async (img, h, w) => Float32Array.from({ length: h*w }, (_, k) => img[3*k]/255))""", prob=prob, img=SCENE.img)
    assert np.abs(theirs.reshape(300, 421) - second_look(prob, SCENE.img, model)).max() < 1e-3


def test_the_sky_is_taken_out_of_the_edges_colours_alike(sums):
    theirs = sums("return m.foreground(img, alpha, 300, 421, sure, slight)", img=SCENE.img, alpha=1 - SCENE.alpha,
                  sure=SURE, slight=SLIGHT).reshape(SCENE.img.shape)
    off = np.abs(theirs.astype(int) - foreground(SCENE.img, 1 - SCENE.alpha))
    assert off.max() <= 2 and (off > 1).mean() < 1e-3


def test_names_and_places_of_masks_are_pythons(sums):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for code in range(1, 9):
        stored = sums("return f.storedView(a, 3, 4, turn)[0]", a=mask, turn=code)
        assert (stored == stored_view(mask, code).ravel()).all()
    for layout, row in LAYOUTS.items():
        for name in ("a/b.c/012.jpg", "x.PNG", "Köln 1_leftImg8bit.png"):
            called = sums("return f.maskName(name, row, 'set')", name=name, row=row._asdict())
            assert called == f"{row.folder.format(folder='set')}/{output_name(name, 'mask', layout)}"
    for code in (1, 6, 8):
        file, exif = BytesIO(), Image.Exif()
        exif[0x112] = code
        Image.fromarray(mask).save(file, "JPEG", exif=exif)
        data = np.frombuffer(file.getvalue(), np.uint8)
        assert sums("return f.orientation(new Blob([data]))", data=data) == code


def test_files_are_what_they_should_be(sums):
    img = NOISE.integers(0, 256, (13, 17, 4), np.uint8)
    made = sums("return new Uint8Array(await (await f.png(a, 13, 17, 4, 'made')).arrayBuffer())", a=img)
    assert (np.asarray(Image.open(BytesIO(made.tobytes()))) == img).all()
    made = sums("""const files = [["a/ü.txt", new Blob(["one"])], ["b", new Blob(["two"])]];
        return new Uint8Array(await (await f.zip(files)).arrayBuffer())""")
    with zipfile.ZipFile(BytesIO(made.tobytes())) as archive:
        assert archive.testzip() is None and archive.namelist() == ["a/ü.txt", "b"] and archive.read("b") == b"two"


# ---- the whole page, with the model

@pytest.fixture(scope="module")
def site(tmp_path_factory):
    from runpy import run_path
    out = tmp_path_factory.mktemp("site")/"web"
    run_path(str(WEB/"build.py"))["build"](out)
    with served(out) as address: yield address


@contextmanager
def opened(browser, site, **how):
    "The page, ready; and everything that it asked for."
    context, asked = browser.new_context(accept_downloads=True, **how), []
    context.on("request", lambda request: asked.append(request.url))
    page, said = context.new_page(), []
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.goto(site)
    page.wait_for_selector("body[data-ready]", timeout=LONG)
    try: yield page, asked
    finally:
        context.close()
        assert not said, said


def choose(page, *files, field="#photos"):
    page.set_input_files(field, [str(file) for file in files])


def saved(page, button):
    with page.expect_download() as download: page.click(button)
    return Path(download.value.path()).read_bytes()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Rendered photos, or those of SKYSKY_PHOTOS: a folder."
    if own := os.environ.get("SKYSKY_PHOTOS"): return sorted(Path(own).glob("*.jpg"))[:20]
    folder = tmp_path_factory.mktemp("photos")
    for seed, size in enumerate([(360, 480), (600, 800), (900, 1200), (1100, 700)]):
        Image.fromarray(render_scene(seed, size).img).save(folder/f"{seed}.jpg", quality=92)
    return sorted(folder.iterdir())


@needs_runtime
def test_masks_are_the_commands(browser, site, photos):
    "On real photos: SKYSKY_PHOTOS=DIR; measured: IoU, masks a second, seconds to the first mask, bytes."
    seg, ious, seconds = Segmenter(), [], []
    begun = time.perf_counter()
    with opened(browser, site) as (page, asked):
        ready = time.perf_counter() - begun
        for path in photos:
            start = time.perf_counter()
            choose(page, path)
            page.wait_for_function("name => document.getElementById('said').textContent.startsWith(name + '. ')",
                                   arg=path.name, timeout=LONG)
            seconds.append(time.perf_counter() - start)
            theirs, ours = read_image(saved(page, "[data-save=mask]"))[..., 0] > 0, seg(path).mask()
            ious.append((theirs & ours).sum()/max(1, (theirs | ours).sum()) if ours.any() or theirs.any() else 1)
        about = page.text_content("#about")
        sizes = page.evaluate("""async () => { let sum = 0;
            for (const name of await caches.keys()) for (const request of await (await caches.open(name)).keys())
                sum += (await (await caches.match(request)).arrayBuffer()).byteLength;
            return sum; }""")
    print(f"\nIoU {min(ious):.4f} to {max(ious):.4f}, mean {np.mean(ious):.4f}; ready in {ready:.1f} s, first mask "
          f"{seconds[0]:.2f} s, then {1/np.mean(seconds[1:]):.2f} a second; {sizes/1e6:.1f} MB; {about}")
    assert np.mean(ious) >= .99 and min(ious) > .97
    assert all(url.startswith((site, "blob:", "data:")) for url in asked), asked


@needs_runtime
def test_many_photos_become_a_zip_in_a_layout_and_all_works_offline(browser, site, photos):
    with opened(browser, site) as (page, _):
        page.wait_for_function("() => caches.keys().then((names) => names.length === 1)")
        assert page.evaluate("crossOriginIsolated"), "threads need it"
        page.context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready]", timeout=LONG)
        page.select_option("#layout", "colmap")
        choose(page, *photos[:2])
        page.wait_for_selector("#zip:visible", timeout=LONG)
        with zipfile.ZipFile(BytesIO(saved(page, "#zip"))) as archive:
            assert archive.namelist() == [f"masks/{path.name}.png" for path in photos[:2]]
            mask = np.asarray(Image.open(BytesIO(archive.read(archive.namelist()[0]))))
        assert mask.ndim == 2 and {*np.unique(mask)} <= {0, 255}
        page.context.set_offline(False)


@needs_runtime
def test_knobs_keys_camera_and_a_phones_screen(browser, site, photos):
    OUT.mkdir(parents=True, exist_ok=True)
    with opened(browser, site, viewport={"width": 390, "height": 844}, permissions=["camera"]) as (page, _):
        page.screenshot(path=OUT/"phone_empty.png", full_page=True)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "choose"
        choose(page, photos[1])
        page.wait_for_selector("#saves:visible", timeout=LONG)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off at the side"
        page.screenshot(path=OUT/"phone.png", full_page=True)
        before = page.text_content("#said")
        page.focus("#threshold")
        for _ in range(40): page.keyboard.press("ArrowRight")
        page.wait_for_function("text => document.getElementById('said').textContent !== text", arg=before)
        assert float(page.input_value("#threshold")) == pytest.approx(.9)
        cut = Image.open(BytesIO(saved(page, "[data-save=cutout]")))
        assert cut.mode == "RGBA" and cut.getchannel("A").getextrema() == (0, 255)
        page.click("#camera")
        page.wait_for_function("() => / masks a second/.test(document.getElementById('said').textContent)",
                               timeout=LONG)
        page.click("#stop")
        choose(page, ROOT/"LICENSE")
        page.wait_for_function("() => document.getElementById('said').classList.contains('wrong')")
    with opened(browser, site, viewport={"width": 1280, "height": 900}) as (page, _):
        choose(page, photos[1])
        page.wait_for_selector("#saves:visible", timeout=LONG)
        page.screenshot(path=OUT/"desktop.png", full_page=True)
