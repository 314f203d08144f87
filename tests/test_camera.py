"""Live sources as they fail: streams over HTTP and RTSP that stall, die and come back; signals; no display.

With SKYSKY_SOAK=600 the long run is long: 600 seconds rather than a few. Its figures are printed."""
import csv
import io
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property

import av
import cv2
import numpy as np
import psutil
import pytest

from skysky.camera import LiveSource, stop_on_signal
from skysky.core import SkyError, is_ours
from skysky.frames import video_frame
from skysky.read_video import VideoReader
from skysky.scenes import render_scene
from skysky.table import csv_table
from skysky.write_video import VideoWriter

pytestmark = pytest.mark.alone  # a window and its clock

SKYSKY = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
          "from skysky.cli import main; main(prog_name='skysky')"]
SOAK = float(os.environ.get("SKYSKY_SOAK", 12))  # s
NO_DISPLAY = {**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": ""}


def view(i):
    img = np.full((90, 160, 3), 110, np.uint8)
    img[:45] = (80, 140, 220)
    img[:, (4*i)%160:(4*i)%160 + 8] = 240
    return img


def wait_until(condition, timeout=120):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(.02)


class Server(socketserver.ThreadingTCPServer):
    "A server that can be told to stall, and that hangs up on everyone when it is stopped."
    daemon_threads, allow_reuse_address, stalled = True, True, False

    def __init__(self, handler, port=0):
        super().__init__(("127.0.0.1", port), handler)
        self.port, self.alive = self.server_address[1], True
        threading.Thread(target=self.serve_forever, args=(.05,), daemon=True).start()

    def handle_error(self, request, address): pass  # viewers leave as they like

    def stop(self):
        self.alive = False
        self.shutdown()
        self.server_close()


class Webcam(socketserver.StreamRequestHandler):
    "JPEG after JPEG over HTTP, 30 a second."
    def jpeg(self, n): return cv2.imencode(".jpg", view(n)[..., ::-1])[1].tobytes()

    def handle(self):
        while self.rfile.readline().strip(): pass
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        n, start = 0, time.monotonic()
        while self.server.alive:
            if not self.server.stalled:
                jpeg = self.jpeg(n)
                head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                self.wfile.write(head + jpeg + b"\r\n")
                n += 1
            time.sleep(max(1/90, start + n/30 - time.monotonic()))


class Street(Webcam):
    "A street in 1280×720, in front of which the camera trembles."
    @cached_property
    def jpegs(self):
        wide = cv2.resize(render_scene(215, (360, 648), "street").img[..., ::-1], (1296, 720))
        return [cv2.imencode(".jpg", wide[:, x:x + 1280])[1].tobytes() for x in (0, 4, 8, 12, 16, 12, 8, 4)]

    def jpeg(self, n): return self.jpegs[n%len(self.jpegs)]


def transport_stream(seconds=20, rate=25):
    "An MPEG transport stream, as bytes."
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as c:
        s = c.add_stream("libx264", rate, width=160, height=90, options={"tune": "zerolatency"})
        s.codec_context.gop_size = 5
        for i in range(seconds*rate): c.mux(s.encode(av.VideoFrame.from_ndarray(view(i))))
        c.mux(s.encode())
    return out.getvalue()


class Rtsp(socketserver.StreamRequestHandler):
    "RTSP over TCP (RFC 2326): a transport stream in RTP packets, between the answers to the four requests of a viewer."
    stream, seconds = transport_stream(), 20

    def answer(self, request, *lines, body=""):
        number = next(line.split(":")[1].strip() for line in request if line.lower().startswith("cseq"))
        head = ["RTSP/1.0 200 OK", f"CSeq: {number}", "Session: 1", *lines, f"Content-Length: {len(body)}"]
        self.wfile.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())

    def handle(self):
        while True:
            request = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
            if not request: return
            verb = request[0].split()[0]
            if verb == "DESCRIBE":
                sdp = ("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=sky\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                       "m=video 0 RTP/AVP 33\r\na=control:track\r\n")
                self.answer(request, "Content-Type: application/sdp", body=sdp)
            elif verb == "SETUP": self.answer(request, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
            else: self.answer(request, "Public: DESCRIBE, SETUP, PLAY, TEARDOWN")
            if verb == "PLAY": return self.play()

    def play(self):
        n, size, start = 0, 7*188, time.monotonic()
        pause = self.seconds*size/len(self.stream)
        for at in range(0, len(self.stream), size):
            while self.server.stalled and self.server.alive: time.sleep(.05)
            if not self.server.alive: return
            rtp = bytes([0x80, 33]) + (n & 0xffff).to_bytes(2, "big") + int(n*pause*90_000).to_bytes(4, "big") + b"sky1"
            packet = rtp + self.stream[at:at + size]
            self.wfile.write(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            n += 1
            time.sleep(max(0, start + n*pause - time.monotonic()))


@pytest.mark.parametrize("handler, scheme", [(Webcam, "http"), (Rtsp, "rtsp")])
def test_a_stream_that_stalls_and_dies_is_taken_up_again_each_time(handler, scheme):
    server = Server(handler)
    threads = threading.active_count()
    with LiveSource(f"{scheme}://127.0.0.1:{server.port}/cam", patience=1, longest_pause=.5) as live:
        assert live.read(60).img.shape == (90, 160, 3)
        for times in range(1, 6):
            if times == 2: server.stalled = True
            else: server.stop()
            wait_until(lambda: live.lost)
            while live.read(0): pass
            assert live.read(.1) is None
            if times == 2: server.stalled = False
            else: server = Server(handler, server.port)
            wait_until(lambda: not live.lost)
            assert live.reconnected == times
            assert np.abs(live.read(60).img[60, :4].astype(int) - 110).max() < 200
    server.stop()
    wait_until(lambda: threading.active_count() < threads)


def test_the_reader_keeps_the_newest_frame_and_no_others():
    server = Server(Webcam)
    with LiveSource(f"http://127.0.0.1:{server.port}/cam") as live:
        times = []
        for _ in range(7):
            time.sleep(.2)
            times.append(live.read(60).time)
        assert np.median(np.diff(times)) > .1, "not the next one, which is 1/30 s later"
        assert live.dropped > 5 and live.arrived > live.dropped
    server.stop()


def test_closing_while_the_stream_is_silent_does_not_wait_for_it():
    server = Server(Webcam)
    live = LiveSource(f"http://127.0.0.1:{server.port}/cam", patience=1)
    server.stalled = True
    time.sleep(.2)
    live.close()  # else it waited for ever
    assert not live._thread.is_alive()
    server.stop()


def test_an_error_of_the_caller_releases_the_source():
    server = Server(Webcam)
    with pytest.raises(RuntimeError), LiveSource(f"http://127.0.0.1:{server.port}/cam") as live:
        for _ in live: raise RuntimeError
    assert not live._thread.is_alive()
    server.stop()


@pytest.mark.parametrize("source, why", [
    ("rtsp://127.0.0.1:9/x", "refused"), ("http://127.0.0.1:9/x", "refused"), ("xyz://x", "Protocol not found"),
    ("nowhere.mp4", "no such file")])
def test_a_source_that_is_not_there_is_an_error_at_once(source, why):
    with pytest.raises(SkyError, match=why): LiveSource(source, patience=2)


@pytest.mark.skipif(os.path.exists("/dev/video63"), reason="a camera of this number")
def test_a_camera_that_is_not_there_is_one_line(tmp_path):
    run = subprocess.run([*SKYSKY, "camera", "63", "--csv", "t.csv"], cwd=tmp_path, env=NO_DISPLAY, capture_output=True,
                         text=True)
    assert run.returncode == 1 and run.stderr.startswith("skysky: 63: no such camera") and run.stderr.count("\n") == 1


def clip(path):
    with VideoWriter(path) as video:
        for i in range(25): video.write(video_frame(view(i), i, Fraction(1, 25)))
    return path


def test_without_a_display_something_must_be_written(tmp_path):
    clip(tmp_path/"clip.mp4")
    run = subprocess.run([*SKYSKY, "camera", "clip.mp4"], cwd=tmp_path, env=NO_DISPLAY, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "skysky: no window can be shown here: give --record FILE or --csv FILE\n"


@pytest.fixture
def screen(tmp_path):
    "An X server: the name of its screen, and a function that returns what is on it."
    read, write = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-fbdir", tmp_path],
                              pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as f: name = f":{f.readline().strip()}"
        yield name, lambda: np.fromfile(tmp_path/"Xvfb_screen0", np.uint8)[-640*480*4:].reshape(480, 640, 4)[..., 2::-1]
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Xvfb")
def test_the_window_shows_the_painted_sky_until_escape_is_pressed(tmp_path, screen):
    name, picture = screen
    clip(tmp_path/"clip.mp4")
    env = {**os.environ, "DISPLAY": name}
    run = subprocess.Popen([*SKYSKY, "camera", "clip.mp4"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: (picture()[..., 0].astype(int) - picture()[..., 1] > 50).sum() > 160*30)  # red over blue
        press_escape = ["xdotool", "search", "--name", "sky: clip.mp4", "windowfocus", "key", "Escape"]
        subprocess.run(press_escape, env=env, check=True)
        out, _ = run.communicate(timeout=120)
    finally: run.kill()
    assert run.returncode == 0 and "frames in" in out


@pytest.fixture
def a_terminal():
    "Its signals are heard also where nohup, or a job in the background, started the tests."
    heard = ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler))
    before = {number: signal.signal(number, handler) for number, handler in heard}
    yield
    for number, handler in before.items(): signal.signal(number, handler)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)])
