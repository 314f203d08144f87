"""README.md is nbs/index.ipynb as Markdown, with the figures of the models' cards. Run as a script, it writes both."""
import ast
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


INDEX = ROOT / "nbs" / "index.ipynb"


def index():
    "The index notebook, the outputs of its echo-less cells made anew: they follow the cards."
    nb, names = nbformat.read(INDEX, as_version=4), {}
    for cell in nb.cells:
        if not cell.source.startswith("#| echo: false"): continue
        *body, last = ast.parse(cell.source).body
        exec(compile(ast.Module(body, []), "index", "exec"), names)
        shown = eval(compile(ast.Expression(last.value), "index", "eval"), names)
        cell.outputs[0].data["text/markdown"] = shown.data
    return nb


def readme() -> str:
    "The text README.md should have: no hidden cells, of echo-less ones the output alone, links as seen from the root."
    nb = index()
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


def test_index_shows_what_the_cards_say():
    assert nbformat.read(INDEX, as_version=4) == index(), "run `make export`"


def test_readme_is_the_index_notebook():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run `make export`"


def test_a_card_that_lacks_a_figure_gets_a_dash():
    "And every shipped model has its line, the default one first."
    from skysky.weights import DEFAULT_MODEL, ModelCard
    names = {}
    exec(next(c.source for c in nbformat.read(INDEX, as_version=4).cells if "def row" in c.source), names)
    assert names["cards"][0].name == DEFAULT_MODEL
    assert {c.name for c in names["cards"]} == {p.stem for p in (ROOT / "skysky" / "models").glob("*.json")}
    card = ModelCard("x", "x.onnx", "", "none", metrics={"rendered scenes": {"sky_iou": .5, "skies": 9}, "empty": {}})
    assert names["row"](card)[1:] == ["–", "–", "0.500", "– of 9", "–"]


if __name__ == "__main__":
    nbformat.write(index(), INDEX)
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
