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

# With run-time checks of every shape and type; and what drives the callbacks once more, as users get them.
AGAIN := pictures matrix
PLAIN := --override-ini addopts=--strict-markers
test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "not slow"
	$(BIN)/python -m pytest -m "not slow" $(PLAIN) $(addprefix tests/callbacks/test_,$(addsuffix .py,$(AGAIN)))

# What takes long: processes that are killed, more processes, 200 epochs; and loggers that bring much along.
test-slow: $(VENV)/loggers.stamp
	$(BIN)/python -m pytest -m slow $(PLAIN) tests
	$(BIN)/python -m pytest $(PLAIN) tests/callbacks/test_loggers.py

# On the oldest versions that are supported, which warn of what has been deprecated since.
test-oldest: $(OLDEST)/dev.stamp
	$(OLDEST)/bin/python -m pytest -m "not slow" $(PLAIN) -o filterwarnings=default tests \
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
	$(OLDEST)/bin/python -m pip --disable-pip-version-check install --quiet --editable . -r tests/oldest.txt pytest beartype
	touch $@
