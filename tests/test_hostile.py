"Input from strangers, of every kind that a command takes: a line each, the right status, bounded time, nothing lost."
import io
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from test_cli import SKYSKY, as_anybody, files, photo
from test_video import make

from skysky import Segmenter, read_image
from skysky.cli import main
from skysky.core import SkyError, printable
from skysky.images import image_size
from skysky.jobs import failure_kind
from skysky.manifest import MANIFEST
from skysky.weights import parse_card

SECONDS = 60  # that one bad input may take on a crowded machine; nearly all take a hundredth of one
# Bounded in time, and the same examples every time.
FUZZ = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
RNG = random.Random(0)
IMG = np.full((48, 64, 3), 110, np.uint8)
IMG[:20] = (80, 140, 220)
IMG[30:] = np.random.default_rng(0).integers(0, 255, (18, 64, 3))  # so that a file has something to lose


def stored(fmt, mode="RGB", img=IMG, **options):
    stream = io.BytesIO()
    Image.fromarray(img).convert(mode).save(stream, fmt, **options)
    return stream.getvalue()


def noise(n): return RNG.randbytes(n)


# ---- Pictures: name -> bytes, or a function that makes a file

def chunk(kind, data, crc=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I",
                                                                    zlib.crc32(kind + data) if crc is None else crc)


def png(w, h, *more, data=None, bits=8, color=2, interlace=0):
    body = zlib.compress(b"\0"*999) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, color, 0, 0,
                                                             interlace)) + b"".join(
        more) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(w, h):
    "A JPEG whose header claims a size."
    data = bytearray(stored("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at:at + 4] = struct.pack(">HH", h, w)
    return bytes(data)


def bmp(w, h, bits=24): return b"BM" + struct.pack("<IHHI IiiHHIIiiII", 99, 0, 0, 54, 40, w, h, 1, bits, 0, 0, 0, 0, 0,
                                                   0) + b"\0"*99


def tiff(*tags, end=0, data=b"\0"*999):
    "A little-endian TIFF of any tags (number, type, count, value); its pixels are behind them."
    head = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", end)
    return b"II*\0" + struct.pack("<I", 8) + head + data


def raster(w, h, compression=1, bits=8, samples=3, more=()):
    at = 8 + 2 + 12*(9 + len(more)) + 4
    tags = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 2),
            (273, 4, 1, at),
            (277, 3, 1, samples), (278, 4, 1, h), (279, 4, 1, 999), *more]
    return tiff(*sorted(tags))


def webp(w, h): return b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0"*4 + struct.pack(
    "<I", w - 1)[:3] + struct.pack("<I", h - 1)[:3] + b"VP8 \0\0\0\0"


def sparse(size): return lambda path: (path.touch(), os.truncate(path, size))
def link(to): return lambda path: path.symlink_to(to)


def listen(path):
    with socket.socket(socket.AF_UNIX) as s:
        there = os.getcwd()
        os.chdir(path.parent)  # its name may be too long
        try: s.bind(path.name)
        finally: os.chdir(there)


WHOLE = {"png": stored("PNG"), "jpg": stored("JPEG", quality=90), "progressive.jpg": stored("JPEG", progressive=True),
         "gif": stored("GIF"), "bmp": stored("BMP"), "tif": stored("TIFF"),
         "lzw.tif": stored("TIFF", compression="tiff_lzw"),
         "deflate.tif": stored("TIFF", compression="tiff_adobe_deflate"), "webp": stored("WEBP"),
         "lossless.webp": stored("WEBP", lossless=True), "jp2": stored("JPEG2000"), "avif": stored("AVIF"),
         "ppm": stored("PPM")}
STARTS = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "gif": b"GIF89a", "bmp": b"BM", "le.tif": b"II*\0",
          "be.tif": b"MM\0*", "big.tif": b"II+\0\x08\0\0\0", "webp": b"RIFF\xff\xff\xff\x7fWEBP", "ppm": b"P6",
          "jp2": b"\0\0\0\x0cjP  \r\n\x87\n", "avif": b"\0\0\0\x20ftypavif\0\0\0\0",
          "heic": b"\0\0\0\x20ftypheic\0\0\0\0"}
OTHERS = {"html": b"<!doctype html><img src=x onerror=alert(1)>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
          "xml": b"<!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><l>&b;</l>", "pdf": b"%PDF-1.7\n1 0 obj\n",
          "ps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n(/tmp/x) (w) file\nshowpage\n",
          "zip": b"PK\3\4" + b"\0"*99, "elf": b"\x7fELF" + b"\0"*99, "script": b"#!/bin/sh\ntouch /tmp/owned\n",
          "gzip": b"\x1f\x8b\x08" + b"\0"*99, "json": b'{"a": [1, 2]}', "utf16": "sky".encode("utf-16"),
          "psd": b"8BPS\0\1" + b"\0"*99, "fits": b"SIMPLE  =                    T" + b" "*2850,
          "mp4": b"\0\0\0\x18ftypmp42",
          "wmf": b"\xd7\xcd\xc6\x9a" + b"\0"*99, "tga": b"\0\0\2" + b"\0"*9 + b"\xff\xff\xff\xff\x18\0",
          "icns": b"icns\xff\xff\xff\xff",
          "xpm": b'/* XPM */\nstatic char *x[] = {"9 9 1 1"};', "pickle": b"\x80\4cos\nsystem\n(S'true'\ntR.",
          "spaces": b" "*999}
