# Each target does its own set-up, into .venv. Without make:
#
#   python3.11 -m venv .venv
#   run    .venv/bin/python -m pip install --require-hashes -r requirements.txt
#          .venv/bin/python -m pip install --no-deps --no-build-isolation -e .
#          .venv/bin/python -m bytewax.run dataflows.orders
#   test   .venv/bin/python -m pip install --require-hashes -r requirements-dev.txt
#          .venv/bin/python -m pytest -n 3
#   lint   .venv/bin/python -m ruff check; .venv/bin/python -m ruff format --check
#          .venv/bin/python -m mypy; .venv/bin/lint-imports
#   bench  .venv/bin/python -m benchmarks      (set-up as for test)
#   storm  .venv/bin/python -m tests.faults.storm --help
#
# PYTHON=... chooses another Python, 3.11 or 3.12; arguments of a program go into ARGS:
#   make run ARGS='-w 2'     make bench BASE=main     make test ARGS='tests/waxwing -k batch'     make test JOBS=0 (one test after the other)

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(if $(shell $(name) --version 2>/dev/null),$(name))))
ARGS ?=
# Tests side by side, each side with servers of its own. More than cores: many tests wait.
JOBS ?= 3
IN_VENV := .venv/bin/python

.PHONY: run test lint format bench storm lock
.DEFAULT_GOAL := test

run: .venv/.installed-run
	$(IN_VENV) -m bytewax.run dataflows.orders $(ARGS)

test: .venv/.installed-dev
	$(IN_VENV) -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

lint: .venv/.installed-dev
	$(IN_VENV) -m ruff check
	$(IN_VENV) -m ruff format --check
	$(IN_VENV) -m mypy
	.venv/bin/lint-imports

format: .venv/.installed-dev
	$(IN_VENV) -m ruff check --fix
	$(IN_VENV) -m ruff format

# BASE=COMMIT measures that commit's code beside this tree's, PEER=PYTHON a peer that this Python has (Pathway).
bench: .venv/.installed-dev
	$(IN_VENV) -m benchmarks $(if $(BASE),--base $(BASE)) $(if $(PEER),--peer $(PEER)) $(ARGS)

# DATABASE=sqlite KILLS=10 ORDERS=100000 SEED=2 narrow it, ARGS='--freezes 5' and the like change the rest.
storm: DATABASE ?= all
storm: ORDERS ?= 1000000
storm: KILLS ?= 50
storm: SEED ?= 1
storm: .venv/.installed-dev
	$(IN_VENV) -m tests.faults.storm --database $(DATABASE) --orders $(ORDERS) --kills $(KILLS) --seed $(SEED) \
	  --freezes 3 --stalls 2 --database-restarts 5 --broker-restarts 5 --partitions-added 2 $(ARGS)

# The newest versions that pyproject.toml allows, into both lock files.
LOCK := .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras
lock: export UV_CUSTOM_COMPILE_COMMAND = make lock
lock: .venv/.installed-dev
	$(LOCK) pyproject.toml --group build -o requirements.txt
	$(LOCK) pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt

# -- set-up: each step leaves a stamp, so that a second make has nothing to do --------------------

PIP_INSTALL := $(IN_VENV) -m pip install --quiet --disable-pip-version-check
# The lock files name all that is needed, so nothing is left to resolve; most modules are never imported, so none is compiled before.
INSTALL_LOCKED := $(PIP_INSTALL) --no-deps --no-compile --require-hashes
# The project itself, as it lies here: for the `waxwing` command.
INSTALL_SELF := $(PIP_INSTALL) --no-deps --no-build-isolation --no-index -e .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.installed-run: requirements.txt pyproject.toml | .venv/bin/python
	$(INSTALL_LOCKED) -r requirements.txt
	$(INSTALL_SELF)
	@touch $@

.venv/.installed-dev: requirements-dev.txt pyproject.toml | .venv/.installed-run
	$(INSTALL_LOCKED) -r requirements-dev.txt
	$(INSTALL_SELF)
	@touch $@
