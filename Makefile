# `make help` lists the targets. Everything runs in .venv, which `make develop` creates.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help develop demo test compliance fuzz lint types bench bench-pool bench-virtual gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

develop: $(STAMP) ## create .venv with everything for work on bitfusion

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): half a minute, or as long as the downloads take"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## train a small network on a leased GPU, and show where the time went
	$(BIN)/python scripts/demo.py

test: $(STAMP) ## all tests (no GPU needed)
	$(BIN)/python -m pytest

compliance: $(STAMP) ## all tests that numba-cuda ships, on bitfusion.cuda
	$(BIN)/python -m tests.compliance.numba_cuda

SECONDS ?= 300
fuzz: $(STAMP) ## the fuzz targets again and again: make fuzz SECONDS=600
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

bench: $(STAMP) ## every figure beside its floor
	$(BIN)/bitfusion bench all --json out/bench.json --plot out/bench.png

bench-pool: $(STAMP) ## the pool: queue, listings, start, shares of time, memory that moves
	$(BIN)/python -m benchmarks.pool --json out/pool.json --plot out/pool.png

bench-virtual: $(STAMP) ## the virtual GPU's kernels beside numba.njit and NumPy
	$(BIN)/python -m benchmarks.virtual_gpu --json out/virtual-gpu.json --plot out/virtual-gpu.png

gpu: $(STAMP) ## on a machine with an NVIDIA GPU: its tests and benchmarks
	$(BIN)/python scripts/gpu_check.py

clean: ## remove .venv and everything that was made
	rm -rf $(VENV) build dist out .demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
