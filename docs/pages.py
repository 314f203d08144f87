"""Write the site's pages to build/docs, for Zensical: notebooks, texts, the reference, the models' cards and a gallery.

Every page has its place in the repository as its address, so that links between files are links between pages."""
import ast
import base64
import json
import posixpath
import re
import shutil
import tokenize
from html import escape
from io import StringIO
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
PARTS = {"nbs": "Modules", "nbs/scenes": "Scenes", "nbs/train": "Train", "nbs/measure": "Measure",
         "nbs/widgets": "Widgets", "nbs/tutorials": "Tutorials"}  # the others follow, under their own names
TEXTS = {"The book": "docs/book.md", "Design": "docs/design.md", "Contributing": "CONTRIBUTING.md",
         "What changed": "CHANGELOG.md", "Places": "docs/places.md", "Security": "SECURITY.md",
         "Threats": "docs/threats.md", "Scale": "docs/scale.md"}
HOME = "overview.md" if (ROOT/"web"/"node_modules").is_dir() else "index.md"  # then the page for the browser is first
TRY = ('<p class="try"><a href="index.html">Try it here</a> with a photo, a folder, a video or the camera: it runs '
       "in your browser, and nothing is sent anywhere.</p>")
PICTURES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
LINK = re.compile(r"(\]\(|(?:src|href)=\")(?!https?:|#|data:|mailto:)([^)#\"\s]+)")
pages, pictures, linked = {}, {}, {}  # address -> text; -> bytes or file; what is made for the sake of a link


def notebooks():
    "Folder below the root -> its notebooks in reading order."
    folders = {}
    for path in sorted((ROOT/"nbs").rglob("[!.]*.ipynb")):
        if re.match(r"\d\d", path.name): folders.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return {f: folders.pop(f) for f in PARTS} | folders


def answer(output, stem, number):
    "What a cell answered, as Markdown."
    data = output.get("data", {"text/plain": output.get("text", "")})
    if kind := next((k for k in PICTURES if k in data), None):
        name = f"{stem}_files/{number}.{PICTURES[kind]}"
        pictures[name] = data[kind].encode() if kind == "image/svg+xml" else base64.b64decode(data[kind])
        return f"![]({posixpath.basename(stem)}_files/{number}.{PICTURES[kind]})"
    if "text/markdown" in data and not data["text/markdown"].startswith("```html"): return data["text/markdown"]
    if "text/html" in data: return re.sub(r"\s*\n\s*", "\n", data["text/html"])  # what is indented would be code
    text = re.sub(r"\x1b\[[\d;]*m", "", data.get("text/plain", "")).rstrip()
    return f"``` {{ .text .output }}\n{text}\n```" if text else ""


def notebook_page(path):
    "A notebook as Markdown: no hidden cells, of directives nothing, of cells without echo the output alone."
    stem, parts = page(path).removesuffix(".md"), []
    for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
        directives = re.findall(r"^#\| *(\S+)", cell.source, re.M)
        if {"hide", "default_exp"} & {*directives}: continue
        if cell.cell_type == "markdown": parts.append(cell.source)
        if cell.cell_type != "code": continue
        code = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
        shown = f"```python\n{code}\n```"
        if "code-fold:" in directives:  # an exercise's answer
            shown = f"<details markdown>\n<summary>Answer</summary>\n\n{shown}\n\n</details>"
        if "echo:" not in directives: parts.append(shown)
        parts += [answer(output, stem, f"{i}_{n}") for n, output in enumerate(cell.outputs)]
    return "\n\n".join(parts)


def page(path):
    "The address of a notebook's page."
    return path.relative_to(ROOT).with_suffix(".md").as_posix()


