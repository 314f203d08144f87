"Bad input gets one clear line that says what to do; awkward but good input is read right."
import os
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from skysky.core import SkyError, SkyMask
from skysky.images import LAYOUTS, OUTPUTS, find_images, output_names, read_image, write_image

RNG = np.random.default_rng(0)
IMG = cv2.resize(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
EXACT = {"PNG": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "PPM": {}}
LOSSY = {"JPEG": {"quality": 95}, "JPEG2000": {}, "GIF": {}, "MPO": {"quality": 95}}


def stored(img, fmt="PNG", **kwargs):
    "The bytes of a file that holds `img`."
    stream = BytesIO()
    (img if isinstance(img, Image.Image) else Image.fromarray(img)).save(stream, fmt, **kwargs)
    return stream.getvalue()


def line(source, **kwargs):
    "The one line that a user reads about `source`."
    with pytest.raises(SkyError) as e: read_image(source, **kwargs)
    text = str(e.value)
    assert "\n" not in text and ";" in text and len(text) < 400, text  # what is wrong; what to do
    return text


def png_header(w, h):
    "A PNG that claims any size and holds nothing."
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0"*99)) + chunk(b"IEND", b"")


# ---- good files that are often read wrong


@pytest.mark.parametrize("fmt", EXACT)
def test_exact_formats(fmt): assert (read_image(stored(IMG, fmt, **EXACT[fmt])) == IMG).all()


@pytest.mark.parametrize("fmt", LOSSY)
def test_lossy_formats(fmt): assert np.abs(read_image(stored(IMG, fmt, **LOSSY[fmt])).astype(int) - IMG).mean() < 12


def test_heic():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    file = stored(IMG, "HEIF", quality=90)
    assert np.abs(read_image(file).astype(int) - IMG).mean() < 12
    line(file[:len(file)//2])


def test_heic_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "pip install pillow-heif" in line(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0"*100)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("code", range(1, 9))
def test_orientation(fmt, code):
    "`turn` undoes what the EXIF standard says the camera did: the marker lands in its own corner again."
    turn = {1: lambda i: i, 2: np.fliplr, 3: lambda i: np.rot90(i, 2), 4: np.flipud, 5: lambda i: i.swapaxes(0, 1),
            6: lambda i: np.rot90(i, -1), 7: lambda i: np.rot90(i, 2).swapaxes(0, 1), 8: np.rot90}[code]
    back = turn if code not in (6, 8) else (lambda i: np.rot90(i, 1 if code == 6 else -1))
    upright = np.full((48, 80, 3), 200, np.uint8)
    upright[:16, :32] = 0, 0, 160
    exif = Image.Exif()
    exif[0x112] = code
    got = read_image(stored(np.ascontiguousarray(back(upright)), fmt, exif=exif))
    assert got.shape == upright.shape and got.flags.c_contiguous
    assert np.abs(got.astype(int) - upright).mean() < 4


def test_broken_exif_is_no_reason_to_refuse():
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert read_image(stored(IMG, "JPEG", exif=exif)).shape == IMG.shape


def test_transparency_is_black():
    alpha = np.full((60, 80), 255, np.uint8)
    alpha[:, 40:] = 0
    rgba = np.dstack([IMG, alpha])
    for file in (stored(rgba), stored(rgba, "WEBP", lossless=True), stored(rgba, "TIFF")):
        got = read_image(file)
        assert (got[:, :40] == IMG[:, :40]).all() and not got[:, 40:].any()
    grey = Image.fromarray(IMG[..., 0])
    assert not read_image(stored(grey, transparency=grey.getpixel((0, 0))))[0, 0].any()
    la = Image.fromarray(rgba).convert("LA")
    assert not read_image(stored(la))[:, 40:].any()
    palette = Image.fromarray(IMG).quantize(16)
    hole = palette.getpixel((0, 0))
    got = read_image(stored(palette, transparency=hole))
    assert not got[np.asarray(palette) == hole].any() and got.any()


def test_one_bit_and_grey():
    bits = IMG[..., 0] > 128
    assert (read_image(stored(Image.fromarray(bits))) == bits[..., None]*np.uint8(255)).all()
    assert (read_image(IMG[..., 0]) == IMG[..., :1]).all()
    assert (read_image(IMG[..., :1]) == IMG[..., :1]).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_scaled(suffix):
    deep = IMG.astype(np.uint16)*257
    assert (read_image(cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()) == IMG).all()
    assert (read_image(cv2.imencode(suffix, deep[..., 0])[1].tobytes()) == IMG[..., :1]).all()


def test_float_and_32_bits():
    unit = IMG[..., 0].astype(np.float32)/255
    assert np.abs(read_image(stored(unit, "TIFF")).astype(int) - IMG[..., :1]).max() <= 1
    assert "8 or 16 bits" in line(stored(unit*1000, "TIFF"))
    assert "8 or 16 bits" in line(stored(IMG[..., 0].astype(np.int32)*2**20, "TIFF"))
    unit[0, 0] = np.nan
    with pytest.raises(SkyError): read_image(stored(unit, "TIFF"))


def test_cmyk():
    cmyk = Image.fromarray(IMG).convert("CMYK")
    for file in (stored(cmyk, "JPEG", quality=95), stored(cmyk, "TIFF")):
        assert np.abs(read_image(file).astype(int) - IMG).mean() < 8


def test_colour_profiles():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, b"not a profile"):  # nothing to do, unfit, broken
        assert (read_image(stored(IMG, icc_profile=profile)) == IMG).all()
    swapped = bytearray(srgb)  # the profile of a screen whose red and blue are exchanged
    tags = {bytes(swapped[i:i + 4]): i for i in range(132, 132 + 12*int.from_bytes(swapped[128:132], "big"), 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    swapped[red:red + 4], swapped[blue:blue + 4] = b"bXYZ", b"rXYZ"
    swapped = bytes(swapped).replace("sRGB".encode("utf-16-be"), "BGR!".encode("utf-16-be")).replace(b"sRGB", b"BGR!")
    flat = np.zeros((16, 16, 3), np.uint8)
    flat[...] = 250, 20, 20
    assert np.abs(read_image(stored(flat, icc_profile=swapped)).astype(int) - flat[..., ::-1]).max() < 12


def test_arrays_and_pil():
    assert read_image(IMG) is IMG
    assert read_image(IMG[:, ::2]).flags.c_contiguous
    assert (read_image(Image.fromarray(IMG)) == IMG).all()
    for bad in (IMG.astype(np.float32), IMG[None], IMG[..., :2], np.zeros((0, 9, 3), np.uint8), IMG[:4]): line(bad)


def test_first_frame_of_many():
    frames = [Image.fromarray(IMG), Image.fromarray(255 - IMG)]
    for fmt, options in (("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        file = stored(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
        assert (read_image(file) == IMG).all()


# ---- files that are not what they seem


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000"])
def test_cut_off(fmt):
    file = stored(IMG, fmt)
    for share in (.01, .1, .5, .9, .97): line(file[:int(len(file)*share)])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000"])
def test_flipped_bytes_never_escape(fmt):
    rng, file = np.random.default_rng(1), stored(IMG, fmt)
    for _ in range(60):
        broken = bytearray(file)
        for at in rng.integers(0, min(len(file), int(rng.choice([64, len(file)]))), 4): broken[at] = rng.integers(256)
        try: assert read_image(bytes(broken)).shape[2] == 3
        except SkyError as e: assert "\n" not in str(e)


def test_paths(tmp_path):
    (tmp_path/"empty.jpg").touch()
    (tmp_path/"note.jpg").write_text("Dear diary, the sky was blue.\n"*99)
    (tmp_path/"page.png").write_text("<html><body>404 Not Found</body></html>")
    (tmp_path/"loop.jpg").symlink_to(tmp_path/"loop.jpg")
    (tmp_path/"dangling.jpg").symlink_to(tmp_path/"gone.jpg")
    os.mkfifo(tmp_path/"pipe.jpg")
    for name, why in (("empty.jpg", "empty"), ("note.jpg", "not a picture"), ("page.png", "not a picture"),
                      ("none.jpg", "no such file"), ("pipe.jpg", "regular file"), (".", "folder"), ("loop.jpg", "")):
        text = line(tmp_path/name)
        assert why in text and str(tmp_path/name) in text
    assert "no such file" in line(tmp_path/"dangling.jpg")
    for odd in ("x"*300, "a\0b", "https://example.org/x.jpg", "rtsp://camera/1", "photo.NEF", ""): line(odd)
    for kind in (None, 3, object(), [IMG]): line(kind)
    (tmp_path/"right.txt").write_bytes(stored(IMG))  # the content decides
    assert (read_image(tmp_path/"right.txt") == IMG).all()


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path/"secret.jpg"
    path.write_bytes(stored(IMG))
    path.chmod(0)
    def refuse(*args): raise PermissionError(13, "Permission denied")
    if os.geteuid() == 0: monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    assert "permission" in line(path).lower()


def test_sizes():
    assert "1×1 px is too small" in line(stored(IMG[:1, :1]))
    assert "60000×60000" in line(png_header(60_000, 60_000))
    assert "80×60" in line(stored(IMG), max_pixels=4000)
    line(png_header(2**31 - 1, 2**31 - 1))
    line(png_header(15_000, 15_000))  # below the limit, and empty
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own warning of large pictures does not reach the user
        with ThreadPoolExecutor(4) as pool: list(pool.map(line, [png_header(10_000, 10_000)]*6))
    assert Image.MAX_IMAGE_PIXELS == before


def test_huge_photo_in_bounded_memory(tmp_path):
    "A phone's 108 megapixels, lying on their side: at most 2.6 times the RGB size."
    path, exif = tmp_path/"huge.jpg", Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (12_000, 9_000), (90, 140, 220)).save(path, exif=exif)
    code = f"""
import resource
from skysky.images import read_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
before = peak()
img = read_image({str(path)!r})
assert img.shape == (12_000, 9_000, 3), img.shape
print((peak() - before)/img.nbytes)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 2.6, run.stdout


# ---- folders and names


def test_find_images(tmp_path):
    for name in ("b/IMG_10.JPG", "b/IMG_9.jpg", "a [old]/x.png", "a [old]/x.jpg", ".cache/x.png", "a [old]/._x.png"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).touch()
    (tmp_path/"b/up").symlink_to(tmp_path)
    (tmp_path/"a [old]/b").symlink_to(tmp_path/"b")
    (tmp_path/"folder.jpg").mkdir()
    found = find_images(tmp_path)
    names = [str(rel) for _, rel in found]
    assert len(names) == 4 and names[:2] == ["a [old]/x.jpg", "a [old]/x.png"]
    assert [Path(n).name for n in names[2:]] == ["IMG_9.jpg", "IMG_10.JPG"]
    assert all(path == tmp_path/rel for path, rel in found)
    assert len({str(n) for n in output_names([rel for _, rel in found])}) == 4
    sky = SkyMask(np.ones((60, 80), np.float32))
    for name, kind in (("b/IMG_9_mask.png", "mask"), ("b/IMG_10_prob16.png", "prob16"), ("b/sky/z.jpg", "overlay"),
                       ("z_mask.tif", "mask"), ("cut.webp", "cutout"), ("z.bmp", "prob")):
        sky.save(tmp_path/name, kind, IMG)
    sky.save(tmp_path/"a [old]_sky_masks/x.jpg", layout="vggt")
    assert find_images(tmp_path) == found  # what an earlier run wrote is no picture, whatever it is called
    assert len(find_images(tmp_path, ours=True)) == 11
    (tmp_path/"b/gas_mask.png").touch()
    assert len(find_images(tmp_path)) == 5  # but this is
    assert find_images(tmp_path/"a [old]/x.jpg")[0][1] == Path("x.jpg")  # a name, not a pattern
    with pytest.raises(SkyError): find_images(tmp_path/"nothing")
    with pytest.raises(SkyError): find_images(tmp_path/"folder.jpg")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_never_collide(layout):
    names = [Path(n) for n in ("x.jpg", "x.png", "X.webp", "x.jpg.jpg", "a/x.jpg", "b/x.jpg", "b/{stem}.jpg",
                               "b/x_mask.png")]
    for kind in OUTPUTS:
        targets = output_names(names, kind, layout)
        assert len({str(t).casefold() for t in targets}) == len(names)
        assert [t.parent for t in targets] == [n.parent for n in names]


def test_nothing_half_written(tmp_path):
    with pytest.raises(SkyError): write_image(np.zeros((1, 70_000, 3), np.uint8), tmp_path/"wide.jpg")
    with pytest.raises(SkyError): write_image(np.zeros((2, 20_000, 3), np.uint8), tmp_path/"wide.webp")
    with pytest.raises(SkyError): write_image(IMG.astype(np.float32), tmp_path/"float.png")
    with pytest.raises(SkyError): write_image(IMG, tmp_path/"no_suffix")
    with pytest.raises(SkyError): SkyMask(np.ones((9, 9), np.float32)).save(tmp_path/"x.jpg", "overlay", IMG)
    assert not list(tmp_path.iterdir())
