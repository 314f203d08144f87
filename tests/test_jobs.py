"A job that is killed, runs twice at once, meets a full disk or hostile input: nothing lost, nothing done twice."
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli import SKYSKY, as_anybody, files, photo, skysky
from test_video import make

from skysky import Segmenter
from skysky.core import SkyError
from skysky.jobs import Job, job_status, mask_folder
from skysky.manifest import MANIFEST
from skysky.sources import find_sources

KILLS, PICTURES = (int(os.environ.get(f"SKYSKY_TEST_{name}", n)) for name, n in (("KILLS", 3), ("PICTURES", 60)))
# Bounded in time, and the same examples every time.
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="session")
def seg(model): return Segmenter(model)


def small(path, share=.4):
    "A picture of 64x48 px."
    return photo(Path(path), share, (64, 48))


def film(path, frames, size=(160, 90)):
    "A video of so many frames."
    path.parent.mkdir(parents=True, exist_ok=True)
    return make(path, range(frames), size=size)


def many(folder, n):
    "Small pictures, all different."
    for i in range(n): small(folder/f"{i % 7}/{i}.png", (i + 1)/(n + 1))


def records(folder):
    "The manifest's lines about pictures, as any program reads them."
    lines = (folder/MANIFEST).read_bytes().split(b"\n")
    return [r for r in map(json.loads, filter(None, lines)) if "input" in r]


def content(folder): return {f: (folder/f).read_bytes() for f in files(folder)}


