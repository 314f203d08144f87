"`skysky video` as a user runs it: what goes in comes out, bad files, interrupts, exit statuses."
import csv
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from skysky.core import SkyError
from skysky.video import VideoReader, VideoWriter, segment_video, video_frame

SKYSKY = [sys.executable, "-c", "from skysky.cli import main; main(prog_name='skysky')"]
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # else a background job's


def skysky(*args, cwd):
    return subprocess.run([*SKYSKY, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=120)


def view(i, width=160, height=90):
    "Blue above, grey below, a white post that moves; top and left can be told apart."
    img = np.full((height, width, 3), 110, np.uint8)
    img[:height//2] = (80, 140, 220)
    img[:, (4*i)%width:(4*i)%width + 8] = 240
    return img


def make(path, times=range(20), unit=Fraction(1, 25), size=(160, 90), rotation=0, sound=None, codec="libx264",
         aspect=None, options=None, chapters=False):
    "A video with a picture at each of `times`, and sound beside it in codec `sound`."
    with av.open(str(path), "w", options=options or {}) as c:
        video = c.add_stream(codec, 25, width=size[0], height=size[1], time_base=unit)
        video.codec_context.gop_size = 5
        if aspect: video.codec_context.sample_aspect_ratio = aspect
        if rotation: video.set_display_rotation(rotation)
        c.metadata["title"] = "a post"
        if chapters: c.set_chapters([dict(id=1, start=0, end=50, time_base=Fraction(1, 100), metadata={"title": "a"})])
        audio = c.add_stream(sound, 48_000) if sound else None
        if audio: audio.metadata["language"] = "fra"
        for i, t in enumerate(times):
            frame = av.VideoFrame.from_ndarray(view(i, *size)).reformat(format="yuv420p")
            frame.pts, frame.time_base = t, unit
            c.mux(video.encode(frame))
        for i in range(round(48_000*times[-1]*unit/1000) if audio else 0):
            form, layout = audio.codec_context.format, "stereo"
            samples = np.zeros((2, 1000) if form.is_planar else (1, 2000), "f4" if "flt" in form.name else "i2")
            sine = av.AudioFrame.from_ndarray(samples, form.name, layout)
            sine.sample_rate, sine.pts, sine.time_base = 48_000, 1000*i, Fraction(1, 48_000)
            c.mux(audio.encode(sine))
        c.mux(video.encode())
        if audio: c.mux(audio.encode())
    return path


def stamps(path, kind):
    "The times of the packets of the first stream of a kind, in order."
    with av.open(str(path)) as c:
        return sorted(p.pts*p.time_base for p in c.demux(**{kind: 0}) if p.pts is not None)


def end(path):
    "When the last picture is over, s."
    with av.open(str(path)) as c: return max((p.pts + p.duration)*p.time_base for p in c.demux(video=0) if p.size)


def head(path):
    with av.open(str(path)) as c:
        s = c.streams.video[0]
        return {"codec": s.codec_context.name, "format": s.codec_context.format.name, "aspect": s.sample_aspect_ratio,
                "space": s.codec_context.colorspace, "title": c.metadata.get("title"), "duration": c.duration/1e6,
                "chapters": [(x["start"]*x["time_base"], x["metadata"]["title"]) for x in c.chapters()],
                "size": (s.codec_context.width, s.codec_context.height),
                "language": [a.metadata.get("language") for a in c.streams.audio]}


def files(folder): return sorted(p.name for p in folder.iterdir())


def test_every_frame_its_time_and_the_sound_come_out_as_they_went_in(tmp_path):
    times = [0, 900, 1800, 5400, 6300, 12600, 13500, 14400, 15300, 20000]  # a variable frame rate, in 1/9000 s
    make(tmp_path/"in.mp4", times, Fraction(1, 9000), sound="aac", aspect=Fraction(4, 3), chapters=True)
    run = skysky("video", "in.mp4", "--csv", "in.csv", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert files(tmp_path) == ["in.csv", "in.mp4", "in_sky.mp4"]
    before, after = tmp_path/"in.mp4", tmp_path/"in_sky.mp4"
    assert stamps(after, "video") == stamps(before, "video") == [Fraction(t, 9000) for t in times]
    assert stamps(after, "audio") == stamps(before, "audio")
    assert {**head(after), "duration": 0, "language": 0} == {**head(before), "duration": 0, "language": 0}
    assert head(after)["language"] == ["fra"]
    assert end(after) == end(before)  # a container's own figure follows the order of decoding
    rows = list(csv.DictReader((tmp_path/"in.csv").open()))
    assert [float(r["time"]) for r in rows] == [round(t/9000, 6) for t in times]
    assert all(.8 < float(r["confidence"]) <= 1 and float(r["ms"]) > 0 for r in rows)
    data = after.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index stands at the front"


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_clips_come_out_upright(tmp_path, rotation):
    make(tmp_path/"in.mp4", range(4), rotation=rotation)
    with VideoReader(tmp_path/"in.mp4") as reader:
        frames = list(reader)
        assert (reader.width, reader.height) == ((160, 90) if rotation == 180 else (90, 160))
    upright = np.rot90(view(0), {90: 1, 180: 2, -90: 3}[rotation])
    assert np.abs(frames[0].img.astype(int) - upright).mean() < 8
    segment_video(tmp_path/"in.mp4", tmp_path/"out.mp4", save="matte")
    with VideoReader(tmp_path/"out.mp4") as reader:
        assert (reader.rotation, reader.width, reader.height) == (0, *upright.shape[1::-1])


@pytest.mark.parametrize("size", [(161, 91), (160, 91), (35, 161)])
def test_odd_sizes_become_even(tmp_path, size):
    make(tmp_path/"in.mkv", range(3), size=size, codec="ffv1")
    segment_video(tmp_path/"in.mkv", tmp_path/"out.mp4")
    assert head(tmp_path/"out.mp4")["size"] == tuple(s + s%2 for s in size)
    assert len(stamps(tmp_path/"out.mp4", "video")) == 3


def test_one_frame(tmp_path):
    make(tmp_path/"in.mp4", [0])
    assert skysky("video", "in.mp4", cwd=tmp_path).returncode == 0
    assert stamps(tmp_path/"in_sky.mp4", "video") == [0]


def test_sound_that_the_new_file_cannot_hold_is_left_out_and_said(tmp_path):
    make(tmp_path/"in.mp4", sound="aac")
    run = skysky("video", "in.mp4", "--save", "cutout", "-q", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr == "skysky: sound left out: .webm holds no aac\n"
    assert head(tmp_path/"in_sky.webm")["codec"] == "vp9" and not head(tmp_path/"in_sky.webm")["language"]


def test_table_only(tmp_path):
    make(tmp_path/"in.mp4")
    assert skysky("video", "in.mp4", "--csv-only", cwd=tmp_path).returncode == 0
    assert files(tmp_path) == ["in.mp4", "in_sky.csv"]


@pytest.mark.parametrize("name, data, why", [
    ("empty.mp4", b"", "empty"), ("none.mp4", None, "no such file"),
    ("text.mp4", b"Dear diary, the sky was blue.\n"*50, "no video, or damaged"),
    ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "no video, or damaged")])
def test_what_is_no_video_gets_one_line(tmp_path, name, data, why):
    if data is not None: (tmp_path/name).write_bytes(data)
    run = skysky("video", name, "--csv", "x.csv", cwd=tmp_path)
    assert run.returncode == 1 and why in run.stderr and run.stderr.startswith(f"skysky: {name}: ")
    assert run.stderr.count("\n") == 1
    assert files(tmp_path) == ([name] if data is not None else [])


def test_sound_only(tmp_path):
    with av.open(str(tmp_path/"in.m4a"), "w") as c:
        audio = c.add_stream("aac", 48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), "fltp", "stereo")
        frame.sample_rate = 48_000
        c.mux(audio.encode(frame))
        c.mux(audio.encode())
    run = skysky("video", "in.m4a", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (1, "skysky: in.m4a: no pictures in it, only sound\n")
    assert files(tmp_path) == ["in.m4a"]


@pytest.mark.parametrize("suffix, share", [(".mp4", .6), (".mkv", .5), (".avi", .8)])
def test_a_broken_tail_costs_the_tail(tmp_path, suffix, share):
    "Every frame before the break is written, one line says it is not all, and so does the exit status."
    fast = {"movflags": "+faststart"} if suffix == ".mp4" else {}
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    whole = make(tmp_path/f"whole{suffix}", range(60), options=fast, codec=codec)
    (tmp_path/f"in{suffix}").write_bytes(whole.read_bytes()[:int(whole.stat().st_size*share)])
    run = skysky("video", f"in{suffix}", "-q", cwd=tmp_path)
    assert run.returncode == 3
    assert run.stderr.startswith(f"skysky: in{suffix}: damaged or cut off; ") and run.stderr.count("\n") == 1
    left = stamps(tmp_path/"in_sky.mp4", "video")
    assert 5 < len(left) < 60 and left == stamps(whole, "video")[:len(left)]


def test_cut_off_before_the_index(tmp_path):
    whole = make(tmp_path/"whole.mp4").read_bytes()
    (tmp_path/"in.mp4").write_bytes(whole[:len(whole)//2])
    run = skysky("video", "in.mp4", cwd=tmp_path)
    assert run.returncode == 1 and "damaged" in run.stderr and run.stderr.count("\n") == 1
    assert files(tmp_path) == ["in.mp4", "whole.mp4"]


def test_damage_in_the_middle(tmp_path):
    make(tmp_path/"in.mp4", range(60))
    data = bytearray((tmp_path/"in.mp4").read_bytes())
    start = data.index(b"mdat") + 2000
    data[start:start + 300] = bytes(300)
    (tmp_path/"in.mp4").write_bytes(data)
    with VideoReader(tmp_path/"in.mp4") as reader: frames = list(reader)
    assert len(frames) > 40


def test_the_source_is_never_written_to(tmp_path):
    data = make(tmp_path/"in.mp4").read_bytes()
    (tmp_path/"link.mp4").symlink_to("in.mp4")
    for args in (["-o", "in.mp4"], ["-o", "link.mp4"], ["--csv", "in.mp4"]):
        run = skysky("video", "in.mp4", *args, cwd=tmp_path)
        assert run.returncode == 1 and "never written to" in run.stderr
    assert (tmp_path/"in.mp4").read_bytes() == data and files(tmp_path) == ["in.mp4", "link.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_leaves_the_earlier_file_and_nothing_else(tmp_path):
    make(tmp_path/"in.mp4", range(1000), size=(320, 180))
    (tmp_path/"in_sky.mp4").write_text("earlier")
    command = [sys.executable, "-c", INTERRUPTIBLE + SKYSKY[2], "video", "in.mp4", "--csv", "x.csv"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob(".in_sky-*")) and time.monotonic() < end: time.sleep(.05)
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=60)
    finally: run.kill()
    assert (run.returncode, error.splitlines()[-1]) == (130, "skysky: interrupted; what is written is whole")
    assert files(tmp_path) == ["in.mp4", "in_sky.mp4"] and (tmp_path/"in_sky.mp4").read_text() == "earlier"


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    make(tmp_path/"in.mp4", range(2))
    (tmp_path/"file").touch()
    with pytest.raises(SkyError, match="cannot write"): segment_video(tmp_path/"in.mp4", tmp_path/"file"/"out.mp4")


def test_pictures_without_stamps_of_their_own(tmp_path):
    "AVI notes when a picture is decoded, a bare stream of H.264 nothing: the rate of the file tells the rest."
    for name in ("in.avi", "in.h264"):
        make(tmp_path/name, range(12))
        with VideoReader(tmp_path/name) as reader: assert [f.time for f in reader] == [i/25 for i in range(12)]


def test_stamps_that_do_not_rise_are_made_to(tmp_path):
    with VideoWriter(tmp_path/"out.mp4") as video:
        for pts in (0, 3, 3, 2, 7): video.write(video_frame(view(pts), pts, Fraction(1, 25)))
    assert stamps(tmp_path/"out.mp4", "video") == [Fraction(i, 25) for i in (0, 3, 4, 5, 7)]


def test_without_a_frame_nothing_is_written(tmp_path):
    with pytest.raises(SkyError, match="no frame came"):
        with VideoWriter(tmp_path/"out.mp4"): pass
    assert files(tmp_path) == []


def test_clips_given_by_hand():
    "The videos beside the project, where they are."
    clips = sorted((Path(__file__).parents[2]/"shared"/"videos").glob("*.mp4"))
    if not clips: pytest.skip("not here")
    for clip in clips:
        with VideoReader(clip) as reader:
            frames = sum(1 for _ in reader)
            assert (frames, reader.broken) == (reader.frames, "")