def test_a_signal_ends_a_recording_and_keeps_it(tmp_path, number, a_terminal):
    server = Server(Webcam)
    command = [*SKYSKY, "camera", f"http://127.0.0.1:{server.port}/cam", "--record", "out.mp4", "--csv", "out.csv"]
    run = subprocess.Popen(command, cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    try:
        wait_until(lambda: (tmp_path/"out.csv").exists() or run.poll() is not None)
        time.sleep(2)
        run.send_signal(number)
        out, error = run.communicate(timeout=120)
    finally:
        run.kill()
        server.stop()
    assert (run.returncode, error) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.mp4"]
    with (tmp_path/"out.csv").open() as f: rows = list(csv.DictReader(f))
    with av.open(str(tmp_path/"out.mp4")) as c: frames = sum(1 for _ in c.decode(video=0))
    assert frames == len(rows) > 0 and f"{frames} frames in" in out


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_what_was_recorded_when_the_power_failed_is_there_and_plays(tmp_path, suffix):
    server = Server(Webcam)
    name = f"out{suffix}"
    command = [*SKYSKY, "camera", f"http://127.0.0.1:{server.port}/cam", "--record", name, "--csv", "out.csv"]
    run = subprocess.Popen(command, cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: (tmp_path/"out.csv").exists() or run.poll() is not None)
        wait_until(lambda: (tmp_path/"out.csv").read_bytes().count(b"\n") > 80, 300)
        run.kill()
        run.wait(60)
    finally:
        run.kill()
        server.stop()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", name]
    with (tmp_path/"out.csv").open() as f: times = [float(row["time"]) for row in csv.DictReader(f) if row["time"]]
    with av.open(str(tmp_path/name)) as c: shown = [frame.time for frame in c.decode(video=0)]
    assert times[-1] - times[0] - shown[-1] < 2.5 and len(shown) > 5
    assert np.allclose(np.diff(shown), np.diff(times)[:len(shown) - 1], atol=.003)
    assert is_ours(tmp_path/name) and is_ours(tmp_path/"out.csv")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_it_connects_ends_it_at_once(tmp_path):
    came = threading.Event()

    class Silent(socketserver.StreamRequestHandler):
        def handle(self):
            came.set()
            while self.server.alive: time.sleep(.05)

    server = Server(Silent)
    command = [*SKYSKY, "camera", f"http://127.0.0.1:{server.port}/cam", "--record", "out.mp4", "--csv", "out.csv"]
    run = subprocess.Popen(command, cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    try:
        assert came.wait(120)
        time.sleep(.5)
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=120)
    finally:
        run.kill()
        server.stop()
    assert run.returncode == 130 and error.startswith("skysky: interrupted") and list(tmp_path.iterdir()) == []


def test_a_recording_replaces_nothing_of_the_users(tmp_path):
    clip(tmp_path/"clip.mp4")
    (tmp_path/"mine.mp4").write_text("mine")
    def run(*args):
        return subprocess.run([*SKYSKY, "camera", "clip.mp4", "--seconds", "1", *args], cwd=tmp_path, env=NO_DISPLAY,
                              capture_output=True, text=True, timeout=300)
    for args, why in ((["--record", "mine.mp4"], "not written by skysky"),
                      (["--csv", "mine.mp4"], "not written by skysky"),
                      (["--record", "clip.mp4", "--overwrite"], "would replace"),
                      (["--record", "a.mp4", "--csv", "a.mp4"], "two outputs would be this one file"),
                      (["--record", "clip.mp4/a.mp4"], "cannot write")):
        result = run(*args)
        assert result.returncode == 1 and why in result.stderr and result.stderr.count("\n") == 1
    assert (tmp_path/"mine.mp4").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
    assert run("--record", "mine.mp4", "--overwrite").returncode == run("--record", "mine.mp4").returncode == 0
    with av.open(str(tmp_path/"mine.mp4")) as c:
        assert c.streams.video[0].frames > 3, "a regular file with an index, as players like it"


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_who_asked_to_outlive_the_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_signal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally: signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_second_signal_of_a_closed_terminal_does_not_break_off_the_end(a_terminal):
    with stop_on_signal() as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM): signal.raise_signal(number)
        assert stop.is_set()
    with pytest.raises(KeyboardInterrupt), stop_on_signal():
        for _ in range(2): signal.raise_signal(signal.SIGINT)


