"Links of notebooks and texts to files of the project lead somewhere; the site's pages are made of all of them."
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [*ROOT.glob("*.md"), *(ROOT/"docs").glob("*.md"), *sorted((ROOT/"nbs").rglob("[!.]*.ipynb"))]


def text(path):
    "What a reader reads: of a notebook its texts, of both what is no code."
    said = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        said = "\n".join("".join(c["source"]) for c in json.loads(said)["cells"] if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", said, flags=re.S)


def links(said): return re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", said)


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    assert not [link for link in links(text(path)) if not (path.parent/link).exists()]


def test_links_are_found():
    assert links("[a](b.md), ![c](d/e.png), [f](https://g.h), [i](#j), [k](l.md#m)") == ["b.md", "d/e.png", "l.md"]


def test_the_site_has_a_page_for_every_notebook_and_says_what_docments_say(tmp_path):
    runpy.run_path(str(ROOT/"docs"/"pages.py"))["write"](tmp_path)
    notebooks = [p for p in (ROOT/"nbs").rglob("[!.]*.ipynb") if p.name != "index.ipynb"]
    assert all((tmp_path/"pages"/p.relative_to(ROOT).with_suffix(".md")).is_file() for p in notebooks)
    settings = (tmp_path/"zensical.toml").read_text(encoding="utf-8")
    assert all(p.relative_to(ROOT).with_suffix(".md").as_posix() in settings for p in notebooks)
    reference = (tmp_path/"pages"/"reference"/"skysky.md").read_text(encoding="utf-8")
    assert "### read_image" in reference and "#### Segmenter(…)" in reference
    assert "| `device` | <code>str</code> | <code>&#x27;auto&#x27;</code> | " in reference
    assert reference.index("## skysky.core") < reference.index("## skysky.cli"), "modules stand in reading order"
