"Models that are fetched: a real server on this machine that does it well and in every bad way, two at once, offline."
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import skysky
from skysky import model_file, weights
from skysky.core import SkyError
from skysky.weights import DEFAULT_MODEL, ModelCard, model_card, model_path, write_card

ROOT = Path(__file__).parent.parent
DATA = os.urandom(2_500_000)
URL_OF_MODEL = "/far.onnx"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def do_GET(self):
        with suppress(BrokenPipeError, ConnectionResetError): self.answer()

    def answer(self):
        server, way = self.server, self.path.strip("/")
        server.seen.append((self.path, self.headers["User-Agent"]))
        server.known.append(self.headers["Authorization"])
        if way == "gone": return self.send_error(404)
        if way in ("moved", "to_a_file"):
            self.send_response(302)
            self.send_header("Location", server.file if way == "to_a_file" else URL_OF_MODEL)
            return self.end_headers()
        if way.startswith("drop_by_drop"):
            if way == "drop_by_drop": self.send_response(200), self.end_headers()
            else: self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Sky: ")
            while not server.over.wait(.05): self.wfile.write(b"x")
            return
        data = b"<html>please log in</html>" if way == "login" else server.data
        self.send_response(200)
        if way == "huge": self.send_header("Content-Length", str(10**12))
        elif way not in ("unsized", "endless"): self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        while way == "endless" and not server.over.is_set(): self.wfile.write(data)
        if way in ("cut", "cut_early"): return self.wfile.write(data[:1_500_000 if way == "cut" else 10])
        if way == "silent":
            self.wfile.write(data[:10])
            return server.over.wait(20)
        self.wfile.write(data[:1_500_000])
        if way == "crowded": server.crowd.wait(20)
        self.wfile.write(data[1_500_000:])


@pytest.fixture
def server(monkeypatch):
    "Serves `data` at any path but those that name a way to fail; `seen` is what was asked for."
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data, server.seen, server.known, server.file = DATA, [], [], "file:///etc/hostname"
    server.over, server.crowd = threading.Event(), threading.Barrier(2)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.over.set()
    server.shutdown()
    thread.join(60)
    server.server_close()


@pytest.fixture
def far(server, tmp_path, monkeypatch):
    "The card of a model that is only on the server; `far(way)` changes its address."
    (tmp_path/"models").mkdir()
    for key in ("MODELS", "CACHE"): monkeypatch.setenv(f"SKYSKY_{key}", str(tmp_path/key.lower()))
    for key in ("OFFLINE", "MIRROR"): monkeypatch.delenv(f"SKYSKY_{key}", raising=False)
    card = ModelCard("far", "far.onnx", sha256(DATA).hexdigest(), "none", url=server.url + URL_OF_MODEL)

    def write(way=None, **changes):
        if way: changes["url"] = f"{server.url}/{way}"
        write_card(replace(card, **changes), tmp_path/"models/far.json")
        return tmp_path/"cache/far.onnx"
    write()
    return write


def cached(tmp_path): return sorted(p.name for p in (tmp_path/"cache").glob("*")) + list((tmp_path/"cache").glob(".*"))


# It is fetched once

def test_fetched_once_and_known_before(server, far, tmp_path):
    assert not model_card("far").present and server.seen == [], "listing fetches nothing"
    counts = []
    path = model_path("far", lambda blocks: (counts.append((len(blocks), b)) or b for b in blocks))
    assert path == far() and path.read_bytes() == DATA and cached(tmp_path) == ["far.onnx"]
    assert [(n, len(b)) for n, b in counts] == [(3, 1 << 20), (3, 1 << 20), (3, 2_500_000 - (2 << 20))]
    assert server.seen == [(URL_OF_MODEL, f"skysky/{skysky.__version__}")]
    assert model_card("far").present and model_path("far") == path
    assert len(server.seen) == 1, "the second call asks nobody"


@pytest.mark.parametrize("way", ["unsized", "moved"])
def test_a_server_may_keep_the_size_to_itself_or_point_elsewhere(far, way):
    assert far(way) == model_path("far") and far().read_bytes() == DATA


@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_goes_before_the_url_of_the_card(server, far, tmp_path, monkeypatch, end):
    far("gone", file="far away.onnx")
    monkeypatch.setenv("SKYSKY_MIRROR", f"{server.url}/mirror{end}")
    assert model_path("far").read_bytes() == DATA and cached(tmp_path) == ["far away.onnx"]
    assert [path for path, _ in server.seen] == ["/mirror/far%20away.onnx"]


