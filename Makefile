# `make demo`, `make test` and `make tables` make a virtual environment in .venv if there is none, install what they
# need and do their job. PYTHON=... chooses the interpreter that .venv is made from; VENV=... puts the environment
# elsewhere.
SHELL := /bin/bash
VENV ?= .venv
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal
FUZZ_CALLS ?= 10000
FUZZ_SEED ?= $(shell date +%s)
TABLES_ARGS ?=
MODELS_ARGS ?=
IN_VENV := $(VENV)/bin/python
# One thread for each process: workers already fill the cores. Numba, which UMAP and pynndescent run on, would set its
# own number for the whole process, PyTorch included.
ONE_THREAD := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz lint size docs tables models
# A half-made environment must not count as made.
.DELETE_ON_ERROR:

help:
	@echo "make demo   show a network lean on a shortcut, and skexmap repair it (a few minutes)"
	@echo "make test   run the tests"
	@echo "make fuzz   make 10,000 calls with random parameters and data, and print their seed (a few minutes)"
	@echo "make lint   check style, formatting and types"
	@echo "make size   print how large the library is, beside the limits that it keeps"
	@echo "make docs   build the site in docs/_build/html, and run the examples of its gallery"
	@echo "make tables run every method on every data set at hand, and rewrite docs/tables.md and docs/recipes.md (an hour)"
	@echo "make models compare the maps of some 150 architectures with a second implementation (hours)"

demo: $(VENV)/.installed-demo
	@$(IN_VENV) examples/demo.py

test: $(VENV)/.installed-test
	@$(ONE_THREAD) $(IN_VENV) -m pytest $(PYTEST_ARGS)

# FUZZ_SEED=... makes the same calls again.
fuzz: $(VENV)/.installed-test
	@echo "FUZZ_CALLS=$(FUZZ_CALLS) FUZZ_SEED=$(FUZZ_SEED)"
	@FUZZ_CALLS=$(FUZZ_CALLS) $(ONE_THREAD) $(IN_VENV) -m pytest $(PYTEST_ARGS) --hypothesis-seed=$(FUZZ_SEED) tests/test_fuzz.py

lint: $(VENV)/.installed-test
	@$(IN_VENV) -m ruff check .
	@$(IN_VENV) -m ruff format --check .
	@$(IN_VENV) -m mypy

size: $(VENV)/.installed-test
	@$(IN_VENV) .ci/size.py

# Warnings are errors. Nothing is downloaded but the packages.
docs: $(VENV)/.installed-docs
	@$(ONE_THREAD) $(IN_VENV) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site is in docs/_build/html/index.html"

# Seeds run side by side, each on its share of the cores.
tables: $(VENV)/.installed-tables
	@$(ONE_THREAD) $(IN_VENV) examples/benchmarks/paper_tables.py $(TABLES_ARGS)
	@$(ONE_THREAD) $(IN_VENV) examples/benchmarks/bench_recipes.py --page docs/recipes.md

# Random weights: nothing is downloaded but the packages.
models: $(VENV)/.installed-test
	@$(IN_VENV) -m pip install --quiet --disable-pip-version-check timm transformers
	@$(ONE_THREAD) $(IN_VENV) examples/benchmarks/bench_models.py $(MODELS_ARGS)

# The stamp is older than pyproject.toml whenever the dependencies may have changed.
$(VENV)/.installed-%: pyproject.toml | $(IN_VENV)
	@echo "Installing skexmap and its '$*' extra into $(VENV) (the first time, PyTorch makes this a large download)"
	@$(IN_VENV) -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

$(IN_VENV):
	@for candidate in $(if $(PYTHON),'$(PYTHON)',python3 python3.14 python3.13 python3.12 python3.11); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$candidate" --version)"; \
	    "$$candidate" -m venv '$(VENV)' && exit 0; \
	    rm -rf '$(VENV)'; \
	    echo "$$candidate cannot make a virtual environment. On Debian and Ubuntu, install python3-venv." >&2; \
	    exit 1; \
	  fi; \
	done; \
	echo "skexmap needs Python 3.11 or newer, and $(if $(PYTHON),'$(PYTHON)',python3) is not that." \
	  "Install one, or name it: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3.12" >&2; \
	exit 1
