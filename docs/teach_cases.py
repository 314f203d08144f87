"""What a lesson does to a place: `python docs/teach_cases.py CASE [PAIRS [WRONG [JUDGED [SET]]]]` prints a table's row.

CASE is a rendered place (tower, studio, wall, trees): PAIRS are taught, WRONG of them with labels turned round;
or `fisheye=FOLDER`, of which PAIRS are taught; or `night=FOLDER:CAMERA,CAMERA`, cameras taught by day, judged at night.
All is judged on pictures that had no part in the lesson: JUDGED of a rendered place, and as many rendered scenes of
elsewhere, and 48 photographs of SET, a labelled folder, where one is named. The columns: case, pairs, wrong ones,
pictures judged; IoU before, after; share of wrong pixels before, after; IoU lost on scenes elsewhere, on SET; share of
the new weights; minutes of the lesson."""
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from skysky import Segmenter
from skysky.core import SKY
from skysky.scenes import SKIES, render_scene
from skysky.train.known import open_dataset
from skysky.train.teach import teach
from skysky.write_images import write_image

SIZE = 240, 320
PLACES = dict(tower=(31, "lookup"), studio=(14, "closeup"), wall=(6, "wall"), trees=(7, "twigs"))  # seed and kind; the
# shipped model takes this wall for sky from edge to edge, and more of this backdrop than of any other seed's below 100

Pair = tuple[str, np.ndarray, np.ndarray]  # name, picture, mask: 255 sky, 0 other, 128 left open


def rendered(case: str, looks: range) -> Iterator[Pair]:
    "A place under every sky in turn."
    seed, kind = PLACES[case]
    for i, look in enumerate(looks):
        scene = render_scene(seed, SIZE, kind, SKIES[i % len(SKIES)], look=look)
        yield f"{case}_{i:03}", scene.img, np.where(scene.targ == SKY, 255, 0).astype(np.uint8)


def labelled(folder: str, wanted: Callable[[str], bool]) -> Iterator[Pair]:
    "The pairs of a folder whose names are wanted."
    data = open_dataset(folder, "train")
    for i, name in enumerate(data.names):
        if not wanted(name): continue
        img, targ = data[i].img, data[i].targ
        yield name, img, np.select([targ == SKY, targ == 0], [np.uint8(255), np.uint8(0)], np.uint8(128))


def judge(seg: Segmenter, pairs: list[Pair]) -> tuple[float, float]:  # pooled IoU, share of wrong pixels
    both = either = wrong = seen = 0
    for _, img, mask in pairs:
        said, true, known = seg(img).mask() > 0, mask == 255, mask != 128
        both += (said & true & known).sum()
        either += ((said | true) & known).sum()
        wrong += ((said ^ true) & known).sum()
        seen += known.sum()
    return both/either if either else 1., wrong/seen


def turned_round(pairs: list[Pair], n: int) -> list[Pair]:
    "Some labelled the wrong way round: of two the first, which is learnt, and the last, which is held out."
    wrong = set(np.linspace(0, len(pairs) - 1, n).astype(int))
    return [(name, img, 255 - mask if i in wrong else mask) for i, (name, img, mask) in enumerate(pairs)]


def case_pairs(case: str, n: int, judged: int) -> tuple[list[Pair], list[Pair]]:  # to teach, to judge
    "What is taught and what is judged have no picture in common."
    kind, _, where = case.partition("=")
    if kind in PLACES: return [list(rendered(kind, range(a, a + m))) for a, m in ((5000, n), (9000, judged))]
    if kind == "fisheye":
        pairs = list(labelled(where, lambda name: True))
        first = {pairs[i*len(pairs)//n][0] for i in range(n)}
    elif kind == "night":
        folder, _, cameras = where.partition(":")
        pairs = list(labelled(folder, lambda name: name.split("_")[0] in cameras.split(",")))
        first = set([name for name, _, _ in pairs if "_day_" in name][:n])
    else: raise SystemExit(__doc__)
    return [p for p in pairs if p[0] in first], [p for p in pairs if p[0] not in first]


def lost(taught: Segmenter, pairs: list[Pair]) -> str:  # IoU
    return f"{judge(Segmenter(), pairs)[0] - judge(taught, pairs)[0]:+.4f}" if pairs else ""


def main(case: str, n: int = 20, wrong: int = 0, many: int = 100, photos: str = ""):
    lesson, judged = case_pairs(case, n, many)
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, img, mask in turned_round(lesson, wrong):
            write_image(img, folder/"mine"/"images"/f"{name}.png")
            write_image(mask, folder/"mine"/"masks"/f"{name}.png")
        done = teach(folder/"mine", folder/"mine.onnx", say=lambda line: print(line, file=sys.stderr))
        taught = Segmenter(folder/"mine.onnx")
        before, after = judge(Segmenter(), judged), judge(taught, judged)
        scenes = (render_scene(870_000 + i) for i in range(many))
        rest = [(s.kind, s.img, np.where(s.targ == SKY, 255, 0)) for s in scenes]
        real = list(labelled(photos, lambda name: True)) if photos else []
        some = [real[i*len(real)//48] for i in range(48)] if len(real) > 48 else real
        print(f"| {case.partition('=')[0]} | {len(lesson)} | {wrong} | {len(judged)} | {before[0]:.3f} "
              f"| {after[0]:.3f} | {before[1]:.2%} | {after[1]:.2%} | {lost(taught, rest)} | {lost(taught, some)} "
              f"| {done.share:g} | {done.seconds/60:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) < 2: raise SystemExit(__doc__)
    main(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:6])
