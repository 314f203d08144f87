"Nothing leaves this machine unless an address is named: every command without a network, where each look-up is seen."
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from skysky.cli import main
from skysky.manifest import Manifest
from skysky.weights import DEFAULT_MODEL, model_path

SKYSKY = [sys.executable, "-c", "from skysky.cli import main; main(prog_name='skysky')"]
APART = shutil.which("unshare") and not subprocess.run(["unshare", "-rnm", "true"], capture_output=True).returncode

# Runs a command where there is no network but a name server, which writes down who is looked for.
ALONE = """
import fcntl, os, socket, struct, subprocess, sys, threading
seen, resolv, *command = sys.argv[1:]
lo = struct.pack("16sh14x", b"lo", 1)  # up
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: fcntl.ioctl(s, 0x8914, lo)  # SIOCSIFFLAGS
with open(resolv, "w") as f: f.write("nameserver 127.0.0.1\\noptions attempts:1 timeout:1\\n")
subprocess.run(["mount", "--bind", resolv, os.path.realpath("/etc/resolv.conf")], check=True)
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))

def answer():
    while True:
        asked, who = names.recvfrom(4096)
        with open(seen, "a") as f: print("name server:", asked[12:-5], file=f)
        names.sendto(asked[:2] + b"\\x81\\x83" + asked[4:6] + bytes(6) + asked[12:], who)  # there is no such name

threading.Thread(target=answer, daemon=True).start()
sys.exit(subprocess.run(command).returncode)
"""

