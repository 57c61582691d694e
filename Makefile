# make survey   sets up, then runs the main job on the digits; the report is report/report.html
# make test     sets up, then runs the tests (with CI set, also their coverage)
# make check    formatting, lint, types
# make bench    every benchmark

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup survey test check bench
.DEFAULT_GOAL := survey

setup: $(INSTALLED)

# torch first and alone: with its exact version known, pip does not look at other builds of it.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[dev,rational,dask,parquet,spectrum,lightning,tensorboard]'
	touch $@

survey: setup
	$(BIN)/reluscape survey --out report

# Bytecode is kept even where the environment says not to: else every worker compiles the tests anew.
test: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile $(if $(CI),--cov)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	set -e; for script in benchmarks/*.py; do $(BIN)/python "$$script"; done
