"What holds the house together: every notebook has its module, imports run one way, the deploy wing needs no torch."
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT/"skysky").glob("*.py") if not p.name.startswith("_"))
NUMBERED = {p: re.fullmatch(r"(\d\d)([a-z]?)_(\w+)", p.stem) for p in NOTEBOOKS}
NUMBER = {m[3]: (int(m[1]), m[2]) for m in NUMBERED.values() if m and int(m[1]) < 50}  # module -> its place
DEPLOY = sorted(m for m, (n, _) in NUMBER.items() if n <= 8 or m in ("jobs", "cli"))
HEAVY = ("torch", "torchvision", "fastai", "matplotlib")


def imported(path):
    "The skysky modules that a file imports, at its top or inside a function."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level: module = f"skysky.{module}".rstrip(".")
            names = [f"{module}.{a.name}" for a in node.names] if module == "skysky" else [module]
        else: continue
        yield from (name.split(".")[1] for name in names if name.startswith("skysky."))


def test_every_notebook_has_its_module_and_every_module_its_notebook():
    assert {p.stem for p in MODULES} == set(NUMBER)


def test_numbers_are_used_once():
    assert len(set(NUMBER.values())) == len(NUMBER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_run_one_way(path):
    later = {m for m in imported(path) if NUMBER.get(m, (0, "")) >= NUMBER[path.stem]}
    assert not later, f"{path.name} imports {', '.join(sorted(later))}, which comes later or is itself"


def test_imports_are_found():
    "The reader of imports sees what it must see: this test fails if it goes blind."
    assert {"core", "engines", "images", "refine", "weights"} <= set(imported(ROOT/"skysky"/"segment.py"))
    assert {"segment", "train", "data"} <= set(imported(ROOT/"skysky"/"cli.py")), "imports inside functions count"


@pytest.mark.parametrize("module", DEPLOY)
def test_deploy_wing_needs_no_torch(module):
    code = f"import sys, skysky.{module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


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
