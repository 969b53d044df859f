# Everything runs in a virtual environment, which the first command makes. VENV=FOLDER chooses its folder,
# PYTHON=python3.12 the Python for it. ARGS="..." is passed to the command.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
unexport PYTHONPATH PYTHONHOME

PYTHON ?= python3
VENV ?= .venv
PRESET ?= sudoku-4x4
RUN ?= runs/$(PRESET)
PUZZLE ?= 3.......4.3...42
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# The files that the installed package is built from.
SOURCES := $(wildcard setup.py build_*.py) pyproject.toml MANIFEST.in $(shell find trm_fast csrc triton_kernels configs \
	-type f -not -name '*.so' -not -name '*.py[co]' -not -name _build.json)

.PHONY: help demo test build train eval lint format bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.package ## install, train on 4x4 sudoku (or continue that run), solve a puzzle
	@if [ -e runs/demo/config.yaml ]; then set -- --resume runs/demo; \
	else set -- --preset sudoku-4x4 --out runs/demo; fi; \
	echo "trm-fast train $$*"; $(BIN)/trm-fast train "$$@"
	$(BIN)/trm-fast solve runs/demo 3.......4.3...42

test: $(VENV)/.test ## install what the tests need and run them (the slow ones too: ARGS=--slow)
	$(BIN)/pytest $(ARGS)

build: $(VENV)/.package ## compile the kernels and install the package into VENV
	$(BIN)/trm-fast info

train: $(VENV)/.package ## train PRESET into RUN (ARGS="--minutes 5"), or continue RUN
	@if [ -e $(RUN)/config.yaml ]; then set -- --resume $(RUN); else set -- --preset $(PRESET) --out $(RUN); fi; \
	echo "trm-fast train $$* $(ARGS)"; $(BIN)/trm-fast train "$$@" $(ARGS)

eval: $(VENV)/.package ## measure RUN, or a model that ships, on unseen puzzles
	$(BIN)/trm-fast eval $(RUN) $(ARGS)

lint: $(VENV)/.dev ## style (Python, C++, CUDA), types, which room may import which, and retired words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_words.py
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test ## time the ops and their references (whole steps: python bench/end_to_end.py)
	$(BIN)/pytest bench --benchmark-only $(ARGS)

docs: $(VENV)/.docs ## make the documentation site: build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean: ## remove the files that builds and tests leave, but not VENV and runs
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks .import_linter_cache
	find trm_fast tests bench triton_kernels -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; \
	sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or later is needed, this is {v}: make PYTHON=... says which")'
	$(PYTHON) -m venv $(VENV)

# torch first, so that later installations keep this version, and the kernels are built against it.
$(VENV)/.requirements: requirements.txt | $(BIN)/python
	@echo "installing torch and the build tools into $(VENV)"
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.package: $(VENV)/.requirements $(SOURCES)
	@echo "compiling the kernels and installing trm-fast into $(VENV)"
	@$(PIP) --no-build-isolation .
	@touch $@

# Installing an extra also installs the package, so it is not installed again.
$(VENV)/.test: $(VENV)/.requirements $(SOURCES)
	@echo "compiling the kernels and installing trm-fast and what its tests need into $(VENV)"
	@$(PIP) --no-build-isolation ".[test]"
	@touch $(VENV)/.package $@

$(VENV)/.dev: $(VENV)/.requirements $(SOURCES)
	@echo "installing trm-fast, what its tests need, and the linters into $(VENV)"
	@$(PIP) --no-build-isolation ".[dev,test]"
	@touch $(VENV)/.package $(VENV)/.test $@

$(VENV)/.docs: $(VENV)/.package
	@$(PIP) --no-build-isolation ".[docs]"
	@touch $(VENV)/.package $@
