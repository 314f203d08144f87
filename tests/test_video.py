"`skysky video` as a user runs it: what goes in comes out, bad files, interrupts, exit statuses."
import csv
import io
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from skysky import segment_video
from skysky.core import MARK, SkyError, is_ours
from skysky.frames import video_frame
from skysky.read_video import VideoReader
from skysky.video import video_segmenter
from skysky.write_video import VideoWriter

SKYSKY = [sys.executable, "-c", "from skysky.cli import main; main(prog_name='skysky')"]
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # else a background job's


def skysky(*args, cwd):
    return subprocess.run([*SKYSKY, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=600)


def view(i, width=160, height=90):
    "Blue above, grey below, a white post that moves; top and left can be told apart."
    img = np.full((height, width, 3), 110, np.uint8)
    img[:height//2] = (80, 140, 220)
    img[:, (4*i)%width:(4*i)%width + 8] = 240
    return img


def make(path, times=range(20), unit=Fraction(1, 25), size=(160, 90), rotation=0, mirrored=False, sound=None,
         codec="libx264", aspect=None, options=None, codec_options=None, chapters=False, metadata=None, timecode=None,
         sound_from=0, pixels="yuv420p", colors=None, channels="stereo"):
    "A video with a picture at each of `times`, and sound beside it in codec `sound`."
    with av.open(str(path), "w", options=options or {}) as c:
        video = c.add_stream(codec, 25, codec_options or {}, width=size[0], height=size[1], time_base=unit)
        video.codec_context.gop_size = 5
        video.codec_context.pix_fmt = pixels
        for name, value in (colors or {}).items(): setattr(video.codec_context, name, value)
        if aspect: video.codec_context.sample_aspect_ratio = aspect
        if rotation or mirrored: video.set_display_rotation(rotation, hflip=mirrored)
        if timecode: video.metadata["timecode"] = timecode
        c.metadata.update({"title": "a post"} | (metadata or {}))
        if chapters: c.set_chapters([dict(id=1, start=0, end=50, time_base=Fraction(1, 100), metadata={"title": "a"})])
        audio = c.add_stream(sound, 48_000, layout=channels) if sound else None
        if audio: audio.metadata["language"] = "fra"
        for i, t in enumerate(times):
            frame = av.VideoFrame.from_ndarray(view(i, *size)).reformat(format=pixels)
            for name, value in (colors or {}).items(): setattr(frame, name, value)
            frame.pts, frame.time_base = t, unit
            c.mux(video.encode(frame))
        for i in range(round(48_000*times[-1]*unit/1000) if audio else 0):
            form, n = audio.codec_context.format, audio.codec_context.channels
            kind = {"flt": "f4", "s16": "i2", "s32": "i4", "u8": "u1"}[form.name.rstrip("p")]
            samples = np.zeros((n, 1000) if form.is_planar else (1, 1000*n), kind)
            sine = av.AudioFrame.from_ndarray(samples, form.name, channels)
            sine.sample_rate, sine.pts, sine.time_base = 48_000, 1000*i + sound_from, Fraction(1, 48_000)
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


def streams(path):
    "What is in a file: kind and codec of every stream."
    with av.open(str(path)) as c:
        return [(s.type, s.codec_context.name if s.codec_context else s.name) for s in c.streams]


@cache
def segmenter(): return video_segmenter()


def painted(source, out, save="overlay", table=None):
    "`segment_video` with one model for all tests."
    return segment_video(source, out, segmenter(), save, table=table)


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
    with (tmp_path/"in.csv").open() as f: rows = list(csv.DictReader(f))
    assert [float(r["time"]) for r in rows] == [round(t/9000, 6) for t in times]
    assert list(rows[0])[-1] == MARK and is_ours(tmp_path/"in.csv")
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
    painted(tmp_path/"in.mp4", tmp_path/"out.mp4", save="matte")
    with VideoReader(tmp_path/"out.mp4") as reader:
        assert (reader.rotation, reader.width, reader.height) == (0, *upright.shape[1::-1])


@pytest.mark.parametrize("size", [(161, 91), (160, 91), (35, 161)])
def test_odd_sizes_become_even(tmp_path, size):
    make(tmp_path/"in.mkv", range(3), size=size, codec="ffv1")
    painted(tmp_path/"in.mkv", tmp_path/"out.mp4")
    assert head(tmp_path/"out.mp4")["size"] == tuple(s + s%2 for s in size)
    assert len(stamps(tmp_path/"out.mp4", "video")) == 3


def test_one_frame(tmp_path):
    make(tmp_path/"in.mp4", [0])
    assert skysky("video", "in.mp4", cwd=tmp_path).returncode == 0
    assert stamps(tmp_path/"in_sky.mp4", "video") == [0]


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
    assert len(frames) > 40 and reader.broken


@pytest.mark.parametrize("suffix, codec", [(".mp4", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4"),
                                           (".mpg", "mpeg2video")])
def test_frames_that_the_decoder_patches_up_are_said(tmp_path, suffix, codec):
    "Without a frame missing: half of a picture is overwritten, and the decoder fills it from the one before."
    path = make(tmp_path/f"in{suffix}", range(30), size=(320, 180), codec=codec)
    with VideoReader(path) as reader: assert (len(list(reader)), reader.broken) == (30, "")
    with av.open(str(path)) as c: picture = sorted((bytes(p) for p in c.demux(video=0)), key=len)[-2]
    data, n = path.read_bytes(), len(picture)
    at = data.index(picture[n//2:n//2 + 16]) if suffix != ".mpg" else data.index(picture[200:216])
    half = bytes(np.random.default_rng(0).integers(1, 255, min(n//4, 500), np.uint8))
    path.write_bytes(data[:at] + half + data[at + len(half):])
    run = skysky("video", path.name, "-q", "--csv-only", cwd=tmp_path)
    assert run.returncode == 3 and run.stderr.startswith(f"skysky: {path.name}: damaged or cut off; ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("codec, options", [("libx264", {}), ("libx264", {"x264-params": "open-gop=1:bframes=3"}),
                                            ("libx264", {"x264-params": "intra-refresh=1"}),
                                            ("mpeg2video", {"bf": "2"})])
def test_a_recording_that_begins_in_the_middle_is_not_damaged(tmp_path, codec, options):
    data = make(tmp_path/"whole.ts", range(60), codec=codec, codec_options=options).read_bytes()
    for start in range(188*10, 188*80, 188*12):
        (tmp_path/"in.ts").write_bytes(data[start:])
        with VideoReader(tmp_path/"in.ts") as reader: assert len(list(reader)) > 10 and reader.broken == "", start


def test_a_playlist_reads_no_other_file(tmp_path):
    video = make(tmp_path/"own.ts", range(25))
    for name, text in (("a.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
                       ("a.ffconcat", "ffconcat version 1.0\nfile own.ts\n"),
                       ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 9 RTP/AVP 33\n"),
                       ("a.mpd", f"<MPD><Period><BaseURL>{video}</BaseURL></Period></MPD>")):
        for file in (tmp_path/name, tmp_path/"a.mp4", tmp_path/"a.ts"):
            file.write_text(text)
            with pytest.raises(SkyError, match="no video, or damaged"): VideoReader(file)
    for i in range(3): Image.fromarray(view(i)).save(tmp_path/f"{i}.png")
    (tmp_path/"%d.png").write_bytes((tmp_path/"0.png").read_bytes())
    with pytest.raises(SkyError, match="no video, or damaged"): VideoReader(tmp_path/"%d.png")


def test_large_frames_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setenv("SKYSKY_MAX_FRAME_PIXELS", "14399")
    why = r"frames of 160×90 px are more than 0.014399 million; scale .* SKYSKY_MAX_FRAME_PIXELS"
    views = [Image.fromarray(view(i)) for i in range(3)]
    views[0].save(tmp_path/"in.webp", save_all=True, append_images=views[1:])
    for name in ("in.mp4", "in.ts", "in.flv", "in.webp"):
        if name != "in.webp": make(tmp_path/name, range(25))
        with pytest.raises(SkyError, match=why): VideoReader(tmp_path/name)
    monkeypatch.setenv("SKYSKY_MAX_FRAME_PIXELS", "5000")
    for name, codec in (("in.webm", "libvpx-vp9"), ("in.gif", "gif"), ("in.mjpeg", "mjpeg")):  # it is in the frames
        make(tmp_path/name, range(3), codec=codec, pixels={"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p"))
        with pytest.raises(SkyError, match="no frame can be decoded, or they are more than 0.005 million px"):
            VideoReader(tmp_path/name)
    monkeypatch.setenv("SKYSKY_MAX_FRAME_PIXELS", "14400")
    with VideoReader(tmp_path/"in.mp4") as reader: assert len(list(reader)) == 25
    small, large = (make(tmp_path/f"{w}.ts", range(12), size=(w, 90)).read_bytes() for w in (160, 640))
    (tmp_path/"grows.ts").write_bytes(small + large)
    with VideoReader(tmp_path/"grows.ts") as reader: assert 5 < len(list(reader)) <= 12 and reader.broken


def test_sound_of_an_unknown_codec_is_left_out_and_said(tmp_path):
    data = make(tmp_path/"in.mkv", range(12), sound="aac").read_bytes()
    (tmp_path/"in.mkv").write_bytes(data.replace(b"A_AAC", b"A_XYZ"))
    for suffix in (".mp4", ".mov", ".webm"):
        result = painted(tmp_path/"in.mkv", tmp_path/f"out{suffix}")
        assert (result.frames, result.left_out) == (12, [f"sound left out: {suffix} holds no audio of this kind"])


def test_an_address_is_named_as_it_was_given(tmp_path):
    for address, shown in (("http://127.0.0.1:9/a/b.mp4",)*2, ("https://me:secret@x.org/a.mp4", "https://***@x.org/a.mp4")):
        run = skysky("video", address, cwd=tmp_path)
        assert (run.returncode, run.stderr) == (1, f"skysky: {shown}: an address; download the video, or watch it: "
                                                   "skysky camera ADDRESS\n")
    assert files(tmp_path) == []


def test_the_source_is_never_written_to(tmp_path):
    data = make(tmp_path/"in.mp4").read_bytes()
    (tmp_path/"link.mp4").symlink_to("in.mp4")
    for args in (["-o", "in.mp4"], ["-o", "link.mp4"], ["--csv", "in.mp4"]):
        run = skysky("video", "in.mp4", *args, cwd=tmp_path)
        assert run.returncode == 1 and "would replace" in run.stderr
    assert (tmp_path/"in.mp4").read_bytes() == data and files(tmp_path) == ["in.mp4", "link.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_leaves_the_earlier_file_and_nothing_else(tmp_path):
    make(tmp_path/"in.mp4", range(1000), size=(320, 180))
    (tmp_path/"in_sky.mp4").write_text(f"earlier, {MARK}")
    command = [sys.executable, "-c", INTERRUPTIBLE + SKYSKY[2], "video", "in.mp4", "--csv", "x.csv"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 300
        while not list(tmp_path.glob(".skysky-*/*.mp4")) and time.monotonic() < end: time.sleep(.05)
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=300)
    finally: run.kill()
    assert (run.returncode, error.splitlines()[-1]) == (130, "skysky: interrupted; what is written is whole")
    assert files(tmp_path) == ["in.mp4", "in_sky.mp4"] and (tmp_path/"in_sky.mp4").read_text().startswith("earlier")


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    make(tmp_path/"in.mp4", range(2))
    (tmp_path/"file").touch()
    with pytest.raises(SkyError, match="cannot write"): painted(tmp_path/"in.mp4", tmp_path/"file"/"out.mp4")


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


@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_mirrored_clips_come_out_as_they_are_shown(tmp_path, rotation):
    make(tmp_path/"in.mp4", range(4), rotation=rotation, mirrored=True)
    with VideoReader(tmp_path/"in.mp4") as reader: frames = list(reader)
    shown = np.rot90(view(0), {0: 0, 90: 1, 180: 2, -90: 3}[rotation])[:, ::-1]
    assert frames[0].img.shape == shown.shape and np.abs(frames[0].img.astype(int) - shown).mean() < 8
    painted(tmp_path/"in.mp4", tmp_path/"out.mkv")
    with VideoReader(tmp_path/"out.mkv") as reader: again = next(iter(reader)).img
    grey = shown[..., 0] == shown[..., 2]
    assert np.abs(again[grey].astype(int) - shown[grey]).mean() < 20


@pytest.mark.parametrize("suffix, sound, channels, to, becomes", [
    (".avi", "pcm_s16le", "stereo", ".mp4", "aac"), (".mkv", "pcm_s16le", "stereo", ".mp4", "aac"),
    (".mkv", "pcm_s16le", "5.1", ".mp4", "aac"), (".mkv", "pcm_s24le", "stereo", ".mkv", "pcm_s24le"),
    (".mxf", "pcm_s16le", "stereo", ".mp4", "aac"), (".mkv", "flac", "stereo", ".mov", "aac"),
    (".mkv", "libopus", "stereo", ".mov", "aac"), (".avi", "pcm_u8", "mono", ".webm", "opus"),
    (".mp4", "aac", "stereo", ".webm", "opus"), (".mkv", "pcm_s16le", "7.1", ".webm", "opus"),
    (".mkv", "pcm_s16le", "quad", ".mp4", "aac"), (".mkv", "flac", "stereo", ".mp4", "flac")])
def test_sound_is_kept_whatever_it_is(tmp_path, suffix, sound, channels, to, becomes):
    codec = "mpeg2video" if suffix == ".mxf" else "mjpeg" if suffix == ".avi" else "libx264"
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    source = make(tmp_path/f"in{suffix}", range(50), sound=sound, channels=channels, codec=codec, pixels=pixels)
    result = painted(source, tmp_path/f"out{to}", table=tmp_path/"out.csv")
    assert (result.frames, result.broken, result.left_out) == (50 - (suffix == ".mxf"), "", [])  # PyAV's lacks the last
    with av.open(str(tmp_path/f"out{to}")) as c:
        assert c.streams.audio[0].codec_context.name == becomes
        assert c.streams.audio[0].channels == av.AudioLayout(channels).nb_channels
        samples = sum(f.samples for f in c.decode(audio=0))/c.streams.audio[0].rate
    assert abs(samples - 2) < .06 and abs(stamps(tmp_path/f"out{to}", "audio")[0]) < .03


def test_sound_that_nothing_can_hold_is_left_out_and_said(tmp_path):
    make(tmp_path/"in.mkv", sound="pcm_s16le", channels="hexadecagonal")
    run = skysky("video", "in.mkv", "-q", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr == "skysky: sound left out: .mp4 holds no pcm_s16le\n"
    assert streams(tmp_path/"in_sky.mp4") == [("video", "h264")]


def test_dropped_frames_of_an_avi_are_no_damage(tmp_path):
    times = [*range(0, 60, 3), 61, 62, 63]
    make(tmp_path/"in.avi", times, codec="mjpeg", pixels="yuvj420p")
    run = skysky("video", "in.avi", "-q", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert stamps(tmp_path/"in_sky.mp4", "video") == [Fraction(t, 25) for t in times]


def test_a_clip_whose_end_an_edit_list_hides_is_no_damage(tmp_path):
    data = bytearray(make(tmp_path/"in.mp4", range(50), codec_options={"bf": "0"}).read_bytes())
    at = data.index(b"elst") + 12
    data[at:at + 4] = (int.from_bytes(data[at:at + 4], "big")//2).to_bytes(4, "big")
    (tmp_path/"in.mp4").write_bytes(data)
    with VideoReader(tmp_path/"in.mp4") as reader: assert len(list(reader)) == 25 and reader.broken == ""


def test_animated_webp(tmp_path):
    views = [Image.fromarray(view(i)) for i in range(6)]
    views[0].save(tmp_path/"in.webp", save_all=True, append_images=views[1:], duration=[100, 100, 300, 100, 100, 100],
                  lossless=True)
    with VideoReader(tmp_path/"in.webp") as reader:
        frames = list(reader)
        assert reader.broken == "" and [f.time for f in frames] == [0, .1, .2, .5, .6, .7]
    assert np.abs(frames[3].img.astype(int) - view(3)).mean() < 8


@pytest.mark.parametrize("name, offset", [("in.ts", 50_000), ("in.mkv", 10), ("in.ts", 95_440)])
def test_time_begins_at_zero(tmp_path, name, offset):
    "Whatever the clock showed that the file was made by; 95,440 s is before the wrap of a transport stream's 33 bits."
    make(tmp_path/name, range(50), sound="aac", sound_from=4800, options={"output_ts_offset": str(offset)})
    run = skysky("video", name, "--csv", "t.csv", "-q", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    with (tmp_path/"t.csv").open() as f: times = [float(r["time"]) for r in csv.DictReader(f)]
    out = tmp_path/"in_sky.mp4"
    assert np.allclose(times, np.arange(50)/25, atol=.002) and times[0] == 0
    assert np.allclose(np.array(stamps(out, "video"), float), np.arange(50)/25, atol=.002)
    was, now = (float(stamps(p, "audio")[0] - stamps(p, "video")[0]) for p in (tmp_path/name, out))
    assert abs(now - was) < .002 and head(out)["duration"] < 2.3


@pytest.mark.parametrize("offsets", [(0, 0), (0, 3000), (3000, 0), (0, 40), (0, 3000, 0)])
def test_jumps_of_the_time_stamps_are_bridged(tmp_path, offsets):
    "Recordings joined by copying them one behind the other."
    parts = [make(tmp_path/f"{i}.ts", range(50), sound="mp2", options={"output_ts_offset": str(offset)}).read_bytes()
             for i, offset in enumerate(offsets)]
    (tmp_path/"in.ts").write_bytes(b"".join(parts))
    result = painted(tmp_path/"in.ts", tmp_path/"out.mp4", table=tmp_path/"t.csv")
    n = 50*len(parts)
    assert (result.frames, result.broken) == (n, "")
    jumps = len(parts) - 1
    assert result.left_out == [f"left out: {jumps} jump{'s'*(jumps > 1)} of the time stamps; time goes on"]
    with (tmp_path/"t.csv").open() as f: times = np.array([float(r["time"]) for r in csv.DictReader(f)])
    assert times[0] == 0 and (np.diff(times) > .035).all() and times[-1] < n/25 + .2*jumps
    assert np.allclose(times, np.array(stamps(tmp_path/"out.mp4", "video"), float), atol=.001)
    for part in range(len(parts)):  # pictures and sound of a part move together
        start = times[50*part]
        sound = np.array(stamps(tmp_path/"out.mp4", "audio"), float)
        assert np.abs(sound - start).min() < .03
    assert (np.diff(sound) > .01).all() and len(sound) > 80*len(parts)


def test_a_jump_in_a_file_without_sound_is_bridged_and_a_long_still_is_none(tmp_path):
    far = [*range(10), *range(2_000_000, 2_000_010)]  # 22 hours
    with VideoReader(make(tmp_path/"far.mkv", far)) as reader: times = [f.time for f in reader]
    assert np.allclose(times, np.arange(20)/25, atol=.002)
    still = [0, 25*300]
    with VideoReader(make(tmp_path/"still.mkv", still)) as reader: assert [f.time for f in reader] == [0, 300]
    song = [0, 25*700]
    with VideoReader(make(tmp_path/"song.mkv", song, sound="pcm_u8")) as reader:
        assert [f.time for f in reader] == [0, 700]


def test_tags_of_place_and_camera_and_the_timecode_are_kept(tmp_path):
    tags = {"com.apple.quicktime.location.ISO6709": "+48.1373+011.5754/", "com.apple.quicktime.make": "Apple",
            "com.apple.quicktime.model": "iPhone", "comment": "mine", "creation_time": "2024-05-01T10:00:00.000000Z"}
    make(tmp_path/"in.mov", metadata=tags, timecode="01:02:03:04", options={"movflags": "use_metadata_tags"})
    for suffix in (".mp4", ".mov", ".mkv", ".webm"):
        result = painted(tmp_path/"in.mov", tmp_path/f"out{suffix}")
        assert result.left_out == []
        with av.open(str(tmp_path/f"out{suffix}")) as c:
            found = {k.lower(): v for k, v in (c.metadata | c.streams.video[0].metadata).items()}
        assert {k: found.get(k.lower()) for k in tags} == tags
        assert (found["title"], found["timecode"]) == ("a post", "01:02:03:04")


def remux(source, path, more):
    "A copy of a file, to which `more` adds streams: a function of the new container that returns packets for them."
    with av.open(str(source)) as i, av.open(str(path), "w") as o:
        new = [o.add_stream_from_template(s, opaque=True) for s in i.streams]
        packets = more(o)
        for p in i.demux():
            if p.dts is None: continue
            p.stream = new[p.stream.index]
            o.mux_one(p)
        for p in packets: o.mux_one(p)


def jpeg():
    file = io.BytesIO()
    Image.fromarray(view(0)).save(file, "jpeg")
    return file.getvalue()


def add_subtitles(container):
    text = "1\n00:00:00,200 --> 00:00:00,600\nsky\n\n2\n00:00:01,000 --> 00:00:01,500\nwide\n"
    with av.open(io.BytesIO(text.encode()), format="srt") as srt:
        stream = container.add_stream_from_template(srt.streams[0], opaque=True)
        packets = [p for p in srt.demux() if p.size]
    for p in packets: p.stream = stream
    return packets


def test_subtitles_become_those_of_the_new_file(tmp_path):
    remux(make(tmp_path/"plain.mkv", range(50), codec_options={"bf": "0"}), tmp_path/"in.mkv", add_subtitles)
    for suffix, codec in ((".mp4", "mov_text"), (".mov", "mov_text"), (".mkv", "srt"), (".webm", "webvtt")):
        assert painted(tmp_path/"in.mkv", tmp_path/f"out{suffix}").left_out == []
        assert streams(tmp_path/f"out{suffix}")[1:] == [("subtitle", codec)]
        with av.open(str(tmp_path/f"out{suffix}")) as c:
            shown = [float(p.pts*p.time_base) for p in c.demux(subtitles=0) if re.search(b"sky|wide", bytes(p))]
        start = float(stamps(tmp_path/"in.mkv", "video")[0])
        assert np.allclose(np.add(shown, start), [.2, 1.0], atol=.002)


def test_covers_fonts_and_a_second_video_are_kept_or_said(tmp_path):
    plain = make(tmp_path/"plain.mkv", range(12), codec_options={"bf": "0"})
    remux(plain, tmp_path/"in.mkv", lambda c: [c.add_attachment("cover.jpg", "image/jpeg", jpeg()),
                                               c.add_attachment("a.ttf", "font/ttf", b"letters")][2:])

    def second(container):
        stream = container.add_stream("mpeg4", 25, {"bf": "2"}, width=160, height=90)
        frames = [av.VideoFrame.from_ndarray(view(i)) for i in range(12)]
        return [p for f in [*frames, None] for p in stream.encode(f)]

    remux(plain, tmp_path/"two.mkv", second)
    font, cover = "an attached file left out: {} holds no a.ttf", "the cover left out: {} holds no mjpeg"
    two = "a second video left out: {} holds no mpeg4"
    for suffix, lost in ((".mkv", []), (".mp4", [font]), (".mov", [cover, font]), (".webm", [cover, font])):
        result = painted(tmp_path/"in.mkv", tmp_path/f"out{suffix}")
        assert result.left_out == [line.format(suffix) for line in lost]
        with av.open(str(tmp_path/f"out{suffix}")) as c:
            covers = [bytes(next(c.demux(s))) for s in c.streams.video if s.disposition & 0x400]
            assert covers == ([] if cover in lost else [jpeg()])
            assert [bytes(s.data) for s in c.streams.attachments] == ([] if font in lost else [b"letters"])
        result = painted(tmp_path/"two.mkv", tmp_path/f"two_sky{suffix}")
        assert result.left_out == [two.format(suffix)]*(suffix == ".webm")
        assert len(stamps(tmp_path/f"two_sky{suffix}", "video")) == 12
        assert streams(tmp_path/f"two_sky{suffix}")[1:] == [("video", "mpeg4")]*(suffix != ".webm")


def test_interlacing_is_kept_where_it_can_be_and_said_where_not(tmp_path):
    make(tmp_path/"in.mp4", codec_options={"x264-params": "bff=1"}, size=(160, 96))
    assert painted(tmp_path/"in.mp4", tmp_path/"out.mp4").left_out == []
    with av.open(str(tmp_path/"out.mp4")) as c:
        frame = next(c.decode(video=0))
        assert frame.interlaced_frame and c.streams.video[0].codec_context.field_order == 3  # AV_FIELD_BB
    assert painted(tmp_path/"in.mp4", tmp_path/"out.webm").left_out == [
        "left out: interlacing; the two fields of a frame are one"]


HDR = {"PQ": 16, "HLG": 18}  # numbers of ITU-T H.273
encoders = av.codecs_available


@pytest.mark.skipif("libx265" not in encoders, reason="PyAV without x265")
@pytest.mark.parametrize("kind", HDR)
def test_hdr_stays_hdr_or_is_tone_mapped_and_said(tmp_path, kind):
    tags = {"color_trc": HDR[kind], "color_primaries": 9, "colorspace": 9}
    screen = ("master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400:"
              "repeat-headers=1:log-level=error")
    make(tmp_path/"in.mp4", range(10), codec="libx265", pixels="yuv420p10le", colors=tags,
         codec_options={"x265-params": screen})

    def look(path):
        with av.open(str(path)) as c:
            frame = next(c.decode(video=0))
            return (frame.format.name, {k: getattr(frame, k) for k in tags},
                    {d.type.name: bytes(d) for d in frame.side_data if d.type.name[:7] in ("MASTERI", "CONTENT")})

    before = look(tmp_path/"in.mp4")
    kept, said = [".mp4", ".mov", ".mkv"], f"left out: HDR ({kind}); it is tone-mapped to what an ordinary screen shows"
    for suffix in kept:
        assert painted(tmp_path/"in.mp4", tmp_path/f"out{suffix}").left_out == []
        assert look(tmp_path/f"out{suffix}") == before and len(before[2]) == 2
    with av.open(str(tmp_path/"out.mp4")) as c: assert c.streams.video[0].codec_context.codec_tag == "hvc1"
    painted(tmp_path/"in.mp4", tmp_path/"out.webm")
    assert look(tmp_path/"out.webm")[:2] == before[:2] and streams(tmp_path/"out.webm")[0][1] != "vp9"
    assert painted(tmp_path/"in.mp4", tmp_path/"cut.mov", save="cutout").left_out == [
        "left out: what HDR10 says of screen and brightest pixels"]
    assert look(tmp_path/"cut.mov")[1] == tags
    assert painted(tmp_path/"in.mp4", tmp_path/"cut.webm", save="cutout").left_out == [said]
    assert look(tmp_path/"cut.webm")[:2] == ("yuv420p", {"color_trc": 1, "color_primaries": 1, "colorspace": 1})
    painted(tmp_path/"in.mp4", tmp_path/"matte.mp4", save="matte")
    assert look(tmp_path/"matte.mp4")[0] == "yuv420p" and streams(tmp_path/"matte.mp4") == [("video", "h264")]


def test_what_the_user_owns_is_kept_and_our_own_is_replaced(tmp_path):
    make(tmp_path/"in.mp4")
    (tmp_path/"in_sky.mp4").write_text("the user's")
    (tmp_path/"t.csv").write_text("time,sky\n")
    for args in ([], ["-o", "new.mp4", "--csv", "t.csv"], ["--csv-only", "--csv", "in_sky.mp4"]):
        run = skysky("video", "in.mp4", *args, cwd=tmp_path)
        assert run.returncode == 1 and "not written by skysky" in run.stderr and run.stderr.count("\n") == 1
    assert (tmp_path/"in_sky.mp4").read_text() == "the user's" and (tmp_path/"t.csv").read_text() == "time,sky\n"
    assert files(tmp_path) == ["in.mp4", "in_sky.mp4", "t.csv"]
    assert skysky("video", "in.mp4", "--csv", "t.csv", "--overwrite", cwd=tmp_path).returncode == 0
    assert is_ours(tmp_path/"in_sky.mp4") and is_ours(tmp_path/"t.csv")
    assert skysky("video", "in.mp4", "--csv", "t.csv", cwd=tmp_path).returncode == 0
    run = skysky("video", "in.mp4", "-o", "in.mp4", "--overwrite", cwd=tmp_path)
    assert run.returncode == 1 and "would replace" in run.stderr


@pytest.mark.parametrize("suffix, save", [(".mp4", "overlay"), (".m4v", "overlay"), (".mov", "overlay"),
                                          (".mkv", "overlay"), (".webm", "overlay"), (".mov", "cutout"),
                                          (".webm", "alpha")])
def test_every_video_is_known_again_and_the_sources_own_comment_is_kept(tmp_path, suffix, save):
    make(tmp_path/"in.mp4", range(5), metadata={"comment": "mine"})
    painted(tmp_path/"in.mp4", tmp_path/f"out{suffix}", save=save)
    assert is_ours(tmp_path/f"out{suffix}") and not is_ours(tmp_path/"in.mp4")
    with av.open(str(tmp_path/f"out{suffix}")) as c: assert "mine" in c.metadata.values()


def test_a_video_with_a_long_index_is_known_again(tmp_path):
    for suffix in (".mp4", ".mkv"):
        with VideoWriter(tmp_path/f"long{suffix}") as video:
            for i in range(20_000): video.write(video_frame(np.zeros((16, 16, 3), np.uint8), i, Fraction(1, 25)))
        data = (tmp_path/f"long{suffix}").read_bytes()
        assert is_ours(tmp_path/f"long{suffix}")
        if suffix == ".mp4": assert data.index(b"mdat") > 2**16


def test_one_path_for_video_and_table_is_refused(tmp_path):
    make(tmp_path/"in.mp4", range(3))
    with pytest.raises(SkyError, match="two outputs would be this one file"):
        painted(tmp_path/"in.mp4", tmp_path/"out.mp4", table=tmp_path/"."/"out.mp4")
    assert files(tmp_path) == ["in.mp4"]


def test_the_output_lies_beside_its_source_and_home_is_known(tmp_path):
    (tmp_path/"clips").mkdir()
    (tmp_path/"elsewhere").mkdir()
    make(tmp_path/"clips"/"in.mp4", range(3))
    env = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    def run(*args):
        command = [*SKYSKY, "video", "~/clips/in.mp4", *args]
        return subprocess.run(command, cwd=tmp_path/"elsewhere", env=env, capture_output=True, text=True, timeout=600)
    assert run().returncode == run("--csv-only").returncode == run("-o", "~/a.mkv", "--csv", "~/a.csv").returncode == 0
    assert files(tmp_path/"clips") == ["in.mp4", "in_sky.csv", "in_sky.mp4"]
    assert files(tmp_path/"elsewhere") == [] and {"a.mkv", "a.csv"} < set(files(tmp_path))


def test_a_table_goes_to_standard_output_and_other_lines_do_not(tmp_path):
    make(tmp_path/"a.mp4", range(4))
    command = [*SKYSKY, "video", tmp_path/"a.mp4", "--csv-only", "--csv"]
    run = subprocess.run([*command, "/dev/stdout"], capture_output=True, text=True)
    assert run.returncode == 0 and len(run.stdout.splitlines()) == 5 and "4 frames" in run.stderr, run.stderr
    with (tmp_path/"t.csv").open("w") as file: subprocess.run([*command, "/dev/stdout"], stdout=file, check=True)
    assert [r["time"] for r in csv.DictReader((tmp_path/"t.csv").open())] == ["0.0", "0.04", "0.08", "0.12"]
    run = subprocess.run([*command, "/dev/full"], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.endswith("skysky: cannot write /dev/full: No space left on device\n")
    assert not Path("/dev/full").is_file() and {p.name for p in tmp_path.iterdir()} == {"a.mp4", "t.csv"}


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_pictures_one_after_another_are_a_video(tmp_path, kind):
    path = tmp_path/"in.mjpeg"
    with path.open("wb") as f:
        for i in range(5): Image.fromarray(view(i)).save(f, kind)
    assert segment_video(path, tmp_path/"out.mp4").frames == 5


# Numbered pictures, and frames as pictures

def shot(folder, numbers, code=1, suffix="png"):
    "Pictures that show a post that moves, stored as EXIF says."
    folder.mkdir()
    turn = {1: None, 6: Image.ROTATE_90}[code]
    exif = Image.Exif()
    exif[0x112] = code
    for i, number in enumerate(numbers):
        im = Image.fromarray(view(i))
        (im if turn is None else im.transpose(turn)).save(folder/f"a_{number:04}.{suffix}", exif=exif)
    return folder


def test_numbered_pictures_are_a_video(tmp_path):
    shot(tmp_path/"shot", [8, 9, 10, 11, 13], code=6)
    run = skysky("video", "shot/a_%04d.png", "--rate", "12.5", "--csv", "x.csv", cwd=tmp_path)
    assert run.returncode == 0 and run.stderr == "skysky: 1 number missing between a_0008.png and a_0013.png\n"
    assert head(tmp_path/"shot_sky.mp4")["size"] == (160, 90)
    assert stamps(tmp_path/"shot_sky.mp4", "video") == [Fraction(2*i, 25) for i in range(5)]
    assert len((tmp_path/"x.csv").read_text().splitlines()) == 6
    assert skysky("video", *sorted((tmp_path/"shot").iterdir()), "-q", cwd=tmp_path).returncode == 0
    for wrong, line in (("none/*.png", "no pictures"), ("shot/a_%05d.png", "such numbers"), ("shot", "no videos")):
        run = skysky("video", wrong, cwd=tmp_path)
        assert run.returncode == 1 and line in run.stderr and len(run.stderr.splitlines()) == 1


def test_a_picture_that_is_damaged_costs_its_frame(tmp_path):
    shot(tmp_path/"shot", range(5))
    (tmp_path/"shot/a_0002.png").write_bytes((tmp_path/"shot/a_0002.png").read_bytes()[:99])
    run = skysky("video", "shot/*.png", "--save", "frames", "--layout", "colmap", cwd=tmp_path)
    assert run.returncode == 3 and "1 of 5 pictures left out" in run.stderr and "a_0002.png" in run.stderr
    assert files(tmp_path/"masks") == [f"a_{i:04}.png.png" for i in (0, 1, 3, 4)]


def test_masks_of_a_sequence_lie_on_its_pictures_as_they_are_stored(tmp_path):
    shot(tmp_path/"images", range(3), code=6, suffix="jpg")
    run = skysky("video", "images/*.jpg", "--save", "frames,mask,prob16", "--layout", "colmap", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path/"images") == [f"a_{i:04}.jpg" for i in range(3)]
    with Image.open(tmp_path/"masks/a_0001.jpg.png") as im:
        assert im.size == (90, 160) and np.asarray(im)[80, 5] == 0 and np.asarray(im)[80, 80] == 255
    with Image.open(tmp_path/"masks/a_0001_prob16.png") as im: assert im.mode.startswith("I")


def test_frames_are_upright_and_whole_and_the_users(tmp_path):
    make(tmp_path/"in.mp4", size=(96, 64), rotation=90)
    assert skysky("video", "in.mp4", "--save", "frames", "--every", "8", "-o", "images", cwd=tmp_path).returncode == 0
    names = [f"in_{i:06}.jpg" for i in (0, 8, 16)]
    assert files(tmp_path/"images") == names and len(files(tmp_path/"images_sky")) == 3
    with Image.open(tmp_path/"images"/names[0]) as im: assert im.size == (64, 96)
    assert not any(is_ours(tmp_path/"images"/name) for name in names)
    run = skysky("video", "in.mp4", "--save", "frames", "-o", "images", cwd=tmp_path)
    assert run.returncode == 1 and "--overwrite" in run.stderr
    assert files(tmp_path/"images") == names
    run = skysky("video", "in.mp4", "--save", "frames", "--every", "10", "-o", "images", "--overwrite", cwd=tmp_path)
    assert run.returncode == 0 and "2 earlier frames of it stay" in run.stderr
    assert skysky("mask", "images", cwd=tmp_path).returncode == 0, "they are pictures as others are"


def test_an_interrupt_leaves_whole_frames(tmp_path):
    make(tmp_path/"in.mp4", range(400), size=(320, 180))
    code = INTERRUPTIBLE + SKYSKY[-1]
    process = subprocess.Popen([sys.executable, "-c", code, "video", "in.mp4", "--save", "frames", "-o", "images"],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path/"images_sky").is_dir() or len(files(tmp_path/"images_sky")) < 5:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130 and "what is written is whole" in stderr
    for name in ("images", "images_sky"):
        assert not [p for p in (tmp_path/name).iterdir() if p.name.startswith(".")]
        for path in (tmp_path/name).iterdir():
            with Image.open(path) as im: im.load()
