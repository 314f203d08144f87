"""docs/book.md has every chapter in reading order, and each chapter says what it stands on and which one is next.

As a script, it writes both: the tables of the page, and the last line of each notebook's first text.
"""
import json
import re
from functools import cache
from os.path import relpath
from pathlib import Path

from test_imports import NUMBER, home, imported, imports

ROOT = Path(__file__).parent.parent
NBS, PAGE = ROOT/"nbs", ROOT/"docs"/"book.md"
PLACE = re.compile("(?<=<!-- chapters -->\n).*?(?=<!-- end -->)", re.S)
SAID = re.compile(r"\n+\*Stands on [^\n]*\[The book\][^\n]*\*\s*$")
PARTS = {  # name -> why one reads it, and the notebooks, by the beginning of their address
    "Look first": ("What it does, how exact it is, and a model trained in minutes.", ("tutorials",)),
    "A picture and its mask": ("What a picture is before anything looks at it, what a mask is, and how one is kept.",
                               ("00", "01", "02_", "02d", "02e")),
    "The model, used": ("One exported file, the engines that run it, and the one call that everything else makes.",
                        ("02", "03", "04", "05")),
    "Scenes": ("Pictures with exact masks, any number, without a licence: drawn by rules, from sky to window.",
               ("scenes",)),
    "How exact": ("Scores that can be compared, how sure they are, and a report that hides no failure.",
                  ("measure/00", "measure/01", "measure/02")),
    "Train": ("From labelled pictures, a teacher's answers and scenes to the exported file.", ("train",)),
    "What moves": ("Videos and cameras: frames in step, masks that are calm, sound that is kept.", ("06", "07")),
    "How fast": ("Speed beside what the machine can do.", ("measure",)),
    "In the browser": ("Sliders and a live camera.", ("widgets",)),
    "The sphere": ("Panoramas and fisheyes, and what climate research and ecology measure in them.", ("sphere",)),
    "Many pictures": ("Folders and fixed cameras: a job that survives a kill, and its record.", ("17", "18", "19")),
    "Elsewhere": ("The same masks from other places: a service, and what is in no other part.", ("serve", "")),
    "The command": ("The words one types.", ("commands", "20")),
}


@cache
def chapters():
    "Part -> its notebooks in reading order; what no part names stands in the one that takes all the rest."
    paths = [p for p in sorted(NBS.rglob("[!.]*.ipynb")) if re.match(r"\d\d", p.name)]
    paths.sort(key=lambda p: (p.parent != NBS, p))
    left, found = {str(p.relative_to(NBS)): p for p in paths}, {part: [] for part in PARTS}
    for part in sorted(PARTS, key=lambda part: "" in PARTS[part][1]):
        for beginning in PARTS[part][1]:
            found[part] += [left.pop(name) for name in [n for n in left if n.startswith(beginning)]]
    return found


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


def first(path):
    "The first text of a notebook: heading, what it is, and more."
    return "".join(next(c for c in cells(path) if c["cell_type"] == "markdown")["source"])


def heading(path): return re.match("# (.+)", first(path))[1]


def name(path): return ".".join([*path.relative_to(NBS).parent.parts, re.sub(r"^\d\d[a-z]?_", "", path.stem)])


@cache
def takes_from(path):
    "The notebooks of the modules that a chapter imports, in reading order."
    code = "\n".join("".join(c["source"]) for c in cells(path) if c["cell_type"] == "code")
    code = re.sub(r"(?m)^[%!].*$", "", code)
    used = imported(name(path)) if name(path) in NUMBER else {home(*pair) for pair in imports(code)}
    return [p for paths in chapters().values() for p in paths if name(p) in used and p != path]


@cache
def below(path): return {path}.union(*map(below, takes_from(path)))


def stands_on(path):
    "What a chapter imports, less what stands below another one of these."
    taken = takes_from(path)
    return [p for p in taken if not any(p in below(other) for other in taken if other != p)]


def links(paths, page):
    "Chapters as links from a page: by heading, and with their folder where they are in another one."
    return ", ".join(f"[{heading(p)}]({relpath(p, page.parent)})" for p in paths)


def page() -> str:
    "The parts with their chapters, as tables."
    lines = []
    for number, (part, paths) in enumerate(chapters().items(), 1):
        lines += [f"### {number}. {part}", "", PARTS[part][0], "", "| chapter | what it is about | stands on |",
                  "| --- | --- | --- |"]
        for p in paths:
            about = re.search(r"(?m)^> (.+)", first(p))[1].replace("|", "\\|")
            lines.append(f"| {links([p], PAGE)} | {about} | {links(stands_on(p), PAGE) or '–'} |")
        lines.append("")
    return "\n".join(lines)


def road(path) -> str:
    "The last line of a chapter's first text."
    order = sum(chapters().values(), [])
    after = order[order.index(path) + 1:][:1]
    below, book = stands_on(path), relpath(PAGE, path.parent)
    after = f"Next: {links(after, path)}" if after else "The last chapter"
    return f"*Stands on {links(below, path) or 'no other chapter'}. {after}. [The book]({book}).*"


def with_road(path) -> str: return SAID.sub("", first(path)).rstrip() + "\n\n" + road(path)


def test_every_chapter_has_its_place_on_the_page():
    assert PLACE.search(PAGE.read_text(encoding="utf-8"))[0] == page(), "run `make export`"


def test_every_chapter_says_what_it_stands_on_and_what_is_next():
    wrong = [str(p.relative_to(NBS)) for paths in chapters().values() for p in paths if first(p) != with_road(p)]
    assert not wrong, "run `make export`"


def test_no_chapter_stands_on_a_later_one():
    "The first part looks ahead, and may."
    _, *others = chapters().values()
    order = sum(others, [])
    for path in order: assert {p for p in order[order.index(path):]}.isdisjoint(takes_from(path)), path


def test_the_reader_of_imports_sees_what_it_must_see():
    paths = {name(p): p for paths in chapters().values() for p in paths}
    assert {"core", "mask", "engines"} <= {name(p) for p in takes_from(paths["segment"])}
    assert paths["core"] not in stands_on(paths["segment"]), "it stands below the mask"
    assert "train.learner" in {name(p) for p in takes_from(paths["tutorials.train_a_model"])}
    assert {*paths} >= {*NUMBER}


if __name__ == "__main__":
    for path in sum(chapters().values(), []):
        nb = json.loads(path.read_text(encoding="utf-8"))
        cell = next(c for c in nb["cells"] if c["cell_type"] == "markdown")
        cell["source"] = with_road(path).splitlines(True)
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PLACE.sub(lambda _: page(), text), encoding="utf-8")