DEFLATED = zlib.compress(b"\0"*50_000_000, 9)  # 50 kB
PICTURES = {
    **{f"cut at {share:.0%}.{name}": data[:int(share*len(data))]
       for name, data in WHOLE.items() for share in (.1, .5, .8) if name != "gif" or share < .8},
    **{f"only the start.{name}": data for name, data in STARTS.items()},
    **{f"start, then noise.{name}": data + noise(999) for name, data in STARTS.items()},
    **{f"really {kind}.jpg": data for kind, data in OTHERS.items()},
    "empty.png": b"", "a byte.png": b"\x89", "zeros.png": b"\0"*4096, "ones.jpg": b"\xff"*4096,
    "noise.png": noise(4096),
    **{f"{w}x{h} px.png": png(w, h) for w, h in ((0, 0), (1, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1),
                                                 (100_000, 100_000))},
    **{f"{w}x{h} px.jpg": jpeg(w, h) for w, h in ((0, 0), (0, 9), (65_500, 65_500))},
    **{f"{w}x{h} px.bmp": bmp(w, h) for w, h in ((0, 0), (-9, 9), (2**31 - 1, 2**31 - 1), (100_000, -100_000))},
    **{f"{w}x{h} px.tif": raster(w, h) for w, h in ((0, 0), (2**32 - 1, 2**32 - 1), (100_000, 100_000), (64, 48))},
    **{f"{w}x{h} px.gif": b"GIF89a" + struct.pack("<HH", w, h) + b"\0\0\0;" for w, h in ((0, 0), (65_535, 65_535))},
    **{f"{w}x{h} px.webp": webp(w, h) for w, h in ((1, 1), (2**24, 2**24), (64, 48))},
    **{f"{w}x{h} px.ppm": f"P6 {w} {h} 255\n".encode() + b"\0"*99 for w,
       h in ((0, 0), (-1, 9), (10**8, 10**8), (64, 48))},
    "digits without end.ppm": b"P6 " + b"9"*100_000, "no maximum.ppm": b"P6 9 9 0\n" + b"\0"*243,
    "1 px.png": stored("PNG", img=IMG[:1, :1]), "1 px.jpg": stored("JPEG", img=IMG[:1, :1]),
    "1 px.gif": stored("GIF", img=IMG[:1, :1]), "1 px.webp": stored("WEBP", img=IMG[:1, :1]),
    "a line.png": stored("PNG", img=IMG[:1]), "a column.png": stored("PNG", img=IMG[:, :1].copy()),
    "bomb of pixels.png": png(60_000, 60_000, data=DEFLATED), "too few pixels.png": png(64, 48,
                                                                                        data=zlib.compress(b"\0"*9)),
    "no pixels.png": png(64, 48, data=b""), "pixels that are no zlib.png": png(64, 48, data=noise(999)),
    "unknown filter.png": png(64, 48, data=zlib.compress((b"\x09" + b"\0"*192)*48)), "wrong crc.png": png(
        64, 48).replace(struct.pack(">I", zlib.crc32(b"IDAT" + zlib.compress(b"\0"*999))), b"abcd"),
    "bits that there are none.png": png(64, 48, bits=3), "colours that there are none.png": png(64, 48, color=5),
    "interlaced oddly.png": png(64, 48, interlace=9), "floats beyond 1.tif": stored("TIFF", "F"),
    "a text of 50 MB.png": png(64, 48, chunk(b"zTXt", b"a\0\0" + DEFLATED), data=zlib.compress(b"\0"*193*48)),
    "a profile of 50 MB.png": png(64, 48, chunk(b"iCCP", b"a\0\0" + DEFLATED), data=zlib.compress(b"\0"*193*48)),
    "unknown critical chunk.png": png(64, 48, chunk(b"SKYY", b"x")),
    "a chunk of 2 GB.png": png(64, 48)[:33] + b"\x7f\xff\xff\xffIDAT",
    "no header.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", zlib.compress(b"\0"*9999)) + chunk(b"IEND", b""),
    "a loop of directories.tif": tiff((256, 4, 1, 64), (257, 4, 1, 48), end=8), "no tags.tif": tiff(),
    "a tag of 4 billion values.tif": tiff((256, 4, 1, 64), (257, 4, 1, 48), (273, 4, 2**32 - 1, 8)),
    "a directory behind the end.tif": b"II*\0\xff\xff\xff\x7f", "strips behind the end.tif": tiff(
        (256, 4, 1, 64), (257, 4, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 2**31),
        (279, 4, 1, 3072)),
    "65535 tags.tif": b"II*\0\x08\0\0\0\xff\xff" + noise(9999), "unknown compression.tif": raster(64, 48, 9999),
    "4000 bits.tif": raster(64, 48, bits=4000), "65535 channels.tif": raster(64, 48, samples=65_535),
    "nothing but marks.jpg": b"\xff\xd8" + b"\xff\xe0\0\2"*999, "no tables.jpg": b"\xff\xd8" + WHOLE["jpg"][-600:],
    "segment of no length.jpg": b"\xff\xd8\xff\xe1\0\0" + noise(99),
    "damaged inside.jpg": WHOLE["jpg"][:-300] + noise(298) + b"\xff\xd9",
    "scans without end.jpg": WHOLE["progressive.jpg"][:-2] + WHOLE["progressive.jpg"][WHOLE["progressive.jpg"].rindex(
        b"\xff\xda"):-2]*200 + b"\xff\xd9",
    "a fifo.png": os.mkfifo, "a socket.png": listen, "dangling.png": link("nowhere"), "a loop.png": link("a loop.png"),
    "zero.png": link("/dev/zero"), "full.png": link("/dev/full"), "null.jpg": link("/dev/null"),
    "random.png": link("/dev/urandom"),
    "terminal.png": link("/dev/tty"), "memory.png": link("/proc/self/mem"), "system.png": link("/proc/version"),
    "too long a way.png": link("a/"*1500 + "b"), "5 GB of nothing.png": sparse(5*10**9),
    "900 MB of nothing.jpg": sparse(9*10**8),
    "a\nsecond line.png": b"x", "\x1b]0;title\x07.png": b"x", "\udcff.png": b"x", "\u202egnp.png": b"x",
    "=1+cmd|'.png": b"x",
    "-rf.png": b"x", "%s%n{0}.png": b"x", "'; drop table.png": b"x", "n"*240 + ".png": b"x",
}
# Awkward, and right: read, and whatever is odd about them ends with them.
AWKWARD = {
    "100,000 px wide.png": stored("PNG", img=np.resize(IMG[0], (40, 100_000, 3))), "20,000 px high.jpg": stored(
        "JPEG", img=np.resize(IMG[:, :20], (20_000, 24, 3))),
    "no palette.png": png(64, 48, color=3, data=zlib.compress(b"\0"*9999)),
    "exif that is none.jpg": stored("JPEG", exif=b"Exif\0\0" + b"II*\0\x08\0\0\0\xff\xff" + b"\xff"*99),
    "noise behind it.png": WHOLE["png"] + noise(99_999), "noise behind it.jpg": WHOLE["jpg"] + noise(99_999),
    "another name.png": WHOLE["jpg"], "1 bit.png": stored("PNG", "1"), "palette.png": stored("PNG", "P"),
    "cmyk.jpg": stored("JPEG", "CMYK"),
    "grey and alpha.png": stored("PNG", "LA"), "a film.gif": stored(
        "GIF", save_all=True, append_images=[Image.fromarray(IMG[::-1])]*3),
}


