# Every target makes .venv and installs by itself. PYTHON picks the interpreter:
#   make test PYTHON=python3.12

PYTHON ?= python3
TORCH := # the version for test-torch
VENV := .venv
RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.installed
N ?= 200
SEED ?= 0
BASE ?= main

.PHONY: help demo test lint types coverage test-changed test-slow test-torch
.PHONY: test-mutants speed docs hooks clean

help:            ## What there is to make; PYTHON=python3.12 picks the interpreter.
	@sed -n 's/^\([a-z-]*:\)[^#]*## /\1/p' $(MAKEFILE_LIST) | column -t -s: -l 2

demo: $(STAMP)   ## Trains two small models to 10 % of their dense MACs; writes demo_output/.
	$(RUN) sparsefx demo

test: lint types ## Everything .ci/run checks.
	$(RUN) pytest -n 2

lint: $(STAMP)   ## Format and style.
	$(RUN) ruff format --check
	$(RUN) ruff check

types: $(STAMP)  ## mypy, strict over the package.
	$(RUN) mypy

coverage: $(STAMP) ## The same tests, and which lines of the package they run.
	$(RUN) pytest -n 2 --cov --cov-report=term:skip-covered

test-changed: $(STAMP) ## The tests of the folders that differ from BASE (main).
	$(RUN) tests.changed $(BASE)

test-slow: $(STAMP) ## What takes minutes, or builds a wheel from the package index.
	$(RUN) pytest -m slow

test-torch:      ## All checks with another torch, in a folder of its own: TORCH=2.11.0.
	@test -n "$(TORCH)" || { echo "say which: make test-torch TORCH=2.11.0"; exit 2; }
	$(MAKE) test VENV=.venv-torch-$(TORCH)

test-mutants: $(STAMP) ## N seeded faults (200), each tried against the tests that run it.
	$(RUN) tests.mutation.mutants --number $(N) --seed $(SEED)

speed: $(STAMP)  ## Time to import, and of a sparse step to a dense one; printed, not judged.
	$(VENV)/bin/python benchmarks/import_time.py --rounds 5
	$(VENV)/bin/python benchmarks/step_ratio.py

docs: $(STAMP)   ## The documentation as a site, in site/.
	$(RUN) mkdocs build --strict --quiet

hooks: $(STAMP)  ## Ruff before every commit.
	$(RUN) pre_commit install

clean:           ## Back to a fresh clone.
	rm -rf $(VENV) .venv-torch-* build dist site *.egg-info demo_output .coverage htmlcov .mutants
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt .ci/install
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" bash .ci/install $(VENV)
	touch $@