def heading(path):
    "The first heading of a notebook: of module `measure.bench` it is bench."
    source = (c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    return next(re.search(r"^# (.+)", text, re.M)[1] for text in source if text.startswith("# "))


def cell(text):
    "A text as a cell of a table."
    return " ".join(str(text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def code(node):
    "Source as it can stand in a table."
    return f"<code>{escape(ast.unparse(node)).replace('|', '&#124;')}</code>" if node else ""


def table(rows):
    "Of (name, type, default, what is said of it)."
    lines = [f"| {name} | {code(kind)} | {code(default)} | {cell(said)} |" for name, kind, default, said in rows]
    return ["| | type | default | |", "| --- | --- | --- | --- |", *lines, ""] if lines else []


def arguments(node, comments):
    "The arguments of a function and its answer."
    spec = node.args
    places = spec.posonlyargs + spec.args
    defaults = dict(zip(places[::-1], spec.defaults[::-1], strict=False))
    defaults |= dict(zip(spec.kwonlyargs, spec.kw_defaults, strict=True))
    rows = [(f"`{a.arg}`", a.annotation, defaults.get(a), comments.get(a.end_lineno))
            for a in places + spec.kwonlyargs if a.arg not in ("self", "cls")]
    end = (node.returns or node).end_lineno if node.returns else None
    return table(rows + [("*answers*", node.returns, None, comments.get(end))]*(node.returns is not None))


def reference(path):
    "A module's public names, as its source says them: docstrings, and docments, the comments beside arguments."
    source = path.read_text(encoding="utf-8")
    tree, module = ast.parse(source), ".".join(path.relative_to(ROOT).with_suffix("").parts)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokenize.generate_tokens(StringIO(source).readline)
                if t.type == tokenize.COMMENT}
    public = next(ast.literal_eval(n.value) for n in tree.body if ast.unparse(n).startswith("__all__ = "))
    notebook = re.search(r"# %% (?:\.\./)+(nbs/\S+)", source)[1]
    lines = [f"## {module}", "", f"{ast.get_docstring(tree)}. [The notebook](../{notebook})", ""]

    def say(node, name, level):
        lines.extend([f"{'#'*level} {name}", "", (ast.get_docstring(node) or "").replace("<", "&lt;"), ""])
        if isinstance(node, ast.FunctionDef): return lines.extend(arguments(node, comments))
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        lines.extend(table((f"`{f.target.id}`", f.annotation, f.value, comments.get(f.end_lineno)) for f in fields))
        for n in node.body:
            if not isinstance(n, ast.FunctionDef): continue
            if n.name == "__init__": say(n, f"{name}(…)", 4)
            elif n.name == "__call__" or n.name[0] != "_": say(n, f"{name}.{n.name}", 4)

    for node in tree.body:
        name = getattr(node, "name", "")
        if any("patch" in ast.unparse(d) for d in getattr(node, "decorator_list", ())):
            if name[0] != "_": say(node, f"{ast.unparse(node.args.args[0].annotation)}.{name}", 4)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and name in public: say(node, name, 3)
    return "\n".join(lines)


def models():
    "The cards of the shipped models."
    cards = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((ROOT/"skysky"/"models").glob("*.json"))[::-1]]
    lines = ["# Models", "", "> What each model is, what it learned from, how good it is and where it fails: the cards "
             "that lie beside the files", ""]
    for card in cards:
        metrics = card.pop("metrics")
        lines += [f"## {card.pop('name')}", "", "| | |", "| --- | --- |"]
        lines += [f"| {key} | {cell(value)} |" for key, value in card.items() if value]
        figures = list(dict.fromkeys(k for row in metrics.values() for k in row if not isinstance(row[k], dict)))
        heads = ["measured on", *(f.replace("_", " ") for f in figures)]
        lines += ["", f"| {' | '.join(heads)} |", "| --- "*len(heads) + "|"]
        for name, row in metrics.items():
            shown = (f"{v:.3f}" if isinstance(v, float) and v < 10 else
                     ("–" if isinstance(v[0], float) else "×").join(map(str, v)) if isinstance(v, list)
                     else f"{v:.0f}" if isinstance(v, float) else cell(v) for v in map(row.get, figures))
            lines.append(f"| {name} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


def gallery():
    "The largest picture of each notebook, which leads to it."
    lines = ["# Gallery", "", "> One picture of every notebook that shows some; each leads to its page", "",
             '<div class="gallery" markdown>', ""]
    for paths in notebooks().values():
        for path in paths:
            stem = page(path).removesuffix(".md")
            if own := [n for n in pictures if n.startswith(f"{stem}_files/")]:
                lines += [f"[![{heading(path)}]({max(own, key=lambda n: len(pictures[n]))})"
                          f"**{heading(path)}**]({stem}.md)", ""]
    return "\n".join([*lines, "</div>"])


def address(link, name):
    "Where a link from a page leads on the site. What is neither page nor picture, but in the repository, becomes one."
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    path = ROOT/target
    if target == "README.md": target = HOME
    elif target in pages or target in pictures: pass
    elif not path.exists(): return link  # for code that looks like a link; of a broken one Zensical complains
    elif target == "nbs/index.ipynb": target = HOME
    elif target == "skysky/models": target = "models.md"
    elif path.suffix == ".ipynb": target = target.removesuffix(".ipynb") + ".md"
    elif path.suffix in (".png", ".jpg", ".svg"): pictures[target] = path.read_bytes()
    elif path.is_file():
        linked[f"{target}.md"] = f"# {target}\n\n``` {path.suffix[1:]}\n{path.read_text(encoding='utf-8')}\n```"
        target += ".md"
    return posixpath.relpath(target, posixpath.dirname(name) or ".")


def layout():
    "Make all pages; answer their order."
    folders, packages = notebooks(), {}
    pages[HOME] = (ROOT/"README.md").read_text(encoding="utf-8")
    if HOME != "index.md": pages[HOME] = pages[HOME].replace("\n\n", f"\n\n{TRY}\n\n", 1)
    for paths in folders.values(): pages.update({page(p): notebook_page(p) for p in paths})
    for path in sum(folders.values(), []):
        place = re.search(r"#\| default_exp (\S+)", path.read_text(encoding="utf-8").replace('"', " "))
        if not place: continue  # a tutorial
        module = ROOT/"skysky"/f"{place[1].replace('.', '/')}.py"
        packages.setdefault(".".join(module.relative_to(ROOT).parent.parts), []).append(module)
    for name, paths in packages.items():
        pages[f"reference/{name}.md"] = f"# {name}\n\n" + "\n".join(map(reference, paths))
    pages.update({"models.md": models(), "gallery.md": gallery()})
    pages.update({p: (ROOT/p).read_text(encoding="utf-8") for p in TEXTS.values()})
    parts = {PARTS.get(folder, posixpath.basename(folder).title()): [{heading(p): page(p)} for p in paths]
             for folder, paths in folders.items()}
    return [{"skysky": HOME}, {"Tutorials": parts.pop("Tutorials")}, *({name: p} for name, p in parts.items()),
            {"Reference": [{name: f"reference/{name}.md"} for name in packages]}, {"Models": "models.md"},
            {"Gallery": "gallery.md"}, {"Project": [{name: p} for name, p in TEXTS.items()]}]


def toml(nav):
    "Nested lists of one name each, as TOML says them."
    if isinstance(nav, str): return json.dumps(nav, ensure_ascii=False)
    if isinstance(nav, list): return f"[{', '.join(map(toml, nav))}]"
    return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in nav.items()) + "}"


def write(folder):
    "Everything that Zensical builds the site from."
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT/"docs"/"assets", folder/"pages")
    nav = layout()
    files = {name: LINK.sub(lambda m, name=name: m[1] + address(m[2], name), text) for name, text in pages.items()}
    for name, content in (files | linked | pictures).items():
        path = folder/"pages"/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = (ROOT/"docs"/"site.toml").read_text(encoding="utf-8")
    settings = settings.replace("[project]", f"[project]\nnav = {toml(nav)}", 1)
    (folder/"zensical.toml").write_text(settings, encoding="utf-8")


if __name__ == "__main__": write(ROOT/"build"/"docs")