def put(path, what): what(path) if callable(what) else path.write_bytes(what)


def stays(args, cwd, **kwargs):
    "A real run: status, the lines of stderr, stdout, seconds, and its highest memory in GB."
    start = time.monotonic()
    with open(cwd/"stdout", "wb") as out, open(cwd/"stderr", "wb") as err:
        process = subprocess.Popen([*SKYSKY, *map(str, args)], cwd=cwd, stdout=out, stderr=err, **kwargs)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    lines = (cwd/"stderr").read_text("utf-8", "strict").splitlines()
    return process.returncode, lines, (cwd/"stdout").read_text("utf-8"), time.monotonic() - start, usage.ru_maxrss/1e6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, model):
    "What one run says of all of them, beside good ones: name -> outcome."
    root = Path(os.path.realpath(tmp_path_factory.mktemp("pictures")))
    (root/"in").mkdir()
    for name, what in (PICTURES | AWKWARD).items(): put(root/"in"/name, what)
    for name in ("0 first.png", "zz last.png"): photo(root/"in"/name)
    before = {p.name: p.read_bytes() for p in (root/"in").iterdir() if p.is_file() and 0 < p.stat().st_size < 10**6}
    status, lines, out, seconds, memory = stays(("mask", "in", "--json", "--model", model), root)
    assert all((root/"in"/name).read_bytes() == data for name, data in before.items()), "no picture is written to"
    *told, total = map(json.loads, out.splitlines())
    return {Path(o["path"]).name: o for o in told}, status, lines, seconds, memory, total, root


def test_one_run_over_all_bad_pictures(pictures):
    told, status, lines, seconds, memory, total, root = pictures
    print(f"{len(PICTURES)} bad pictures and {len(AWKWARD)} awkward ones: {seconds:.1f} s, {memory:.2f} GB")
    assert status == 1 and total["done"] == len(AWKWARD) + 2 and total["failed"] == len(PICTURES), total
    ours = [line for line in lines if line.startswith("skysky: ")]
    assert len(ours) == len(PICTURES) and all(line.isprintable() for line in lines), set(lines) - set(ours)
    assert max(map(len, lines)) < 2000 and seconds < 3*SECONDS and memory < 3
    masks = files(root/"in_sky")
    assert len(masks) == len(AWKWARD) + 2, "and no part of another"
    for name in masks:
        with Image.open(root/"in_sky"/name) as im: im.load()


@pytest.mark.parametrize("name", PICTURES, ids=ascii)
def test_a_bad_picture_fails_with_a_line(pictures, name):
    told = pictures[0][name]
    assert told["state"] == "failed" and told["failed"] in ("picture", "missing", "memory", "drive"), told
    assert told["why"].isprintable() and ";" in told["why"], told["why"]


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_picture_is_read(pictures, name): assert pictures[0][name]["state"] == "done", pictures[0][name]


@FUZZ
@given(name=st.sampled_from(list(WHOLE)), edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)),
                                                         min_size=1, max_size=5))
def test_any_bytes_in_a_picture(name, edits):
    data = bytearray(WHOLE[name])
    for where, new in edits:
        at = int(where*len(data))
        data[at:at + len(new)] = new
    start = time.monotonic()
    try: assert read_image(bytes(data)).dtype == np.uint8
    except SkyError as e: assert str(e).isprintable()
    assert time.monotonic() - start < SECONDS


class Failing(io.BytesIO):
    "A file on a drive that fails after some reads."
    left = 0
    def _one(self):
        Failing.left -= 1
        if Failing.left < 0: raise OSError(5, "Input/output error")
    def read(self, *args): self._one(); return super().read(*args)
    def seek(self, *args): self._one(); return super().seek(*args)


@pytest.mark.parametrize("name", WHOLE)
def test_a_drive_that_fails_at_any_read(tmp_path, monkeypatch, name):
    "The picture fails, its job goes on, and says that it was the drive."
    path = tmp_path/name
    path.write_bytes(WHOLE[name])
    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: Failing(WHOLE[name]))
    for reads in range(40):
        Failing.left = reads
        with suppress(SkyError): image_size(path)
        Failing.left = reads
        try: read_image(path)
        except SkyError as e:
            assert str(e).isprintable()
            if reads == 0: assert failure_kind(e, path) == "drive"


# ---- Videos

def video_bytes(folder, name, **options): return make(folder/name, range(8), **options).read_bytes()


@pytest.fixture(scope="module")
def videos(tmp_path_factory, model):
    "What one run says of bad videos, beside good ones: name -> its line."
    root = Path(os.path.realpath(tmp_path_factory.mktemp("videos")))
    (root/"in").mkdir()
    whole = {suffix: video_bytes(root, f"x{suffix}") for suffix in (".mp4", ".mkv", ".ts", ".webm")
             if suffix != ".webm"} | {".avi": video_bytes(root, "x.avi", codec="mpeg4")}
    bad = {
        **{f"cut at {share:.0%}{suffix}": data[:int(share*len(data))] for suffix, data in whole.items()
           for share in (.02, .1)},
        **{f"noise{suffix}": noise(9999) for suffix in (".mp4", ".mkv", ".avi", ".ts", ".webm", ".mpg", ".mxf",
                                                        ".flv")},
        **{f"start, then noise{suffix}": data[:40] + noise(9999) for suffix, data in whole.items()},
        **{f"really {kind}.mp4": data for kind, data in OTHERS.items() if kind != "mp4"},
        "empty.mp4": b"", "zeros.mkv": b"\0"*99_999, "a box of no length.mp4": b"\0\0\0\0moov" + noise(99),
        "a box of 2^64 bytes.mp4": b"\0\0\0\1moov" + b"\xff"*8 + noise(99),
        "boxes in boxes.mp4": b"\0\0\x40\0moov"*2000,
        "a playlist.mp4": b"#EXTM3U\n#EXTINF:9,\n/etc/passwd\n",
        "a list.mkv": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "a script.avi": b"ffconcat version 1.0\nfile 'http://127.0.0.1:9/x'\n",
        "an sdp.ts": b"v=0\nm=video 9 RTP/AVP 96\n",
        "a fifo.mp4": os.mkfifo, "a socket.mp4": listen, "dangling.mp4": link("nowhere"),
        "a loop.mp4": link("a loop.mp4"),
        "zero.mp4": link("/dev/zero"), "memory.mkv": link("/proc/self/mem"), "5 GB of nothing.mp4": sparse(5*10**9),
        "a\nsecond line.mp4": b"x", "\x1b[2J.mp4": b"x", "\udcff.mkv": b"x", "%d.mp4": b"x", "-i.mp4": b"x",
        "concat:a|b.mp4": b"x", "file:x.mp4": b"x", "pipe:0.mp4": b"x",
    }
    for name, what in (bad | {"0 first.mkv": whole[".mkv"], "zz last.mp4": whole[".mp4"]}).items(): put(root/"in"/name,
                                                                                                        what)
    status, lines, out, seconds, memory = stays(("video", "in", "--model", model), root)
    return bad, status, lines, out, seconds, memory, root


