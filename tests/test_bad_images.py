"Bad input gets one clear line that says what to do; awkward but good input is read right."
import importlib
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

from skysky import SkyMask
from skysky.core import LIMITS, MARK, SkyError, atomic_write, check_outputs, is_ours
from skysky.images import IMAGE_SUFFIXES, orientation, read_image, stored_view
from skysky.layouts import LAYOUTS, OUTPUTS, output_names
from skysky.search import find_images
from skysky.write_images import write_image

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


@pytest.mark.parametrize("code", [0, 9, 99, 65535, b"6\0", b"up\0", (6, 1), None])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_odd_orientation_is_none(fmt, code):
    "A number that the standard does not know, text, two numbers, no number: the pixels stay as they are stored."
    tag = {bytes: (2, lambda v: v.ljust(4, b"\0")), tuple: (3, lambda v: struct.pack("<HH", *v)),
           int: (3, lambda v: struct.pack("<HH", v, 0)), type(None): (3, lambda v: bytes(4))}[type(code)]
    count = 0 if code is None else len(code) if isinstance(code, (bytes, tuple)) else 1
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x112, tag[0], count) + tag[1](code) + bytes(4)
    file = stored(IMG, fmt, exif=exif, lossless=True)
    if code != (6, 1): assert orientation(file) == 1  # of two numbers the first one is meant
    assert {*read_image(file).shape[:2]} == {60, 80}
    SkyMask(np.ones(read_image(file).shape[:2], np.float32)).overlay(file)


def photo_exif(code):
    "What a phone writes."
    exif = Image.Exif()
    exif[0x10f], exif[0x110], exif[0x131], exif[0x112] = "Maker", "Model 3", "Firmware 1", code
    exif[0x13b] = "Jörg".encode()
    exif[0x8769] = {0x9003: "2026:06:01 12:00:00", 0x920a: 4.25, 0xa001: 65535, 0xa002: 80, 0xa003: 60,
                    0x927c: b"own"*9000}
    exif[0x8825] = {1: "N", 2: (48., 30., 12.5), 3: "E", 4: (9., 1., 2.5)}
    return exif