@contextmanager
def room_for(size):
    "While the block runs, no file grows beyond some bytes: what a full disk looks like."
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(i): return np.random.default_rng(i%5).integers(0, 256, (90, 160, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v", ".mkv", ".webm"])
def test_a_full_disk_ends_a_recording_and_keeps_it(tmp_path, suffix):
    n, path = 0, tmp_path/f"out{suffix}"
    with room_for(400_000), pytest.raises(SkyError, match="cannot write .*what was recorded is kept"):
        with VideoWriter(path, live=True) as video:
            for n in range(10_000): video.write(video_frame(noise(n), n, Fraction(1, 25)))
    with av.open(str(path)) as c: shown = [frame.time for frame in c.decode(video=0)]
    assert n/25 - shown[-1] < 5 and len(shown) > 5 and is_ours(path)
    with VideoReader(path) as reader: assert sum(1 for _ in reader) == len(shown)


@pytest.mark.parametrize("live", [True, False])
def test_a_full_disk_leaves_whole_rows_in_a_table_that_grows_and_none_else(tmp_path, live):
    n, path = 0, tmp_path/"out.csv"
    with room_for(10_000), pytest.raises(SkyError, match="cannot write"), csv_table(path, live) as add:
        for n in range(10_000): add({"time": n, "sky": "x"*(n%50)})
    assert path.exists() == live and [p.name for p in tmp_path.iterdir()] == ["out.csv"]*live
    if live:
        with path.open() as f: assert [int(row["time"]) for row in csv.DictReader(f)] == list(range(n))


def test_a_table_without_a_row_is_no_file_that_the_next_run_stumbles_over(tmp_path):
    with pytest.raises(ZeroDivisionError), csv_table(tmp_path/"out.csv", live=True): raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


class Noise(Webcam):
    def jpeg(self, n): return cv2.imencode(".jpg", noise(n))[1].tobytes()


@pytest.mark.skipif(os.name == "nt", reason="limits")
def test_a_full_disk_under_the_camera_is_one_line_and_the_table_is_whole(tmp_path):
    server = Server(Noise)
    command = [*SKYSKY, "camera", f"http://127.0.0.1:{server.port}/cam", "--record", "out.mp4", "--csv", "out.csv"]
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); {command[2]}"
    command[2] = code
    run = subprocess.run(command, cwd=tmp_path, env=NO_DISPLAY, capture_output=True, text=True, timeout=600)
    server.stop()
    assert run.returncode == 1 and run.stderr.startswith("skysky: cannot write out.mp4: File too large")
    assert run.stderr.count("\n") == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.mp4"]
    with av.open(str(tmp_path/"out.mp4")) as c: frames = sum(1 for _ in c.decode(video=0))
    with (tmp_path/"out.csv").open() as f: rows = list(csv.DictReader(f))
    assert 5 < frames <= len(rows) + 1 and all(row["confidence"] for row in rows)


def test_a_file_that_disappears_ends_a_recording_and_keeps_it(tmp_path):
    clip(tmp_path/"clip.mp4")
    command = [*SKYSKY, "camera", "clip.mp4", "--record", "out.mp4", "--csv", "out.csv"]
    run = subprocess.Popen(command, cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    try:
        wait_until(lambda: (tmp_path/"out.csv").exists() or run.poll() is not None)
        (tmp_path/"clip.mp4").unlink()
        _, error = run.communicate(timeout=120)
    finally: run.kill()
    assert run.returncode == 1 and error == "skysky: clip.mp4: no such file; check the path\n"
    with (tmp_path/"out.csv").open() as f: rows = list(csv.DictReader(f))
    with av.open(str(tmp_path/"out.mp4")) as c: assert len(rows) == sum(1 for _ in c.decode(video=0)) > 0


@pytest.mark.parametrize("address", [
    "rtsp://sky:secret@127.0.0.1:9/x", "rtsp://sky:se/secret@x@127.0.0.1:9/x", "http://127.0.0.1:9/x?user=a&pwd=secret",
    "http://secret@127.0.0.1:9/", "xyz://a:secret@x", "RTSP://a:secret@127.0.0.1:9"])
def test_a_password_in_an_address_is_not_printed(tmp_path, address):
    with pytest.raises(SkyError) as e: LiveSource(address, patience=2)
    assert "secret" not in str(e.value) and address.split(":")[0] in str(e.value)
    for args in (["camera", address, "--csv", "t.csv"], ["video", address]):
        run = subprocess.run([*SKYSKY, *args], cwd=tmp_path, env=NO_DISPLAY, capture_output=True, text=True)
        assert run.returncode == 1 and "secret" not in run.stdout + run.stderr and run.stderr.count("\n") == 1


class Playlist(socketserver.StreamRequestHandler):
    "Answers with what the server has been given to say."
    def handle(self):
        while self.rfile.readline().strip(): pass
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(self.server.text), self.server.text))


