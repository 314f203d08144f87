# make demo [PHOTO=…]   a sky mask of a rendered scene, and of your photo, with the shipped model
# make test             everything the project checks
# make docs             the documentation as a site, in site/
# make web              the same, its front page one that finds the sky in the browser; its runtime is npm's
# make lab              the notebooks in JupyterLab
# make export           notebooks -> skysky/, README.md, the picture of docs/design.md and the chapters of docs/book.md
# make lowest           the demo with the oldest release of each requirement that settings.ini permits
# make dist             wheel, source archive and the list of what an install brings (SBOM), in dist/
# make audit            known faults and the licences of what an install brings
SHELL := /bin/bash

PYTHON ?= python3
BIN := .venv/bin
APT := $(shell [ "$$(id -u)" = 0 ] || echo sudo) apt-get

.PHONY: demo test docs web lab export lowest audit dist clean
.DELETE_ON_ERROR:

# Debian keeps venv and OpenCV's libGL in packages of their own.
.venv:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; $(APT) update -qq && $(APT) install -qqy python3-venv >/dev/null; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(BIN)/pip install -q --upgrade pip

# One stamp for each set of requirements: installed again when settings.ini changes.
.venv/base: settings.ini setup.py pyproject.toml | .venv
	PYTHONWARNINGS=ignore $(BIN)/pip install -q -e .
	@$(BIN)/python -c 'import cv2' 2>/dev/null || { echo "installing libGL for OpenCV"; $(APT) update -qq && $(APT) install -qqy libgl1 libglib2.0-0 >/dev/null; }
	@touch $@

.venv/notebook: .venv/base
	PYTHONWARNINGS=ignore $(BIN)/pip install -q -e '.[train,notebook]'
	@touch $@

# Widgets are tested in a real browser, windows on a real X server.
.venv/dev: .venv/base
	PYTHONWARNINGS=ignore $(BIN)/pip install -q -e '.[dev]'
	@(for tool in chromium Xvfb xdotool; do command -v $$tool || exit 1; done) >/dev/null || { echo "installing chromium, xvfb, xdotool"; \
	$(APT) update -qq && $(APT) install -qqy chromium xvfb xdotool >/dev/null; }
	@touch $@

demo: .venv/base
	$(BIN)/skysky data render demo/scene -n 1 --seed 215 --size 540x960
	$(BIN)/skysky mask demo/scene/images -o demo/out --save mask,overlay
	@if [ -n "$(PHOTO)" ]; then $(BIN)/skysky mask "$(PHOTO)" -o demo/out --save mask,overlay; fi

test: export OMP_NUM_THREADS = 1
test: .venv/dev runtime
	$(BIN)/ruff check nbs tests docs web setup.py
	$(BIN)/ty check
	$(BIN)/oxlint skysky/static web
	$(BIN)/nbdev-test --n-workers 2 --timing
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not alone'
	$(BIN)/python -m pytest -m alone

.venv/docs: .venv/base
	PYTHONWARNINGS=ignore $(BIN)/pip install -q -e '.[docs]'
	@touch $@

docs: .venv/docs
	$(BIN)/python docs/pages.py
	cd build/docs && ../../$(BIN)/zensical build --strict
	rm -rf site && mv build/docs/site site
	@[ ! -d web/node_modules ] || $(BIN)/python web/build.py site
	@echo "look at it: $(BIN)/python -m http.server -d site"

# Without npm the page's tests with the model are skipped; not where CI is set.
.PHONY: runtime
runtime:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory web/node_modules; else echo "no npm: the page's model is not tested"; fi

web/node_modules: web/package-lock.json
	npm ci --prefix web --ignore-scripts --no-audit --no-fund || { echo "the page's runtime could not be had from npm"; exit 1; }
	@touch $@

web: web/node_modules docs

lab: .venv/notebook
	$(BIN)/skysky lab

export: .venv/dev
	$(BIN)/nbdev-clean
	$(BIN)/nbdev-export
	$(BIN)/python tests/test_readme.py
	$(BIN)/python tests/test_design.py
	$(BIN)/python tests/test_reading.py

.venv-release:
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install -q 'pip-audit>=2.9,<3' 'pip-licenses>=5,<6' 'uv>=0.9,<1' \
	  'build>=1.2,<2' 'cyclonedx-bom>=7,<8'

# A throwaway environment: requirements at their lower bounds, and every kind of output of the demo's scene.
lowest: .venv-release
	rm -rf .venv-lowest demo/lowest
	.venv-release/bin/uv venv -q --python $(PYTHON) .venv-lowest
	.venv-release/bin/uv pip install -q --python .venv-lowest --resolution lowest-direct .
	.venv-lowest/bin/skysky data render demo/lowest/scene -n 4 --size 270x480
	.venv-lowest/bin/skysky mask demo/lowest/scene/images -o demo/lowest/out --save mask,prob,prob16,overlay,cutout \
	  --csv demo/lowest/sky.csv
	cat demo/lowest/scene/images/*.jpg > demo/lowest/scenes.mjpeg
	.venv-lowest/bin/skysky video demo/lowest/scenes.mjpeg --csv demo/lowest/video.csv

# What the base install brings; torch's CUDA libraries, of the extra `train`, have NVIDIA's licence.
audit: .venv-release
	rm -rf .venv-lowest
	.venv-release/bin/uv venv -q --python $(PYTHON) .venv-lowest
	.venv-release/bin/uv pip install -q --python .venv-lowest .
	.venv-release/bin/pip-licenses --python .venv-lowest/bin/python --partial-match \
	  --allow-only 'Apache;BSD;MIT;ISC;HPND;Historical Permission;PSF;Python Software Foundation;MPL;Mozilla'
	.venv-release/bin/uv pip freeze -q --python .venv-lowest --exclude-editable | grep -v '^skysky' > .venv-lowest/all.txt
	.venv-release/bin/pip-audit --strict --no-deps --disable-pip -r .venv-lowest/all.txt

# The wheel is made from the source archive, and the list of parts from an environment that has nothing but the wheel.
dist: .venv-release
	rm -rf dist .venv-lowest
	.venv-release/bin/python -m build --outdir dist
	.venv-release/bin/uv venv -q --python $(PYTHON) .venv-lowest
	.venv-release/bin/uv pip install -q --python .venv-lowest dist/*.whl
	.venv-release/bin/cyclonedx-py environment --output-reproducible --of JSON -o dist/skysky.cdx.json .venv-lowest/bin/python

clean:
	rm -rf .venv .venv-lowest .venv-release demo build site *.egg-info
