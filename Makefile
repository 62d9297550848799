# `make demo` runs the main job, `make test` everything that must pass. Both set up what they need.
PYTHON ?= python3
BIN := .venv/bin
# Half of what tests do is wait for daemons. A file stays with one worker, so that what it shares is made once.
WORKERS ?= 2
PYTEST = $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-all soak lint types bench

help:
	@echo "make demo      one hub, three nodes, real connectomes, a guided tour (ONCE=1 ends after the tour)"
	@echo "make test      lint, types and tests (FAST=1 leaves out the slow ones)"
	@echo "make test-all  make test and the largest cases"
	@echo "make soak      an hour of joins, kills and queries (SOAK_SECONDS=3600)"
	@echo "make bench     measurements into bench/results.json"

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	@$(BIN)/python -m demo $(if $(ONCE),--once)

lint: setup
	@echo "lint: ruff" && $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .

types: setup
	@echo "types: mypy --strict" && $(BIN)/mypy

test: lint types
	@echo "tests: pytest" && $(PYTEST) -m "not largest$(if $(FAST), and not slow)" $(ARGS)

test-all: lint types
	@echo "tests: pytest, all of them" && $(PYTEST) $(ARGS)

soak: setup
	@SOAK_SECONDS=$${SOAK_SECONDS:-3600} $(BIN)/pytest tests/soak -s $(ARGS)

bench: setup
	@$(BIN)/python -m bench $(ARGS)
