"""The page in headless Chromium: its sums beside Python's on the same arrays, its masks beside the command's, and that
nothing but its own files is asked for. The runtime comes from npm, by `make web`: without it the sums alone are
compared. SKYSKY_PHOTOS=DIR takes twenty photos of a folder."""
import base64
import functools
import os
import re
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from runpy import run_path

import av
import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from skysky import Segmenter, read_image
from skysky.compositing import SLIGHT, SURE, foreground
from skysky.core import MIN_SKY
from skysky.defaults import SMOOTHING, VIDEO_SIZE
from skysky.engines import open_engine
from skysky.images import stored_view
from skysky.layouts import LAYOUTS, output_name
from skysky.refine import CHANGE, CUT, TemporalFilter, drop_unsure, shrink, upsample_guided
from skysky.scenes import render_scene
from skysky.segment import EVEN_EDGE, EVEN_HOLD, EVEN_SIZE, EVEN_STEP, edge_band, edge_strips, even_out, second_look
from skysky.sequence import open_frames
from skysky.weights import DEFAULT_MODEL, model_path

pytestmark = pytest.mark.alone  # a browser

ROOT = Path(__file__).parent.parent
WEB, OUT = ROOT/"web", ROOT/"out"/"web"
BUILD = run_path(str(WEB/"build.py"))
RUNTIMES = BUILD["RUNTIMES"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
LONG = 40_000  # ms
FLAGS = ["--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
PLAYED_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]  # its threads spin: for one test only
needs_runtime = pytest.mark.skipif(not os.environ.get("CI") and not (WEB/"node_modules"/"onnxruntime-web").is_dir(),
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


@pytest.fixture
def browser_with_gpu(browser):
    browser = browser.browser_type.launch(executable_path=CHROMIUM, args=[*FLAGS, *PLAYED_GPU])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def sums(browser):
    "A function that runs JavaScript with the modules of the page as `m`, `f`, `s` and arrays as arguments."
    with served(WEB) as address:
        page = browser.new_page()
        page.goto(f"{address}/style.css")

        def sums(code, **arrays):
            sent = {k: [base64.b64encode(np.ascontiguousarray(a)).decode(), str(a.dtype)] if isinstance(a, np.ndarray)
                    else [a, ""] for k, a in arrays.items()}
            answer = page.evaluate("""async ([code, sent]) => {
                const [m, f, s, e] = await Promise.all(
                    ["maths", "files", "smooth", "even"].map((name) => import(`/${name}.js`)));
                const kinds = { float32: Float32Array, uint8: Uint8Array, "": null };
                const values = Object.values(sent).map(([data, kind]) => kind === "" ? data :
                    new kinds[kind](Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer));
                const run = new (async () => {}).constructor("m", "f", "s", "e", ...Object.keys(sent), code);
                const out = await run(m, f, s, e, ...values);
                if (!ArrayBuffer.isView(out)) return { value: out };
                const bytes = new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
                let text = "";
                for (let i = 0; i < bytes.length; i += 9999)
                    text += String.fromCharCode(...bytes.subarray(i, i + 9999));
                const kind = out.constructor.name.replace("Clamped", "").slice(0, -5).toLowerCase();
                return { data: btoa(text), kind };
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


@pytest.mark.parametrize("size", [(300, 421), (96, 128), (64, 320)])
def test_doubt_is_evened_out_alike(sums, size):
    img, rng = shrink(SCENE.img, *size), np.random.default_rng(3)
    prob = cv2.resize(rng.random((12, 16), np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    theirs = sums("return e.evenOut(prob, h, w, img, how)", prob=prob, h=size[0], w=size[1], img=img,
                  how={"size": EVEN_SIZE, "hold": EVEN_HOLD, "step": EVEN_STEP, "edge": EVEN_EDGE})
    ours = even_out(prob, img)
    off = np.abs(theirs.reshape(size) - ours)
    assert np.abs(ours - prob).max() > .2 and off.mean() < 1e-3 and (off > .02).mean() < .01


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


def frames(kind):
    "Frames of one film, uint8 RGB of (96, 160): a shot that pans, one that stands still with noise, and a cut."
    wide, other = render_scene(3, (192, 480), "mountains").img, render_scene(11, (96, 160)).img
    if kind == "pan": return [shrink(wide[20 + 2*n:148 + 2*n, 5*n:5*n + 213], 96, 160) for n in range(5)]
    noisy = [other + NOISE.normal(0, 3, other.shape) for _ in range(3)]
    still = [np.clip(img, 0, 255).astype(np.uint8) for img in noisy]
    return still if kind == "still" else [still[0], shrink(wide, 96, 160), still[1], still[2]]


@pytest.mark.parametrize("kind", ["pan", "still", "cut"])
def test_a_film_is_smoothed_in_time_by_the_same_sums(sums, kind):
    imgs, smoothed = frames(kind), TemporalFilter()
    probs = [cv2.GaussianBlur((NOISE.random((96, 160)) > .5).astype(np.float32), (0, 0), 3) for _ in imgs]
    ours = np.stack([smoothed(prob, img) for prob, img in zip(probs, imgs, strict=True)])
    theirs = sums("""const filter = new s.TemporalFilter(strength, change, cut);
        const out = new Float32Array(probs.length);
        for (let k = 0; k < probs.length; k += 96*160)
            out.set(filter.next(probs.slice(k, k + 96*160), imgs.slice(3*k, 3*(k + 96*160)), 96, 160), k);
        return out""", probs=np.stack(probs), imgs=np.stack(imgs), strength=SMOOTHING, change=CHANGE, cut=CUT)
    off = np.abs(theirs.reshape(ours.shape) - ours)
    assert off.mean() < 5e-4 and off.max() < .01
    changed = np.abs(ours - np.stack(probs)).mean((1, 2)) > .01
    assert changed.tolist() == [False, *(kind != "cut" for _ in imgs[1:-1]), True], "smoothed within a shot alone"


def test_names_and_places_of_masks_are_pythons(sums):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for code in range(1, 9):
        stored = sums("return f.storedView(a, 3, 4, turn)[0]", a=mask, turn=code)
        assert (stored == stored_view(mask, code).ravel()).all()
    for layout, row in LAYOUTS.items():
        for name in ("a/b.c/012.jpg", "x.PNG", "Köln 1_leftImg8bit.png"):
            called = sums("return f.maskName(name, row, 'set')", name=name, row=row._asdict())
            assert called == f"{row.folder.format(folder='set')}/{output_name(name, 'mask', layout)}"


def test_pictures_of_every_kind_are_turned_upright_whatever_the_browser_does(sums):
    img = SCENE.img[:60, :90]
    for kind, how in {"JPEG": {"quality": 98}, "PNG": {}, "WEBP": {"lossless": True}}.items():
        for code in range(1, 9):
            file, exif = BytesIO(), Image.Exif()
            exif[0x112] = code
            Image.fromarray(img).save(file, kind, exif=exif, **how)
            said = sums("return (await f.stored(new Blob([data])))[0]", data=np.frombuffer(file.getvalue(), np.uint8))
            seen = sums("""const [code, plain] = await f.stored(new Blob([data]));
                const bitmap = await createImageBitmap(plain), { width, height } = bitmap;
                const [w, h] = code > 4 ? [height, width] : [width, height];
                const context = new OffscreenCanvas(w, h).getContext("2d");
                context.setTransform(...f.turn(code, width, height));
                context.drawImage(bitmap, 0, 0);
                return context.getImageData(0, 0, w, h).data""", data=np.frombuffer(file.getvalue(), np.uint8))
            ours = read_image(file.getvalue())
            off = np.abs(seen.reshape(*ours.shape[:2], 4)[..., :3] - ours.astype(int))
            assert said == code and off.max() < 30 and off.mean() < 2, (kind, code)
    assert sums("return (await f.stored(new Blob(['GIF89a'])))[0]") == 1


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
    out = tmp_path_factory.mktemp("site")
    BUILD["build"](out)
    with served(out) as address: yield address


@contextmanager
def opened(browser, site, wish="", errors=False, **how):
    "The page, ready; and everything that it asked for."
    context, asked = browser.new_context(accept_downloads=True, **how), []
    context.on("request", lambda request: asked.append(request.url))
    page, said = context.new_page(), []
    page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    page.goto(site + wish)
    page.wait_for_selector("body[data-ready]", timeout=LONG)
    try: yield page, asked
    finally:
        context.close()
        assert errors or not said, said


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
    seg, ious, seconds = Segmenter(precision="f32"), [], []  # as the page computes; bf16 differs where a model wavers
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
def test_webgpu_answers_as_python_and_is_left_out_where_a_processor_plays_it(browser_with_gpu, site):
    "The runtime for GPUs on a GPU that Chromium plays by SwiftShader: one small look, as that takes half a minute."
    img = shrink(SCENE.img, 96, 128)[None]
    with opened(browser_with_gpu, site) as (page, asked):
        assert re.search(r"by WASM, \d+ threads? \(no GPU here\)", page.text_content("#about"))
        assert not any("webgpu" in url for url in asked), "27 MB that only a GPU needs"
        theirs = page.evaluate("""async ([img, model, [code, wasm]]) => {
            const ort = await import(`./runtime/${code}`);
            ort.env.wasm.wasmPaths = { wasm: new URL(`runtime/${wasm}`, location.href).href };
            const how = { executionProviders: ["webgpu"], logSeverityLevel: 3 };
            const session = await ort.InferenceSession.create(model, how);
            const input = new ort.Tensor("uint8", Uint8Array.from(img), [1, 96, 128, 3]);
            const answer = await session.run({ [session.inputNames[0]]: input });
            return [...answer[session.outputNames[0]].data];
        }""", [img.ravel().tolist(), model_path(DEFAULT_MODEL).name, RUNTIMES["webgpu"]])
    ours = open_engine(model_path(DEFAULT_MODEL), "cpu", "f32")(img)
    assert np.ptp(ours) > .5 and np.abs(np.reshape(theirs, ours.shape) - ours).max() < .02


@needs_runtime
def test_where_webgpu_fails_wasm_computes_and_the_page_says_so(browser_with_gpu, tmp_path, photos):
    BUILD["build"](tmp_path)
    (tmp_path/"runtime"/RUNTIMES["webgpu"][1]).unlink()
    with served(tmp_path) as site, opened(browser_with_gpu, site, "?compute=webgpu", errors=True) as (page, _):
        assert "(WebGPU failed)" in page.text_content("#about")
        choose(page, photos[0])
        page.wait_for_selector("#saves:visible", timeout=LONG)


@needs_runtime
def test_a_video_becomes_a_zip_of_masks_that_are_pythons(browser, site, tmp_path):
    "A pan of 8 frames at 4 a second; every frame is sought, and smoothed with those before."
    wide, path = render_scene(1, (320, 640)).img, tmp_path/"pan.mp4"
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", 4, width=480, height=320, options={"crf": "12"})
        for n in range(8):
            for packet in stream.encode(av.VideoFrame.from_ndarray(wide[:, 8*n:8*n + 480].copy())): out.mux(packet)
        out.mux(stream.encode())
    seg, smoothed, ours = Segmenter(size=VIDEO_SIZE, precision="f32"), TemporalFilter(), []
    with open_frames(path) as reader:
        for frame in reader:
            small = seg.fit(frame.img)
            ours.append(seg.enlarge(smoothed(seg.infer(small), small), frame.img, small) >= seg.threshold)
    with opened(browser, site) as (page, _):
        choose(page, path, field="#videos")
        page.fill("#rate", "4")
        page.click("#frames")
        page.wait_for_selector("#zip:visible", timeout=LONG)
        with zipfile.ZipFile(BytesIO(saved(page, "#zip"))) as archive:
            names = archive.namelist()
            theirs = [np.asarray(Image.open(BytesIO(archive.read(name)))) > 0 for name in names]
        page.click("#frames")
        page.click("#stop")
        page.wait_for_selector("#stop", state="hidden", timeout=LONG)
        assert "wrong" not in (page.get_attribute("#said", "class") or "")
    assert names == [f"pan_sky/{output_name(f'pan_{n:06}.jpg')}" for n in range(8)]
    ious = [(a & b).sum()/(a | b).sum() for a, b in zip(ours, theirs, strict=True)]
    assert min(ious) > .98, ious


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


def tab_to(page, wanted, key="Tab"):
    "Press Tab until something that a selector names has the focus; whatever has it on the way shows that."
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate("document.activeElement === document.body"): continue
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted): return
    raise AssertionError(f"no Tab leads to {wanted}")


@needs_runtime
def test_all_is_done_by_keyboard_alone(browser, site, photos):
    with opened(browser, site, permissions=["camera"]) as (page, _):
        page.bring_to_front()

        def press_saving(key):
            with page.expect_download() as download: page.keyboard.press(key)
            return np.asarray(Image.open(download.value.path()))

        tab_to(page, "#choose")
        with page.expect_file_chooser() as chooser: page.keyboard.press("Enter")
        chooser.value.set_files(photos[1])
        page.wait_for_selector("#saves:visible", timeout=LONG)
        assert page.text_content("#said").startswith(photos[1].name)
        tab_to(page, "#view")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("document.getElementById('view').value === 'mask'")
        tab_to(page, "[data-save=mask]")
        usual = press_saving("Enter")
        tab_to(page, "#threshold", "Shift+Tab")
        said = page.text_content("#said")
        page.keyboard.press("End")
        page.wait_for_function("text => document.getElementById('said').textContent !== text", arg=said)
        tab_to(page, "[data-save=mask]")
        strict = press_saving("Space")
        assert strict.shape == usual.shape and (strict > 0).sum() < (usual > 0).sum()
        tab_to(page, "#camera")
        page.keyboard.press("Enter")
        page.wait_for_function("() => / masks a second/.test(document.getElementById('said').textContent)",
                               timeout=LONG)
        tab_to(page, "#stop")
        page.keyboard.press("Enter")
        page.wait_for_selector("#stop", state="hidden")
        tab_to(page, "#choose")
