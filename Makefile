# Everything needs only Python 3.10 to 3.13, pip, make and git.
#
#   make demo    make .venv, install, and run the whole embedded example
#   make test    the same .venv, with what the tests need, and the default suite, on two cores (WORKERS=1: on one)
#   make lint    ruff and mypy
#   make model   pre-train the embedded base model anew (about half an hour on two cores)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
DONE := $(VENV)/.installed
DONE_DEV := $(VENV)/.installed-dev

.PHONY: demo install test test-slow lint model clean
.DEFAULT_GOAL := demo

demo: $(DONE)
	$(BIN)/rlhf run
	@echo
	@echo "Talk to it:  $(BIN)/rlhf chat"

install: $(DONE)

test: $(DONE_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(DONE_DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "slow or not slow"

lint: $(DONE_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

model: $(DONE)
	$(BIN)/python -m rlhfcli.tiny.build

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("rlhf needs Python 3.10 to 3.13" if not (3, 10) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)

# the pinned torch goes in first: packages that only ask for "torch" then do not fetch another build
$(DONE): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(DONE_DEV): $(DONE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