def test_one_run_over_all_bad_videos(videos):
    bad, status, lines, out, seconds, memory, root = videos
    print(f"{len(bad)} bad videos: {seconds:.1f} s, {memory:.2f} GB")
    assert len(bad) >= 50 and status == 1 and f"2 of {len(bad) + 2} done" in out and "Traceback" not in str(lines)
    assert seconds < 3*SECONDS and memory < 3
    ours = [line for line in lines if line.startswith("skysky: ")]
    assert len(ours) == len(bad) and all(line.isprintable() for line in lines)
    for name in bad: assert sum(printable(name) in line for line in ours) >= 1, name
    assert files(root/"in_sky") == ["0 first_sky.mp4", "zz last_sky.mp4"]


# ---- Models: a file where an exported model is wanted

def graph(nodes, inputs=None, outputs=None, consts=(), opset=17, **more):
    inputs = inputs or [helper.make_tensor_value_info("img", TensorProto.UINT8, ["n", "h", "w", 3])]
    outputs = outputs or [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["n", "h", "w"])]
    return helper.make_model(helper.make_graph(nodes, "sky", inputs, outputs, list(consts)), ir_version=8,
                             opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("odd", 1)], **more)


def value(name, kind, *shape): return helper.make_tensor_value_info(name, kind, shape)
def node(op, ins, outs, **attributes): return helper.make_node(op, ins, outs, **attributes)


def mean(name="prob", source="img"):
    "Nodes that make a right answer."
    return [node("Cast", [source], ["f"], to=TensorProto.FLOAT),
            node("ReduceMean", ["f"], [name], axes=[3], keepdims=0)]


def outside(location):
    "A model with weights in another file."
    tensor = numpy_helper.from_array(np.zeros(9, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return graph([*mean("m"), node("ReduceSum", ["far"], ["s"], keepdims=0), node("Add", ["m", "s"], ["prob"])],
                 consts=[tensor])


def inner(): return helper.make_graph([node("Identity", ["f"], ["q"])], "inner", [],
                                      [value("q", TensorProto.FLOAT, "a", "b", "c", 3)])


FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
GRAPHS = {
    "no nodes": lambda: graph([]), "floats in": lambda: graph(mean(), [value("img", FLOAT, "n", "h", "w", 3)]),
    "channels first": lambda: graph(mean(), [value("img", UINT8, "n", 3, "h", "w")]),
    "two pictures in": lambda: graph(mean(), [value(n, UINT8, "n", "h", "w", 3) for n in ("img", "more")]),
    "nothing in": lambda: graph([node("Constant", [], ["prob"], value_float=1.)], [value("x", FLOAT)]),
    "two answers": lambda: graph(mean(), outputs=[value(n, FLOAT, "n", "h", "w") for n in ("prob", "f")]),
    "an answer of four axes": lambda: graph(mean("f2"), outputs=[value("f", FLOAT, "n", "h", "w", 3)]),
    "an answer nobody makes": lambda: graph(mean("other")), "four channels": lambda: graph(mean(),
                                                                                           [value("img", UINT8, "n",
                                                                                                  "h", "w", 4)]),
    "fixed size": lambda: graph(mean(), [value("img", UINT8, 1, 64, 64, 3)], [value("prob", FLOAT, 1, 64, 64)]),
    "an unknown operator": lambda: graph([node("Skyfind", ["img"], ["prob"])]),
    "an operator of nobody's": lambda: graph([node("Find", ["img"], ["prob"], domain="odd")]),
    "a graph within": lambda: graph([node("Cast", ["img"], ["f"], to=FLOAT),
                                     node("Constant", [], ["yes"], value=numpy_helper.from_array(
        np.bool_(1))), node("If", ["yes"], ["q"], then_branch=inner(), else_branch=inner()),
        node("ReduceMean", ["q"], ["prob"], axes=[3], keepdims=0)]),
    "a circle": lambda: graph([node("Add", ["a", "prob"], ["prob"])]), "an old opset": lambda: graph(mean(), opset=1),
    "an opset to come": lambda: graph(mean(), opset=9999), "weights at home": lambda: outside("/etc/passwd"),
    "weights above": lambda: outside("../../etc/passwd"), "weights of a device": lambda: outside("/dev/zero"),
    "weights nowhere": lambda: outside("nowhere.bin"), "weights in a folder": lambda: outside("."),
    "a constant of 4 TB": lambda: graph([*mean("m"), node("ConstantOfShape", ["dims"], ["c"]),
                                         node("ReduceSum", ["c"], ["s"], keepdims=0), node(
        "Add", ["m", "s"], ["prob"])], consts=[numpy_helper.from_array(np.int64([10**6, 10**6]), "dims")]),
    "an answer of another shape": lambda: graph([node("Cast", ["img"], ["f"], to=FLOAT),
                                                 node("ReduceMean", ["f"], ["p"], axes=[2, 3], keepdims=0),
                                                  node("Unsqueeze", ["p", "ax"], ["prob"])],
                                                  consts=[numpy_helper.from_array(np.int64([1]), "ax")]),
}


def models(model):
    "Name -> bytes, or a function that makes a file."
    whole = model.read_bytes()
    return {
        **{name: make().SerializeToString() for name, make in GRAPHS.items()},
        **{f"cut at {share:.0%}": whole[:int(share*len(whole))] for share in (.05, .2, .4, .6, .8, .95)},
        **{f"really {kind}": OTHERS[kind] for kind in ("html", "zip", "pickle", "elf", "json", "script")},
        "empty": b"", "noise": noise(9999), "zeros": b"\0"*9999, "ones": b"\xff"*9999,
        "a length of 2^60": b"\x3a" + b"\xff"*8 + b"\x0f",
        "messages in messages": b"\x3a\xff\x7f"*5000, "a folder": lambda path: path.mkdir(), "a fifo": os.mkfifo,
        "a socket": listen,
        "a loop": link("a loop.onnx"), "dangling": link("nowhere"), "zero": link("/dev/zero"),
        "3 GB of nothing": sparse(3*10**9),
    }


MODELS = [*GRAPHS, *(f"cut at {share}%" for share in (5, 20, 40, 60, 80, 95)), "really html", "really zip",
          "really pickle", "really elf",
          "really json", "really script", "empty", "noise", "zeros", "ones", "a length of 2^60",
          "messages in messages", "a folder",
          "a fifo", "a socket", "a loop", "dangling", "zero", "3 GB of nothing"]


def refused(folder, *args, status=1, env=None, stdin=b""):
    "The line of a run that has to be refused, in this process; nothing is lost, nothing is left."
    mine = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size < 10**7]
    before = {p: p.read_bytes() for p in mine}
    start = time.monotonic()
    result = CliRunner(env=env).invoke(main, list(map(str, args)), prog_name="skysky", input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit): raise result.exception
    assert result.exit_code == status, result.output
    assert time.monotonic() - start < SECONDS
    lines = result.stderr.strip().splitlines()
    assert all(line.isprintable() for line in lines)
    assert {p: p.read_bytes() for p in before} == before, "nothing of the user's has changed"
    if status == 1: assert len(lines) == 1 and lines[0].startswith("skysky: "), result.output
    return lines[-1]


@pytest.mark.parametrize("name", MODELS)
def test_a_bad_model_is_refused_in_a_line(tmp_path, model, name):
    photo(tmp_path/"x.png")
    put(tmp_path/f"{name}.onnx", models(model)[name])
    refused(tmp_path, "mask", tmp_path/"x.png", "--model", tmp_path/f"{name}.onnx")
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".onnx" and p.name != MANIFEST) == ["x.png"]


