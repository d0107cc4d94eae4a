# make demo: the environment, then the main job.   make test: the environment, then the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo test browser check docs bench clean

venv: $(VENV)/installed

# Installed anew whenever the dependencies change.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Sparring needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/sparring demo

test: venv browser
	$(BIN)/python -m pytest -n 2 --dist loadfile  # a file at a time: its fixtures are made once

# For the tests of reports, which are skipped where there is none and none can be installed.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || true

# What CI asks of the sources: style, types, and that imports point one way.
check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages are Markdown; this checks that what they link to exists and that what they say of the code still runs.
docs: venv
	$(BIN)/python -m pytest tests/test_docs.py

bench: venv
	$(BIN)/python -m benchmarks.speed.cost

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
