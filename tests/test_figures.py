"""A figure in a text is that of its source: a model's card, a file, or what a notebook printed.

`HELD` says which sentence takes which figures from where. Records of runs that nothing here can repeat stand in `PAST`,
with the reason. A score or a speed that is in neither is an error: say where it comes from.
"""
import json
import re
from dataclasses import asdict
from functools import cache

import pytest
from test_book import PAGES, ROOT, cells, prose

from skysky.measure.metrics import FALSE_ALARM

FIGURE = re.compile(r"(?<![\w.])0?\.\d{3,4}(?![\d.])|(?<![\w.])\d+(?= frames a second\b)")
TEXTS = [p for p in PAGES if p.name not in ("CHANGELOG.md", "README.md")]  # what was; and the index notebook again


@cache
def text(page):
    "What a page says in words: no blocks of code, no addresses of links."
    return re.sub(r"```.*?```|\]\([^)]*\)|(?<=arXiv )\S+", "", prose(ROOT/page), flags=re.S)


@cache
def shown(page):
    "What a notebook printed, and what its blocks quote."
    said = ["".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for c in cells(ROOT/page, "code")
            for o in c["outputs"]]
    return "\n".join([*said, *re.findall(r"```(.*?)```", prose(ROOT/page), re.S)])


def printed(page, pattern): return [float(x) for x in re.search(pattern, shown(page), re.S | re.M).groups()]


def card(model, *figures):
    "Of (set, name of a figure) in a model's card."
    metrics = json.loads((ROOT/"skysky"/"models"/f"{model}.json").read_text(encoding="utf-8"))["metrics"]
    return [metrics[part][name] for part, name in figures]


BENCH, TOWNS = "nbs/measure/04_bench.ipynb", "façades, towns held out"
HELD = [  # page, the words with their figures as groups, the source's values
    ("nbs/index.ipynb", r"did (\d+) of 1280×720 and (\d+) of 1920×1080",
     lambda: printed(BENCH, r"^1280×720 .* (\d+) +[\d.]+$.^1920×1080 .* (\d+) +[\d.]+$")),
    (BENCH, r"limit: (\d+) % in int8 of [^.]*, and (\d+\.\d) times as fast as torch in float32",
     lambda: printed(BENCH, r"^fcn_resnet50_int8 at.*?openvino +cpu +int8 +1 +[\d.]+ +(\d+)%")
     + printed(BENCH, r"^fcn_resnet50_int8 at.*?openvino +cpu +int8 +1 +([\d.]+)")),
    ("nbs/06f_video.ipynb", r"\| 640 px \| (\.\d+) \| (\.\d+) \| (\.\d+) \| (\.\d+) \| (\.\d+) \|",
     lambda: card("mosaic", ("CamVid val", "pooled_iou"), ("CamVid val", "boundary_f1"), (TOWNS, "pooled_iou"),
                  (TOWNS, "sky_iou"), (TOWNS, "boundary_f1"))),
    ("nbs/train/02_models.ipynb", r"(\d\.\d) MB in 16 bits",
     lambda: [(ROOT/"skysky"/"models"/"mosaic.onnx").stat().st_size/1e6]),
    ("nbs/tutorials/51_results.ipynb", r"more than (\.\d) % called sky", lambda: [100*FALSE_ALARM]),
    ("docs/book.md", r"more than (\.\d) % was called sky", lambda: [100*FALSE_ALARM])]
PAST = {  # page -> paragraphs with figures of runs that are over, each named by its command there
    "nbs/06f_video.ipynb": [r"\| 384 px \|.*"],  # the card keeps what the model does at its own sizes
    "nbs/train/03_learner.ipynb": [r"## What matters.*"],  # short trainings, each one draw of chance
    "nbs/sphere/02a_sun.ipynb": [r"to \.0003°", r"a radius of \.267°"],  # of the Sun, and of the paper named there
    "nbs/tutorials/56_teach_it_your_place.ipynb": [r"## How far it goes.*"],  # lessons of a quarter of an hour
    BENCH: [r"What int8 costs on CamVid.s[^|]*?float32 agrees everywhere"]}  # of a model that is no longer shipped


