# Everything runs from .venv, which `make setup` builds from requirements.lock. Needed: make and Python 3.11 or newer.

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

# Which Python builds .venv: the first of these that runs and is new enough, or PYTHON=… on the command line.
PYTHON ?=
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python)
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# Test processes: half as many again as there are cores, four at most, since each may run a broker of its own (256 MB of
# heap). JOBS=0 runs them in this process.
JOBS ?= auto
PYTEST_ARGS ?=
# Options of bench, bench-peers, scaling and soak: `make bench BENCH_ARGS=--quick`.
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last by `setup`, with the place the environment was built for: one that was moved or half built is built anew.
STAMP := $(VENV)/ready
UP_TO_DATE := $(shell test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null && cat $(STAMP) 2>/dev/null)
ifneq ($(UP_TO_DATE),$(CURDIR))
.PHONY: $(STAMP)
endif

UV_FOR_LOCK := uv>=0.5,<1
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --custom-compile-command 'make lock'

.PHONY: help
help: ## Say what there is to do (this text).
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(STAMP) ## Build .venv with recording-monitor in it; at once when it is up to date.
	@:

$(STAMP): requirements.lock pyproject.toml monitor/__init__.py $(wildcard monitor/core/*.pyx monitor/core/*.pxi) deploy/native.py
	@python=; for candidate in $(PYTHONS); do \
	    if "$$candidate" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make setup: no Python 3.11 or newer among: $(subst ",,$(PYTHONS))." >&2; \
	    echo "Install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 2; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "make setup: $$python (Python $$version) comes without venv and ensurepip." >&2; \
	    echo "On Debian and Ubuntu: apt-get install python$$version-venv" >&2; \
	    exit 2; \
	fi; \
	rm -f $(STAMP); \
	if [ "$(UP_TO_DATE)" != "$(CURDIR)" ]; then \
	    echo "Building $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@# Every package above is pinned by hash, the build backend too: nothing else may be fetched to build the project.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -c 'from monitor.core.fast_path import COMPILED; import sys; sys.exit(not COMPILED)' || \
	    echo "Without the compiled fast path, which wants a C compiler and Python's headers: all works, but slower."
	@printf '%s' '$(CURDIR)' > $(STAMP)

.PHONY: demo
demo: setup ## Run the whole monitor on simulated traffic; Ctrl-C ends it.
	@$(BIN)/recording-monitor demo

.PHONY: test
test: setup ## Run all tests.
	@$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal -m "not alone and not image" $(PYTEST_ARGS)
	@# What others at work beside it would falsify. Exit code 5: none of these was asked for.
	@$(BIN)/python -m pytest -n 0 -m alone $(PYTEST_ARGS) || [ $$? -eq 5 ]

.PHONY: image-test
image-test: setup ## Build the image without Docker and run it (root, buildah, debootstrap).
	@$(BIN)/python -m pytest -n 0 -m image tests/test_image.py $(PYTEST_ARGS)

.PHONY: check
check: setup ## Check format, lint and types, as CI does beside the tests.
	@$(BIN)/ruff format --check --quiet . || { echo "Run $(BIN)/ruff format ." >&2; $(BIN)/ruff format --diff . ; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy

.PHONY: bench
bench: setup ## Measure what an event costs, against the targets. BENCH_ARGS=--quick takes minutes.
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

.PHONY: bench-peers
bench-peers: setup ## The same simple job in other stream processors, and on our own client code.
	@$(BIN)/python -m tests.bench_peers $(BENCH_ARGS)

.PHONY: scaling
scaling: setup ## One, two and four members over 16 partitions.
	@$(BIN)/python -m tests.scaling $(BENCH_ARGS)

.PHONY: soak
soak: setup ## Half an hour at 2,000 events/s with random restarts, and what grows meanwhile.
	@$(BIN)/python -m tests.soak $(BENCH_ARGS)

.PHONY: reconcile-load
reconcile-load: setup ## `reconcile` over a million listed recordings: how long, and how much memory.
	@$(BIN)/python -m tests.reconcile_load $(BENCH_ARGS)

.PHONY: report-load
report-load: setup ## `report` over a million verdicts: how long, and how much memory.
	@$(BIN)/python -m tests.report_load $(BENCH_ARGS)

.PHONY: torture
torture: setup ## The long run: many more generated histories, kills and rebalances than `test`.
	@$(BIN)/python -m tests.torture

.PHONY: upgrade
upgrade: setup ## Another version and this one by turns on one broker. UPGRADE_ARGS="--from COMMIT" names it.
	@$(BIN)/python -m tests.upgrade try $(UPGRADE_ARGS)

.PHONY: screenshots
screenshots: setup ## Take the pictures of the pages under docs/pages anew, in a real Chromium.
	@$(BIN)/python -m tests.screenshots

.PHONY: golden
golden: setup ## Rewrite the golden files; review the difference.
	@$(BIN)/python -m pytest -n 0 --golden $(PYTEST_ARGS)
	@git --no-pager diff --stat -- tests

OPERATOR_RULES := deploy/kubernetes/components/prometheus-operator/rules.yaml

.PHONY: rules
rules: ## Wrap deploy/prometheus/rules.yml for the Prometheus Operator.
	@{ printf 'apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: recording-monitor\nspec:\n'; \
	    sed 's/^./  &/' deploy/prometheus/rules.yml; } > $(OPERATOR_RULES)

.PHONY: docs
docs: setup ## Write docs/configuration.md anew from the types of the settings.
	@$(BIN)/python -m docs

.PHONY: secrets
secrets: ## Make up the secrets that docker-compose.yml names, where there are none.
	@sh deploy/compose/secrets.sh

.PHONY: dashboards
dashboards: setup ## Write the dashboards for Grafana anew; review the difference.
	@$(BIN)/python -m deploy.grafana

.PHONY: lock
lock: ## Resolve the lock files anew from pyproject.toml.
	@test -x .venv-lock/bin/uv || { python3 -m venv --clear .venv-lock && .venv-lock/bin/pip install --quiet '$(UV_FOR_LOCK)'; }
	@$(COMPILE) --upgrade --extra dev --output-file requirements.lock pyproject.toml
	@# What the image holds, and what builds the package for it: the same versions, and nothing else.
	@$(COMPILE) --constraint requirements.lock --output-file deploy/requirements.lock pyproject.toml
	@printf 'hatchling\nCython\n' | $(COMPILE) --constraint requirements.lock --output-file deploy/build-requirements.lock -

.PHONY: clean
clean: ## Remove what the other tasks built, .venv too.
	@rm -rf $(VENV) .venv-lock dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find monitor tests -name __pycache__ -type d -prune -exec rm -rf {} +
