"`skysky fixed` as a user runs it: a rendered camera over a day and a night, of which one picture in twenty is spoilt."
import csv

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from skysky.cli import main
from skysky.images import read_image
from skysky.scenes import render_scene

DAY = ("night", "sunset", "clear", "deep", "broken", "white", "overcast", "haze", "sunset", "night")


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    "The folder of a camera's pictures, the true sky, and what is wrong with which picture."
    folder, n, m = tmp_path_factory.mktemp("camera"), 40, 12
    scenes = [render_scene(11, (140, 224), "street", DAY[i*len(DAY)//n], look=i) for i in range(n)]
    pictures = [s.img[m:-m, m:-m] for s in scenes]
    pictures[9] = scenes[9].img[m - 2:-m - 2, m + 4:-m + 4]
    pictures[22] = (.3*pictures[22] + .7*190).astype(np.uint8)
    (folder/"sub").mkdir()
    for i, img in enumerate(pictures):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2024:06:21 {i*24//n:02}:{i*24*60//n%60:02}:00"
        Image.fromarray(img).save(folder/"sub"/f"{n - i:02}.jpg", quality=95, exif=exif)
    return folder, scenes[0].targ[m:-m, m:-m] > 0, {f"{n - 9:02}.jpg": "moved", f"{n - 22:02}.jpg": "fog"}


def run(*args):
    result = CliRunner().invoke(main, ["fixed", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_cameras_mask_is_right_and_its_spoilt_pictures_are_named(camera, tmp_path):
    folder, truth, spoilt = camera
    result = run(folder, "-o", tmp_path, "--plot", tmp_path/"shares.svg", "--csv", tmp_path/"rows.csv")
    assert result.exit_code == 0, result.output
    mask = read_image(tmp_path/"fixed_mask.png")[..., 0] > 0
    assert (mask & truth).sum()/(mask | truth).sum() >= .98
    rows = [*csv.DictReader((tmp_path/"rows.csv").open())]
    assert {row["path"].rpartition("/")[2]: row["why"] for row in rows if row["why"]} == spoilt
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows) and rows[0]["clock"] == "exif"
    assert rows[0]["path"].endswith("40.jpg") and not any(row["used"] == "1" for row in rows if row["why"])
    assert all(any(name in line and why in line for line in result.output.splitlines()) for name, why in spoilt.items())
    assert run(folder, "-o", tmp_path, "--plot", tmp_path/"shares.svg", "-q").output == "", "its own may be replaced"


def test_nothing_is_lost_and_what_does_not_fit_is_one_line(camera, tmp_path):
    folder, *_ = camera
    few = [folder/"sub"/f"{i}.jpg" for i in (20, 25, 26)]
    mine = tmp_path/"out"/"fixed_mask.png"
    mine.parent.mkdir()
    cv2.imwrite(str(mine), np.zeros((9, 9), np.uint8))
    before = mine.read_bytes()
    for args, why in (((*few, "-o", mine.parent), "not written by skysky"), ((few[0], "-o", tmp_path), "three good"),
                      ((*few, "-o", tmp_path, "--csv", few[0]), "table"), (("none", "-o", tmp_path), "no such"),
                      ((*few, "-o", tmp_path, "--plot", few[1]), ".png or .svg")):
        result = run(*args, "-q")
        assert result.exit_code == 1 and why in result.output and len(result.output.splitlines()) == 1, result.output
    assert mine.read_bytes() == before and [*tmp_path.iterdir()] == [mine.parent]
