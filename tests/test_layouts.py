"Every layout, read as the program that it is for says: names, places, values, on pixels as that program sees them."
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image, ImageCms, ImageOps

from skysky.cli import main
from skysky.frames import video_frame
from skysky.layouts import LAYOUTS, layout_of
from skysky.write_video import VideoWriter

# name -> EXIF orientation
PICTURES = {"cam 1/a.b.c.jpg": 6, "cam 1/low/täg.PNG": 1, "d.jpeg": 3, "e f.webp": 8, "g.tif": 1, "h i.tif": 6,
            "j.TIFF": 3}
SIZE = (96, 64)  # px, upright


@pytest.fixture
def blue(model): return model  # for which blue is sky


def stored(path): return np.asarray(Image.open(path))  # Pillow turns TIFF as EXIF says, and nothing else
def upright(path): return np.asarray(ImageOps.exif_transpose(Image.open(path)))


# As each program finds the mask of project/images/<name>, and what it takes for the ground: from the sources beside the
# rows of LAYOUTS.
READERS = {
    "skysky": lambda d, n: stored(d/"images_sky"/Path(n).with_name(Path(n).stem + "_mask.png")) == 0,
    "colmap": lambda d, n: stored(d/"masks"/f"{n}.png") > 0,
    "vggt": lambda d, n: stored(d/"images_sky_masks"/n) > 0,
    "odm": lambda d, n: stored(d/"images"/Path(n).with_name(Path(n).stem + "_mask.png")) > 0,
    "metashape": lambda d, n: stored(d/"masks"/Path(n).with_name(Path(n).stem + "_mask.png")) > 0,
    "nerfstudio": lambda d, n: stored(d/nerfstudio(d)[n]).astype(bool),
    "realityscan": lambda d, n: stored(d/"images"/f"{n}.mask.png") > 0,
    "lichtfeld": lambda d, n: lichtfeld(d/"masks"/f"{n}.mask.png"),
    "openmvs": lambda d, n: stored(d/"masks"/f"{Path(n).stem}.mask.png") != 0,
    "meshroom": lambda d, n: stored(d/"masks"/f"{Path(n).stem}.png") != 0,
    "cityscapes": lambda d, n: stored(d/"gtFine"/Path(n).with_name(Path(n).stem + "_gtFine_labelIds.png")) != 23,
}


def seen(path, row):
    "A picture as the program of a layout sees it."
    if row.upright: return upright(path)
    turns = path.suffix.lower() in (".tif", ".tiff") and not row.turns
    return tifffile.imread(path) if turns else stored(path)


def nerfstudio(root):
    frames = json.loads((root/"transforms_masks.json").read_text())["frames"]
    return {frame["file_path"].removeprefix("images/"): frame["mask_path"] for frame in frames}


def lichtfeld(path):
    band = np.digitize(stored(path), (128, 251))  # 0: ignored, 1: to segment, 2: kept
    assert set(np.unique(band)) == {1, 2}
    return band == 2


def project(root, pictures=PICTURES, folder="images"):
    "Pictures, blue above and grey below, stored as EXIF says; the sky of each is its upper 16 px and a left strip."
    img = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    img[:16], img[:, :10] = (80, 140, 250), (80, 140, 250)
    for name, code in pictures.items():
        path, exif = root/folder/name, Image.Exif()
        exif[0x112] = code
        path.parent.mkdir(parents=True, exist_ok=True)
        turn = {1: None, 3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}[code]
        im = Image.fromarray(img) if turn is None else Image.fromarray(img).transpose(turn)
        im.save(path, exif=exif, quality=95)
    return root


def skysky(*args):
    run = CliRunner().invoke(main, [*map(str, args)])
    assert run.exit_code == 0, run.output
    return run.output


