# `make demo` and `make test` need nothing but make, git and a Python of 3.10 or newer.
#   make demo                      scan the projects in fixtures/
#   make test                      every check: format, lint, types, documentation, tests
#   make test PYTHON=python3.12    with another interpreter
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m

# A failed check must not hide the outcome of the next; pytest stands last, its summary at the end.
MAKEFLAGS += --keep-going --no-print-directory
.NOTPARALLEL:
.PHONY: demo test check-format check-lint check-types check-docs check-tests readme clean

demo: $(VENV)/installed
	@echo '$$ dropaudit scan fixtures'
	@$(RUN) dropaudit scan --exit-zero fixtures

test: check-format check-lint check-types check-docs check-tests

check-format: $(VENV)/ready-for-tests
	$(RUN) ruff format --check

check-lint: $(VENV)/ready-for-tests
	$(RUN) ruff check

check-types: $(VENV)/ready-for-tests
	$(RUN) mypy

# `site` is written into the environment's folder: a check leaves the working tree as it was.
check-docs: $(VENV)/ready-for-tests
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet --strict --site-dir $(abspath $(VENV))/site

check-tests: $(VENV)/ready-for-tests
	$(RUN) pytest -n 2 --dist loadgroup

readme: $(VENV)/installed
	$(VENV)/bin/python docs/generate.py README.md

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/ready-for-tests: pyproject.toml | $(VENV)/bin/python
	$(RUN) pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'dropaudit needs Python 3.10 or newer: make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .dropaudit_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