# In each Python process, whether there is a name server or not.
GUARD = """
import os, sys
def seen(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or event == "socket.connect" and args[0].family != 1:
        with open(os.environ["SEEN"], "a") as f: print(event, args[:2], file=f)
sys.addaudithook(seen)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with what the commands work on."
    place = tmp_path_factory.mktemp("place")
    (place/"guard").mkdir()
    (place/"guard/sitecustomize.py").write_text(GUARD)
    subprocess.run([*SKYSKY, "data", "render", "set", "-n", "3", "--size", "64x96"], cwd=place, check=True)
    (place/"mast").mkdir()
    picture, *_ = sorted((place/"set"/"images").iterdir())
    for name in "abc": shutil.copy(picture, place/"mast"/f"{name}.jpg")
    with Manifest(place/"done") as manifest:
        manifest.begin({}, 0)
        manifest.end({})
    return place


@pytest.fixture
def alone(place, tmp_path):
    "A function that runs a command without a network, and says how it ended and whom it looked for."
    def alone(command, home=tmp_path/"home"):
        seen = tmp_path/"seen"
        if home == tmp_path/"home": home.mkdir(exist_ok=True)
        left_out = ("XDG_CACHE_HOME", "SKYSKY_CACHE", "SKYSKY_OFFLINE", "ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR")
        env = {k: v for k, v in os.environ.items() if k not in left_out} | {"HOME": str(home), "SEEN": str(seen)}
        env["PYTHONPATH"] = os.pathsep.join([str(place/"guard"), env.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        apart = ["unshare", "-rnm", sys.executable, "-S", "-c", ALONE, seen, tmp_path/"resolv.conf"] if APART else []
        run = subprocess.run([*apart, *command], cwd=place, env=env, capture_output=True, text=True)
        return run, seen.read_text() if seen.exists() else ""
    return alone


def test_a_look_up_is_seen(alone):
    "By the guard, and, of a library that is no Python, by the name server: else the tests below prove nothing."
    python = "import socket, suppressed\nwith suppressed: socket.getaddrinfo('sky.invalid', 80)"
    python = python.replace("suppressed", "contextlib").replace("with contextlib", "with contextlib.suppress(OSError)")
    assert "sky.invalid" in alone([sys.executable, "-c", python])[1]
    if APART: assert "\\x03sky" in alone(["getent", "hosts", "sky.invalid"])[1]
    calls = "import openvino" if APART else "import socket; socket.gethostbyname('localhost')"
    assert alone([sys.executable, "-c", calls])[1], "OpenVINO by itself"


COMMANDS = [
    "mask set/images -q -o masks", "mask set/images -q -o masks --engine onnxruntime",
    "mask set/images -q -o masks --engine torch", f"mask set/images -q -o masks --model {DEFAULT_MODEL} --device cpu",
    "status done", "video no.mp4", "camera 99", "models", "data check set", "data render more -n 1 --size 64x96",
    "evaluate set -o scores", "fixed mast -q -o still", "sphere set/images --projection perspective -o around",
    f"bench -o bench --quick --model {DEFAULT_MODEL} --size 64x96 --engines openvino,onnxruntime --precisions f32",
    "teach --suggest set/images -n 2", "train config.yaml -o run", "export student.safetensors -o student.onnx",
    f"quantize {DEFAULT_MODEL} -o small.onnx --images set/images"]


def test_every_command_is_among_these():
    apart = {"cluster"}  # Ray's processes speak with each other, so that no look-up of theirs says anything
    assert {c.split()[0] for c in COMMANDS} | PAGES.keys() | apart == main.commands.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_calls_nobody(alone, place, tmp_path, command):
    if command.startswith("train"):
        config = {"data": [{"scenes": 4}], "valid": [{"scenes": 2, "seed": 9}], "arch": "mosaic", "weights": "none",
                  "size": [64, 64], "load_size": [64, 64], "bs": 2, "epochs": 1}
        (place/"config.yaml").write_text(json.dumps(config))  # which is YAML, too
    if command.startswith("export"):
        from skysky.train.models import mosaic, save_checkpoint
        model = mosaic(str(model_path(DEFAULT_MODEL)))  # of random weights, answers depend on the last bit
        config = {"arch": "mosaic", "mean": model.mean, "std": model.std}
        save_checkpoint(place/"student.safetensors", model, config)
    run, seen = alone([*SKYSKY, *command.split()])
    assert seen == "", run.stderr
    assert run.returncode == (command.split()[0] in ("video", "camera")), run.stderr
    if " -q " in command: assert run.stderr == ""
    left = {p.relative_to(tmp_path/"home").as_posix() for p in (tmp_path/"home").rglob("*") if p.is_file()}
    assert not [p for p in left if "intel" in p or "Microsoft" in p], "an identity that lasts"


PAGES = {"lab": ["lab", "lab/api/news", "lab/api/update"], "live": ["voila/static/voila.js"],
         "serve": ["", "openapi.json"]}  # what a browser asks for

# Starts a server, asks it for pages, and ends it.
ASK = """
import subprocess, sys, time
from urllib.request import urlopen
port, command, *pages = sys.argv[1:]
skysky = "import sys; from skysky.cli import main; main()"
options = [f"--port={port}", "--no-browser", "--IdentityProvider.token=t", "--allow-root"]
some = options[:{"serve": 1, "live": 2}.get(command)]
with subprocess.Popen([sys.executable, "-c", skysky, command, *some]) as server:
    try:
        for page in pages:
            for i in range(300):
                try: assert urlopen(f"http://127.0.0.1:{port}/{page}?token=t").status == 200
                except OSError as e:
                    if server.poll() is not None or i == 299 or hasattr(e, "code"): raise
                    time.sleep(.2)
                else: break
        time.sleep(3)
    finally: server.terminate()
"""


@pytest.mark.parametrize("command", PAGES)
def test_a_server_of_pages_calls_nobody(alone, command):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    run, seen = alone([sys.executable, "-c", ASK, str(port), command, *PAGES[command]])
    assert run.returncode == 0, run.stderr
    here = ("'localhost'", "'127.0.0.1'", "'::1'", "'0.0.0.0'")
    assert not [line for line in seen.splitlines() if not any(name in line for name in here)], seen


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_home_that_cannot_be_written(alone, home, engine):
    run, seen = alone([*SKYSKY, *f"mask set/images -q -o masks --engine {engine}".split()], Path(home))
    assert (run.returncode, run.stdout, run.stderr, seen) == (0, "", "", "")


@pytest.mark.parametrize("library", ["openvino", "onnxruntime", "nncf"])
def test_nor_does_a_library_that_is_loaded_afterwards(alone, library):
    code = f"import skysky.engines, {library}, time; time.sleep(2)"
    run, seen = alone([sys.executable, "-c", code])
    assert (run.returncode, seen) == (0, ""), run.stderr
