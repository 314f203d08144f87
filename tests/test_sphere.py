"`skysky sphere` as a user runs it: drawn panoramas and fisheyes in, masks, figures and horizons out."
import csv
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner

from skysky.cli import main
from skysky.frames import video_frame
from skysky.images import read_image
from skysky.read_video import VideoReader
from skysky.sphere import FACES, Equirectangular, Fisheye, draw_street
from skysky.sphere.cubes import join_cube
from skysky.write_images import write_image
from skysky.write_video import VideoWriter


@pytest.fixture
def panorama(tmp_path):
    write_image(draw_street(Equirectangular(256, 512))[0], path := tmp_path/"in"/"street.jpg")
    return path


def run(*args):
    result = CliRunner().invoke(main, ["sphere", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_panorama_gets_mask_figures_horizon_and_fisheye(panorama, tmp_path):
    out, table = tmp_path/"out", tmp_path/"sky.csv"
    command = (panorama, "--projection", "equirectangular", "-o", out, "--csv", table, "--upward", 200, "--heading", 40)
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert {p.name for p in out.iterdir()} == {
        "street_mask.png", "street_horizon.csv", "street_upward.jpg", "street_upward_mask.png"}
    row, = csv.DictReader(table.open())
    assert abs(float(row["svf"]) - .619) < .02 and row["heading"] == "40.0" and float(row["svf_error"]) < .1
    assert run(*command).exit_code == 0, "its own files may be replaced"
    assert len([*csv.DictReader(table.open())]) == 1


def test_a_fisheye_is_void_outside_of_its_circle(tmp_path):
    write_image(draw_street(Fisheye(256, 320))[0], tmp_path/"up.png")
    result = run(tmp_path/"up.png", "--projection", "fisheye", "-o", tmp_path/"out", "--outside", "white")
    assert result.exit_code == 0, result.output
    assert (read_image(tmp_path/"out"/"up_mask.png")[:, :30] == 255).all()


@pytest.mark.parametrize("options, why", [
    (("--projection", "fisheye"), "no image circle"),
    (("--projection", "equirectangular", "--lens", "equisolid"), "leave it out"),
    (("--projection", "fisheye", "--circle", "3,4"), "three numbers"),
    (("--projection", "fisheye", "--lens", "round", "--circle", "99,99,90"), "no lens"),
    (("--projection", "perspective", "--fov", "200"), "below 180"),
])
def test_what_does_not_fit_is_said_in_one_line(panorama, tmp_path, options, why):
    result = run(panorama, *options, "-o", tmp_path/"out", "-q")
    message = str(result.exception) if result.exit_code and not result.output else result.output
    assert result.exit_code and why in message and len(message.strip().splitlines()) == 1
    assert not (tmp_path/"out").exists() or not [*(tmp_path/"out").iterdir()]


def test_masks_of_panoramas_and_fisheyes_come_in_every_layout(panorama, tmp_path):
    "`skysky mask --projection` finds what `skysky sphere` does, and goes on as any other job."
    up = tmp_path/"up"/"up.png"
    write_image(draw_street(Fisheye(256, 320))[0], up)
    def mask(*args): return CliRunner().invoke(main, ["mask", *map(str, args)])
    for path, projection in ((panorama, "equirectangular"), (up, "fisheye")):
        out = tmp_path/projection
        assert run(path, "--projection", projection, "-o", out/"sphere", "-q").exit_code == 0
        sky = read_image(out/"sphere"/f"{path.stem}_mask.png")[..., 0] > 0
        command = (path.parent, "--projection", projection, "-o", out, "--layout", "colmap")
        result = mask(*command)
        assert result.exit_code == 0, result.output
        assert (read_image(out/f"{path.name}.png")[..., 0] == 0).tolist() == sky.tolist()
        assert "1 already there" in mask(*command, "--resume").output
    assert "already there" not in mask(*command[:1], *command[3:], "--resume").output, "another way, another mask"
    assert mask(up, "--circle", "1,2,3").exit_code == 2
    assert "twice as wide" in mask(up, "--projection", "equirectangular", "-o", tmp_path/"no").output


def test_cubemaps_are_read_and_written_and_give_the_same_figures(panorama, tmp_path):
    def svf(table): return [float(row["svf"]) for row in csv.DictReader(table.open())]
    out, around = tmp_path/"out", ("--projection", "equirectangular", "--csv", tmp_path/"a.csv", "--faces", 128)
    assert run(panorama, *around, "-o", out).exit_code == 0
    cube = tmp_path/"cube"
    cube.mkdir()
    for name in FACES: (cube/f"street_{name[0]}.jpg").write_bytes((out/f"street_{name}.jpg").read_bytes())
    for file in cube.iterdir():  # what skysky wrote is no picture of the user's
        write_image(read_image(file), file)
    write_image(join_cube({name: read_image(cube/f"street_{name[0]}.jpg") for name in FACES}, "cross"), cube/"all.png")
    result = run(cube, "--projection", "cubemap", "-o", tmp_path/"masks", "--csv", tmp_path/"b.csv")
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path/"masks").iterdir()} == {
        *(f"street_{name[0]}_mask.png" for name in FACES), "street_horizon.csv", "all_mask.png", "all_horizon.csv"}
    assert svf(tmp_path/"b.csv") == pytest.approx(svf(tmp_path/"a.csv")*2, abs=.01)
    for name in ("front", "up", "down"):
        one, two = (read_image(folder/f"street_{face}_mask.png")[..., 0] > 0
                    for folder, face in ((out, name), (tmp_path/"masks", name[0])))
        assert (one != two).mean() < .02
    (cube/"street_d.jpg").unlink()
    result = run(cube, "--projection", "cubemap", "-o", tmp_path/"no")
    assert result.exit_code == 1 and "there is no down" in result.output


def test_a_panorama_gets_its_hours_of_sun(panorama, tmp_path):
    place = ("--projection", "equirectangular", "-o", tmp_path, "--sun", "52.5,13.4", "--year", 2024)
    assert run(panorama, *place).exit_code == 0
    rows = [*csv.DictReader((tmp_path/"street_sun.csv").open())]
    assert len(rows) == 366 and rows[0]["day"] == "2024-01-01"
    assert all(0 <= float(row["hours"]) <= float(row["flat"]) for row in rows)
    assert float(rows[172]["flat"]) == pytest.approx(16.7, abs=.2) and float(rows[172]["hours"]) < 9
    assert run(panorama, *place[:4], "--sun", "52.5").exit_code


def test_a_video_of_a_panorama_gets_masks_and_figures_of_every_frame(panorama, tmp_path):
    clip, img = tmp_path/"drive.mp4", read_image(panorama)
    with VideoWriter(clip) as video:
        for i in range(3): video.write(video_frame(np.roll(img, 9*i, 1), i, Fraction(1, 25)))
    result = run(clip, panorama, "--projection", "equirectangular", "-o", tmp_path/"out", "--csv", tmp_path/"sky.csv")
    assert result.exit_code == 0, result.output
    rows = [*csv.DictReader((tmp_path/"out"/"drive_sky.csv").open())]
    assert len(rows) == 3 and all(abs(float(row["svf"]) - .619) < .03 for row in rows)
    with VideoReader(tmp_path/"out"/"drive_mask.mp4") as frames: masks = [frame.img[..., 0] > 127 for frame in frames]
    sky = read_image(tmp_path/"out"/"street_mask.png")[..., 0] > 0
    assert len(masks) == 3 and (masks[0] != sky).mean() < .03
    assert run(clip, "--projection", "equirectangular", "-o", tmp_path/"out").exit_code == 0, "its own may be replaced"
