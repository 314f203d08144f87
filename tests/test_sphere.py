"`skysky sphere` as a user runs it: drawn panoramas and fisheyes in, masks, figures and horizons out."
import csv

import pytest
from click.testing import CliRunner

from skysky.cli import main
from skysky.images import read_image
from skysky.sphere import Equirectangular, Fisheye, draw_street
from skysky.write_images import write_image


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
