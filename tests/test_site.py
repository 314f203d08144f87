"The site's pages are made of all notebooks and of what docments say; that its links lead somewhere holds `make docs`."
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_site_has_a_page_for_every_notebook_and_says_what_docments_say(tmp_path):
    runpy.run_path(str(ROOT/"docs"/"pages.py"))["write"](tmp_path)
    notebooks = [p for p in (ROOT/"nbs").rglob("[!.]*.ipynb") if p.name != "index.ipynb"]
    assert all((tmp_path/"pages"/p.relative_to(ROOT).with_suffix(".md")).is_file() for p in notebooks)
    trained = (tmp_path/"pages"/"nbs"/"tutorials"/"50_train_a_model.md").read_text(encoding="utf-8")
    assert "<td>" in trained and "```html" not in trained and "\n    <" not in trained, "tables are tables"
    settings = (tmp_path/"zensical.toml").read_text(encoding="utf-8")
    assert all(p.relative_to(ROOT).with_suffix(".md").as_posix() in settings for p in notebooks)
    reference = (tmp_path/"pages"/"reference"/"skysky.md").read_text(encoding="utf-8")
    assert "### read_image" in reference and "#### Segmenter(…)" in reference
    assert "| `device` | <code>str</code> | <code>&#x27;auto&#x27;</code> | " in reference
    assert reference.index("## skysky.core") < reference.index("## skysky.cli"), "modules stand in reading order"