def test_a_server_cannot_have_files_of_this_machine_read(tmp_path):
    file = tmp_path/"own.ts"
    file.write_bytes(transport_stream(2))
    server = Server(Playlist)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n%s\n#EXT-X-ENDLIST\n"
    for text in (hls % f"file://{file}", hls % file, hls % f"concat:{file}", f"ffconcat version 1.0\nfile '{file}'\n"):
        server.text = text.encode()
        with pytest.raises(SkyError): LiveSource(f"http://127.0.0.1:{server.port}/x", patience=20)
    server.text = file.read_bytes()  # as it would be, if it were the server's own
    with LiveSource(f"http://127.0.0.1:{server.port}/x", patience=20) as live: assert live.read(60)
    server.stop()
    for address in (f"file://{file}", f"concat://{file}", f"subfile://,,start,0,end,0,,:{file}", f"async://{file}"):
        with pytest.raises(SkyError): LiveSource(address, patience=2)


def test_frames_of_a_stream_have_the_limit_of_a_videos(monkeypatch):
    server = Server(Webcam)
    for most, why in (("14399", "frames of 160×90 px are more than"), ("5000", "frames of more than 0.005 million px")):
        monkeypatch.setenv("SKYSKY_MAX_FRAME_PIXELS", most)
        with pytest.raises(SkyError, match=why): LiveSource(f"http://127.0.0.1:{server.port}/cam")
    server.stop()


