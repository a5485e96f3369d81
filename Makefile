# The README's commands. Everything is installed into .venv, from this folder's files only.
PYTHON ?= python3
BIN    := .venv/bin
OUT    ?= demo

.PHONY: setup demo test test-slow lint bench clean

setup: .venv/ready

# --no-compile: byte code is made at first import, for the modules that are used, instead of for all of them.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "skelnorm needs Python 3.11+; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

bench: setup
	$(BIN)/python tests/bench/preprocessing.py

clean:
	rm -rf .venv $(OUT)