# ---- Cards, configs, lists, tables, records, addresses, limits

CARD = {"name": "m", "file": "m.onnx", "sha256": "", "arch": "blue", "size": 256, "licence": "free"}
CARDS = {
    "empty": "", "no JSON": "{", "a list": "[]", "null": "null", "a number": "7", "text": '"m"', "bytes": b"\xff\xfe",
    "noise": noise(999),
    "brackets": "["*200_000, "zeros": "\0"*99, "too long": json.dumps(CARD | {"licence": "x"*2_000_000}),
    "twice": json.dumps(CARD)*2,
    **{f"without {key}": json.dumps({k: v for k, v in CARD.items() if k != key}) for key in ("name", "file", "sha256",
                                                                                             "arch")},
    **{f"{key} is {v!r}": json.dumps(CARD | {key: v}) for key, v in (
        ("name", 7), ("name", []), ("file", None), ("file", "../x.onnx"), ("file", "/etc/passwd"),
        ("file", "a/b.onnx"), ("file", ""),
        ("file", "."), ("size", "large"), ("size", -1), ("size", 0), ("size", 10**9), ("size", 1.5), ("size", True),
        ("threshold", 2), ("threshold", "x"),
        ("metrics", []), ("metrics", {"a": 7}), ("url", 7), ("url", "file:///etc/passwd"), ("sure", "x"))},
    "NaN": json.dumps(CARD)[:-1] + ', "threshold": NaN}', "infinity": json.dumps(CARD)[:-1] + ', "threshold": 1e999}',
}


@pytest.mark.parametrize("name", CARDS)
def test_a_bad_card_is_refused_in_a_line(tmp_path, model, name):
    photo(tmp_path/"x.png")
    (tmp_path/"m.onnx").write_bytes(model.read_bytes())
    text = CARDS[name]
    (tmp_path/"m.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path, "mask", tmp_path/"x.png", "--model", tmp_path/"m.onnx", "-o", tmp_path/"out")


ANY = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                   lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                   max_leaves=6)


@FUZZ
@given(values=st.dictionaries(st.sampled_from([*CARD, "threshold", "sure", "metrics", "url", "precision", "whole"]),
                              ANY, max_size=6))
def test_any_values_in_a_card(values):
    try: assert parse_card(json.dumps(CARD | values), Path("m.json")).arch
    except SkyError as e: assert str(e).isprintable()


@FUZZ
@given(name=st.sampled_from([*GRAPHS, "whole"]), edits=st.lists(st.tuples(st.floats(0, 1),
                                                                          st.binary(min_size=1, max_size=9)),
                                                                          max_size=5))
def test_any_bytes_in_a_model(tmp_path_factory, model, name, edits):
    data = bytearray(model.read_bytes() if name == "whole" else GRAPHS[name]().SerializeToString())
    for where, new in edits: data[int(where*len(data)):int(where*len(data)) + len(new)] = new
    path = tmp_path_factory.mktemp("fuzz")/"m.onnx"
    path.write_bytes(data)
    try: Segmenter(path, "cpu", 64, precision="f32", threads=1).predict(IMG)
    except SkyError as e: assert str(e).isprintable()