@pytest.mark.parametrize("page, pattern, source", HELD, ids=lambda x: x if isinstance(x, str) else None)
def test_a_figure_is_its_sources(page, pattern, source):
    [told] = re.finditer(pattern, text(page))
    for figure, value in zip(told.groups(), source(), strict=True):
        digits = len(figure.partition(".")[2])
        assert float(figure) == pytest.approx(value, abs=.5001*10**-digits), f"{told[0]}: the source says {value}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_figure_has_a_source(path):
    page = path.relative_to(ROOT).as_posix()
    left = text(page)
    for known in [*(pattern for p, pattern, _ in HELD if p == page), *PAST.get(page, ())]:
        assert re.search(known, left, re.S if known.startswith("## ") else 0), f"{known} is no longer there"
        left = re.sub(known, "", left, flags=re.S if known.startswith("## ") else 0)
    loose = [left[max(0, m.start() - 60):m.end() + 30] for m in FIGURE.finditer(left)]
    assert not loose, "say in HELD where it comes from"


def test_words_for_figures_hold():
    "What the FCN's card says in words of its false alarms and of the student."
    limits = json.loads((ROOT/"skysky"/"models"/"fcn_resnet50.json").read_text(encoding="utf-8"))["limits"]
    assert "one in ten rendered pictures without sky" in limits and "Behind the student on every set" in limits
    assert card("fcn_resnet50", ("rendered scenes", "false_alarms")) == [pytest.approx(.1, abs=.03)]
    sets = ["CamVid val", "CamVid test", "CamVid Seq05VD", TOWNS, "rendered scenes"]
    for name in ("pooled_iou", "sky_iou", "sky_boundary_f1"):
        ours, theirs = (card(m, *((part, name) for part in sets)) for m in ("mosaic", "fcn_resnet50"))
        assert all(a > b for a, b in zip(ours, theirs, strict=True))


def test_results_show_todays_cards():
    "The tables of 51 that are made of the cards, made again."
    from IPython.display import Markdown
    names, made = {}, 0
    for cell in cells(ROOT/"nbs/tutorials/51_results.ipynb", "code"):
        source = "".join(cell["source"])
        if source.startswith("%"): source = re.sub(r"(?m)^%.*", "", source)
        if not re.search(r"\bcards?\b|^import|^def table", source, re.M) or "report" in source: continue
        *body, last = re.split(r"\n(?=\S)", source.strip())
        while last.startswith((")", "      ")): last = f"{body.pop()}\n{last}"
        exec("\n".join(body), names)
        if not last.startswith(("table", "Markdown")):
            exec(last, names)
            continue
        today = eval(last, names)
        assert isinstance(today, Markdown)
        assert "".join(cell["outputs"][0]["data"]["text/markdown"]) == today.data, "execute 51_results again"
        made += 1
    assert made == 4


def test_cards_say_what_their_configs_do():
    from skysky.train.config import load_config
    from skysky.train.export import learnt_from
    for model, config in (("mosaic", "default"), ("fcn_resnet50", "fcn_resnet50")):
        told = json.loads((ROOT/"skysky"/"models"/f"{model}.json").read_text(encoding="utf-8"))
        made = learnt_from(asdict(load_config(ROOT/"config"/f"{config}.yaml"))["data"])
        if model == "mosaic": made = re.sub(r"labelled by mosaic", "labelled by MOSAIC's ADE20K weights, an earlier "
                                            "student and U2-Netp", made)  # whose pupil it is
        assert told["data"] == made
        for key in ("edge_weight 1", "average 0.99", "wd 0.01"): assert key in told["recipe"]


def test_files_that_configs_name_are_there():
    for path in sorted((ROOT/"config").glob("*.yaml")):
        for name in re.findall(r"\b(?:weights|skysky|config|docs)/[\w/.]+\w", path.read_text(encoding="utf-8")):
            assert (ROOT/name).exists(), f"{path.name}: {name}"
