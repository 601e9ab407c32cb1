# Every target first installs what it needs; `make help` lists them.
#   PYTHON=python3.11      the Python that .venv is made with
#   VENV=~/my/env          another environment than .venv
#   DETECTRON2=official    upstream's source instead of the packaged wheel
#   ARGS="-k fusion"       passed on by quickstart, test and test-fast
PYTHON ?= python3
VENV ?= .venv
DETECTRON2 ?= wheel

RUN := $(VENV)/bin/python
# Newer than all that decides what is installed, so a second run has nothing to do.
STAMP := $(VENV)/.asff-$(DETECTRON2)

.PHONY: help setup quickstart test test-fast lint format doctor clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP)  ## install everything into .venv
	@echo "$(VENV) is ready."

$(STAMP): requirements.txt setup.cfg pyproject.toml tools/install.py
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON): install Python 3.10, 3.11 or 3.12, or name yours, as in make PYTHON=python3.11 setup." >&2; exit 2; }
	@"$(PYTHON)" tools/install.py --venv "$(VENV)" --detectron2 "$(DETECTRON2)"
	@touch "$@"

quickstart: $(STAMP)  ## train and evaluate a small detector on generated images
	$(RUN) -m asff quickstart $(ARGS)

test: $(STAMP)  ## run all tests
	$(RUN) -m pytest $(ARGS)

test-fast: $(STAMP)  ## run the tests that take under 20 seconds
	$(RUN) -m pytest -m "not slow" $(ARGS)

lint: $(STAMP)  ## check style, format and the import order
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

format: $(STAMP)  ## bring the code into format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

doctor: $(STAMP)  ## print versions and devices, and try each needed part
	$(RUN) tools/doctor.py

clean:  ## remove caches and build leftovers; keeps .venv, output and datasets
	rm -rf build dist projects/ASFF/*.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
