# make demo [PHOTO=…]   a sky mask of a rendered scene, and of your photo, with the shipped model
# make test             everything the project checks
# make lab              the notebooks in JupyterLab
# make export           notebooks -> skysky/ and README.md
SHELL := /bin/bash

PYTHON ?= python3
BIN := .venv/bin
APT := $(shell [ "$$(id -u)" = 0 ] || echo sudo) apt-get

.PHONY: demo test lab export clean
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
test: .venv/dev
	$(BIN)/ruff check nbs tests setup.py
	$(BIN)/oxlint skysky/static
	$(BIN)/nbdev-test --n-workers 2 --timing
	$(BIN)/python -m pytest

lab: .venv/notebook
	$(BIN)/skysky lab

export: .venv/dev
	$(BIN)/nbdev-clean
	$(BIN)/nbdev-export
	$(BIN)/python tests/test_readme.py

clean:
	rm -rf .venv demo build *.egg-info
