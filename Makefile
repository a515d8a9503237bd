# Every target makes .venv and installs by itself. PYTHON picks the interpreter:
#   make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow clean

# Trains two small models to 10 % of their dense MACs; writes demo_output/.
demo: $(STAMP)
	$(RUN) sparsefx demo

# Everything .ci/run runs.
test: $(STAMP)
	$(RUN) ruff format --check
	$(RUN) ruff check
	$(RUN) mypy
	$(RUN) pytest -n 2

# What takes minutes, or builds a wheel from the package index.
test-slow: $(STAMP)
	$(RUN) pytest -m slow

# Back to a fresh clone.
clean:
	rm -rf $(VENV) build dist *.egg-info demo_output .coverage htmlcov
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt .ci/install
	PYTHON="$(PYTHON)" bash .ci/install $(VENV)
	touch $@
