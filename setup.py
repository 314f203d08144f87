"""Reads everything from settings.ini, the one home of the project's metadata."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]


def lines(key): return [line.strip() for line in cfg[key].splitlines() if line.strip()]


extras = {name: lines(f"{name}_requirements")
          for name in ("train", "notebook", "quantize", "raw", "serve", "parquet", "sun", "cluster")}
extras["dev"] = sum(extras.values(), []) + lines("dev_requirements")
extras["docs"] = lines("docs_requirements")

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license=cfg["license"],
    keywords=cfg["keywords"].split(),
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=["skysky", "skysky.*"]),
    package_data={"skysky": ["py.typed", "models/*", "static/*", "static/samples/*"]},
    install_requires=lines("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": lines("console_scripts")},
)
