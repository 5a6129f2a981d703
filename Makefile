# The commands of the README, from an empty machine: each makes .venv and installs what it needs first.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
DATA ?= shapes
EPOCHS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow test-oldest lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/train.py --data $(DATA) $(if $(EPOCHS),--epochs $(EPOCHS))

# What computes and draws, with run-time checks of every shape and type; and the callbacks, without, as users get them:
# bad arguments then meet our own checks. One process a core, up to four: each first imports torch for seconds.
SHARED := --numprocesses auto --maxprocesses 4
PARALLEL := $(SHARED) --dist worksteal
PLAIN := --override-ini addopts=--strict-markers
DRIVEN := tests/callbacks tests/test_documents.py
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) lightning_convviz tests/callbacks/test_pictures.py \
		$(filter-out $(DRIVEN),$(wildcard tests/test_*.py))
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(PLAIN) $(DRIVEN)

# What takes long: processes that are killed, more processes, 200 epochs, trainings, each setting by itself; and loggers
# that bring much along.
test-slow: $(VENV)/loggers.stamp
	$(BIN)/python -m pytest -m slow $(SHARED) --dist loadfile $(PLAIN) tests
	$(BIN)/python -m pytest $(PLAIN) tests/callbacks/test_loggers.py

# On the oldest versions that are supported, which warn of what has been deprecated since.
test-oldest: $(OLDEST)/dev.stamp
	$(OLDEST)/bin/python -m pytest -m "not slow" $(PARALLEL) $(PLAIN) -o filterwarnings=default tests \
		--ignore tests/test_documents.py --ignore tests/callbacks/test_bad_input.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	touch $@ $(VENV)/demo.stamp

$(VENV)/loggers.stamp: $(VENV)/dev.stamp
	$(PIP) install --quiet --editable '.[dev,loggers]'
	touch $@

$(OLDEST)/dev.stamp: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet --editable . -r tests/oldest.txt pytest pytest-xdist beartype
	touch $@