def mask(*args): return skysky("mask", *args)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_what_its_program_reads(tmp_path, blue, layout):
    row = LAYOUTS[layout]
    project(tmp_path, folder=row.pictures or "images")
    if layout == "nerfstudio":
        frames = [{"file_path": f"images/{name}"} for name in PICTURES]
        (tmp_path/"transforms.json").write_text(json.dumps({"frames": frames}))
    for _ in range(2):  # the second run finds the first one's masks, and takes none for a picture
        source = tmp_path if row.pictures else tmp_path/"images"
        output = mask(source, "--layout", layout, "--model", blue, "--no-refine")
        assert f"{len(PICTURES)} of {len(PICTURES)} done" in output
    for name in PICTURES:
        path = tmp_path/(row.pictures or "images")/name
        ground = READERS[layout](tmp_path, name)
        picture = seen(path, row)
        assert ground.shape == picture.shape[:2]
        assert ((picture[..., 2] < 190) == ground).mean() > .97, f"{name}: {layout} keeps the ground"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_of_a_video_lie_as_pictures_do(tmp_path, blue, layout):
    row = LAYOUTS[layout]
    pictures = tmp_path/(row.pictures or "images")
    view = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    view[:16], view[:, :10] = (80, 140, 250), (80, 140, 250)
    with VideoWriter(tmp_path/"a walk.no 1.mkv") as video:
        for i in range(7): video.write(video_frame(view, i, Fraction(1, 10)))
    skysky("video", tmp_path/"a walk.no 1.mkv", "--save", "frames", "--every", ".3s", "--layout", layout,
           "-o", pictures, "--model", blue, "--no-refine")
    names = sorted(p.name for p in pictures.glob("*.jpg"))
    assert names == [f"a walk.no 1_{i:06}.jpg" for i in (0, 3, 6)]
    if layout == "nerfstudio":
        names = [f"images/{name}" for name in names]
        frames = [{"file_path": n, "mask_path": f"masks/{Path(n).stem}.png"} for n in names]
        (tmp_path/"transforms_masks.json").write_text(json.dumps({"frames": frames}))
    for name in names:
        ground = READERS[layout](tmp_path, Path(name).name)
        assert ((stored(pictures/Path(name).name)[..., 2] < 190) == ground).mean() > .97


def test_layouts_and_readers_are_the_same():
    assert READERS.keys() == LAYOUTS.keys(), "a layout takes a row, and a reader here"


def test_a_name_that_occurs_twice_is_refused_where_programs_look_for_bare_names(tmp_path, blue):
    project(tmp_path, {"a/x.jpg": 1, "b/x.jpg": 1})
    for layout, row in LAYOUTS.items():
        if not row.bare: continue
        run = CliRunner().invoke(main, ["mask", str(tmp_path), "--layout", layout, "--model", str(blue)])
        assert run.exit_code == 1 and "bare names" in run.output and not (tmp_path/"masks").exists()


def test_own_names_and_polarity(tmp_path, blue):
    project(tmp_path, {"a/x y.jpg": 1})
    options = ("--name", "{stem}_mask{ext}", "--keep", "ground", "-o", tmp_path/"out", "--model", blue)
    mask(tmp_path/"images", *options)
    with Image.open(tmp_path/"out/a/x y_mask.jpg") as im:
        assert im.format == "PNG" and im.getpixel((50, 5)) == 0 and im.getpixel((50, 50)) == 255
    mask(tmp_path/"images", "--name", "{name}.tif", "--keep", "sky", "-o", tmp_path/"out", "--model", blue)
    with Image.open(tmp_path/"out/a/x y.jpg.tif") as im: assert im.getpixel((50, 5)) == 255
    run = CliRunner().invoke(main, ["mask", str(tmp_path/"images"), "--name", "mask.png", "--model", str(blue)])
    assert run.exit_code == 1 and "{stem}" in run.output
    assert layout_of("colmap", keep="sky").sky == 255


def test_soft_alpha_as_tiff(tmp_path, blue):
    project(tmp_path, {"a/x y.jpg": 6, "b.png": 1})
    for kind, white in (("prob", 255), ("prob16", 65535)):
        mask(tmp_path/"images", "--save", kind, "--name", "{stem}.tif", "-o", tmp_path/kind, "--model", blue)
        for name in ("a/x y.tif", "b.tif"):
            with Image.open(tmp_path/kind/name) as im:
                alpha = np.asarray(im)
                assert im.format == "TIFF" and alpha.shape == SIZE[::-1] and alpha.max() <= white
                assert alpha[5, 50] > .9*white and alpha[50, 50] < .2*white
    mask(tmp_path/"images", "--save", "cutout", "--name", "{stem}_alpha.tif", "-o", tmp_path/"cut", "--model", blue)
    assert stored(tmp_path/"cut/b_alpha.tif").shape == (*SIZE[::-1], 4)
    for wrong in (("--save", "prob16", "--name", "{stem}.bmp"), ("--save", "cutout", "--name", "{stem}.jpg"),
                  ("--save", "prob,cutout", "--name", "{stem}.png")):
        run = CliRunner().invoke(main, ["mask", str(tmp_path/"images"), *wrong, "--model", str(blue)])
        assert run.exit_code == 1 and "--name names" in run.output or "keeps its values" in run.output


