# Each command sets up what it needs in .venv on first use. Wanted: GNU make and Python 3.10 or newer. "make help" lists
# them: the text after ## in the line of each.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready
DOCS_READY := $(VENV)/.docs-ready
DEMO ?= runs/demo
CONSTRAINTS ?= constraints.txt
GPU_CHECK ?= runs/gpu_check
OLDEST := .venv-oldest
TRAINERS := .venv-trainers

.PHONY: demo smoke test test-oldest test-trainers gpu-check lint docs docs-check build check-install signatures clean help
.DELETE_ON_ERROR:

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is wanted, $(PYTHON) is older: call make with PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Making an environment in $(VENV): some minutes, 1 to 5 GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[examples]'
	@touch $@

$(DEV_READY): $(READY)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --group dev
	@touch $@

$(DOCS_READY): $(DEV_READY)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --group docs
	@touch $@

demo: $(READY) ## generate the city, train seven recipes, write the table and the report (14 minutes on 2 cores)
	$(BIN)/python -m examples.gta5_to_cityscapes demo --out $(DEMO)

smoke: DEMO := runs/smoke
smoke: $(READY) ## the same in a minute, on images too few and small to learn from
	$(BIN)/python -m examples.gta5_to_cityscapes demo --budget smoke --out $(DEMO)

test: $(DEV_READY) ## run all tests (13 to 18 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2

lint: $(DEV_READY) ## check formatting, lint, types, words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/check_words.py

docs: $(DOCS_READY) ## build the site, tutorials and all: docs/_build/html/index.html (a minute)
	@echo "Running the tutorials and writing the pages; no more output unless something is wrong."
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

docs-check: docs ## build the site and check its links, also in a browser
	$(BIN)/python .ci/check_site_links.py docs/_build/html
	$(BIN)/python .ci/check_site_in_browser.py docs/_build/html

# The library's own tests with the lower bounds of pyproject.toml; the example's packages are not among them. What the
# whole compiler of torch 2.4 builds takes small numbers for zero in all of a process, and other tests with it. torch 2.4
# also warns about names that kornia 0.7 uses and about its own use of torch.load.
test-oldest: ## run the library's tests with the lower bounds of pyproject.toml (some GB)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --requirement requirements-oldest.txt --editable .
	$(OLDEST)/bin/python -m pytest -n 2 -W 'ignore:`torch.cuda.amp:FutureWarning' \
		-W 'ignore:You are using `torch.load`:FutureWarning' tests/plotting \
		$(filter-out tests/test_benchmark%,$(wildcard tests/test_*.py)) \
		--deselect tests/test_compile.py::test_region_mean_through_the_whole_compiler \
		tests/contracts/test_docstrings.py tests/contracts/test_imports.py tests/contracts/test_public_names.py

# The how-to pages with the trainers themselves, their versions pinned; downloads some GB.
test-trainers: ## run the how-to pages with the real trainers, and encoders of timm, in .venv-trainers (some GB)
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --quiet --requirement requirements-trainers.txt --editable '.[examples]'
	$(TRAINERS)/bin/python -m pytest tests/howto tests/examples/test_timm_encoder.py

# With the packages that PYTHON has: a machine with a card has its own build of torch. benchmarks/README.md names them.
gpu-check: ## run all that needs a GPU, part by part, in at most 8 minutes; again until all parts have ended
	PYTHONPATH=src $(PYTHON) -m benchmarks.gpu_check --out $(GPU_CHECK)

build: $(DEV_READY) ## build sdist and wheel in dist and check their metadata
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

check-install: $(DEV_READY) ## build both from committed files and use them in an empty environment
	$(BIN)/python .ci/check_install.py

signatures: $(DEV_READY) ## write the lists of public names, arguments and error messages anew
	$(BIN)/python -m tests.contracts.public_signatures
	$(BIN)/python -m tests.contracts.error_messages

clean: ## delete what the others made, the environment and all runs among it
	rm -rf $(VENV) $(OLDEST) $(TRAINERS) runs dist docs/_build docs/tutorials .pytest_cache .mypy_cache .ruff_cache