@pytest.mark.parametrize("source", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("kind, name", [("mask", "y.png"), ("mask", "y.tif"), ("prob", "y.png"), ("prob16", "y.png"),
                                        ("prob16", "y.tif"), ("overlay", "y.jpg"), ("overlay", "y.png"),
                                        ("overlay", "y.webp"), ("cutout", "y.png"), ("cutout", "y.tif")])
def test_exif_is_carried_on(tmp_path, source, kind, name):
    options = {"x.jpg": {"quality": 95}, "x.webp": {"lossless": True}}.get(source, {})
    Image.fromarray(IMG).save(tmp_path/source, exif=photo_exif(6).tobytes(), **options)
    sky = SkyMask(np.linspace(0, 1, 4800, dtype=np.float32).reshape(80, 60))
    for layout in ("skysky", "colmap"):
        sky.save(tmp_path/name, kind, tmp_path/source, layout)
        assert is_ours(tmp_path/name)
        turned = layout == "colmap" and kind not in ("overlay", "cutout")
        with Image.open(tmp_path/name) as im:
            exif, size = im.getexif(), im.size
            sub, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert size == ((80, 60) if turned else (60, 80))
        assert (exif[0x10f], exif[0x110], exif[0x131]) == ("Maker", "Model 3", MARK)
        assert exif.get(0x112, 1) == 1
        if ".tif" not in source + name: assert exif[0x13b].encode("latin-1") == "Jörg".encode()  # Pillow's TIFF: ??
        assert (sub[0x9003], float(sub[0x920a])) == ("2026:06:01 12:00:00", 4.25) and 0x927c not in sub
        assert (sub[0xa002], sub[0xa003]) == size and sub[0xa001] == 1
        assert [float(v) for v in place[2]] == [48, 30, 12.5]


@pytest.mark.parametrize("code", range(1, 9))
@pytest.mark.parametrize("source", ["x.jpg", "x.png", "x.tif"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_lie_on_the_pixels_that_are_read(tmp_path, code, source, layout):
    upright = SkyMask(np.zeros((60, 80), np.float32))
    upright.prob[:10, :30] = 1
    exif = Image.Exif()
    exif[0x112] = code
    Image.fromarray(np.ascontiguousarray(stored_view(IMG, code))).save(tmp_path/source, exif=exif)
    y, x = {1: (5, 15), 2: (5, 64), 3: (54, 64), 4: (54, 15), 5: (15, 5), 6: (64, 5), 7: (64, 54), 8: (15, 54)}[code]
    if LAYOUTS[layout].upright or source == "x.tif" and LAYOUTS[layout].turns == ("TIFF",): y, x = 5, 15
    for kind, sky in (("mask", LAYOUTS[layout].sky), ("prob", 255), ("prob16", 65535)):
        for image in (tmp_path/source, str(tmp_path/source), (tmp_path/source).read_bytes()):
            upright.save(tmp_path/"y.png", kind, image, layout)
            got = cv2.imread(str(tmp_path/"y.png"), cv2.IMREAD_UNCHANGED)
            assert got[y, x] == sky and (got == sky).sum() == 300, (kind, got.shape)
    upright.save(tmp_path/"y.png", "overlay", tmp_path/source, layout)
    assert read_image(tmp_path/"y.png").shape == IMG.shape and orientation(tmp_path/"y.png") == 1


def test_broken_or_huge_exif_costs_only_itself(tmp_path):
    good = photo_exif(6).tobytes()
    huge = photo_exif(6)
    huge[0x8769] = {**huge[0x8769], 0x9286: b"comment "*200_000}
    huge[0x10e] = "long "*100_000
    cases = [good[:n] for n in (6, 7, 14, 20, 60, len(good)//2, len(good) - 1)]
    cases += [b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12"*400, good.replace(b"\x69\x87", b"\x69\xff"), huge.tobytes()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for exif in cases:
            for fmt, name in (("PNG", "x.png"), ("JPEG", "x.jpg"), ("WEBP", "x.webp")):
                if fmt == "JPEG" and len(exif) > 65_000: continue
                (tmp_path/name).write_bytes(stored(IMG, fmt, exif=exif))
                sky = SkyMask(np.ones(read_image(tmp_path/name).shape[:2], np.float32))
                for kind, out in (("mask", "y.png"), ("overlay", "y.jpg"), ("overlay", "y.tif"), ("cutout", "y.webp")):
                    sky.save(tmp_path/out, kind, tmp_path/name, "colmap")
                    assert is_ours(tmp_path/out) and read_image(tmp_path/out).shape[2] == 3
                    assert len((tmp_path/out).read_bytes()) < 200_000


def test_broken_exif_prints_nothing(tmp_path):
    (tmp_path/"x.jpg").write_bytes(stored(IMG, "JPEG", exif=photo_exif(6).tobytes()[:50]))
    code = f"from skysky.images import read_image; read_image({str(tmp_path/'x.jpg')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (run.returncode, run.stderr) == (0, "")


def test_large_files_are_known_again(tmp_path):
    "The mark is near an end of the file, however long it is."
    prob = np.zeros((1000, 3000), np.float32)
    prob[::2, ::3] = 1
    img = np.repeat(RNG.integers(0, 256, (1000, 3000, 1), np.uint8), 3, 2)
    sky = SkyMask(prob)
    for kind, name in (("mask", "x.png"), ("mask", "x.tif"), ("prob16", "x.tif"), ("prob", "x.bmp"),
                       ("overlay", "x.jpg"), ("overlay", "x.webp"), ("overlay", "x.tif"), ("overlay", "x.bmp"),
                       ("cutout", "x.png"), ("cutout", "x.tif")):
        sky.save(tmp_path/name, kind, img)
        assert is_ours(tmp_path/name), (kind, name)


def test_profiles_fit_the_values(tmp_path):
    "sRGB is carried on as it is; what was converted to sRGB says sRGB; a mask has no colours."
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = bytearray(srgb)  # stands for another profile: the red of a wider screen
    at = next(i for i in range(132, 132 + 12*wide[131], 12) if wide[i:i + 4] == b"rXYZ")
    start = int.from_bytes(wide[at + 4:at + 8], "big")
    wide[start + 8:start + 12] = struct.pack(">i", int(.515*65536))
    wide = bytes(wide).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB", b"wide")
    sky = SkyMask(np.zeros((60, 80), np.float32))
    for profile, want in ((srgb, srgb), (wide, "sRGB"), (b"broken", None), (None, None)):
        Image.fromarray(IMG).save(tmp_path/"x.png", icc_profile=profile)
        for kind, name in (("overlay", "y.jpg"), ("overlay", "y.png"), ("cutout", "y.webp"), ("cutout", "y.tif")):
            sky.save(tmp_path/name, kind, tmp_path/"x.png")
            with Image.open(tmp_path/name) as im: got = im.info.get("icc_profile")
            if want == "sRGB": assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(got)))
            else: assert got == want
            if kind == "overlay" and name == "y.png":  # seen alike: whoever reads both gets the same colours
                assert np.abs(read_image(tmp_path/name).astype(int) - read_image(tmp_path/"x.png")).max() <= 1
        for kind in ("mask", "prob", "prob16"):
            sky.save(tmp_path/"y.png", kind, tmp_path/"x.png")
            with Image.open(tmp_path/"y.png") as im: assert "icc_profile" not in im.info


def test_cutouts_keep_what_was_transparent(tmp_path):
    alpha = np.full((60, 80), 255, np.uint8)
    alpha[:, 40:], alpha[:, 60:] = 128, 0
    rgba, clear = np.dstack([IMG, alpha]), np.where(alpha[..., None], IMG, 0)
    sky = SkyMask(np.zeros((60, 80), np.float32))
    sky.prob[:30] = 1
    palette = Image.fromarray(IMG).quantize(16)
    hole = np.asarray(palette) == palette.getpixel((0, 59))
    files = {"rgba.png": stored(rgba), "rgba.webp": stored(rgba, "WEBP", lossless=True, exact=True),
             "rgba.tif": stored(rgba, "TIFF"), "la.png": stored(Image.fromarray(rgba).convert("LA")),
             "palette.png": stored(palette, transparency=palette.getpixel((0, 59))),
             "one.gif": stored(palette, "GIF", transparency=palette.getpixel((0, 59)))}
    for name, file in files.items():
        (tmp_path/name).write_bytes(file)
        seen = np.where(hole, 0, 255) if name in ("palette.png", "one.gif") else alpha
        for source in (tmp_path/name, file, Image.open(BytesIO(file))):
            got = sky.cutout(source)
            assert (got[..., 3] == np.where(sky.mask(), 0, seen)).all(), name
        if name.startswith("rgba"):  # the ground's colours stay as they are, half transparent ones too
            shown = (alpha > 0) & ~sky.mask()
            assert (got[..., :3][shown] == clear[shown]).all()
    got = sky.cutout(rgba)
    assert (got[..., 3] == np.where(sky.mask(), 0, alpha)).all() and (got[30:, :, :3] == IMG[30:]).all()
    opaque = sky.cutout(IMG)
    assert (opaque[..., 3] == np.where(sky.mask(), 0, 255)).all()


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


def test_first_frame_of_many(tmp_path):
    frames = [Image.fromarray(np.roll(IMG, 2*i, 1)) for i in range(12)]
    for fmt, options in (("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        file = stored(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
        (tmp_path/"x").write_bytes(file)
        for source in (file, tmp_path/"x"): assert (read_image(source) == IMG).all()
    for fmt in ("GIF", "WEBP", "AVIF"):
        file = stored(frames[0], fmt, save_all=True, append_images=frames[1:])
        assert np.abs(read_image(file).astype(int) - IMG).mean() < 12


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


@pytest.mark.parametrize("fmt", ["TIFF", "PNG"])
def test_pillows_limit_is_not_ours(fmt, monkeypatch):
    "Some formats look at it again when they decode."
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = stored(IMG, fmt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool: assert all((img == IMG).all() for img in pool.map(read_image, [file]*40))
    assert Image.MAX_IMAGE_PIXELS == 1000


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


# ---- files that are damaged, or made to be slow or large

CLEAR = cv2.resize(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)


def jpegs():
    "JPEGs of every kind: their bytes, by name."
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = srgb.replace(b"sRGB", b"ours").replace("sRGB".encode("utf-16-be"), "ours".encode("utf-16-be"))
    kinds = {"plain": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 2},
             "sRGB": {"icc_profile": srgb}, "profile": {"icc_profile": other}, "444": {"subsampling": 0}}
    files = {name: stored(CLEAR, "JPEG", quality=92, **options) for name, options in kinds.items()}
    return files | {mode: stored(Image.fromarray(CLEAR).convert(mode), "JPEG", quality=92) for mode in ("L", "CMYK")}


@pytest.mark.parametrize("kind", jpegs())
def test_a_damaged_jpeg_says_so_and_an_intact_one_is_read(kind, capfd):
    file = jpegs()[kind]
    n, head = len(file), file.index(b"\xff\xda") + 14
    want = read_image(file)
    for good in (file[:-2] + bytes(2) + file[-2:], file + bytes(1000), file + b"\0a film"*99, file + file):
        assert (read_image(good) == want).all()
    for share in (.2, .5, .8):
        at = max(head, int(n*share))
        for bad in (file[:at] + bytes(n//6) + file[at + n//6:], file[:at] + b"\xff\xd9", file[:at],
                    file[:at] + bytes(n), file[:-2]):
            assert "damaged or cut off" in line(bad)
    assert capfd.readouterr() == ("", ""), "the decoder's own lines, without a name, reach nobody"


def test_warnings_are_those_of_their_picture(tmp_path, capfd):
    "Of many that are decoded at once; what others print on standard error meanwhile is passed on."
    file = stored(CLEAR, "JPEG", quality=92)
    for i in range(60):
        (tmp_path/f"{i}.jpg").write_bytes(file if i % 4 else file[:len(file)//2] + b"\xff\xd9")
    def read(i):
        os.write(2, b"a line of another thread\n")
        try: return read_image(tmp_path/f"{i}.jpg") is None
        except SkyError as e: return str(tmp_path/f"{i}.jpg") in str(e)
    with ThreadPoolExecutor(8) as pool: assert list(pool.map(read, range(60))) == [i % 4 == 0 for i in range(60)]
    assert read_image(tmp_path/"1.jpg") is not None  # passes on what came while the last of them ended
    assert capfd.readouterr().err == "a line of another thread\n"*60


def test_a_damaged_png_says_so():
    file = stored(CLEAR)
    for at in range(100, len(file) - 20, len(file)//20):
        assert "damaged" in line(file[:at] + bytes([file[at] ^ 0x10]) + file[at + 1:])
    assert (read_image(file + bytes(99)) == CLEAR).all()


def test_scans_are_counted_before_they_are_decoded(monkeypatch):
    file = stored(CLEAR, "JPEG", progressive=True)
    last = file[file.rindex(b"\xff\xda"):-2]
    slow = file[:-2] + last*400 + b"\xff\xd9"
    assert "SKYSKY_MAX_SCANS" in line(slow)
    monkeypatch.setenv("SKYSKY_MAX_SCANS", "9")
    assert "10 scans" in line(file)
    monkeypatch.setenv("SKYSKY_MAX_SCANS", "10")
    assert read_image(file).shape == CLEAR.shape


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_what_follows_a_picture_costs_no_memory(tmp_path, suffix):
    "Zeros behind the picture, as many as a disk holds: not read, or refused by the size of the file."
    path = tmp_path/f"x{suffix}"
    path.write_bytes(stored(CLEAR, {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[suffix]))
    for size, why in ((int(3e9), "SKYSKY_MAX_BYTES"), (int(.9e9), "")):
        if suffix == ".webp" and not why: continue  # Pillow reads these whole: the limit is what holds
        os.truncate(path, size)
        code = ("import resource\nfrom skysky.images import read_image\n"
                "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024\nbefore = peak()\n"
                f"try: print(read_image({str(path)!r}).shape)\nexcept Exception as e: print(e)\nprint(peak() - before)")
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        said, grown = run.stdout.splitlines()
        assert why in said if why else said == "(480, 640, 3)", run
        assert int(grown) < 150e6


def test_limits_can_be_changed(tmp_path, monkeypatch):
    path = tmp_path/"x.png"
    path.write_bytes(stored(IMG))
    monkeypatch.setenv("SKYSKY_MAX_PIXELS", "4e3")
    assert "80×60 px is more than 0.004 million" in line(path) and "SKYSKY_MAX_PIXELS" in line(path)
    monkeypatch.setenv("SKYSKY_MAX_PIXELS", "4800")
    assert (read_image(path) == IMG).all()
    monkeypatch.setenv("SKYSKY_MAX_BYTES", "99")
    assert "SKYSKY_MAX_BYTES" in line(path)
    monkeypatch.setenv("SKYSKY_MAX_BYTES", "much")
    assert "no number above 0" in line(path)


def test_every_limit_is_stated():
    "SECURITY.md has the table of `skysky.core.LIMITS`, to which modules add their own."
    for module in ("weights", "video", "camera", "widgets", "serve"): importlib.import_module(f"skysky.{module}")
    text = (Path(__file__).parent.parent/"SECURITY.md").read_text(encoding="utf-8")
    for name, (value, unit, what) in LIMITS.items():
        assert f"| `SKYSKY_MAX_{name}` | {value:,.0f} {unit} | {what} |" in text


def test_a_number_that_is_none_prints_nothing(capfd):
    unit = np.full((60, 80), .5, np.float32)
    for odd in (np.nan, np.inf, -np.inf):
        unit[7, 7] = odd
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "8 or 16 bits" in line(stored(unit, "TIFF"))
    assert capfd.readouterr() == ("", "")


def test_memory_that_runs_out_is_no_damage(monkeypatch):
    for error in (MemoryError(), cv2.error("std::bad_alloc"), OSError("Insufficient memory")):
        def fail(*args, error=error): raise error
        monkeypatch.setattr("skysky.decode.cv2.imdecode", fail)
        with pytest.raises(MemoryError, match="not enough memory"): read_image(stored(IMG, "JPEG"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_runs_out_costs_one_picture(tmp_path):
    "The address space ends: a picture that needs more is an error, holds nothing, and what fits is done after it."
    for name in ("a.png", "z.jpg"): (tmp_path/name).write_bytes(stored(IMG, {"a.png": "PNG", "z.jpg": "JPEG"}[name]))
    for name in ("big.jpg", "big.png", "big.tif"): Image.new("RGB", (12_000, 9_000), (90, 140, 220)).save(tmp_path/name)
    code = f"""
import resource
from pathlib import Path
from skysky.segment import Segmenter
folder, seg = Path({str(tmp_path)!r}), Segmenter()
def names(*names): return [folder/name for name in names]
def save(source, img, sky, seconds): sky.save(folder/"out.jpg", "overlay", source)
list(seg.each(names("a.png", "z.jpg")*8, save))  # threads and buffers are there
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages*resource.getpagesize() + 700_000_000, -1))
for some in ("a.png",), ("big.jpg", "big.png", "big.tif"), ("z.jpg",):
    for source, result in seg.each(names(*some), save): print(source.name, type(result).__name__)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == ["a.png", "NoneType", "big.jpg", "MemoryError", "big.png", "MemoryError", "big.tif",
                                  "MemoryError", "z.jpg", "NoneType"], run


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


WRITE = {".jpe": "JPEG", ".jfif": "JPEG", ".jif": "JPEG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF",
         ".tiff": "TIFF", ".bmp": "BMP", ".dib": "DIB", ".gif": "GIF", ".webp": "WEBP", ".mpo": "MPO", ".ppm": "PPM",
         ".pnm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".jp2": "JPEG2000", ".j2k": "JPEG2000", ".avif": "AVIF"}


@pytest.mark.parametrize("suffix", WRITE)
@pytest.mark.parametrize("upper", [False, True])
def test_what_is_read_is_found(tmp_path, suffix, upper):
    img = Image.fromarray(IMG).convert({".pgm": "L", ".pbm": "1"}.get(suffix, "RGB"))
    path = tmp_path/f"x{suffix.upper() if upper else suffix}"
    path.write_bytes(stored(img, WRITE[suffix]))
    assert find_images(tmp_path) == [(path, Path(path.name))] and read_image(path).shape == IMG.shape
    assert suffix in IMAGE_SUFFIXES


def test_what_is_left_out_is_said(tmp_path, monkeypatch):
    said = []
    for name in ("a.jpg", "b.jfif", "c.DNG", "c2.dng", "d.nef", "e.psd", "note.txt", "locked/f.jpg"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).touch()
    scandir = os.scandir
    def refuse(folder):  # root may search everything
        if Path(folder).name == "locked": raise PermissionError(13, "Permission denied", os.fspath(folder))
        return scandir(folder)
    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setitem(sys.modules, "rawpy", None)  # as where the extra `raw` is missing
    assert [str(rel) for _, rel in find_images(tmp_path, said.append)] == ["a.jpg", "b.jfif"]
    assert [type(line) for line in said] == [SkyError, str, str]
    assert sorted(str(line).replace(str(tmp_path), "photos") for line in said) == [
        "photos/locked: cannot be searched (Permission denied); check its permissions",
        "photos: 1 picture left out (.psd); save as JPEG, PNG or TIFF first",
        "photos: 3 raw photos left out (.dng .nef); develop to JPEG, PNG or TIFF first, or run: "
        "pip install rawpy"]
    with pytest.raises(SkyError, match="Permission denied"): find_images(tmp_path/"locked")
    for name in ("a.jpg", "b.jfif"): (tmp_path/name).unlink()
    with pytest.raises(SkyError, match="no pictures there; 3 raw photos"): find_images(tmp_path)


def test_a_set_keeps_its_own_masks(tmp_path):
    for name in ("q.png", "q_mask.png", "q_prob.png"): (tmp_path/name).write_bytes(stored(IMG))
    assert len(find_images(tmp_path)) == 3
    SkyMask(np.ones((60, 80), np.float32)).save(tmp_path/"q_mask.png", image=tmp_path/"q.png")
    assert [rel.name for _, rel in find_images(tmp_path)] == ["q.png", "q_prob.png"]


def test_a_new_file_renames_no_mask():
    before = [Path(n) for n in ("a/x.jpg", "a/y.jpg", "a/z.png", "b/x.jpg")]
    for new in ("a/x.png", "a/X.tif", "a/x.bmp", "a/z.webp.png", "a/x_mask.png", "b/y.heic", "a/x"):
        for layout in [name for name, row in LAYOUTS.items() if not row.bare]:
            for kind in OUTPUTS:
                for both in ([*before, Path(new)], [Path(new), *before]):
                    after = dict(zip(both, output_names(both, kind, layout), strict=True))
                    assert [after[n] for n in before] == output_names(before, kind, layout)


def test_home_and_odd_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sky = SkyMask(np.ones((60, 80), np.float32))
    write_image(IMG, "~/photos/x.png")
    assert (tmp_path/"photos/x.png").exists() and (read_image("~/photos/x.png") == IMG).all()
    assert orientation("~/photos/x.png") == 1
    assert len(find_images("~/photos")) == len(find_images("~/photos/*.png")) == 1
    sky.save("~/x_mask.png", image="~/photos/x.png", layout="odm")
    assert is_ours("~/x_mask.png")
    with pytest.raises(SkyError, match="is read"): check_outputs([tmp_path/"photos/x.png"], ["~/photos/x.png"])
    odd = tmp_path/os.fsdecode(b"caf\xff.jpg")
    for make in (lambda: read_image(odd), lambda: find_images(odd), lambda: write_image(IMG, odd.with_suffix(".psd"))):
        with pytest.raises(SkyError) as e: make()
        assert "caf\\udcff" in str(e.value).encode("cp1251").decode("cp1251")
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp"):
        write_image(IMG, odd.with_suffix(suffix))
        assert np.abs(read_image(odd.with_suffix(suffix)).astype(int) - IMG).mean() < 12
    odd.write_bytes(stored(IMG, "JPEG"))
    [(found, rel)] = find_images(odd.parent/"*.jpg")
    sky.save(odd.parent/output_names([rel])[0], image=found)
    assert is_ours(odd.with_name(os.fsdecode(b"caf\xff_mask.png")))


def test_files_are_replaced_with_care(tmp_path, monkeypatch):
    def refuse(*args): raise AssertionError("the umask belongs to all threads")
    monkeypatch.setattr(os, "umask", refuse)
    path, link = tmp_path/"x.png", tmp_path/"link.png"
    link.symlink_to("x.png")
    write_image(IMG, link)  # a dangling link is written through
    assert link.is_symlink() and (read_image(path) == IMG).all()
    path.chmod(0o604)
    write_image(IMG[::-1], link)
    assert link.is_symlink() and (read_image(path) == IMG[::-1]).all() and path.stat().st_mode & 0o777 == 0o604
    os.mkfifo(tmp_path/"pipe.png")
    for odd in (tmp_path/"pipe.png", tmp_path, "/dev/null", "/dev/full"):
        with pytest.raises(SkyError, match="not a regular file"):
            with atomic_write(odd): pass
        with pytest.raises(SkyError, match="not a regular file"): check_outputs([odd], [], overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.png", "pipe.png", "x.png"]


@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "t.png"])
def test_standard_output_is_not_replaced(tmp_path, target):
    code = f"from skysky.core import atomic_write\nwith atomic_write({target!r}) as tmp: tmp.write_text('x')"
    with (tmp_path/"t.png").open("w") as out:
        run = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, cwd=tmp_path, text=True,
                             env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    assert run.returncode == 1 and "SkyError: cannot write" in run.stderr and not (tmp_path/"t.png").read_bytes()


def test_outputs_are_checked_before_the_work(tmp_path):
    "What the user drew is not replaced, unless that is asked for; a source never is."
    names = ("a.jpg", "b.jpg", "a_mask.png", "ours.png")
    photo, other, drawn, ours = (tmp_path/n for n in names)
    for path in (photo, other, drawn): path.write_bytes(stored(IMG))
    SkyMask(np.ones((60, 80), np.float32)).save(ours)
    (tmp_path/"again").symlink_to(tmp_path)
    check_outputs([ours, tmp_path/"new.png"], [photo])
    with pytest.raises(SkyError, match="a_mask.png and 1 more: there, and not written by skysky; .* --overwrite"):
        check_outputs([ours, drawn, other], [photo])
    check_outputs([ours, drawn, other], [photo], True)
    for same in (photo, tmp_path/"again"/"a.jpg", f"{tmp_path}/./a.jpg"):
        for overwrite in (False, True):
            with pytest.raises(SkyError, match="is read"): check_outputs([same], [other, photo], overwrite)
    with pytest.raises(SkyError, match="two outputs"): check_outputs([ours, tmp_path/"again"/"ours.png"], [])
    line = pytest.raises(SkyError, check_outputs, [tmp_path/"a\0b"], []).value
    assert "cannot write" in str(line)


@pytest.mark.parametrize("layout", [name for name, row in LAYOUTS.items() if not row.bare])
def test_names_never_collide(layout):
    names = [Path(n) for n in ("x.jpg", "x.png", "X.webp", "x.jpg.jpg", "a/x.jpg", "b/x.jpg", "b/{stem}.jpg",
                               "b/x_mask.png")]
    for kind in OUTPUTS:
        targets = output_names(names, kind, layout)
        assert len({str(t).casefold() for t in targets}) == len(names)
        assert [t.parent for t in targets] == [n.parent for n in names]


def test_nothing_half_written(tmp_path):
    for name, side in (("wide.jpg", 70_000), ("wide.jpg", 65_501), ("wide.webp", 20_000)):
        for shape in ((1, side, 3), (side, 1, 3)):
            with pytest.raises(SkyError, match=f"{side} px a side is more than .* holds .*; use .png"):
                write_image(np.zeros(shape, np.uint8), tmp_path/name)
    with pytest.raises(SkyError): write_image(IMG.astype(np.float32), tmp_path/"float.png")
    with pytest.raises(SkyError): write_image(IMG, tmp_path/"no_suffix")
    with pytest.raises(SkyError): SkyMask(np.ones((9, 9), np.float32)).save(tmp_path/"x.jpg", "overlay", IMG)
    assert not list(tmp_path.iterdir())