def popen(*args, **kwargs):
    return subprocess.Popen([*SKYSKY, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **kwargs)


# Killed at any moment

@pytest.mark.timeout(300 + 10*KILLS + PICTURES)
def test_a_job_that_is_killed_again_and_again_goes_on_where_it_was(tmp_path, model, seg):
    many(tmp_path/"in", PICTURES)
    mask_folder(tmp_path/"in", tmp_path/"whole", seg, kinds=("mask", "prob"))
    rng, out, killed = random.Random(0), tmp_path/"out", 0
    args = ("mask", tmp_path/"in", "-o", out, "--save", "mask,prob", "--model", model, "--csv", tmp_path/"t.csv", "-q")
    for _ in range(KILLS):
        process, before = popen(*args, "--resume"), len(records(out)) if out.exists() else 0
        want = before + rng.randint(0, max(1, 2*PICTURES//(3*KILLS)))
        while process.poll() is None and (not (out/MANIFEST).exists() or (out/MANIFEST).read_bytes().count(
                b'\n{"input"') < want): time.sleep(.002)
        time.sleep(rng.random()*.02)
        process.kill()
        killed += process.wait(60) == -signal.SIGKILL
        process.communicate(timeout=60)
    left = len(list(out.rglob(".skysky-*.part")))
    run = skysky(*args, "--resume")
    assert (run.returncode, run.stderr) == (0, "")
    print(f"killed {killed} times, which left {left} parts of files; {PICTURES} pictures")
    assert killed > KILLS/2
    assert content(out) == content(tmp_path/"whole"), "every output whole, of the same bytes, and none too many"
    done = Counter(record["input"] for record in records(out))
    assert len(done) == PICTURES and set(done.values()) == {1}, "none is missing, none done twice"
    rows = (tmp_path/"t.csv").read_text().splitlines()
    assert len(rows) == PICTURES + 1 and len({row.partition(",")[0] for row in rows}) == PICTURES + 1
    assert skysky("status", out).stdout == f"{PICTURES} done, 0 failed, 0 stale\n"


@pytest.mark.timeout(300 + 10*KILLS + PICTURES)
def test_a_job_of_videos_that_is_killed_goes_on_at_the_video_where_it_was(tmp_path, model):
    n = KILLS + 2
    for i in range(n): film(tmp_path/f"in/{i%2}/{i}.mp4", 12, size=(160, 90 + 2*i))
    args = ("video", tmp_path/"in", "--smooth", 0, "--model", model, "-q")
    whole, out = (("-o", tmp_path/name, "--csv", tmp_path/name) for name in ("whole", "out"))
    run = skysky(*args, *whole)
    assert (run.returncode, run.stderr) == (0, "")
    rng, killed, parts, manifest = random.Random(1), 0, 0, tmp_path/"out"/MANIFEST
    for _ in range(KILLS):
        process, before = popen(*args, *out, "--resume"), len(records(tmp_path/"out")) if manifest.exists() else 0
        while process.poll() is None and (not manifest.exists() or len(records(tmp_path/"out")) < before + 1):
            time.sleep(.002)  # one video is done
        time.sleep(rng.random()*.3)
        process.kill()
        killed += process.wait(60) == -signal.SIGKILL
        process.communicate(timeout=60)
        parts += len(list((tmp_path/"out").rglob(".skysky-*.part")))
    run = skysky(*args, *out, "--resume")
    print(f"killed {killed} times, which left {parts} parts of files")
    assert (run.returncode, run.stderr) == (0, "") and killed
    def same(folder): return {name: data for name, data in content(folder).items() if name.endswith(".mp4")}
    assert len(same(tmp_path/"out")) == n and same(tmp_path/"out") == same(tmp_path/"whole")
    assert files(tmp_path/"out") == files(tmp_path/"whole"), "tables, too, and no parts"
    done = Counter(record["input"] for record in records(tmp_path/"out"))
    assert len(done) == n and set(done.values()) == {1}, "none is missing, none done twice"
    assert skysky("status", tmp_path/"out").stdout == f"{n} done, 0 failed, 0 stale\n"


@pytest.mark.timeout(300 + 10*KILLS + PICTURES)
def test_frames_that_are_killed_again_and_again_go_on_where_they_were(tmp_path, model):
    for i in range(3): film(tmp_path/f"in/{i % 2}/{i}.mp4", 30, size=(160, 90 + 2*i))
    args = ("video", tmp_path/"in", "--save", "frames,mask,prob", "--every", 2, "--model", model, "-q")
    assert skysky(*args, "-o", tmp_path/"whole").returncode == 0
    rng, killed, parts, out = random.Random(2), 0, 0, tmp_path/"out"
    for _ in range(KILLS):
        process, before = popen(*args, "-o", out, "--resume"), len(records(out)) if (out/MANIFEST).exists() else 0
        want = before + rng.randint(1, max(1, 40//KILLS))
        while process.poll() is None and (not (out/MANIFEST).exists() or len(records(out)) < want): time.sleep(.002)
        time.sleep(rng.random()*.02)
        process.kill()
        killed += process.wait(60) == -signal.SIGKILL
        process.communicate(timeout=60)
        parts += len(list(out.rglob(".skysky-*.part")))
    run = skysky(*args, "-o", out, "--resume")
    print(f"killed {killed} times, which left {parts} parts of files")
    assert (run.returncode, run.stderr) == (0, "") and killed > KILLS/2
    assert len(content(out)) == 3*15*3 and content(out) == content(tmp_path/"whole"), "every file, of the same bytes"
    done = Counter(record["input"] for record in records(out))
    assert len(done) == 3*15 + 3 and set(done.values()) == {1}, "none is missing, none done twice"
    assert skysky("status", out).stdout == "48 done, 0 failed, 0 stale\n"


def test_a_sequence_goes_on_where_it_was(tmp_path, model):
    for i in range(24): small(tmp_path/f"shot/{i:04}.png", .2 + i/60)
    args = ("video", "shot/%04d.png", "--save", "frames", "--layout", "colmap", "--model", model, "--csv")
    run = skysky(*args, "whole.csv", cwd=tmp_path)
    assert run.returncode == 0, run
    want = content(tmp_path/"masks")
    for name in want: (tmp_path/"masks"/name).unlink()
    process = popen(*args, "t.csv", "--resume", cwd=tmp_path)
    record = tmp_path/"masks"/MANIFEST
    while process.poll() is None and (not record.exists() or len(records(record.parent)) < 5): time.sleep(.002)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and not (tmp_path/"t.csv").exists()
    def go_on(pattern="shot/%04d.png"):
        run = skysky("video", pattern, *args[2:], "t.csv", "--resume", "--json", cwd=tmp_path)
        assert run.returncode == 0, run
        first, last = map(json.loads, run.stdout.splitlines())
        assert (first["frames"], last["failed"]) == (24, 0)
        return first["state"]
    assert (go_on(), go_on()) == ("done", "skipped")
    assert content(tmp_path/"masks") == want
    done = Counter(record["input"] for record in records(tmp_path/"masks"))
    assert len(done) == 25 and set(done.values()) == {1}
    def rows(name): return [line.split(",")[:6] for line in (tmp_path/name).read_text().splitlines()]
    assert rows("t.csv") == rows("whole.csv"), "of frames that were there before the kill, too"
    small(tmp_path/"shot/0007.png", .7)
    assert go_on() == "done", "what is smoothed in time depends on all pictures"
    run = skysky("video", *sorted((tmp_path/"shot").iterdir()), "--resume", cwd=tmp_path)
    assert run.returncode == 1 and "'shot/*.png'" in run.stderr and run.stderr.count("\n") == 1
    run = skysky("video", "shot/*", "--resume", cwd=tmp_path)
    assert run.returncode == 1 and "'shot/*.png'" in run.stderr and run.stderr.count("\n") == 1


def test_frames_of_the_users_are_not_replaced(tmp_path, model):
    film(tmp_path/"a.mp4", 3)
    (tmp_path/"a_frames").mkdir()
    small(tmp_path/"a_frames/a_000001.jpg")
    mine = (tmp_path/"a_frames/a_000001.jpg").read_bytes()
    args = ("video", "a.mp4", "--save", "frames", "--model", model, "--resume")
    run = skysky(*args, cwd=tmp_path)
    assert run.returncode == 1 and "not written by skysky" in run.stderr and run.stderr.count("\n") == 1, run
    assert (tmp_path/"a_frames/a_000001.jpg").read_bytes() == mine
    (tmp_path/"a_frames/a_000001.jpg").unlink()
    assert skysky(*args, cwd=tmp_path).returncode == 0
    (tmp_path/"a_frames_sky"/MANIFEST).unlink()
    assert skysky(*args, cwd=tmp_path).returncode == 0, "the same bytes need no leave"
    film(tmp_path/"a.mp4", 4, size=(192, 90))
    assert skysky(*args, cwd=tmp_path).returncode == 0
    assert skysky("status", "a_frames_sky", cwd=tmp_path).stdout == "5 done, 0 failed, 0 stale\n"


def test_videos_for_programs_and_for_a_log(tmp_path, model):
    film(tmp_path/"in/a.mp4", 3)
    (tmp_path/"in/b.mp4").write_bytes(b"no video")
    for i in range(3): small(tmp_path/f"shot/{i}.png")
    def run(*args, status=0):
        run = skysky("video", *args, "--json", "--log", "run.log", "--model", model, cwd=tmp_path)
        assert run.returncode == status, run
        *each, last = map(json.loads, run.stdout.splitlines())
        assert last["done"] + last["skipped"] + last["failed"] == len(each)
        assert all("path" in line for line in each) and all(map(os.path.exists, each[0].get("outputs", {}).values()))
        return [line["state"] for line in each]
    assert run("in", status=1) == ["done", "failed"]
    assert run("in", "--resume", status=1) == ["skipped", "failed"]
    assert run("in/a.mp4") == ["done"] and run("in/b.mp4", status=1) == ["failed"]
    assert run("in/a.mp4", "--save", "frames") == ["done"] and run("shot/*.png") == ["done"]
    assert run("shot/*.png", "--save", "frames", "--resume") == ["done"]
    assert (tmp_path/"run.log").read_text().count("b.mp4: ") == 3
    run = skysky("video", "in/a.mp4", "--json", "--csv", "/dev/stdout", "--csv-only", "--model", model, cwd=tmp_path)
    assert run.returncode == 1 and run.stdout == "" and "table or JSON" in run.stderr


def test_videos_that_fail_or_break_off(tmp_path, model):
    film(tmp_path/"in/a.mp4", 3)
    cut = film(tmp_path/"in/b.mkv", 40)
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size*2//3])
    bad = tmp_path/"in/c.ts"
    bad.write_bytes(b"no video")
    def run(*sources, status, done):
        run = skysky("video", *sources, "--resume", "--model", model, cwd=tmp_path)
        assert run.returncode == status and "Traceback" not in run.stderr, run
        assert f"{done} done in" in run.stdout, run.stdout
        return run
    assert run("in", status=1, done="2 of 3").stderr.count("\n") == 2
    assert "2 already there, 1 failed (1 video)" in run("in", status=1, done="0 of 3").stdout
    (tmp_path/"in_sky/a_sky.mp4").write_bytes(b"")
    assert skysky("status", "in_sky", cwd=tmp_path).stdout.endswith("1 done, 1 failed, 1 stale\n")
    bad.unlink()
    assert "b.mkv" in run("in", status=3, done="1 of 2").stderr, "what is cut off stays so"
    run("in/a.mp4", status=0, done="1 of 1")
    run("in/a.mp4", status=0, done="0 of 1")


def test_only_what_has_changed_is_done_anew(tmp_path, model):
    for name in "abc": small(tmp_path/f"in/{name}.png")
    def run(*more):
        return skysky("mask", "in", "--resume", "--model", model, *more, cwd=tmp_path).stdout.splitlines()[-1]
    assert "3 of 3 done" in run() and "0 of 3 done" in run()
    small(tmp_path/"in/b.png", .8)
    assert "1 of 3 done" in run()
    assert "3 of 3 done" in run("--threshold", .3), "other settings"
    assert "0 of 3 done" in run("--threshold", .3)
    other = onnx.load(model)
    other.doc_string = "another file"
    onnx.save(other, tmp_path/"other.onnx")
    assert "3 of 3 done" in run("--threshold", .3, "--model", tmp_path/"other.onnx")
    (tmp_path/"moved").mkdir()
    for name in ("in", "in_sky"): (tmp_path/name).rename(tmp_path/"moved"/name)
    moved = skysky("mask", "in", "--resume", "--threshold", .3, "--model", tmp_path/"other.onnx", cwd=tmp_path/"moved")
    assert "0 of 3 done" in moved.stdout, "pictures and masks may move together"


def test_a_parquet_table_is_completed_from_the_record(tmp_path, model, seg):
    pq = pytest.importorskip("pyarrow.parquet")
    many(tmp_path/"in", 30)
    out, file = tmp_path/"out", tmp_path/"t.parquet"
    args = ("mask", tmp_path/"in", "-o", out, "--model", model, "--csv", file, "-q", "--resume")
    process = popen(*args)
    while process.poll() is None and (not (out/MANIFEST).exists() or len(records(out)) < 9): time.sleep(.002)
    process.kill()
    process.communicate(timeout=60)
    assert not file.exists() and not list(tmp_path.glob(".skysky-*"))
    run = skysky(*args)
    assert (run.returncode, run.stderr) == (0, "")
    table = pq.read_table(file).to_pydict()
    assert len(set(table["path"])) == len(table["path"]) == 30 and set(table["width"]) == {64}
    mask_folder(tmp_path/"in", out, seg, table=tmp_path/"t.csv", redo="changed")
    rows = {row["path"]: float(row["sky"]) for row in csv.DictReader((tmp_path/"t.csv").open())}
    assert rows == dict(zip(table["path"], table["sky"], strict=True))


def test_parquet_without_its_package_is_a_line(tmp_path, model):
    small(tmp_path/"x.png")
    code = f"import sys; sys.modules['pyarrow'] = None; {SKYSKY[-1]}"  # as if it were not installed
    run = subprocess.run([sys.executable, "-c", code, "mask", "x.png", "--csv", "t.parquet"], cwd=tmp_path, text=True,
                         capture_output=True, timeout=120)
    assert run.returncode == 1 and "pip install '.[parquet]'" in run.stderr and run.stderr.count("\n") == 1
    run = skysky("video", "x.mp4", "--csv", "t.parquet", cwd=tmp_path)
    assert run.returncode == 1 and "a row a frame goes to a CSV file" in run.stderr


# Two at once

def test_two_at_once(tmp_path, model):
    many(tmp_path/"in", 40)
    first = popen("mask", tmp_path/"in", "-o", tmp_path/"out", "--model", model)
    while not (tmp_path/"out"/MANIFEST).exists():
        assert first.poll() is None
        time.sleep(.01)
    first.send_signal(signal.SIGSTOP)
    second = skysky("mask", tmp_path/"in", "-o", tmp_path/"out", "--model", model)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and second.stdout == "" and second.stderr.count("\n") == 1
    assert "another skysky is at work there" in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0 and set(Counter(r["input"] for r in records(tmp_path/"out")).values()) == {1}


# Sources

def test_lists(tmp_path, model):
    odd = ["two\nlines.png", "-b.png", "@c.png", "a b.png"]
    for name in odd: small(tmp_path/"in"/name)
    names = b"".join(os.fsencode(tmp_path/"in"/name) + b"\0" for name in odd)
    run = subprocess.run([*SKYSKY, "mask", "-", "-0", "-o", "out", "--json", "--model", str(model)], input=names,
                         cwd=tmp_path, capture_output=True, timeout=120)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0 and [Path(line["path"]).name for line in lines[:-1]] == odd
    assert (lines[-1]["done"], lines[-1]["failed"]) == (4, 0) and lines[0]["outputs"]["mask"].endswith("lines_mask.png")
    (tmp_path/"list.txt").write_text("in/a b.png\r\nin/gone.png\n\nin/@c.png\n")
    run = skysky("mask", "@list.txt", "-o", "out2", "--log", "run.log", "--model", model, cwd=tmp_path)
    assert run.returncode == 1 and "2 of 3 done" in run.stdout and "1 failed (1 missing)" in run.stdout
    assert run.stderr.count("\n") == 1 and "gone.png: no such file" in run.stderr
    assert run.stderr.strip() in (tmp_path/"run.log").read_text() and "2 of 3 done" in (tmp_path/"run.log").read_text()
    run = skysky("mask", "in", "--log", "list.txt", "--model", model, cwd=tmp_path)
    assert run.returncode == 1 and "not written by skysky" in run.stderr, "a log is added to a log only"


def test_a_job_of_100_000_names_begins_at_once(tmp_path, seg):
    first = small(tmp_path/"in/000/0.png")
    names = (f"{tmp_path}/in/{i//1000:03}/{i}.png\n" for i in range(100_000))
    (tmp_path/"names").write_text("".join(names))
    class Enough(Exception): pass
    def tell(outcome):
        assert outcome.path == os.path.realpath(first) and outcome.state == "done"
        raise Enough
    start, wall = time.process_time(), time.perf_counter()
    with pytest.raises(Enough): mask_folder([f"@{tmp_path}/names"], tmp_path/"out", seg, tell)
    seconds = time.process_time() - start
    print(f"the first of 100,000 masks after {seconds:.2f} s of work, {time.perf_counter() - wall:.2f} s by the clock")
    assert seconds < 3  # what only grows with the names takes .7 s, what grows with their square minutes


def test_a_folder_that_fills(tmp_path, model):
    small(tmp_path/"in/first.png")
    process = popen("mask", tmp_path/"in", "--watch", "-o", tmp_path/"out", "--model", model,
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    def wait_for(name):
        end = time.monotonic() + 60
        while not (tmp_path/"out"/name).exists() or f"{name}" not in (tmp_path/"out"/MANIFEST).read_text():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(.02)
    wait_for("first_mask.png")
    whole = small(tmp_path/"later.png").read_bytes()
    with (tmp_path/"in/second.png").open("wb", 0) as f:
        f.write(whole[:-20])
        time.sleep(2.5)
        assert not (tmp_path/"out/second_mask.png").exists(), "not before it is complete"
        f.write(whole[-20:])
    wait_for("second_mask.png")
    time.sleep(1)  # until it is said, too
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == "" and "2 of 2 done" in out
    assert skysky("status", tmp_path/"out").returncode == 0


# Failures

def test_failures_are_kept_and_tried_again_when_asked(tmp_path, model):
    for name in "ab": small(tmp_path/f"in/{name}.png")
    (tmp_path/"in/bad.png").write_text("no picture")
    os.mkfifo(tmp_path/"in/pipe.png")
    (tmp_path/"in/loop.png").symlink_to("loop.png")
    (tmp_path/"in/null.png").symlink_to("/dev/zero")
    (tmp_path/"in/old.zip").write_text("no picture")
    command = ("mask", "in", "--model", model)
    run = skysky(*command, cwd=tmp_path)
    assert run.returncode == 1 and "2 of 6 done" in run.stdout and "4 failed (3 picture, 1 missing)" in run.stdout, run
    assert run.stderr.count("\n") == 4 and "1 archive left out (.zip); unpack first" in run.stdout
    run = skysky("status", "in_sky", cwd=tmp_path)
    assert run.returncode == 1 and run.stdout.splitlines()[-1] == "2 done, 4 failed, 0 stale"
    assert "failed: " in run.stdout and "bad.png: not a picture" in run.stdout
    tried = len(records(tmp_path/"in_sky"))
    run = skysky(*command, "--resume", cwd=tmp_path)
    assert run.returncode == 1 and "0 of 6 done" in run.stdout and run.stderr.count("\n") == 4
    assert len(records(tmp_path/"in_sky")) - tried <= 3, "what is damaged and unchanged is not read again"
    small(tmp_path/"bad.png").replace(tmp_path/"in/bad.png")
    assert "1 of 6 done" in skysky(*command, "--resume", cwd=tmp_path).stdout
    run = skysky("status", "in_sky", "--json", cwd=tmp_path)
    assert json.loads(run.stdout.splitlines()[-1]) == {"done": 3, "failed": 3, "stale": 0, "ended": True}


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_ends_the_job_and_costs_nothing(tmp_path, model, seg):
    (tmp_path/"disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", tmp_path/"disk"]).returncode:
        pytest.skip("may not mount")
    try:
        rng = np.random.default_rng(0)
        for i in range(40):
            img = np.zeros((120, 160, 3), np.uint8)
            img[..., 2] = rng.integers(0, 255, img.shape[:2])
            (tmp_path/"in").mkdir(exist_ok=True)
            Image.fromarray(img).save(tmp_path/f"in/{i}.png")
        command = ("mask", "in", "-o", "disk/out", "--save", "prob16", "--model", model, "--no-refine")
        run = skysky(*command, cwd=tmp_path)
        assert run.returncode == 1 and "the disk is full: the job stops" in run.stderr, run
        assert "No space left on device" in run.stderr and "Traceback" not in run.stderr
        there = [f for f in files(tmp_path/"disk/out")]
        assert 0 < len(there) < 40
        for f in there:
            with Image.open(tmp_path/"disk/out"/f) as im: im.load()
        done = {r["input"] for r in records(tmp_path/"disk/out") if "outputs" in r}
        assert len(done) <= len(there)
        subprocess.run(["mount", "-o", "remount,size=9M", tmp_path/"disk"], check=True)
        run = skysky(*command, "--resume", cwd=tmp_path)
        assert run.returncode == 0 and "40 of 40" not in run.stdout and len(files(tmp_path/"disk/out")) == 40
        counts = Counter(r["input"] for r in records(tmp_path/"disk/out") if "outputs" in r)
        assert set(counts.values()) == {1} and len(counts) == 40
    finally: subprocess.run(["umount", tmp_path/"disk"])


HANGS = """
import os, pathlib, sys
from skysky import waits
waits.SILENCE, pipe, asked, opened = 1, sys.argv.pop(1), [], pathlib.Path.open
def wait(self, *args, **kwargs):  # its second opening, by a thread, gets no answer
    if self.name == "c.png": asked.append(1)
    return opened(pathlib.Path(pipe) if len(asked) == 2 and self.name == "c.png" else self, *args, **kwargs)
pathlib.Path.open = wait
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pipe with a name")
def test_a_drive_that_does_not_answer(tmp_path, model):
    for name in "abcde": small(tmp_path/f"in/{name}.png")
    os.mkfifo(tmp_path/"pipe")
    args = ("mask", "in", "--resume", "--model", model)
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {HANGS}\n{SKYSKY[-1]}"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path/"pipe", *map(str, args)], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if "waiting for" in line: break
    assert "no picture done for 1 s: waiting for" in line and "/in/" in line
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; what is written is whole" in err, err
    assert "a_mask.png" in files(tmp_path/"in_sky"), "what was done before"
    for name in files(tmp_path/"in_sky"):
        with Image.open(tmp_path/"in_sky"/name) as im: im.load()
    run = skysky(*args, cwd=tmp_path)
    assert run.returncode == 0 and len(files(tmp_path/"in_sky")) == 5
    assert set(Counter(r["input"] for r in records(tmp_path/"in_sky")).values()) == {1}


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's rights away as Linux does")
def test_a_user_who_is_not_root(tmp_path, model):
    for name in ("a", "b", "secret"): small(tmp_path/f"in/{name}.png")
    (tmp_path/"in/secret.png").chmod(0)
    (tmp_path/"in_sky").mkdir(mode=0o555)
    def run(*more): return skysky("mask", "in", "--model", model, *more, cwd=tmp_path, preexec_fn=as_anybody)
    refused = run()
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "cannot write into" in refused.stderr
    (tmp_path/"in_sky").chmod(0o755)
    first = run()
    assert first.returncode == 1 and "2 of 3 done" in first.stdout and "1 failed (1 permission)" in first.stdout, first
    (tmp_path/"in/secret.png").chmod(0o644)
    assert "1 of 3 done" in run("--resume").stdout
    (tmp_path/"in_sky"/MANIFEST).chmod(0o444)
    refused = run("--resume")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "Permission denied" in refused.stderr


FAULT = """
import os, signal, cv2
decode = cv2.imdecode
def imdecode(data, flags):
    if b"faulty" in data.tobytes(): os.kill(os.getpid(), signal.SIGSEGV)
    return decode(data, flags)
cv2.imdecode = imdecode
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGSEGV")
def test_a_picture_that_ends_its_decoder_is_left_out_by_the_next_run(tmp_path, model):
    (tmp_path/"site").mkdir()
    (tmp_path/"site/sitecustomize.py").write_text(FAULT)  # every process has this fault
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path/"site"), *filter(None, sys.path)])}
    for i in range(30): small(tmp_path/f"in/{i:02}.jpg", (i + 1)/31)
    bad = tmp_path/"in/12.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:2] + b"\xff\xfe\0\x08faulty" + whole[2:])
    def run(*more): return skysky("mask", "in", "--model", model, *more, cwd=tmp_path, env=env)
    first = run("-q")
    left = 29 - len(records(tmp_path/"in_sky"))
    assert first.returncode == -signal.SIGSEGV and left
    for more, done in (["--resume"], left), (["--resume"], 0), ([], 29), (["--retry"], 0):
        again = run(*more)
        assert again.returncode == 1 and f"{done} of 30 done" in again.stdout and "1 failed (1 crash)" in again.stdout
        assert again.stderr.count("\n") == 1 and "12.jpg: ends the process that decodes it (SIGSEGV)" in again.stderr
        assert len(files(tmp_path/"in_sky")) == 29
    assert skysky("status", "in_sky", cwd=tmp_path).stdout.endswith("29 done, 1 failed, 0 stale\n")
    bad.write_bytes(whole)
    assert "1 of 30 done" in run("--resume").stdout and run("--resume").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGSEGV")
def test_a_video_that_ends_its_decoder_costs_itself(tmp_path, model):
    (tmp_path/"site").mkdir()
    (tmp_path/"site/sitecustomize.py").write_text("""
import os, signal, av
opened = av.open
def open(file, *args, **kwargs):
    if str(file).endswith("b.mp4"): os.kill(os.getpid(), signal.SIGSEGV)
    return opened(file, *args, **kwargs)
av.open = open
""")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path/"site"), *filter(None, sys.path)])}
    for name in "abc": film(tmp_path/f"in/{name}.mp4", 3)
    for there in ["a_sky.mp4"], ["a_sky.mp4", "c_sky.mp4"]:
        run = skysky("video", "in", "--resume", "--model", model, "-q", cwd=tmp_path, env=env)
        assert run.returncode == -signal.SIGSEGV and files(tmp_path/"in_sky") == there, run


