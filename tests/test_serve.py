"""The service as others meet it: a process of its own, many clients, what a stranger sends, and its end.

With SKYSKY_TEST_KILLS=20 it is killed so often under load; with SKYSKY_SOAK=300 eight clients ask for 300 seconds."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from io import BytesIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import hypothesis
import numpy as np
import psutil
import pytest
import schemathesis
from PIL import Image
from playwright.sync_api import sync_playwright
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_bad_images import png_header
from test_web import CHROMIUM

from skysky import Segmenter, read_image
from skysky.outputs import mask_bytes
from skysky.scenes import render_scene
from skysky.serve.answers import answer, wanted

pytestmark = pytest.mark.alone  # clients that keep both cores busy

KILLS, SOAK = int(os.environ.get("SKYSKY_TEST_KILLS", 1)), float(os.environ.get("SKYSKY_SOAK", 0))
SKY = "/v1/sky"


def jpeg(seed, size=(240, 320)):
    file = BytesIO()
    Image.fromarray(render_scene(seed, size).img).save(file, "JPEG", quality=90)
    return file.getvalue()


PHOTOS = [jpeg(seed) for seed in range(6)]


class Process:
    "`skysky serve`, on a port that stays the same from start to start."
    def __init__(self, log, *options, port=0, **env):
        self.log, self.options, self.port, self.env = log, options, port, env
        self.command = [sys.executable, "-m", "skysky", "serve"]

    def start(self):
        command = [*self.command, f"--port={self.port}", *self.options]
        self.run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log.open("a"), text=True,
                                    env=os.environ | self.env)
        self.address = self.run.stdout.readline().strip()
        assert self.address, self.log.read_text()
        self.port, end = int(self.address.rpartition(":")[2]), time.monotonic() + 60
        while True:
            try: return self if self.get("/ready") else None
            except OSError:
                if time.monotonic() > end: raise
                time.sleep(.05)

    def get(self, path):
        with urlopen(self.address + path, timeout=30) as reply: return reply.read().decode()

    def end(self, how=signal.SIGTERM):
        self.run.send_signal(how)
        self.run.stdout.close()
        return self.run.wait(30)


@contextmanager
def serving(tmp_path, *options, **env):
    process = Process(tmp_path/"log", *options, **env).start()
    try: yield process
    finally: process.run.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service")) as process: yield process


@pytest.fixture(scope="module")
def right():
    "The mask of each photo, as the engine alone makes it."
    seg = Segmenter()
    return [answer(seg, photo, wanted({}, ""))[1] for photo in PHOTOS]


def ask(process, body, path=SKY, **headers):
    "Status and body of an answer; what a whole answer is, the client checks by its length."
    headers = {"Content-Type": "image/jpeg"} | {k.replace("_", "-"): v for k, v in headers.items()}
    try:
        with urlopen(Request(process.address + path, body, headers), timeout=60) as reply:
            return reply.status, reply.read()
    except HTTPError as e: return e.code, e.read()


def test_the_same_bytes_as_the_engine_alone(service, right):
    assert [ask(service, photo) for photo in PHOTOS] == [(200, mask) for mask in right]


def test_a_segmenter_that_asks_the_service_has_the_same_answer(service):
    far, near = Segmenter(service.address), Segmenter()
    assert far.card.sha256 == near.card.sha256
    for here, there in zip(near(PHOTOS), far(PHOTOS), strict=True): assert (here.prob == there.prob).all()
    large = render_scene(7, (900, 1600)).img  # above the size of the whole view: strips are asked for
    assert (near(large).prob == far(large).prob).all()


BAD = {"empty": (b"", 400), "text": (b"a letter to the service", 415), "a PDF": (b"%PDF-1.7\n", 415),
       "a page": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415), "zeros": (bytes(5000), 415),
       "cut off": (PHOTOS[0][:3000], 422), "a header alone": (PHOTOS[0][:700], 422),
       "flipped": (PHOTOS[0][:4000] + bytes(200) + PHOTOS[0][4200:], 422),
       "a bomb": (png_header(65536, 65536), 413), "64 MB": (bytes(64_000_001), 413)}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_the_right_status_and_one_line(service, name):
    body, status = BAD[name]
    got, reply = ask(service, body)
    said = json.loads(reply)["error"]
    assert got == status, said
    assert "\n" not in said and "Traceback" not in said and len(said) < 300
    assert ask(service, PHOTOS[0])[0] == 200, "the next one is served"


@pytest.mark.filterwarnings("ignore")
def test_what_openapi_permits_and_what_it_does_not_get_an_answer_that_it_names(service):
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    settings = hypothesis.settings(max_examples=20, deadline=None, derandomize=True,
                                   suppress_health_check=list(hypothesis.HealthCheck))
    asked = Counter()
    for operation in schema.get_all_operations():
        operation = operation.ok()

        @hypothesis.given(case=operation.as_strategy())
        @settings
        def asks(case):
            answered = case.call(timeout=60)
            case.validate_response(answered, excluded_checks=[positive_data_acceptance])  # bytes need not be a picture
            asked[answered.status_code] += 1

        asks()
    assert {200, 400, 415} <= {*asked} and max(asked) < 500, asked


def test_nothing_of_a_picture_is_in_the_log(service):
    ask(service, b"the secret of this picture")
    time.sleep(.1)
    text = service.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert "secret" not in text and "traceback" not in text
    assert {"time", "request", "method", "path", "seconds", "status", "received", "sent"} < {*lines[-1]}


def test_the_token_is_asked_for_and_other_computers_are_served_with_it_alone(tmp_path):
    with serving(tmp_path, "--host=0.0.0.0", SKYSKY_TOKEN="sky") as process:
        process.address = process.address.replace("0.0.0.0", "127.0.0.1")
        assert ask(process, PHOTOS[0])[0] == 401
        assert ask(process, PHOTOS[0], Authorization="Bearer sky")[0] == 200
        assert Segmenter(process.address.replace("//", "//:sky@"))(PHOTOS[0]).has_sky in (True, False)
        assert "sky@" not in process.log.read_text()


def load(process, right, clients, until, pause=0):
    "Ask from many threads until something is true; count what came back, and prove that each mask is the right one."
    counts, seconds = Counter(), []

    def client(i):
        while not until():
            i += 1
            start = time.perf_counter()
            try: status, body = ask(process, PHOTOS[i%len(PHOTOS)])
            except (OSError, HTTPException): status = "gone"
            if status == 200: seconds.append(time.perf_counter() - start)
            counts["wrong" if status == 200 and body != right[i%len(PHOTOS)] else status] += 1
            time.sleep(pause if status == 200 else .05)

    with ThreadPoolExecutor(clients) as pool: list(pool.map(client, range(clients)))
    return counts, seconds


def test_overload_is_told_to_come_again_and_none_is_lost(tmp_path, right):
    with serving(tmp_path, "--waiting=3") as process:
        end = time.monotonic() + 2
        counts, _ = load(process, right, 12, lambda: time.monotonic() > end)
        assert {*counts} == {200, 429}, counts
        metrics = process.get("/metrics")
        told = re.findall(rf'requests_total{{path="{SKY}",status="(\d+)"}} (\S+)', metrics)
        told = {int(status): float(n) for status, n in told}
        assert told == counts


def test_sigterm_under_load_finishes_what_it_took(tmp_path, right):
    with serving(tmp_path) as process:
        counts = Counter()

        def client(i):
            try: status, body = ask(process, PHOTOS[i%len(PHOTOS)])
            except (OSError, HTTPException): return counts.update(["never taken in"])
            counts[status if body == right[i%len(PHOTOS)] else "wrong"] += 1

        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(client, i) for i in range(16)]
            while not any(future.done() for future in asked) and "skysky_inside 0.0" in process.get("/metrics"):
                time.sleep(.005)
            assert process.end() == 0
            for future in asked: future.result(60)
        assert {*counts} <= {200, "never taken in"} and counts[200], counts
        assert "ended; what was taken in is answered" in process.log.read_text()


@pytest.mark.timeout(300 + 30*KILLS)
def test_kills_under_load_give_no_client_a_wrong_or_half_answer(tmp_path, right):
    with serving(tmp_path) as process:
        over, masks = threading.Event(), []

        def segmenter():
            far = Segmenter(process.address)
            while not over.is_set(): masks.append(far(PHOTOS[len(masks)%len(PHOTOS)]).mask())

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(load, process, right, 4, over.is_set), pool.submit(segmenter)]
            try:
                for _ in range(KILLS):
                    time.sleep(1)
                    process.end(signal.SIGKILL)
                    process.start()
                time.sleep(1)
            finally: over.set()
            counts, _ = asked[0].result(60)
            asked[1].result(90)
        print(f"\n{KILLS} kills: {counts[200]} masks, each the right one; {counts['gone']} were told nothing")
        assert {*counts} == {200, "gone"}, counts
        truth = [read_image(mask)[..., 0] > 0 for mask in right]
        assert masks and all((mask == truth[i%len(truth)]).all() for i, mask in enumerate(masks))


@pytest.mark.skipif(not SOAK, reason="minutes; SKYSKY_SOAK=300 asks for so many seconds")
@pytest.mark.timeout(300 + 2*SOAK)
def test_eight_clients_for_minutes(tmp_path):
    "Rate beside the engine alone on the same files, in turns; memory."
    photos, seg = [jpeg(seed, (1200, 1600)) for seed in range(8)], Segmenter()

    def write(photo, img, sky, seconds): return mask_bytes(sky, "mask", photo)

    def alone(n):
        start = time.perf_counter()
        for _ in seg.each((photos[i%8] for i in range(n)), write): pass
        return n/(time.perf_counter() - start)

    with serving(tmp_path) as process:
        def asked(seconds):
            end, took = time.monotonic() + seconds, []

            def client(i):
                while time.monotonic() < end:
                    start, i = time.perf_counter(), i + 1
                    assert ask(process, photos[i%8])[0] == 200
                    took.append(time.perf_counter() - start)

            start = time.perf_counter()
            with ThreadPoolExecutor(8) as pool: list(pool.map(client, range(8)))
            return len(took)/(time.perf_counter() - start), took

        memory, rates, took = [], [], []
        asked(5), alone(16)
        for _ in range(max(1, round(SOAK/30))):
            memory.append(psutil.Process(process.run.pid).memory_info().rss/1e6)
            rate, some = asked(22)
            took += some
            rates.append((rate, alone(24)))
        p50, p99 = np.percentile(took, [50, 99])
        service_rate, engine_rate = np.median(rates, 0)
        ratio = np.median([a/b for a, b in rates])
        print(f"\n{len(took)} answers; {service_rate:.2f} a second, engine alone {engine_rate:.2f}, ratio {ratio:.2f}; "
              f"p50 {p50*1000:.0f} ms, p99 {p99*1000:.0f} ms; MB {np.round(memory)}")
        assert ratio >= .8
        assert memory[-1] < 1.1*memory[len(memory)//3]


def test_the_page_takes_a_photo_and_asks_nobody_else(service, tmp_path):
    "In headless Chromium; a screenshot goes to out/serve/."
    photo, asked, said = tmp_path/"my photo.jpg", [], []
    photo.write_bytes(PHOTOS[2])
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        page.goto(service.address)
        page.set_input_files("#file", photo)
        page.wait_for_selector("#result:visible", timeout=30_000)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path="out/serve/phone.png")
        page.select_option("#output", "mask")
        page.wait_for_selector("#save[download='my photo_mask.png']", timeout=30_000)
        page.set_input_files("#file", __file__)
        page.wait_for_selector("#said.wrong", timeout=30_000)
        browser.close()
    assert all(url.startswith((service.address, "blob:")) for url in asked)
    assert all("415" in line for line in said), said