def test_an_error_keeps_what_was_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path/"out.mp4", live=True) as video:
        for i in range(10): video.write(video_frame(view(i), i, Fraction(1, 25)))
        raise ZeroDivisionError
    with av.open(str(tmp_path/"out.mp4")) as c: assert sum(1 for _ in c.decode(video=0)) == 10


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.timeout(300 + 2*SOAK)
def test_a_long_run_stays_small_and_takes_the_source_up_again(tmp_path):
    used = []
    server = Server(Street)
    command = [*SKYSKY, "camera", f"http://127.0.0.1:{server.port}/cam", "--csv", "out.csv"]
    def rows(): return (tmp_path/"out.csv").read_bytes().count(b"\n")
    run = subprocess.Popen(command, cwd=tmp_path, env=NO_DISPLAY, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
    try:
        wait_until(lambda: (tmp_path/"out.csv").exists() or run.poll() is not None)
        for i in range(12):
            time.sleep(SOAK/14)
            used.append(psutil.Process(run.pid).memory_info().rss/1e6)
            if i in (1, 3, 5, 7, 9):
                server.stop()
                time.sleep(.2)
                server, before = Server(Street, server.port), rows()
                wait_until(lambda before=before: rows() > before + 3)
        run.send_signal(signal.SIGINT)
        out, error = run.communicate(timeout=300 + SOAK)
    finally:
        run.kill()
        server.stop()
    print(f"\n{out.splitlines()[-1]}\nmemory, MB: {' '.join(f'{x:.0f}' for x in used)}")
    assert (run.returncode, error) == (0, "")
    assert out.strip().endswith("5 times reconnected")
    assert max(used) < 1.15*used[2]
