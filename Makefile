# The verbs of the project. `make help` lists them.
#   PYTHON=python3.13   which Python makes .venv        PG=16        run the tests on PostgreSQL 16
#   CORPUS=path         what `make run` ingests          NAME=writer  which benchmark
#   SEED=7 MINUTES=30   which faults, for how long; MINUTES: also of a soak, after its warm-up
#   PROFILE=long        how far the tests of properties look

PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime
DEV := .venv/.dev
PEERS := .venv-peers/.installed
PROMTOOL := $(or $(shell command -v promtool 2>/dev/null),.cache/promtool)
COVERAGE ?= --cov --cov-report=term
# Each process has servers of its own; one more than there are cores, as tests wait for servers as much as they work.
PROCESSES := $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN))
PARALLEL ?= --numprocesses=$(PROCESSES) --maxprocesses=4 --dist=worksteal

export SEED MINUTES
ifdef PG
export POSTGRES_VERSION := $(PG)
endif
ifdef PROFILE
export HYPOTHESIS_PROFILE := $(PROFILE)
endif

.DEFAULT_GOAL := help
.PHONY: help run up test lint types format audit alerts bench chaos hostile screenshots docs-check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNTIME) ## ingest a real corpus on a stack of its own, search it, stop (CORPUS=path)
	@$(BIN)/ingest demo $(if $(CORPUS),"$(CORPUS)")

up: $(RUNTIME) ## start the stack and stay in the foreground; Ctrl-C stops it
	@$(BIN)/ingest up

test: $(DEV) ## the whole suite on real servers, with coverage (PG=16)
	$(BIN)/pytest $(PARALLEL) $(COVERAGE) $(ARGS)

lint: $(DEV) ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## static types
	$(BIN)/mypy

format: $(DEV) ## rewrite the code in style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: $(DEV) ## the installed packages against published advisories; says so where nobody answers
	@$(BIN)/python .ci/audit

alerts: $(PROMTOOL) $(DEV) ## the alert rules and the dashboard: read and tested by promtool, which is fetched where it is missing
	@mkdir -p .cache
	$(PROMTOOL) check rules docs/operations/monitoring/alerts.yml
	$(PROMTOOL) test rules docs/operations/monitoring/alerts.test.yml
	$(BIN)/python .ci/panels > .cache/panels.yml
	$(PROMTOOL) check rules .cache/panels.yml

# PUBLISH=1: once all that is demanded holds, what was found goes into the docs.
PUBLISHED = $(if $(PUBLISH),$(BIN)/python -m benchmarks.publish $(filter-out all,$(1)))

bench: $(DEV) $(if $(filter peers files growth all,$(NAME)),$(PEERS)) ## one benchmark (NAME=pipeline PUBLISH=1; without a name: which there are)
	$(BIN)/python -m benchmarks $(NAME)
	$(call PUBLISHED,$(NAME))

chaos: $(DEV) ## faults by the hundred, then a comparison with a run without (SEED=7 MINUTES=28 PUBLISH=1)
	$(BIN)/python -m benchmarks chaos
	$(call PUBLISHED,chaos)

hostile: $(DEV) ## files made to harm, at full size, and what becomes of each
	$(BIN)/python -m benchmarks hostile
	$(call PUBLISHED,hostile)

screenshots: $(DEV) ## the pictures of Flower in the docs, by Chromium
	$(BIN)/python docs/screenshots.py

docs-check: $(DEV) ## what the documents say is what the code does
	$(BIN)/pytest tests/docs

clean: ## remove what was built; the data folder stays
	rm -rf .venv .venv-peers .cache .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

# .venv is made by uv where there is one, else by venv, and brought up to date when pyproject.toml changes.
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),uv pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet)

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or later is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1) → make PYTHON=python3.13 …" >&2; exit 1; }
	@$(if $(UV),uv venv --quiet --python "$$(command -v $(PYTHON))" .venv,$(PYTHON) -m venv .venv) || { rm -rf .venv; exit 1; }

$(RUNTIME): pyproject.toml .venv/pyvenv.cfg
	@echo "installing into .venv …"
	@$(if $(UV),,$(BIN)/python -m ensurepip >/dev/null)
	@$(INSTALL) -e .
	@touch $@

# pip knows --group since 25.1.
$(DEV): pyproject.toml .venv/pyvenv.cfg
	@echo "installing into .venv, with what the tests need …"
	@$(if $(UV),,$(BIN)/python -m ensurepip >/dev/null && $(INSTALL) --upgrade 'pip>=25.1')
	@$(INSTALL) -e . --group dev
	@touch $@ $(RUNTIME)

# What `benchmarks peers` compares with has pins of its own, which do not fit ours: SQLAlchemy before 2.1.
$(PEERS): pyproject.toml
	@echo "installing the peers into .venv-peers …"
	@$(if $(UV),uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv-peers,$(PYTHON) -m venv .venv-peers)
	@$(if $(UV),,.venv-peers/bin/python -m pip install --quiet --upgrade 'pip>=25.1')
	@$(if $(UV),uv pip install --quiet --python .venv-peers/bin/python,.venv-peers/bin/python -m pip install --quiet) --group peers
	@touch $@

# Debian's package has it; its lists may be missing, or ours to fetch without being root.
APT := -o Dir::State=$(CURDIR)/.cache/apt -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache=$(CURDIR)/.cache/apt
.cache/promtool:
	@command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { \
	  echo "promtool is needed → install Prometheus, whose package has it, and put promtool into PATH" >&2; exit 1; }
	@echo "fetching promtool into .cache …"
	@rm -rf .cache/prometheus && mkdir -p .cache/prometheus .cache/apt/lists/partial .cache/apt/archives/partial
	@cd .cache/prometheus && { apt-get -qq download prometheus 2>/dev/null || \
	  { apt-get -qq $(APT) update && apt-get -qq $(APT) download prometheus; } } || { \
	  echo "Debian's package prometheus cannot be fetched → put promtool into PATH" >&2; exit 1; }
	@dpkg-deb -x .cache/prometheus/prometheus_*.deb .cache/prometheus
	@cp .cache/prometheus/usr/bin/promtool $@ && rm -rf .cache/prometheus