def test_a_mirror_is_an_address_for_a_card_that_has_none(server, far, monkeypatch):
    far(url="")
    monkeypatch.setenv("SKYSKY_MIRROR", server.url)
    assert model_path("far") == far() and server.seen[0][0] == URL_OF_MODEL


def test_a_mirror_that_is_no_address(far, tmp_path, monkeypatch):
    monkeypatch.setenv("SKYSKY_MIRROR", "models.lab")
    with pytest.raises(SkyError, match="cannot fetch models.lab/far.onnx .*unknown url type") as e: model_path("far")
    assert "\n" not in str(e.value) and cached(tmp_path) == []


@pytest.mark.parametrize("folder", ["models", "cache"])
def test_a_file_that_is_copied_there_by_hand_is_taken(server, far, tmp_path, folder):
    (tmp_path/folder).mkdir(exist_ok=True)
    (tmp_path/folder/"far.onnx").write_bytes(DATA)
    assert model_path("far") == tmp_path/folder/"far.onnx" and server.seen == []


def test_the_file_of_a_card_in_the_package_may_lie_in_another_folder(far, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "model_folders", lambda: [tmp_path/"models", tmp_path/"weights"])
    (tmp_path/"weights").mkdir()
    (tmp_path/"weights/far.onnx").write_bytes(DATA)
    card = model_card("far")
    assert (card.path, card.home) == (tmp_path/"weights/far.onnx", tmp_path/"models/far.json")
    assert model_path("far") == card.path


# What can go wrong: one line, and an empty cache

@pytest.mark.parametrize("way, why", [
    ("gone", "HTTP Error 404"), ("cut", "broke off after 1500000 of 2500000 bytes"),
    ("cut_early", "broke off after 10 of 2500000 bytes"), ("login", "is not the model far"), ("silent", "timed out")])
def test_a_bad_fetch_leaves_nothing(server, far, tmp_path, monkeypatch, way, why):
    monkeypatch.setattr(weights, "TIMEOUT", .5)
    far(way)
    with pytest.raises(SkyError, match=why) as e: model_path("far")
    assert "\n" not in str(e.value) and f"copy far.onnx into {tmp_path/'cache'}" in str(e.value)
    assert f"{server.url}/{way}" in str(e.value) and cached(tmp_path) == []


@pytest.mark.parametrize("way, why", [
    ("endless", "more than 4 MB, which SKYSKY_MAX_MODEL_BYTES can raise"), ("huge", "more than 4 MB"),
    ("drop_by_drop", "not done in 1 s"), ("drop_by_drop_from_the_start", "not done in 1 s")])
def test_a_fetch_takes_no_more_bytes_and_seconds_than_a_model_may(far, tmp_path, monkeypatch, way, why):
    for key, value in (("BYTES", 4e6), ("SECONDS", 1)): monkeypatch.setenv(f"SKYSKY_MAX_MODEL_{key}", f"{value}")
    far(way)
    with pytest.raises(SkyError, match=why) as e: model_path("far")
    assert "\n" not in str(e.value) and cached(tmp_path) == []


def test_a_server_does_not_point_to_a_file_of_this_machine(server, far, tmp_path):
    (tmp_path/"secret").write_bytes(DATA)
    server.file = (tmp_path/"secret").as_uri()
    far("to_a_file")
    with pytest.raises(SkyError, match="not allowed"): model_path("far")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("file", ["moved", "gone", "cut", "login"])
def test_a_password_goes_to_the_mirror_and_nowhere_else(server, far, monkeypatch, file):
    monkeypatch.setenv("SKYSKY_MIRROR", server.url.replace("//", "//me:p%40ss@"))
    far(file=file)
    if file == "moved": assert model_path("far").read_bytes() == DATA
    else:
        with pytest.raises(SkyError, match=rf"http://\*\*\*@127.0.0.1:.*/{file}") as e: model_path("far")
        assert "p%40ss" not in str(e.value) and "p@ss" not in str(e.value)
    told = "Basic " + b64encode(b"me:p@ss").decode()
    assert server.known == ([told, None] if file == "moved" else [told]), "where it points to is another server's"


