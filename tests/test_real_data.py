"""The shipped model on labelled real photos, where some are at hand: in SKYSKY_DATA, data/ or ../shared/data."""
import os
from pathlib import Path

import pytest

from skysky.data import open_dataset
from skysky.evaluate import evaluate
from skysky.segment import Segmenter

ROOT = Path(__file__).parent.parent
FOLDERS = [Path(os.environ.get("SKYSKY_DATA", ROOT / "data")), ROOT.parent / "shared" / "data"]


@pytest.fixture(scope="module")
def data():
    "The first folder that holds CamVid."
    found = next((f for f in FOLDERS if (f / "camvid" / "val").is_dir()), None)
    return found or pytest.skip(f"no labelled photos: {' or '.join(map(str, FOLDERS))} holds no camvid/val")


def test_shipped_model_on_street_frames(data):
    frames = open_dataset(data / "camvid", "val")
    report = evaluate(Segmenter(), frames.subset(lambda name: name in frames.names[::5]))
    assert len(report.rows) == 21 and not report.errors
    assert report.summary["pooled"]["iou_sky"] > .9


def test_cityscapes_frames_load_with_their_void_border(data):
    if not (data / "cityscapes").is_dir(): pytest.skip("no cityscapes there")
    frames = open_dataset(data / "cityscapes", "train")
    assert {name.split("/")[0] for name in frames.names}.isdisjoint({"frankfurt", "lindau", "munster"})
    assert (frames[0].targ[:2] == 255).all() and (frames[0].targ == 1).any()