def test_nerfstudio_gets_small_masks_for_its_small_pictures(tmp_path, blue):
    project(tmp_path, {"frame_00001.jpg": 1})
    (tmp_path/"images_4").mkdir()
    Image.new("RGB", (24, 16)).save(tmp_path/"images_4/frame_00001.jpg")
    (tmp_path/"transforms.json").write_text('{"frames": [{"file_path": "images/frame_00001.jpg"}]}')
    assert "transforms_masks.json names the masks" in mask(tmp_path, "--layout", "nerfstudio", "--model", blue)
    small = stored(tmp_path/"masks_4/frame_00001.png")
    assert small.shape == (16, 24) and not small[:4].any() and small[5:, 4:].all()
    (tmp_path/"transforms_masks.json").write_text("{}")
    run = CliRunner().invoke(main, ["mask", str(tmp_path), "--layout", "nerfstudio", "--model", str(blue)])
    assert run.exit_code == 1 and "not written by skysky" in run.output


def test_masks_are_grown_and_joined_with_those_that_are_there(tmp_path, blue):
    project(tmp_path, {"a/x.jpg": 6, "b.png": 1})
    mine = np.full((SIZE[0], SIZE[1]), 255, np.uint8)  # as the picture is stored
    mine[:20, :20] = 0
    (tmp_path/"mine/a").mkdir(parents=True)
    Image.fromarray(mine).save(tmp_path/"mine/a/x.jpg.png")
    for layout, sky, ignored in (("colmap", 0, 0), ("lichtfeld", 192, 0)):
        mask(tmp_path, "--layout", layout, "--combine", tmp_path/"mine", "--grow", "3", "--model", blue, "--no-refine")
        got = stored(tmp_path/"masks"/LAYOUTS[layout].name.format(name="a/x.jpg"))
        assert (got[:20, :20] == ignored).all() and got[50, 5] == sky and got[50, 40] == 255
        assert (stored(tmp_path/"masks"/LAYOUTS[layout].name.format(name="b.png"))[:, 50] == sky).sum() in (18, 19, 20)
    mask(tmp_path, "--layout", "colmap", "--combine", tmp_path/"mine", "--join", "intersection", "--model", blue)
    got = stored(tmp_path/"masks/a/x.jpg.png")
    assert got[50, 5] == 255 and got[2:18, 2:10].mean() < 40
    for wrong in (("--grow", "much"), ("--combine", tmp_path/"none"), ("--feather", "-2")):
        run = CliRunner().invoke(main, ["mask", str(tmp_path), *map(str, wrong), "--model", str(blue)])
        assert run.exit_code and str(wrong[1]).strip("-") in run.output


def test_another_sky_keeps_exif_and_profile(tmp_path, blue):
    project(tmp_path, {"x.jpg": 6})
    with Image.open(tmp_path/"images/x.jpg") as im:
        exif, icc = im.getexif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        exif[0x110] = "Pinhole"
        im.save(tmp_path/"images/x.jpg", exif=exif, icc_profile=icc, quality=95)
    evening = np.full((60, 90, 3), (200, 90, 255), np.uint8)
    evening[40:] = 0  # its ground, which is left out
    Image.fromarray(evening).save(tmp_path/"evening.png")
    for sky, want in (("#ff0000", (255, 0, 0)), (tmp_path/"evening.png", (200, 90, 255))):
        mask(tmp_path/"images", "-o", tmp_path/"out", "--save", "newsky,cutout", "--sky", sky, "--light", "0",
             "--model", blue)
        with Image.open(tmp_path/"out/x_newsky.jpg") as im:
            assert im.size == SIZE and im.getexif()[0x110] == "Pinhole" and im.info["icc_profile"] == icc
            assert np.abs(np.asarray(im)[4, 40].astype(int) - want).max() < 12
            assert np.abs(np.asarray(im)[55, 60].astype(int) - 128).max() < 12
    for wrong, line in (("#ff00", "no such file"), (tmp_path/"none.jpg", "no such file")):
        run = CliRunner().invoke(main, ["mask", str(tmp_path/"images"), "--save", "newsky", "--sky", str(wrong)])
        assert run.exit_code == 1 and line in run.output
