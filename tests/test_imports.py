"What holds the house together: every notebook has its module, imports run one way, the deploy wing needs no torch."
import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").rglob("[!.]*.ipynb"))
NUMBERED = {p: re.fullmatch(r"(\d\d)([a-z]?)_(\w+)", p.stem) for p in NOTEBOOKS}
HEAVY = ("torch", "torchvision", "fastai", "matplotlib")


def dotted(path, root, stem=None):
    "A file's module below skysky: nbs/scenes/00_skies.ipynb and skysky/scenes/skies.py are scenes.skies."
    return ".".join([*path.relative_to(ROOT/root).parent.parts, stem or path.stem])


MODULES = {dotted(p, "skysky"): p for p in sorted((ROOT/"skysky").rglob("*.py")) if not p.name.startswith("_")}
NUMBER = {dotted(p, "nbs", m[3]): (int(m[1]), m[2]) for p, m in NUMBERED.items() if m and int(m[1]) < 50}  # its place
DEPLOY = sorted(m for m in NUMBER if "." not in m and m != "cli")

# What the modules of a folder may import, beside those of their own folder that come before them.
TABLE = {
    "": [],
    "scenes": ["core"],
    "train": [*DEPLOY, *(m for m in NUMBER if m.startswith("scenes.")), "measure.metrics"],
    "measure": [*DEPLOY, *(m for m in NUMBER if m.startswith("scenes."))],
    "widgets": DEPLOY,
    "sphere": DEPLOY,
    "serve": DEPLOY,
    "cluster": [*DEPLOY, *(m for m in NUMBER if m.startswith("measure."))],
    "commands": sorted(m for m in NUMBER if m != "cli" and not m.startswith("commands.")),
}


def folder(module): return module.rpartition(".")[0]


def allowed(module):
    "The modules that `module` may import: of the command, which calls everything, all."
    if module == "cli": return {*NUMBER} - {"cli"}
    return {*TABLE[folder(module)], *(m for m in NUMBER if folder(m) == folder(module) and NUMBER[m] < NUMBER[module])}


def source(module): return MODULES[module].read_text(encoding="utf-8")


def imports(code, package=""):
    "The (module, name) pairs that code of `package` takes from skysky, at its top or inside a function."
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import): names = [(a.name, "") for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                above = ["skysky", *filter(None, package.split("."))]
                module = ".".join([*above[:len(above) + 1 - node.level], *filter(None, [module])])
            names = [(module, a.name) for a in node.names]
        else: continue
        yield from ((m.removeprefix("skysky").lstrip("."), name) for m, name in names if re.match(r"skysky(\.|$)", m))


def face(package):
    "What a package shows: name -> the module from which it has it."
    code = (ROOT/"skysky"/package/"__init__.py").read_text(encoding="utf-8")
    return {name: module for module, name in imports(code, package)}


FACES = {package: face(package) for package in TABLE}


def home(module, name):
    "The module that an import reads: of a name that a package shows, the one that defines it."
    if (inner := f"{module}.{name}".strip(".")) in MODULES: return inner
    if module in MODULES or not name or re.fullmatch("__.*__", name): return module
    return home(FACES[module][name], name)


def imported(module): return {home(*pair) for pair in imports(source(module), folder(module))} - {""}


def test_every_notebook_has_its_module_and_every_module_its_notebook():
    assert {*MODULES} == set(NUMBER)


@pytest.mark.parametrize("package", TABLE)
def test_numbers_are_used_once(package):
    numbers = [number for m, number in NUMBER.items() if folder(m) == package]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    wrong = imported(module) - allowed(module)
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}, which it may not: see the table above"


def private(name): return re.match("_(?!_.*__$)", name)


def asked(module):
    "The attributes that a module asks of others which it imports whole, as in `from . import places`."
    others = {name for m, name in imports(source(module), folder(module)) if f"{m}.{name}".strip(".") in MODULES}
    return {node.attr for node in ast.walk(ast.parse(source(module)))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in others}


@pytest.mark.parametrize("module", MODULES)
def test_what_begins_with_an_underscore_stays_in_its_module(module):
    taken = {name for _, name in imports(source(module), folder(module))} | asked(module)
    assert not {name for name in taken if private(name)}


@pytest.mark.parametrize("path", [p for p, m in NUMBERED.items() if m and int(m[1]) >= 50], ids=lambda p: p.stem)
def test_tutorials_use_public_names(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    code = "\n".join("".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code")
    assert not {name for _, name in imports(re.sub("^%.*", "", code, flags=re.M)) if private(name)}


@pytest.mark.parametrize("package", FACES)
def test_a_package_shows_what_its_modules_define(package):
    shown, names = import_module(f"skysky.{package}".rstrip(".")), FACES[package]
    assert {*shown.__all__} == {*names} and {*names} <= {*dir(shown)}
    for name, module in names.items():
        assert module.startswith(package)
        assert getattr(shown, name) is getattr(import_module(f"skysky.{home(module, name)}"), name)
    with pytest.raises(AttributeError): shown.clouds  # noqa: B018


def test_imports_are_found():
    "The reader of imports sees what it must see: this test fails if it goes blind."
    assert {"core", "engines", "images", "refine", "weights"} <= imported("segment")
    inside = {"train.learner", "train.data", "train.known"}
    assert inside <= imported("commands.training"), "imports inside functions count"
    assert {"core", "scenes.render"} <= imported("train.known") and "measure.metrics" in imported("train.scores")
    assert {"scenes.places", "scenes.gaps"} <= imported("scenes.render"), "modules that are taken from a package count"
    assert asked("scenes.rooms"), "and what is asked of them"
    assert private("_jpeg") and not private("__version__")
    assert home("", "SkyExplorer") == "widgets.explorer", "names that a package shows count as their module"


@pytest.mark.parametrize("module", [*DEPLOY, "cli", "commands.training", "scenes", "sphere", "widgets"])
def test_deploy_wing_needs_no_torch(module):
    code = f"import sys, skysky.{module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("package, heavy", [("skysky", (*HEAVY, "numpy", "cv2")), ("skysky.train", HEAVY),
                                            ("skysky.measure", HEAVY)])
def test_a_package_loads_what_is_asked_for_when_it_is_asked_for(package, heavy):
    "`import skysky` takes milliseconds, with nothing behind it; its names come with what they need, and with no more."
    code = f"""import sys, {package}
assert set({package}.__all__) <= set(dir({package}))
print(*[m for m in {heavy} if m in sys.modules])
from skysky import Segmenter, SkyMask, read_image, segment_video
print(*[m for m in {HEAVY} if m in sys.modules], SkyMask.overlay.__qualname__)"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines() == ["", "SkyMask.overlay"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_clean_and_small(path):
    nb = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in nb["metadata"], "saved widget state: clear it and run nbdev-clean"
    assert len(nb["cells"]) <= 60
    assert path.stat().st_size <= 300_000
    for cell in nb["cells"]:
        assert cell.get("execution_count") is None
        for output in cell.get("outputs", []):
            assert output.get("execution_count") is None
            assert output["output_type"] != "error", f"{output.get('ename')}: {output.get('evalue')}"


def test_no_path_of_a_stranger_is_more_than_a_name():
    "`Path.expanduser` and `Path.resolve` raise what is no OSError, of ~nobody and of links in a circle."
    for module in MODULES:
        found = re.search(r"(?<!os\.path)\.expanduser\(|(?<!__file__\))\.resolve\(", source(module))
        assert not found, f"{module}: os.path.expanduser and os.path.realpath take any name"
