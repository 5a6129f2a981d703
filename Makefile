# The commands of the README, from an empty machine: each makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= shapes
EPOCHS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/train.py --data $(DATA) $(if $(EPOCHS),--epochs $(EPOCHS))

# Twice over the callbacks: with run-time checks of every shape and type, and as users get them.
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --override-ini addopts=--strict-markers tests/callbacks

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	touch $@ $(VENV)/demo.stamp
