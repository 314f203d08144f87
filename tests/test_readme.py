"""README.md is nbs/index.ipynb as Markdown. Run as a script, this writes it."""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def readme() -> str:
    "The text README.md should have: no hidden cells, of echo-less ones the output alone, links as seen from the root."
    nb = nbformat.read(ROOT / "nbs" / "index.ipynb", as_version=4)
    nb.cells = [shown(c) for c in nb.cells if not c.source.startswith("#| hide")]
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r"\]\((?!https?:|#)([^)]+)\)", lambda m: f"]({target(m[1])})", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def shown(cell):
    "The cell, or the output of a cell whose code is not to be shown."
    if not cell.source.startswith("#| echo: false"): return cell
    return nbformat.v4.new_markdown_cell(cell.outputs[0].data["text/markdown"])


def target(link: str) -> str:
    "A link relative to nbs/ as one relative to the root."
    path = (ROOT / "nbs" / link).resolve()
    assert path.exists(), f"index.ipynb links to {link}, which is not there"
    return path.relative_to(ROOT).as_posix()


def test_readme_is_the_index_notebook():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run `make export`"


if __name__ == "__main__": (ROOT / "README.md").write_text(readme(), encoding="utf-8")
