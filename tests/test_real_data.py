"""The shipped model on labelled real photos, where some are at hand: in SKYSKY_DATA, data/ or ../shared/data."""
import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skysky import Segmenter
from skysky.measure.evaluate import evaluate
from skysky.measure.metrics import Counts, boundary_f1, iou
from skysky.refine import upsample_guided
from skysky.train.known import open_dataset
from skysky.train.models import mosaic

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


def test_mosaic_computes_what_the_published_layers_do():
    "Against a forward pass that interprets the published list of layers, where file and list are at hand."
    folder = next((f for f in (ROOT / "weights", ROOT.parent / "shared" / "weights")
                   if (f / "mosaic_r4_ade20k.safetensors").is_file()), None)
    if folder is None: pytest.skip("no mosaic_r4_ade20k.safetensors in weights/ or ../shared/weights")
    spec = importlib.util.spec_from_file_location("parity", folder / "mosaic_parity.py")
    spec.loader.exec_module(parity := importlib.util.module_from_spec(spec))
    published = parity.Mosaic(json.loads((folder / "mosaic_r4_ade20k.layers.json").read_text()))
    published.load_state_dict(load_file(folder / "mosaic_r4_ade20k.safetensors"))
    ours = mosaic(str(folder / "mosaic_r4_ade20k.safetensors"))
    for size in ((512, 512), (96, 160), (288, 416)):
        x = torch.rand(1, 3, *size)*2 - 1
        with torch.no_grad(): assert (ours.classes(x) - published(x)).abs().max() < 1e-4


def test_cityscapes_frames_load_with_their_void_border(data):
    if not (data / "cityscapes").is_dir(): pytest.skip("no cityscapes there")
    frames = open_dataset(data / "cityscapes", "train")
    assert {name.split("/")[0] for name in frames.names}.isdisjoint({"frankfurt", "lindau", "munster"})
    assert (frames[0].targ[:2] == 255).all() and (frames[0].targ == 1).any()


def test_guided_enlargement_follows_edges(data):
    "From a model that sees 192×256 px to photos of 360×480: pytest -s prints the figures."
    frames, seg = open_dataset(data / "camvid", "val"), Segmenter(size=256)
    ways = {"nearest": lambda p, img: cv2.resize(p, img.shape[1::-1], interpolation=cv2.INTER_NEAREST),
            "bilinear": lambda p, img: cv2.resize(p, img.shape[1::-1]), "guided": upsample_guided}
    edges, counts = {w: [] for w in ways}, {w: [] for w in ways}
    for i in range(0, len(frames), 4):
        _, img, targ = frames[i]
        prob = seg.infer(img)
        for way, enlarge in ways.items():
            mask = enlarge(prob, img) >= .5
            edges[way].append(boundary_f1(mask, targ))
            counts[way].append(Counts.of(mask, targ))
    f1 = {way: np.mean(values) for way, values in edges.items()}
    pooled = {way: iou(Counts.stack(values).pooled()) for way, values in counts.items()}
    for way in ways: print(f"{way}: n {len(edges[way])}, boundary F1 {f1[way]:.3f}, pooled sky IoU {pooled[way]:.4f}")
    assert f1["guided"] > max(f1["nearest"], f1["bilinear"]) + .02
    assert pooled["guided"] > pooled["bilinear"]
