# Each target sets up what it needs in .venv; the only things asked of the machine are Python 3.11 with venv, make, git.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# pip's choice is the build for the CPU where the index offers one
TORCH ?= torch==2.13.0
# uv reads no pip.conf: an index of this machine's own, and its certificates, are handed on
INDEX := $(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null)
export UV_DEFAULT_INDEX ?= $(INDEX)
ifeq ($(strip $(UV_DEFAULT_INDEX)),)
unexport UV_DEFAULT_INDEX
endif
ifneq ($(SSL_CERT_FILE),)
export UV_SYSTEM_CERTS := 1
endif
export BENTOML_DO_NOT_TRACK := True
# a start that recompiles every module is slower by seconds
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test soak lab check export docs bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

.venv/.base: pyproject.toml .venv/bin/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e .
	@touch $@

.venv/.dev: pyproject.toml .venv/bin/uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@ .venv/.base

demo: .venv/.base ## the whole way on built-in data; ends with the URL of a running service
	$(BIN)/mlworkbench demo $(ARGS)

lab: .venv/.dev ## JupyterLab on a copy of the five stage notebooks
	$(BIN)/mlworkbench lab $(ARGS)

test: .venv/.dev ## all lessons and all tests, heavy ones at small sizes
	$(BIN)/nbdev-test --n-workers 2
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

soak: .venv/.dev ## the same heavy tests at full size; writes a dated table to docs/evidence
	MLW_SOAK=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m soak $(ARGS)

export: .venv/.dev ## notebooks to package: stale modules go, parameters cells and README are written anew
	find mlworkbench -mindepth 2 -name '*.py' ! -name '__init__.py' -delete
	$(BIN)/nbdev-export
	$(BIN)/python -m mlworkbench.app.cells
	$(BIN)/jupyter nbconvert --log-level ERROR --clear-output --inplace nbs/*.ipynb nbs/stages/*.ipynb
	$(BIN)/nbdev-clean
	$(BIN)/jupyter nbconvert --log-level ERROR --to markdown --output-dir . --output README nbs/index.ipynb

check: export ## the house rules: exported, clean, linted, imports point down; no diff may be left
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	git diff --exit-code --stat
	@test -z "$$(git status --porcelain)" || { git status --short; exit 1; }

docs: .venv/.dev ## every library notebook executed, as pages in _docs
	mkdir -p _docs
	$(BIN)/jupyter nbconvert --log-level ERROR --to html --execute --output-dir _docs nbs/*.ipynb

bench: .venv/.dev ## the benchmarks, side by side; writes dated tables to docs/evidence
	for bench in benchmarks/*.py; do $(BIN)/python $$bench || exit 1; done

clean: ## remove what can be made again
	rm -rf .venv _docs build dist
