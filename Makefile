# Two commands do everything on a fresh machine: `make lab` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gpve
# Installed once per content of the lists of packages.
WANTED := $(shell cat pyproject.toml constraints.txt 2>/dev/null | sha256sum | cut -c1-16)

.PHONY: help lab test test-full sweep lint bench docs clean

help: ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/.lab-$(WANTED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "GPVE needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "  environment            installing into $(VENV) (once, about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@rm -f $(VENV)/.lab-* && touch $@

$(VENV)/.test-$(WANTED): $(VENV)/.lab-$(WANTED)
	@echo "  environment            installing what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@rm -f $(VENV)/.test-* && touch $@

# A real MariaDB for the tests of the store. Where it cannot be installed, those tests are skipped by name.
.PHONY: packages
packages:
	@command -v mariadbd >/dev/null || test -x /usr/sbin/mariadbd || { \
	  echo "  packages               mariadb-server"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mariadb-server >/dev/null; } || \
	  echo "  packages               mariadb-server could not be installed: the tests that need it are skipped" >&2

lab: $(VENV)/.lab-$(WANTED) ## Replay a generated GPU trace under several policies; leaves plots and a table in out/lab
	@$(BIN)/gpve lab --out out/lab

lint: $(VENV)/.test-$(WANTED) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=sim $(BIN)/lint-imports

test: lint packages ## All tests but the long ones
	$(BIN)/python -m pytest -m 'not full' -n 2 --dist loadgroup

test-full: lint packages ## All tests, the long ones too
	$(BIN)/python -m pytest -n 2 --dist loadgroup

sweep: $(VENV)/.lab-$(WANTED) ## Every flow under every fault and every two (half an hour); killed, it goes on where it stood
	@$(BIN)/gpve sweep-faults --out out/sweep-faults

bench: $(VENV)/.lab-$(WANTED) ## Benchmarks; each prints a line of JSON
	@for script in bench/*.py; do $(BIN)/python $$script; done

clean: ## Remove what was made here (caches lie in $(CACHE))
	rm -rf out build dist *.egg-info
