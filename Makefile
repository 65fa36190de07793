# `make` prints what there is to do. Nothing is installed outside .venv and .venvs, except
# that `make test`, as root on Debian or Ubuntu and where a database server, libfaketime, HAProxy,
# PgBouncer, Patroni, etcd, Chromium or Node is not to be found, installs it with apt-get, and says
# so; so does `make picture`, and with HAProxy `make demo`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# The first Python on the PATH that is new enough. A name may be there and not run (pyenv's
# shims), so each is tried.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo "$$name" && exit; done; echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8888
# All that `make run` writes is in here: the notebooks, unless they are elsewhere, the sessions,
# and what Jupyter and IPython keep for a user.
RUN ?= $(CURDIR)/.run
NOTEBOOKS ?= $(RUN)/notebooks
# A shell need not replace a tilde in the middle of a word.
override RUN := $(RUN:~/%=$(HOME)/%)
override NOTEBOOKS := $(NOTEBOOKS:~/%=$(HOME)/%)
# Test processes at once: more than there are processors, since some always wait.
JOBS ?= 8
# More arguments for pytest, `make run`, `make demo` or the benchmarks.
ARGS ?=
# One test after another to whoever is free, so that the long ones begin in time.
PYTEST_OPTIONS := -n $(JOBS) --dist=load --maxschedchunk=1
# What `make test-oldest` runs, each case on one of the databases: each layer, without every
# system test.
OLDEST ?= tests/unit tests/migrations tests/system/test_main_job.py
# The releases of jupyter_server whose own tests `make upstream` runs.
RELEASES ?= oldest newest

# Bytecode is compiled at the install: a server that compiles its imports at each start is slow.
unexport PYTHONDONTWRITEBYTECODE

JUPYTER_FOLDERS = JUPYTER_CONFIG_DIR="$(RUN)/config" JUPYTER_DATA_DIR="$(RUN)/data" \
	JUPYTER_RUNTIME_DIR="$(RUN)/data/runtime" IPYTHONDIR="$(RUN)/ipython"
ENVIRONMENT := $(PYTHON) tools/environment.py
CHECKED := jupyter_session_store tests benchmarks migrations tools docs
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Serve JupyterLab on 127.0.0.1:8888; its sessions and kernels outlive it
	@$(ENVIRONMENT) $(VENV) . jupyterlab
	@mkdir -p "$(NOTEBOOKS)"
	exec env $(JUPYTER_FOLDERS) $(BIN)/jupyter lab --ip=127.0.0.1 --port=$(PORT) \
		--ServerApp.port_retries=0 --ServerApp.root_dir="$(NOTEBOOKS)" \
		--ServerApp.session_manager_class=jupyter_session_store.PersistentSessionManager \
		--ServerApp.kernel_manager_class=jupyter_session_store.local.PersistentKernelManager \
		$(ALLOW_ROOT) $(ARGS)

.PHONY: kernels
kernels: ## List the kernels of `make run`; ARGS="--stop --detached" ends those without a server
	@$(ENVIRONMENT) $(VENV) . jupyterlab
	@env $(JUPYTER_FOLDERS) $(BIN)/jupyter session-store kernels $(ARGS)

.PHONY: demo
demo: ## Show a notebook that outlives its server; ARGS=--stay leaves everything running
	@$(ENVIRONMENT) $(VENV) . jupyterlab jupyter_kernel_gateway
	@$(BIN)/python tools/demo.py $(ARGS)

.PHONY: picture
picture: ## Make the moving picture of the README anew, in docs/_static
	@$(ENVIRONMENT) $(VENV) ".[test,lint,docs]" pillow
	@$(PYTHON) tools/servers.py
	$(BIN)/python -m tools.picture

.PHONY: install
install: ## Install what testing, linting and the documentation need
	@$(ENVIRONMENT) $(VENV) ".[test,lint,docs]"

.PHONY: test
test: install ## Test on SQLite, PostgreSQL and MySQL or MariaDB; its last line says what it left out
	@$(PYTHON) tools/servers.py
	$(BIN)/pytest $(PYTEST_OPTIONS) $(ARGS)

.PHONY: test-all
test-all: ## Run `make test`, what it leaves out, and the tests of and on other releases
	@failed=0; for step in test test-extended "upstream RELEASES=newest" test-oldest; do \
		start=$$SECONDS; printf '\n=== make %s\n' "$$step"; \
		$(MAKE) --no-print-directory $$step || failed=1; \
		printf '=== make %s took %d s\n' "$$step" $$((SECONDS - start)); \
	done; exit $$failed

.PHONY: test-extended
test-extended: install ## Run what `make test` leaves out: browsers, hubs, a twentieth of all rounds
	@$(PYTHON) tools/servers.py
	$(BIN)/pytest $(PYTEST_OPTIONS) --extended $(ARGS)

.PHONY: torture
torture: install ## Run the tests that repeat a race, with all their rounds
	@$(PYTHON) tools/servers.py
	$(BIN)/pytest -n $(JOBS) --extended -m torture --rounds-fraction=1 --timeout=1800 $(ARGS)

.PHONY: test-oldest
test-oldest: ## Test on Python 3.10 and the oldest declared release of each dependency
	@$(ENVIRONMENT) .venvs/oldest ".[test]" --oldest --python-version=3.10
	@$(PYTHON) tools/servers.py
	.venvs/oldest/bin/pytest $(PYTEST_OPTIONS) --spread $(OLDEST) $(ARGS)

.PHONY: upstream
upstream: ## Run jupyter_server's own tests of sessions and gateways on this package
	@$(PYTHON) tools/servers.py
	$(PYTHON) tools/upstream.py --releases $(RELEASES) --on $(VENV) $(ARGS)

.PHONY: lint
lint: install ## Check style, types, the doors between the modules, and the files for containers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(wildcard $(CHECKED))
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*.yml)

.PHONY: format
format: install ## Format the code, and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: install ## Build the documentation into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

.PHONY: reference
reference: install ## Write the help and the output of each subcommand into its reference
	$(BIN)/python docs/_ext/command_samples.py

.PHONY: bench
bench: ## Measure this manager, the stock one and the bare drivers
	@$(ENVIRONMENT) $(VENV) ".[test,lint,docs,bench]"
	@$(PYTHON) tools/servers.py
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: clean
clean: ## Remove what these commands made, and leave the notebooks in .run
	rm -rf .venv .venvs build dist docs/_build benchmarks/results .coverage .hypothesis
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