CONFIGS = {
    "empty": "", "a list": "- a", "a number": "7", "no YAML": "a: [", "noise": noise(999), "zeros": b"\0"*99,
    "utf16": "a: 1".encode("utf-16"),
    "brackets": "["*9000, "a program": "a: !!python/object/apply:os.system ['touch owned']",
    "an object": "!!python/name:os.system",
    "laughter": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{b}: &{b} [{', '.join([f'*{a}']*9)}]" for a, b in pairwise("abcdefghi")),
    "itself": "&a [*a]", "unknown key": "colour: blue", "epochs of text": "epochs: many", "negative": "epochs: -1",
    "infinite": "lr: .inf",
    "not a number": "lr: .nan", "sets of text": "train: 7", "a date": "epochs: 2026-99-99",
    "too long": "# " + "x"*2_000_000,
    "a key twice, one wrong": "epochs: 1\nepochs: x", "a tab": "a:\t- b",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_config_is_refused_in_a_line(tmp_path, monkeypatch, name):
    from skysky.train.config import load_config
    monkeypatch.chdir(tmp_path)
    text = CONFIGS[name]
    (tmp_path/"c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(SkyError) as e: load_config(tmp_path/"c.yaml")
    assert str(e.value).isprintable() and len(str(e.value)) < 2000 and time.monotonic() - start < SECONDS
    assert files(tmp_path) == ["c.yaml"]


LISTS = {
    "empty": b"", "empty lines": b"\n\r\n\n", "zeros": b"\0"*99, "noise": bytes(set(noise(400)) - {10}),
    "a folder": lambda path: path.mkdir(),
    "dangling": link("nowhere"), "a loop": link("list"), "names of nothing": b"nowhere.png\n", "itself": b"@list\n",
    "a name of 100 kB": b"x"*100_000, "a name of 5 MB": b"x"*5_000_000, "devices": b"/dev/zero\n",
    "an address": b"ftp://a.org/x.png\n",
    "standard input": b"-\n", "the root of processes": b"/proc/self/fd\n", "an option": b"--overwrite\n",
    "utf16": "x.png".encode("utf-16"),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_bad_list_of_videos(tmp_path, monkeypatch, model, name):
    monkeypatch.chdir(tmp_path)
    put(tmp_path/"list", LISTS[name].replace(b".png", b".mp4") if isinstance(LISTS[name], bytes) else LISTS[name])
    start = time.monotonic()
    result = CliRunner().invoke(main, ["video", "@list", "-o", "out", "--model", str(model)], prog_name="skysky")
    assert result.exit_code == 1 and (not result.exception or isinstance(result.exception, SystemExit))
    assert result.stderr and all(text.isprintable() for text in result.stderr.splitlines())
    assert not [f for f in files(tmp_path) if f.startswith("out/") and not f.endswith(MANIFEST)]
    assert time.monotonic() - start < SECONDS


def named(name): return b'{"frames": [{"file_path": ' + name + b"}]}"


PROJECTS = {  # transforms.json
    "empty": b"", "noise": noise(400), "a list": b"[]", "a number": b"7", "no frames": b"{}",
    "null": b'{"frames": null}',
    "frames of text": b'{"frames": "x"}', "a frame that is a list": b'{"frames": [[]]}', "no name": b'{"frames": [{}]}',
    "a zero": named(b'"\\u0000"'), "half a character": named(b'"\\ud800"'), "a number for a name": named(b"5"),
    "a list for a name": named(b'["images/x.png"]'), "another picture": named(b'"/etc/passwd"'),
    "escapes": named(b'"\\u001b[2J"'), "a name of 1 MB": named(b'"' + b"x"*1_000_000 + b'"'), "deep": b"["*200_000,
    "utf16": '{"frames": []}'.encode("utf-16"), "9,999 digits": b'{"frames": ' + b"9"*9999 + b"}",
}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_bad_transforms_json_is_refused_in_a_line(tmp_path, model, name):
    photo(tmp_path/"images/x.png")
    (tmp_path/"transforms.json").write_bytes(PROJECTS[name])
    refused(tmp_path, "mask", tmp_path/"images", "--layout", "nerfstudio", "--model", model)
    assert files(tmp_path) == ["images/x.png", "transforms.json"]


COMBINED = {  # the mask of x.png in the folder of --combine
    **{what: data for what, data in OTHERS.items() if isinstance(data, bytes)}, "empty": b"", "noise": noise(400),
    "cut off": WHOLE["png"][:60], "of another size": stored("PNG", "L", IMG[:9]), "a bomb": png(60_000, 60_000),
    "of one pixel": stored("PNG", "L", IMG[:1, :1]), "a fifo": os.mkfifo,
    "a loop": link("x_mask.png"), "zero": link("/dev/zero"), "dangling": link("nowhere"), "a socket": listen,
}


@pytest.mark.parametrize("name", COMBINED)
def test_a_bad_mask_to_combine_costs_its_picture(tmp_path, model, name):
    photo(tmp_path/"in/x.png")
    (tmp_path/"others").mkdir()
    put(tmp_path/"others/x_mask.png", COMBINED[name])
    start = time.monotonic()
    args = ["mask", tmp_path/"in", "--combine", tmp_path/"others", "-o", tmp_path/"out", "--model", model]
    result = CliRunner().invoke(main, list(map(str, args)), prog_name="skysky")
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1 and time.monotonic() - start < SECONDS
    assert result.stderr and all(line.isprintable() for line in result.stderr.splitlines())
    assert not [f for f in files(tmp_path) if f.startswith("out/") and not f.endswith(MANIFEST)]


@pytest.mark.parametrize("name", LISTS)
def test_a_bad_list(tmp_path, monkeypatch, model, name):
    monkeypatch.chdir(tmp_path)
    put(tmp_path/"list", LISTS[name])
    (tmp_path/"mine.txt").write_text("the user's")
    line = None
    with suppress(AssertionError): line = refused(tmp_path, "mask", "@list", "-o", "out", "--model", model)
    if line is None:  # a line a name, and one at the end
        result = CliRunner().invoke(main, ["mask", "@list", "-o", "out", "--model", str(model)], prog_name="skysky")
        assert result.exit_code == 1 and (not result.exception or isinstance(result.exception, SystemExit))
        assert result.stderr and all(text.isprintable() for text in result.stderr.splitlines())
    assert not [f for f in files(tmp_path) if f.startswith("out")] and (tmp_path/"mine.txt").read_text() == "the user's"


TABLES = {"text": "Dear diary", "another table": "name,sky\na,1\n", "noise": noise(999), "a picture": WHOLE["png"],
          "zeros": b"\0"*99,
          "quotes without end": '"path,width', "a mark alone": "made by skysky", "utf16": "path".encode("utf-16"),
          "a longer header": "path,width,height,sky,has_sky,horizon_angle,horizon_offset,ms,made by skysky,more\n",
          "a folder": lambda path: path.mkdir(), "a socket": listen, "a fifo nobody reads": os.mkfifo}


@pytest.mark.parametrize("name", TABLES)
def test_a_bad_table_is_refused_in_a_line(tmp_path, model, name):
    photo(tmp_path/"x.png")
    what = TABLES[name]
    put(tmp_path/"t.csv", what.encode() if isinstance(what, str) else what)
    refused(tmp_path, "mask", tmp_path/"x.png", "--csv", tmp_path/"t.csv", "-o", tmp_path/"out", "--model", model)
    assert not [f for f in files(tmp_path) if f.startswith("out")]


OURS = '{"made by skysky": "0", "format": 1, "settings": "s", "values": {}}\n'
RECORDS = {
    "text": "Dear diary", "noise": noise(999), "a picture": WHOLE["png"],
    "of a newer one": OURS.replace(": 1,", ": 99,"),
    "foreign lines": '{"input": "x"}\n', "a folder": lambda path: path.mkdir(), "a fifo": os.mkfifo, "a socket": listen,
    "a loop": link(MANIFEST), "zero": link("/dev/zero"), "another's file": link("mine.txt"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_bad_record_is_refused_in_a_line_and_stays(tmp_path, model, name):
    photo(tmp_path/"x.png")
    (tmp_path/"out").mkdir()
    (tmp_path/"out/mine.txt").write_text("the user's")
    what = RECORDS[name]
    put(tmp_path/"out"/MANIFEST, what.encode() if isinstance(what, str) else what)
    args = ("mask", tmp_path/"x.png", "-o", tmp_path/"out/masks/..", "--model", model)
    refused(tmp_path, *args)
    refused(tmp_path, *args, "--resume")
    refused(tmp_path, "status", tmp_path/"out")
    assert files(tmp_path/"out") == ["mine.txt"]


ADDRESSES = ("http://", "https://", "http:///x.png", "http://[::1", "http://[x]/a.png", "http://a:99999999/x.png",
             "http://a:b/x.png",
             "http://127.0.0.1:1/x.png", "http://\x00/x.png", "http://exa mple/x.png", "http://127.0.0.1:1/" + "x"*9999,
             "ftp://a.org/x.png", "file:///etc/passwd", "gopher://127.0.0.1/x", "javascript://x", "http://\u202e/x.png",
             "http://me:secret@127.0.0.1:1/x.png?key=secret", "HTTP://127.0.0.1:1/x.png", "http://.../x.png",
             "http://xn--/x.png")


@pytest.mark.parametrize("address", ADDRESSES, ids=ascii)
def test_a_bad_address_is_refused_in_a_line(tmp_path, monkeypatch, model, address):
    monkeypatch.chdir(tmp_path)
    assert "secret" not in refused(tmp_path, "mask", address, "--model", model)
    assert not files(tmp_path)


@pytest.mark.parametrize("name", ["PIXELS", "BYTES", "SCANS"])
@pytest.mark.parametrize("text", ["-1", "0", "many", "nan", "-inf", "1e", "\u0663\x1b", "1;2"])
def test_a_bad_limit_is_said(tmp_path, model, name, text):
    (tmp_path/"x.jpg").write_bytes(WHOLE["progressive.jpg"])
    line = refused(tmp_path, "mask", tmp_path/"x.jpg", "-o", tmp_path/"out", "--model", model,
                   env={f"SKYSKY_MAX_{name}": text})
    assert f"SKYSKY_MAX_{name}" in line


LONG, LOOP, ESCAPE = "x"*300, "loop", "\x1b[2J\n"
ARGUMENTS = [(*args, name) for args in (
    ("mask", "x.png", "--model"), ("mask", "x.png", "--csv"), ("mask", "x.png", "-o"), ("mask", "x.png", "--sky"),
    ("mask", "x.png", "--log"),
    ("mask",), ("video",), ("video", "x.mp4", "-o"), ("video", "x.mp4", "--csv"), ("video", "x.mp4", "--model"),
    ("status",),
    ("mask", "x.png", "--layout"), ("mask", "x.png", "--save"), ("mask", "x.png", "--grow"),
    ("mask", "x.png", "--name"), ("mask", "x.png", "--device"))
    for name in (LONG, f"{LONG}.png", f"{LOOP}/deeper/x.png", f"x.png/{ESCAPE}.png", "/dev/zero/x.png", "")]
FINE = {("mask", "x.png", "-o", ""), ("mask", "x.png", "--csv", ""), ("mask", "x.png", "--log", ""),
        ("video", "x.mp4", "-o", ""), ("video", "x.mp4", "--csv", ""), ("mask", "x.png", "--model", ""),
        ("video", "x.mp4", "--model", ""), ("mask", "x.png", "--name", "")}


@pytest.mark.parametrize("args", [args for args in ARGUMENTS if args not in FINE],
                         ids=lambda args: " ".join(args)[:40].encode("unicode_escape").decode())
def test_a_bad_argument_is_refused_in_a_line(tmp_path, monkeypatch, model, args):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path/"x.png")
    (tmp_path/"x.mp4").write_bytes(b"no video")
    (tmp_path/LOOP).symlink_to(LOOP)
    more = () if "--model" in args or args[0] == "status" else ("--model", model)
    refused(tmp_path, *args, *more)
    assert not [f for f in files(tmp_path) if f not in ("x.png", "x.mp4", LOOP)]


NOBODY = "~nobody_here/x"
READ = [(*args, name) for args in (
    ("evaluate", "-o", "out"), ("data", "check"), ("teach", "-o", "out.onnx"), ("teach", "--suggest"), ("fixed",),
    ("sphere", "--projection", "fisheye", "--circle", "9,9,9"), ("train", "-o", "out"), ("export", "-o", "out.onnx"),
    ("quantize", "--images", "x.png", "-o", "out.onnx"), ("quantize", "mosaic", "-o", "out.onnx", "--images"),
    ("evaluate", "in", "-o", "out", "--model"), ("cluster", "mask", "-o", "out"))
    for name in (LOOP, NOBODY, "x.png/below", LONG, ESCAPE)
    if args[1:] != ("--suggest",) or name != LOOP]  # that has a line a picture, and one at the end
WRITTEN = [(*args, name) for args in (
    ("evaluate", "in", "-o"), ("data", "render", "-n", "1"), ("fixed", "in/images", "--csv"),
    ("fixed", "in/images", "--plot"), ("fixed", "in/images", "-o"),
    ("sphere", "x.png", "--projection", "fisheye", "--circle", "9,9,9", "--csv"),
    ("sphere", "x.png", "--projection", "fisheye", "--circle", "9,9,9", "-o"), ("camera", "x.mp4", "--record"),
    ("camera", "x.mp4", "--csv"), ("teach", "in", "--suggest", "-o"), ("train", "c.yaml", "-o"), ("bench", "-o"),
    ("mask", "x.png", "--csv"), ("mask", "x.png", "--log"), ("video", "x.mp4", "--csv"))
    for name in (LOOP, "x.mp4", f"{LOOP}/below", "x.png/below", LONG)]
WRITTEN += [(*args, name) for args in (("export", "x.mp4", "-o"), ("quantize", "mosaic", "--images", "x.png", "-o"),
                                       ("teach", "in", "-o")) for name in (".", "/", "in", "loop.onnx", "x.png/b.onnx")]


@pytest.mark.parametrize("args", READ + WRITTEN, ids=lambda args: ascii(" ".join(args))[:70])
def test_a_name_that_nothing_can_be_read_from_or_written_to(tmp_path, monkeypatch, model, args):
    "Of every command: a line, and nothing is lost or left."
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "in/images/a.png", "in/images/b.png", "in/masks/a.png", "in/masks/b.png"):
        photo(tmp_path/name, size=(64, 48))
    (tmp_path/"x.mp4").write_bytes(b"the user's")
    (tmp_path/"c.yaml").write_text("epochs: 1\n")
    for name in (LOOP, "loop.onnx"): (tmp_path/name).symlink_to(name)
    before = files(tmp_path)
    of_models = args[0] in ("evaluate", "fixed", "sphere", "camera", "mask", "video", "teach") and "--model" not in args
    refused(tmp_path, *args, *(("--model", model) if of_models else ()))
    assert files(tmp_path) == before and (tmp_path/LOOP).is_symlink()


EACH = """
import json, sys
from click.testing import CliRunner
from skysky.cli import main
for args in json.load(sys.stdin):
    done = CliRunner().invoke(main, args, prog_name="skysky")
    print(json.dumps([done.exit_code, done.stderr.strip(), repr(done.exception)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's rights away as Linux does")
def test_no_command_writes_where_it_may_not(tmp_path, model):
    for name in ("x", *(f"in/images/{c}" for c in "abcd")): photo(tmp_path/f"{name}.png", size=(64, 48))
    (tmp_path/"in/masks").mkdir()
    for c in "abcd": Image.fromarray(np.where(IMG[..., 2] == 220, np.uint8(255), np.uint8(0))).save(
        tmp_path/f"in/masks/{c}.png")
    make(tmp_path/"x.mp4", range(3), size=(64, 48))
    (tmp_path/"c.yaml").write_text("epochs: 1\n")
    ours, fish = ("--model", str(model)), ("x.png", "--projection", "fisheye", "--circle", "32,24,20")
    commands = [
        ("mask", "in/images", *ours), ("mask", "x.png", "--csv", "t.csv", "-o", "..", *ours), ("sphere", *fish, *ours),
        ("mask", "x.png", "--log", "t.log", "-o", "..", *ours), ("mask", "x.png", "-o", "in/images", *ours),
        ("video", "x.mp4", *ours), ("video", "x.mp4", "--csv-only", *ours), ("video", ".", *ours),
        ("video", "x.mp4", "--save", "frames", *ours), ("fixed", "in/images", *ours), ("data", "render", "new"),
        ("camera", "x.mp4", "--no-window", "--record", "r.mp4", *ours), ("evaluate", "in", "-o", "report", *ours),
        ("camera", "x.mp4", "--no-window", "--csv", "r.csv", *ours), ("teach", "in", "-o", "m.onnx"),
        ("teach", "in/images", "--suggest", *ours), ("train", "c.yaml", "-o", "run"),
        ("export", "x.png", "-o", "m.onnx"), ("quantize", "mosaic", "--images", "x.png", "-o", "m.onnx"),
        ("bench", "-o", "bench")]
    before = files(tmp_path)
    folders = [p for p in (tmp_path, *tmp_path.rglob("*")) if p.is_dir()]
    for folder in folders: folder.chmod(0o555)
    try: run = subprocess.run([sys.executable, "-c", EACH], input=json.dumps(commands), text=True, capture_output=True,
                              cwd=tmp_path, preexec_fn=as_anybody)
    finally:
        for folder in folders: folder.chmod(0o755)
    said = list(map(json.loads, run.stdout.splitlines()))
    assert len(said) == len(commands), run.stderr
    for command, (status, line, error) in zip(commands, said, strict=True):
        assert status == 1 and error.startswith("SystemExit") and "Permission denied" in line, (command, line, error)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["empty", "noise", "cut at 40%", "a circle", "floats in", "a folder", "zero"])
def test_a_bad_model_is_not_made_int8(tmp_path, model, name):
    photo(tmp_path/"x.png")
    put(tmp_path/"m.onnx", models(model)[name])
    refused(tmp_path, "quantize", tmp_path/"m.onnx", "--images", tmp_path/"x.png", "-o", tmp_path/"out.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "x.png"]


def test_there_are_many():
    counts = {"pictures": len(PICTURES), "awkward pictures": len(AWKWARD), "models": len(MODELS), "cards": len(CARDS),
              "configs": len(CONFIGS),
              "lists": len(LISTS), "tables": len(TABLES), "records": len(RECORDS), "addresses": len(ADDRESSES),
              "limits": 24, "lists of videos": len(LISTS), "projects": len(PROJECTS), "masks to combine": len(COMBINED),
              "arguments": len(ARGUMENTS), "names to read": len(READ), "names to write to": len(WRITTEN)}
    print(", ".join(f"{n} {what}" for what, n in counts.items()), "and 50 videos")
    assert sum(counts.values()) > 600
