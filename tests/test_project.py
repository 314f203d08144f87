"""What holds for the project as a whole: clean notebooks, a package in step, a whole wheel, one home a fact."""
import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def run(*args, cwd): return subprocess.run([*map(str, args)], cwd=cwd, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "The project without its history, to clean and export without touching the original."
    path = tmp_path_factory.mktemp("copy") / "skysky"
    ignore = shutil.ignore_patterns(".git", ".venv", "runs", "out", "demo", "build", "site", "weights", "*.egg-info",
                                    "__pycache__", ".ipynb_checkpoints", ".*_cache")
    shutil.copytree(ROOT, path, ignore=ignore)
    run("git", "init", "-q", cwd=path)
    return path


def contents(folder, pattern):
    return {p.relative_to(folder).as_posix(): p.read_text(encoding="utf-8") for p in sorted(folder.rglob(pattern))}


def test_notebooks_are_clean(copy):
    before = contents(ROOT / "nbs", "[!.]*.ipynb")
    run(BIN / "nbdev-clean", cwd=copy)
    after = contents(copy / "nbs", "[!.]*.ipynb")
    assert [n for n in after if before[n] != after[n]] == [], "run `make export`"


def test_package_is_what_the_notebooks_export(copy):
    shutil.rmtree(copy / "skysky")
    for data in ("models", "static"): shutil.copytree(ROOT / "skysky" / data, copy / "skysky" / data)
    for path in [*(ROOT / "skysky").rglob("__*__.py"), ROOT / "skysky" / "py.typed"]:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    run(BIN / "nbdev-export", cwd=copy)
    before, after = contents(ROOT / "skysky", "*.py"), contents(copy / "skysky", "*.py")
    assert before.keys() == after.keys()
    assert [n for n in after if before[n] != after[n]] == [], "run `make export`"


def test_wheel_carries_model_and_widgets_and_no_torch(copy, tmp_path):
    (copy / "weights").mkdir()
    (copy / "weights" / "large.onnx").write_bytes(bytes(10))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, copy, cwd=tmp_path)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    names = wheel.namelist()
    assert "skysky/py.typed" in names, "type checkers read the package's types"
    assert "skysky/models/mosaic.onnx" in names and "skysky/models/mosaic.json" in names
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "skysky" / "static").rglob("*.*")} < set(names)
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "skysky").rglob("*.py")} <= set(names)
    assert not [n for n in names if n.startswith(("nbs", "tests", "weights"))]
    assert sum(i.file_size for i in wheel.infolist()) < 9e6
    meta = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
    base = [line for line in meta.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert base and not [line for line in base if re.search("torch|fastai|jupyter|matplotlib", line)]
    assert re.search(r"^License-File: LICENSE$", meta, re.M)


def test_every_library_that_is_imported_is_declared():
    code = [*(ROOT / "skysky").rglob("*.py"), *(ROOT / "tests").glob("*.py"), *(ROOT / "docs").glob("*.py")]
    nodes = [n for p in code for n in ast.walk(ast.parse(p.read_text(encoding="utf-8")))]
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    foreign = {n.partition(".")[0] for n in names} - sys.stdlib_module_names - {"skysky", *(p.stem for p in code)}
    declared = set(re.findall(r"^    ([\w-]+)", (ROOT / "settings.ini").read_text(), re.M))
    known = packages_distributions()
    assert not {n for n in foreign if not declared & {d.lower().replace("_", "-") for d in known.get(n, [n])}}


def test_places_agree_with_settings():
    "The recipe for conda has the version and the requirements, the containers what they copy and the extras they name."
    ini, recipe = (ROOT / "settings.ini").read_text(), (ROOT / "conda" / "recipe.yaml").read_text()
    assert f'version: "{re.search(r"^version = (.+)$", ini, re.M)[1]}"' in recipe
    base = re.search(r"^requirements =\n((?: +.+\n)+)", ini, re.M)[1].replace("opencv-python", "py-opencv").split()
    run = re.search(r"  run:\n    - python.*\n((?:    - .+\n)+)", recipe)[1]
    assert re.findall(r"- (.+)", run) == [re.sub("(?=[<>])", " ", r, count=1) for r in base]
    docker = (ROOT / "Dockerfile").read_text()
    copied = [n for line in re.findall(r"^COPY (?!--)(.+) \S+$", docker, re.M) for n in line.split()]
    assert copied and all((ROOT / n).exists() for n in copied)
    assert {n + "_requirements" for n in re.findall(r"\[(\w+)\]\"", docker)} == {"serve_requirements"}
    assert docker.count("USER 10001") == docker.count("ENTRYPOINT") == 2
    assert all(f"!{n}" in (ROOT / ".dockerignore").read_text().split() for n in copied)


def test_version_has_one_home():
    version = re.search(r"^version = (.+)$", (ROOT / "settings.ini").read_text(), re.M)[1]
    import skysky
    assert skysky.__version__ == version
    assert version not in (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("pattern", [r"0\.485", r"0\.229"])
def test_normalisation_has_one_home(pattern):
    assert [p.name for p in (ROOT / "skysky").rglob("*.py") if re.search(pattern, p.read_text())] == ["core.py"]


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").rglob("[!.]*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_show_no_path_of_a_machine(path):
    assert not re.search(r"site-packages|/tmp/|/home/|/root/|" + re.escape(str(ROOT)), path.read_text(encoding="utf-8"))
