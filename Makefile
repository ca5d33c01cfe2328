# One line for each thing that a developer does. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help up test check lint fmt docs lock bench chaos faults simulate venv venv-host \
  real clean
SHELL := /bin/bash

bin := .venv/bin
# make up ARGS="--hosts 3 --port 8800"; make test ARGS="-k migration"
ARGS ?=
# Tests mostly wait for what they started: four processes of them do on two cores.
WORKERS ?= 4
parallel := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

up: venv ## Run Chronovisor on this machine (ARGS="--hosts 3")
	@exec $(bin)/chronovisor up $(ARGS)

# A check that fails does not keep the tests from running: one run shows everything.
test: real ## Install the real components, then run every check and every test
	@failed=0; $(MAKE) --no-print-directory lint || failed=1; \
	CHRONOVISOR_REQUIRE_ALL=1 $(bin)/python -m pytest $(parallel) $(ARGS) || failed=1; exit $$failed

check: venv ## Checks and unit tests: two minutes, needs nothing but Python
	@failed=0; $(MAKE) --no-print-directory lint || failed=1; \
	$(bin)/python -m pytest tests/unit $(parallel) $(ARGS) || failed=1; exit $$failed

lint: venv ## The checks alone
	@failed=0; export NO_COLOR=1; \
	for check in "ruff check" "ruff format --check" mypy lint-imports; do \
	  echo "--- $$check"; $(bin)/$$check || failed=1; \
	done; exit $$failed

fmt: venv ## Format the code and mend what ruff can mend
	$(bin)/ruff check --fix-only
	$(bin)/ruff format

docs: venv ## Write the pages of docs/ that are generated
	$(bin)/python -m docs.generator

lock: venv ## Pin what the *.in files ask for: newest versions, with hashes
	$(bin)/python tests/install/lock.py

bench: venv ## Measure, as ratios
	$(bin)/python -m benchmarks $(ARGS)

simulate: venv ## Play seeds of the simulation (SEEDS=1000 FIRST=1)
	@$(bin)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),1)

chaos: real ## Kill, freeze, cut off and fill up everything (MINUTES=10 SEED=random)
	$(bin)/python -m tests.system.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

faults: real ## Try every fault at every stage of a migration between two real hosts
	CHRONOVISOR_REQUIRE_ALL=1 ALL_FAULTS=1 $(bin)/python -m pytest \
	  tests/system/test_migration_faults.py $(ARGS)

venv: ## Make .venv from the pinned requirements
	@tests/install/venv.sh

venv-host: ## The same with libvirt-python, which compiles against libvirt-dev
	@tests/install/venv.sh host

# What the tests of real components need: Debian's packages (as root), libvirt-python, Kafka's jars.
# The guest image is built by the harness when a test first asks for it.
real:
	@tests/install/debian.sh
	@tests/install/venv.sh host
	@tests/install/kafka.sh

clean: ## Remove what was made, .venv and the cache included
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build \
	  dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
