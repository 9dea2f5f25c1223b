# Each command sets up what it needs in .venv on first use. Wanted: GNU make and Python 3.10 or newer.
#   make demo    generate the city, train the six recipes, write the table and the report (10 minutes on 2 cores)
#   make test    run all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= runs/demo

.PHONY: demo smoke test lint build clean help
.DELETE_ON_ERROR:

help:
	@sed -n '2,3s/^#  *//p' Makefile

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is wanted, $(PYTHON) is older: call make with PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[examples]' --group dev
	@touch $@

demo: $(READY)
	$(BIN)/python -m examples.gta5_to_cityscapes demo --out $(DEMO)

smoke: $(READY)
	$(BIN)/python -m examples.gta5_to_cityscapes demo --budget smoke --out $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) runs dist .pytest_cache .mypy_cache .ruff_cache
