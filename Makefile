# Two commands do everything on a fresh machine: `make lab` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/gpve
# Installed once per content of the lists of packages.
# (What is generated from proto/ is made at installation, so it counts as well.)
WANTED := $(shell cat pyproject.toml constraints.txt hatch_build.py gpve/client/asynchronous.py proto/gpve/*/*.proto proto/gpve/*/*/*.proto 2>/dev/null | sha256sum | cut -c1-16)

# The Rust workspace: Agent Kernel and Agent Runtime.
RUST := agentrt
CARGO := cargo --color never

.PHONY: help lab test test-full sweep lint bench docs clean agentrt agentrt-test agentrt-full fuzz

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
# CPython's own suite, which runs inside the sandbox, is that of /usr/bin/python3
# (its driver, test/libregrtest, is there without it: a case of it says whether it is).
SUITE = libpython$(shell /usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo 3)-testsuite
.PHONY: packages
packages:
	@ls -d /usr/lib/python3*/test/test_os.py >/dev/null 2>&1 || { \
	  echo "  packages               $(SUITE)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SUITE) >/dev/null; } || \
	  echo "  packages               $(SUITE) could not be installed: the test that needs it is skipped" >&2
	@command -v mariadbd >/dev/null || test -x /usr/sbin/mariadbd || { \
	  echo "  packages               mariadb-server"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mariadb-server >/dev/null; } || \
	  echo "  packages               mariadb-server could not be installed: the tests that need it are skipped" >&2
	@command -v strace >/dev/null || { \
	  echo "  packages               strace"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq strace >/dev/null; } || \
	  echo "  packages               strace could not be installed: the tests that need it are skipped" >&2

lab: $(VENV)/.lab-$(WANTED) ## Replay a generated GPU trace under several policies; leaves plots and a table in out/lab
	@$(BIN)/gpve lab --out out/lab

lint: $(VENV)/.test-$(WANTED) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=sim $(BIN)/lint-imports

agentrt: $(VENV)/.test-$(WANTED) ## Build the Rust workspace, and the Python package of the Agent Kernel into .venv
	@if ! command -v cargo >/dev/null; then echo "  agentrt                skipped: cargo is not installed (https://rustup.rs)"; exit 0; fi; \
	set -e; cd $(RUST); $(CARGO) build --workspace --bins; $(CARGO) build -p gpve-agent-seed; \
	mkdir -p python/gpve_agent_kernel/bin; cp -f target/debug/gpve-agent-launch python/gpve_agent_kernel/bin/; \
	cd python; VIRTUAL_ENV=$(abspath $(VENV)) $(abspath $(BIN))/maturin develop --quiet

agentrt-test: agentrt ## cargo fmt, clippy, cargo test
	@if ! command -v cargo >/dev/null; then exit 0; fi; \
	set -e; cd $(RUST); $(CARGO) fmt --all --check; $(CARGO) clippy --workspace --all-targets --quiet -- -D warnings; \
	$(CARGO) test --workspace --quiet

agentrt-full: agentrt-test fuzz ## The same, cargo deny, and a minute of fuzzing for each target
	@if ! command -v cargo >/dev/null; then exit 0; fi; \
	command -v cargo-deny >/dev/null || $(CARGO) install --quiet --locked cargo-deny || true; \
	if ! command -v cargo-deny >/dev/null; then echo "  cargo deny             skipped: it could not be installed"; exit 0; fi; \
	cd $(RUST) && $(CARGO) deny --log-level error check bans licenses sources

fuzz: ## A minute of fuzzing for each parser that reads what strangers wrote
	@if ! rustup toolchain list 2>/dev/null | grep -q nightly; then \
	  echo "  fuzz                   skipped: there is no nightly toolchain (rustup toolchain install nightly)"; exit 0; fi; \
	command -v cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked cargo-fuzz || true; \
	if ! command -v cargo-fuzz >/dev/null; then echo "  fuzz                   skipped: cargo-fuzz could not be installed"; exit 0; fi; \
	set -e; cd $(RUST)/fuzz; for target in $$(cargo +nightly fuzz list); do \
	  echo "  fuzz                   $$target"; found=$$(mktemp -d); \
	  cargo +nightly fuzz run $$target $$found corpus/$$target -- -max_total_time=60 -max_len=8192 -verbosity=0 -print_final_stats=0; \
	  rm -rf $$found; done

test: lint packages agentrt-test ## All tests but the long ones
	$(BIN)/python -m pytest -m 'not full' -n 2 --dist loadgroup

test-full: lint packages agentrt-full ## All tests, the long ones too
	$(BIN)/python -m pytest -n 2 --dist loadgroup

sweep: $(VENV)/.lab-$(WANTED) ## Every flow under every fault and every two (half an hour); killed, it goes on where it stood
	@$(BIN)/gpve sweep-faults --out out/sweep-faults

bench: $(VENV)/.lab-$(WANTED) ## Benchmarks; each prints a line of JSON
	@for script in bench/*.py; do $(BIN)/python $$script; done

clean: ## Remove what was made here (caches lie in $(CACHE))
	rm -rf out build dist *.egg-info
