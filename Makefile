# Everything runs in .venv, which the first command makes. Try `make help`.

# The Python (3.11 or newer) that .venv is made from; unset: the first that fits.
PYTHON ?=
# Package index of another build of PyTorch, such as one without CUDA; unset: pip's default.
TORCH_INDEX ?=
# Test processes.
WORKERS ?= 2

SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip
DONE := $(VENV)/.done

# On a terminal pip shows its progress, in a log it stays quiet.
INSTALL = $(PIP) install $$(test -t 1 || echo --quiet)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup paper paper-full test test-slow test-gpu format clean clean-results learn2learn FORCE

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' \
		| awk -F'|' '{ printf "make %-15s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=<python 3.11 or newer>  TORCH_INDEX=<url of another PyTorch build>"

setup: $(DONE)/learn2learn ## make .venv and install everything; nothing to do the second time
	@:

paper: setup ## run the benchmark; write paper/tables and paper/figures; print the main table
	@$(PY) experiments/paper.py

paper-full: setup ## the whole family of learners, six seeds: at most 3 hours, resumed where broken off
	@$(PY) experiments/paper.py experiment=paper_full

test: setup ## lint, types, tests and notebooks: the gate
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n $(WORKERS) --dist worksteal --nbmake tests notebooks

test-slow: setup ## the tests that do not fit the gate
	$(PY) -m pytest -m slow tests

test-gpu: setup ## the tests that need a GPU
	$(PY) -m pytest -m gpu tests

format: setup ## sort imports, fix what can be fixed, format
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

clean: ## remove caches and build products; keeps results and .venv
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis outputs multirun
	@find . -path ./$(VENV) -prune -o -path ./results -prune -o -type d \
		\( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

clean-results: ## remove results/: finished runs will run again
	@rm -rf results

learn2learn: ## try again to build learn2learn, say after installing a compiler
	@rm -f $(DONE)/learn2learn
	@$(MAKE) --no-print-directory setup

# A stamp in .venv/.done for each step, redone when what it installs changes. Where .venv has lost its
# Python (which was removed, or was never made), nothing is done.
$(shell test -x $(PY) || rm -rf $(DONE))

$(PY):
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "setup 1/4: making $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv --clear $(VENV) && $(PIP) install --quiet --upgrade pip && exit 0; \
			echo "setup: could not make $(VENV) with $$python; if its module venv is missing," >&2; \
			echo "install it (Debian, Ubuntu: apt-get install python3-venv), then try again" >&2; \
			exit 1; \
		fi; \
	done; \
	echo "setup: $(or $(PYTHON),python3) is not a Python 3.11 or newer; install one," >&2; \
	echo "or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	exit 1

# The stamp holds the index, so that naming another one installs anew, and naming none keeps it.
TORCH_CHANGES := $(filter-out $(shell cat $(DONE)/torch 2>/dev/null),$(TORCH_INDEX))
$(DONE)/torch: requirements/torch.txt $(if $(TORCH_CHANGES),FORCE) | $(PY)
	@mkdir -p $(DONE)
	@echo "setup 2/4: PyTorch$(if $(TORCH_INDEX), from $(TORCH_INDEX),; on Linux the default build brings" \
		"CUDA along, about 2.6 GB to download)"
	@$(if $(TORCH_INDEX),$(PIP) uninstall --quiet --quiet --yes torch torchvision)
	@$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	@echo "$(TORCH_INDEX)" > $@

$(DONE)/metarec: pyproject.toml requirements/no-deps.txt $(DONE)/torch
	@echo "setup 3/4: metarec and what it needs"
	@$(INSTALL) -e '.[dev,notebooks]'
	@$(INSTALL) --no-deps -r requirements/no-deps.txt
	@touch $@

# Only the reference row and its parity tests need learn2learn; they say so where it is left out.
$(DONE)/learn2learn: requirements/learn2learn.txt requirements/learn2learn-dependencies.txt $(DONE)/metarec
	@echo "setup 4/4: learn2learn"
	@if $(PIP) install --no-deps --use-pep517 -r requirements/learn2learn.txt > $(VENV)/learn2learn.log 2>&1; \
	then \
		$(INSTALL) -r requirements/learn2learn-dependencies.txt && echo built > $@; \
	else \
		echo "setup: learn2learn is left out: it could not be built, for want of a C compiler or of the"; \
		echo "headers of Python (see $(VENV)/learn2learn.log). The learn2learn row of the tables and its"; \
		echo "parity tests are left out with it; all else works. To try again: make learn2learn"; \
		echo "left out" > $@; \
	fi