# Hostile input

NAMES = st.binary(min_size=1, max_size=60).filter(lambda b: not {0, 47} & set(b) and b[:1] != b".")


@FUZZ
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True), rest=st.binary(max_size=40))
def test_any_name_can_stand_in_a_list_and_be_a_picture(seg, names, rest):
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(os.path.realpath(tmp))
        template = small(root/"template.png").read_bytes()
        paths = [os.fsencode(root/"in") + b"/" + name + b".png" for name in names]
        (root/"in").mkdir()
        for path in paths: Path(os.fsdecode(path)).write_bytes(template)
        (root/"nulls").write_bytes(b"\0".join(paths))
        base, found = find_sources([f"@{root}/nulls"], null=True)
        assert [os.fsencode(base/name) for name in found] == paths
        counts = mask_folder([f"@{root}/nulls"], root/"out", seg, null=True)
        assert counts["done"] == len(paths) == len(files(root/"out"))
        manifest, states = job_status(root/"out")
        with manifest: assert [state for _, state, _ in states] == ["done"]*len(paths)
        assert mask_folder(root/"in", root/"out", seg, redo="changed")["skipped"] == len(paths)
        (root/"junk").write_bytes(rest)  # no list at all
        try:
            counts = mask_folder([f"@{root}/junk"], root/"out2", seg)
            assert counts["done"] == 0
        except SkyError as e: assert str(e).isprintable()


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=30)), min_size=1, max_size=6)
KEYS = st.sampled_from("input size mtime sha256 outputs settings row failed why mask file".split())
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(
    ["../in/a.png", "../../../etc/passwd", "/dev/zero", "a_mask.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12)


@pytest.fixture(scope="module")
def finished(seg, tmp_path_factory):
    "A folder whose job is done."
    root = Path(os.path.realpath(tmp_path_factory.mktemp("finished")))
    for name in "abc": small(root/f"in/{name}.png")
    mask_folder(root/"in", root/"out", seg)
    return root, content(root/"out"), (root/"out"/MANIFEST).read_bytes()


def goes_on(finished, seg, manifest):
    "With any bytes as its record a job refuses in one line, or ends with the right outputs; and loses nothing."
    root, want, _ = finished
    (root/"out"/MANIFEST).write_bytes(manifest)
    before = content(root/"in")
    try:
        with Job(root/"in", root/"out", redo="changed") as job: counts = job.run(seg)
        assert counts["done"] + counts["skipped"] + counts["failed"] == 3
        with job_status(root/"out")[0]: list(job_status(root/"out")[1])
    except SkyError as e:
        assert str(e).isprintable()
        assert (root/"out"/MANIFEST).read_bytes() == manifest, "what is none of ours stays as it is"
    assert content(root/"out") == want and content(root/"in") == before


@FUZZ
@given(edits=EDITS)
def test_a_damaged_manifest(finished, seg, edits):
    data = bytearray(finished[2])
    for where, kind, new in edits:
        i = int(where*len(data))
        if kind == 0: data[i:i + len(new)] = new
        elif kind == 1: data[i:i] = new
        elif kind == 2: del data[i:i + len(new)]
        else: del data[i:]
    goes_on(finished, seg, bytes(data))


@FUZZ
@given(lines=st.lists(st.dictionaries(KEYS, VALUES, max_size=9), max_size=5))
def test_a_forged_manifest(finished, seg, lines):
    head, *own = finished[2].splitlines(True)
    forged = b"".join(json.dumps({"input": "../in/a.png"} | line).encode() + b"\n" for line in lines)
    goes_on(finished, seg, head + forged)
    goes_on(finished, seg, head + b"".join(own) + forged)


def test_a_huge_manifest_and_one_of_another_version(finished, seg):
    head, *own = finished[2].splitlines(True)
    goes_on(finished, seg, head + b'{"input": "' + b"x"*5_000_000 + b'"}\n' + b"".join(own))
    goes_on(finished, seg, head.replace(b'"format": 1', b'"format": 2') + b"".join(own))
    goes_on(finished, seg, head + b"[" * 200_000 + b"\n" + b"".join(own)*3000)


def test_links_that_lead_out_of_the_tree(tmp_path, seg):
    mine = small(tmp_path/"mine/x.png").read_bytes()
    (tmp_path/"in").mkdir()
    (tmp_path/"in/x.png").symlink_to("../mine/x.png")
    (tmp_path/"in/y").symlink_to("../mine", target_is_directory=True)
    (tmp_path/"out").mkdir()
    (tmp_path/"out/x_mask.png").symlink_to("../mine/x.png")  # a mask there would replace the picture
    with pytest.raises(SkyError, match="would replace a picture"): Job(tmp_path/"in", tmp_path/"out", overwrite=True)
    (tmp_path/"out/x_mask.png").unlink()
    assert mask_folder(tmp_path/"in", tmp_path/"out", seg)["done"] == 2
    (tmp_path/"out/x_mask.png").unlink()
    (tmp_path/"out/x_mask.png").symlink_to("../mine/x.png")  # later, in a folder that is known
    told = []
    assert mask_folder(tmp_path/"in", tmp_path/"out", seg, told.append)["failed"] == 1
    assert "would replace a picture" in next(o.why for o in told if o.state == "failed")
    assert (tmp_path/"mine/x.png").read_bytes() == mine
    (tmp_path/"out"/MANIFEST).unlink()
    (tmp_path/"out"/MANIFEST).symlink_to("../mine/x.png")
    with pytest.raises(SkyError, match="no regular file; move it away"): Job(tmp_path/"in", tmp_path/"out")
    assert (tmp_path/"mine/x.png").read_bytes() == mine