def test_weights_in_another_file_belong_to_the_card(far, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(model_path(DEFAULT_MODEL))
    file = tmp_path/"models/apart.onnx"
    onnx.save(model, file, save_as_external_data=True, location="apart.bin")
    weights_of = tmp_path/"models/apart.bin"
    write_card(ModelCard("apart", file.name, model_file.model_sha256(file), "none"), file.with_suffix(".json"))
    assert model_path("apart") == file
    data = bytearray(weights_of.read_bytes())
    data[len(data)//2] ^= 1
    weights_of.write_bytes(data)
    with pytest.raises(SkyError, match="is damaged"): model_path("apart")
    weights_of.unlink()
    with pytest.raises(SkyError, match="no file beside it"): model_path("apart")


def test_other_bytes_of_the_same_number(server, far, tmp_path):
    server.data = DATA[:-1] + bytes([DATA[-1] ^ 1])
    with pytest.raises(SkyError, match="SHA-256 differs"): model_path("far")
    assert cached(tmp_path) == []


@pytest.mark.parametrize("url, why", [
    ("http://127.0.0.1:1/far.onnx", "refused"), ("http://sky.invalid/far.onnx", "sky.invalid"),
    ("far.onnx", "unknown url type"), ("sky://far.onnx", "unknown url type"),
    ("http://127.0.0.1:x/", "nonnumeric port"), ("http://a b/", "a b")])
def test_nobody_there(far, tmp_path, url, why):
    far(url=url)
    with pytest.raises(SkyError, match=why) as e: model_path("far")
    assert "\n" not in str(e.value) and cached(tmp_path) == []


def test_interrupt_leaves_nothing(far, tmp_path):
    def stop(blocks):
        yield next(iter(blocks))
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): model_path("far", stop)
    assert cached(tmp_path) == []


def test_no_room_on_the_disk(far, tmp_path):
    pytest.importorskip("resource")
    code = """import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
from skysky.core import SkyError
from skysky.weights import model_path
try: model_path("far")
except SkyError as e: print(e)"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.startswith(f"cannot write {far()}: ") and run.stdout.count("\n") == 1, run.stderr
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_made(far, tmp_path, monkeypatch):
    (tmp_path/"file").touch()
    monkeypatch.setenv("SKYSKY_CACHE", str(tmp_path/"file/cache"))
    assert not model_card("far").present
    with pytest.raises(SkyError, match="cannot write .*far.onnx"): model_path("far")
    assert model_path(DEFAULT_MODEL).is_file(), "the shipped model needs no cache"


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_asks_nobody(server, far, tmp_path, monkeypatch, value):
    monkeypatch.setenv("SKYSKY_OFFLINE", value)
    with pytest.raises(SkyError, match="SKYSKY_OFFLINE") as e: model_path("far")
    for said in (f"copy far.onnx into {tmp_path/'cache'} ", tmp_path/"models", "weights/", "unset SKYSKY_OFFLINE"):
        assert str(said) in str(e.value)
    assert server.seen == [] and not (tmp_path/"cache").exists()
    monkeypatch.setenv("SKYSKY_OFFLINE", "0")
    path = model_path("far")
    monkeypatch.setenv("SKYSKY_OFFLINE", value)
    assert model_path("far") == path


def test_damage_is_mended_in_the_cache_only(server, far, tmp_path):
    path = model_path("far")
    path.write_bytes(DATA[:7])
    assert model_path("far").read_bytes() == DATA and len(server.seen) == 2
    (tmp_path/"models/far.onnx").write_bytes(DATA[:7])
    with pytest.raises(SkyError, match="is damaged"): model_path("far")
    assert (tmp_path/"models/far.onnx").read_bytes() == DATA[:7] and len(server.seen) == 2


def test_a_damaged_file_that_may_not_be_fetched_is_named(server, far, monkeypatch):
    model_path("far").write_bytes(DATA[:7])
    monkeypatch.setenv("SKYSKY_OFFLINE", "1")
    with pytest.raises(SkyError, match="cache/far.onnx is damaged"): model_path("far")
    monkeypatch.delenv("SKYSKY_OFFLINE")
    far(url="")
    with pytest.raises(SkyError, match="cache/far.onnx is damaged"): model_path("far")
    assert far().read_bytes() == DATA[:7] and len(server.seen) == 1


def test_without_any_address_it_says_what_to_do(server, far, tmp_path):
    far(url="")
    with pytest.raises(SkyError, match="the model far is not here") as e: model_path("far")
    for said in (f"copy far.onnx into {tmp_path/'cache'} ", tmp_path/"models", "weights/", "set SKYSKY_MIRROR"):
        assert str(said) in str(e.value)
    assert "\n" not in str(e.value) and server.seen == [] and not (tmp_path/"cache").exists()


def test_a_file_is_read_once_for_its_hash(far, tmp_path, monkeypatch):
    model_path("far")
    model_file._sha256.cache_clear()
    for _ in range(3): model_path("far")
    assert model_file._sha256.cache_info().misses == 1
    far().write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    monkeypatch.setenv("SKYSKY_OFFLINE", "1")
    with pytest.raises(SkyError, match="is damaged"): model_path("far")


def test_a_file_without_a_card_beside_it_is_known_by_its_bytes(far, tmp_path):
    mine = tmp_path/"mine.onnx"
    shutil.copy(model_path("far"), mine)
    card = model_card(mine)
    assert (card.name, card.path, card.home) == ("far", mine, tmp_path/"models/far.json")
    mine.write_bytes(b"another")
    card = model_card(mine)
    assert (card.name, card.path, card.home) == ("mine", mine, tmp_path/"mine.json")


# As users have it

def test_two_processes_at_once(server, far, tmp_path):
    far("crowded")  # neither gets its last bytes before the other has come
    command = [sys.executable, "-c", "from skysky.weights import model_path; print(model_path('far'))"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=60) for p in both] == [(f"{tmp_path/'cache/far.onnx'}\n", "")]*2
    assert (tmp_path/"cache/far.onnx").read_bytes() == DATA and cached(tmp_path) == ["far.onnx"]


COMMAND = [sys.executable, "-c", "from skysky.cli import main; main(prog_name='skysky')"]


@pytest.fixture
def real(server, far, tmp_path):
    "`far`, whose file is the shipped model's, and a picture x.png."
    shipped = model_card(DEFAULT_MODEL)
    server.data = shipped.path.read_bytes()
    far(sha256=shipped.sha256)
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(tmp_path/"x.png")
    return far


def test_mask_fetches_what_it_needs(server, real, tmp_path):
    mask = [*COMMAND, "mask", "x.png", "--model", "far"]
    for asked, args, said in ((0, [*COMMAND, "models"], "not here: fetched when first used"), (1, mask, "no sky"),
                              (1, mask, "no sky"), (1, [*COMMAND, "models"], "far.onnx")):
        run = subprocess.run(args, cwd=tmp_path, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, ""), run.stderr
        assert said in run.stdout and len(server.seen) == asked
    real().unlink()
    run = subprocess.run(mask, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"SKYSKY_OFFLINE": "1"})
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "SKYSKY_OFFLINE" in run.stderr


def test_a_foreign_card_is_left_out_with_a_line(tmp_path, monkeypatch):
    for key in ("MODELS", "CACHE"): monkeypatch.setenv(f"SKYSKY_{key}", "~")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path/"config.json").write_text('{"architectures": ["Other"]}')
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(tmp_path/"x.png")
    line = f"skysky: left out: the model card {tmp_path/'config.json'} has an unknown key 'architectures'\n"
    for args, said, err in (("mask x.png", "no sky", line), ("models", DEFAULT_MODEL, line),
                            ("mask x.png --model config", "", line + line.replace("left out: ", ""))):
        run = subprocess.run([*COMMAND, *args.split()], cwd=tmp_path, capture_output=True, text=True)
        assert run.stderr == err and said in run.stdout and run.returncode == (not said), run.stderr


@pytest.mark.parametrize("command, way, bar", [
    ("mask x.png", "far.onnx", "{0}/{0}"), ("mask x.png", "unsized", "fetching the model"),
    ("mask -q x.png", "far.onnx", ""), ("evaluate set -o out", "far.onnx", "{0}/{0}")])
def test_a_terminal_gets_a_progress_bar(server, real, tmp_path, command, way, bar):
    pty = pytest.importorskip("pty")
    command = [*COMMAND, *command.split(), "--model", "far"]
    real(way, sha256=model_card(DEFAULT_MODEL).sha256)
    for folder in ("images", "masks"): (tmp_path/"set"/folder).mkdir(parents=True)
    shutil.copy(tmp_path/"x.png", tmp_path/"set/images")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path/"set/masks/x.png")
    here, there = pty.openpty()
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=there)
    os.close(there)
    said = b""
    try:
        while block := os.read(here, 1 << 16): said += block
    except OSError: pass  # how Linux ends a terminal of which the other side is gone
    os.close(here)
    assert run.wait(60) == 0 and real(way).is_file()
    assert bar.format(-(-len(server.data)//2**20)) in said.decode() and (b"fetching" in said) == bool(bar), said
    assert way != "unsized" or b"/" not in said, "a bar without an end"


# The models of the project, in a clone and where only the package is installed

@pytest.fixture
def house(tmp_path, monkeypatch):
    "A copy of the package with the card of a large model; its file is in `weights/`."
    for key in ("MODELS", "OFFLINE", "MIRROR"): monkeypatch.delenv(f"SKYSKY_{key}", raising=False)
    monkeypatch.setenv("SKYSKY_CACHE", str(tmp_path/"cache"))
    house = tmp_path/"house"
    shutil.copytree(ROOT/"skysky", house/"skysky", ignore=shutil.ignore_patterns("__pycache__"))
    write_card(ModelCard("large", "large.onnx", sha256(DATA).hexdigest(), "none"), house/"skysky/models/large.json")
    (house/"weights").mkdir()
    (house/"weights/large.onnx").write_bytes(DATA)
    (house/"nbs").mkdir()
    (house/"nbs/00_core.ipynb").touch()
    monkeypatch.setenv("PYTHONPATH", str(house))

    def skysky(*args):
        "Run the copy's command from another folder."
        (tmp_path/"elsewhere").mkdir(exist_ok=True)
        return subprocess.run([*COMMAND, *map(str, args)], cwd=tmp_path/"elsewhere", capture_output=True, text=True)
    skysky.path = house
    return skysky


def test_a_clone_finds_the_file_in_weights(house, tmp_path):
    code = "from skysky.weights import model_card, model_path; print(model_path('large'), model_card('large').home)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.split() == [str(house.path/"weights/large.onnx"), str(house.path/"skysky/models/large.json")]
    line = f"  large  2.5 MB  512 px  no licence stated  no figures  {house.path/'weights/large.onnx'}"
    assert line in house("models").stdout.splitlines()


def test_the_package_alone_says_where_the_file_is(house, tmp_path):
    shutil.rmtree(house.path/"nbs")
    Image.fromarray(np.full((48, 64, 3), 128, np.uint8)).save(tmp_path/"x.png")
    lines = house("models").stdout.splitlines()
    assert f"  large  512 px  no licence stated  no figures  not here: copy large.onnx into {tmp_path/'cache'}" in lines
    run = house("mask", tmp_path/"x.png", "--model", "large")
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    for said in (f"copy large.onnx into {tmp_path/'cache'} ", "weights/", "SKYSKY_MIRROR", house.path/"skysky/models"):
        assert str(said) in run.stderr
    assert house("mask", tmp_path/"x.png", "-q").returncode == 0, "the small one works as ever"


@pytest.mark.parametrize("path", sorted((ROOT/"skysky/models").glob("*.json")), ids=lambda p: p.stem)
def test_a_clone_has_every_model_whole(path, monkeypatch):
    monkeypatch.delenv("SKYSKY_MODELS", raising=False)
    assert model_path(path.stem).parent in (ROOT/"skysky/models", ROOT/"weights")
    assert model_card(path.stem).home == path


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root becomes another user")
def test_two_users_share_a_cache():
    "What the first one's runs keep is not the second one's to read, to write or to stumble over."
    code = """import os, sys
from skysky import kept
from skysky import Segmenter
img = __import__("numpy").zeros((64, 64, 3), "uint8")
for user in (0, 65534, 65534):
    if user != os.getuid(): os.setgid(user), os.setuid(user)
    kept._measured.clear()
    print(os.getuid(), Segmenter()(img).has_sky)"""
    with tempfile.TemporaryDirectory() as cache:
        os.chmod(cache, 0o1777)
        env = os.environ | {"SKYSKY_CACHE": cache, "HOME": "/proc/nowhere"}
        run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert (run.stdout, run.stderr) == ("0 False\n65534 False\n65534 False\n", "")
        folders = {p.name: (p.stat().st_uid, p.stat().st_mode & 0o777) for p in Path(cache).iterdir()}
        assert folders == {f"compiled-{user}": (user, 0o700) for user in (0, 65534)}
        assert all(any(p.iterdir()) for p in Path(cache).iterdir())
