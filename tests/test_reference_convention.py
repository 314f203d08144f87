"""The reference's averages, worked out by hand from fixed predictions, against ours.

The reference scores every image by its confusion matrix, once for each label: IoU = tp/(tp + fp + fn), precision =
tp/(tp + fp), recall = tp/(tp + fn), F1 = harmonic mean of the two; accuracy = right/all. Its averages and standard
deviations (numpy's, divided by n) leave out the images whose value is zero or undefined."""
from fractions import Fraction as F
from math import isclose, nan, sqrt
from typing import NamedTuple

import numpy as np
import pytest

from skysky import SkyMask
from skysky.core import IGNORE_INDEX
from skysky.measure.evaluate import evaluate
from skysky.measure.metrics import Counts, accuracy, f1, iou, precision, recall, reference_mean, strict_mean


def pixels(text):
    "# is sky, . is other, ? is void."
    return np.array([[{"#": 1, ".": 0, "?": IGNORE_INDEX}[c] for c in row] for row in text.split()], np.uint8)


# name: truth, prediction, and by hand: tp, fp, fn, tn
IMAGES = {
    "a corner too much, a corner too little": ("#### ##.. ....", "###. ###. ....", (5, 1, 1, 5)),
    "void under two called pixels": ("##?. #... ..?.", "###. .... ..##", (2, 1, 1, 6)),
    "twice as wide": ("#... #... #...", "##.. ##.. ##..", (3, 3, 0, 6)),
    "sky missed": ("##.. .... ....", ".... .... ....", (0, 0, 2, 10)),
    "no sky, none called": (".... .... ....", ".... .... ....", (0, 0, 0, 12)),
    "no sky, all called": (".... .... ....", "#### #### ####", (0, 12, 0, 0)),
}
U = None  # undefined: divided by zero
# by hand from the counts, image by image
SCORES = {
    "accuracy": (F(10, 12), F(8, 10), F(9, 12), F(10, 12), F(1), F(0)),
    "iou_sky": (F(5, 7), F(2, 4), F(3, 6), F(0), U, F(0)),
    "precision_sky": (F(5, 6), F(2, 3), F(3, 6), U, U, F(0)),
    "recall_sky": (F(5, 6), F(2, 3), F(1), F(0), U, U),
    "f1_sky": (F(5, 6), F(2, 3), F(6, 9), F(0), U, F(0)),
    "iou_other": (F(5, 7), F(6, 8), F(6, 9), F(10, 12), F(1), F(0)),
    "precision_other": (F(5, 6), F(6, 7), F(1), F(10, 12), F(1), U),
    "recall_other": (F(5, 6), F(6, 7), F(6, 9), F(1), F(1), F(0)),
    "f1_other": (F(5, 6), F(6, 7), F(12, 15), F(20, 22), F(1), F(0)),
}
# what stands in the place of each undefined score in the strict convention, in the same order
STRICT = {"iou_sky": (1,), "precision_sky": (0, 1), "recall_sky": (1, 0), "f1_sky": (1,), "precision_other": (0,)}
# tp 10, fp 17, fn 4, tn 39
POOLED = {"accuracy": F(49, 70), "iou_sky": F(10, 31), "precision_sky": F(10, 27), "recall_sky": F(10, 14),
          "f1_sky": F(20, 41), "iou_other": F(39, 60), "precision_other": F(39, 43), "recall_other": F(39, 56),
          "f1_other": F(78, 99)}
OURS = {"accuracy": accuracy} | {f"{f.__name__}_{name}": (lambda c, f=f, label=label: f(c, label))
                                 for f in (iou, precision, recall, f1) for name, label in (("sky", 1), ("other", 0))}


def mean_std(values):
    mean = sum(values)/len(values)
    return float(mean), sqrt(sum((v - mean)**2 for v in values)/len(values)), len(values)


def reference(values): return mean_std([v for v in values if v])


def strict(name):
    fill = iter(STRICT.get(name, ()))
    return mean_std([F(next(fill)) if v is U else v for v in SCORES[name]])


def same(a, b): return all(isclose(x, y, abs_tol=1e-12) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def counts(): return Counts.stack(Counts.of(pixels(pred) == 1, pixels(truth)) for truth, pred, _ in IMAGES.values())


def test_counts(counts):
    for i, (_, _, by_hand) in enumerate(IMAGES.values()): assert tuple(v[i] for v in counts) == by_hand


@pytest.mark.parametrize("name", SCORES)
def test_scores_and_averages(name, counts):
    values = OURS[name](counts)
    np.testing.assert_allclose(values, [nan if v is U else float(v) for v in SCORES[name]], atol=1e-12)
    assert same(reference_mean(values), reference(SCORES[name]))
    assert same(strict_mean(values, counts), strict(name))
    assert isclose(OURS[name](counts.pooled()), POOLED[name])


def test_sky_iou_to_the_last_fraction(counts):
    "(5/7 + 1/2 + 1/2)/3 = 4/7; squared deviations 4/196 + 1/196 + 1/196, a third of it 1/98."
    assert same(reference_mean(iou(counts)), (4/7, sqrt(1/98), 3))


class Sample(NamedTuple):
    name: str
    img: np.ndarray
    targ: np.ndarray


def test_evaluate_reports_the_same():
    "From images to summary: a pipeline that answers with the fixed predictions."
    def recorded(img): return SkyMask((img[..., 0] > 0).astype(np.float32))
    dataset = [Sample(name, np.repeat(pixels(pred)[..., None], 3, -1), pixels(truth))
               for name, (truth, pred, _) in IMAGES.items()]
    summary = evaluate(recorded, dataset).summary
    assert summary["false_alarms"] == {"n": 2, "share": .5, "min_share": .005}
    for name in SCORES:
        r, s = summary["reference"][name], summary["strict"][name]
        assert same((r["mean"], r["std"], r["n"]), reference(SCORES[name])) and r["dropped"] == len(IMAGES) - r["n"]
        assert same((s["mean"], s["std"], s["n"]), strict(name))
        assert isclose(summary["pooled"][name], POOLED[name])
