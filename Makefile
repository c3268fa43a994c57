# `make serve` is all a new machine needs: Python 3.11+, g++ and git. See README.md.
PYTHON ?= python3
VENV   ?= .venv
# The CPU build where there is no NVIDIA driver; a package index that has none gives its ordinary build.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS   ?=

.PHONY: serve test check kernels format install clean
.DEFAULT_GOAL := help

help:
	@echo "make serve   install into $(VENV) and serve the built-in demo model on port 8000 (ARGS='MODEL --port 9000')"
	@echo "make test    everything CI runs: the checks and all tests"
	@echo "make check   format, lint, types, import floors, and the tests that need no torch"
	@echo "make kernels the GPU kernels, without a GPU: in Triton's interpreter, and compiled for four architectures"
	@echo "make format  rewrite the sources in the project's format"

serve: $(VENV)/.installed
	@exec $(BIN)/tradewind serve $(ARGS)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Tradewind needs Python 3.11 to 3.13, this is {v.major}.{v.minor}: make serve PYTHON=python3.12")'
	@echo "[1/3] making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip
	@touch $@

$(VENV)/.torch: $(VENV)/.python
	@echo "[2/3] installing PyTorch (the largest part; a minute or more)"
	@if command -v nvidia-smi >/dev/null 2>&1; then $(PIP) install '$(TORCH)'; \
	else $(PIP) install '$(TORCH)+cpu' 2>/dev/null || $(PIP) install '$(TORCH)'; fi
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "[3/3] installing Tradewind"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.torch
	@echo "[3/3] installing Tradewind and what its tests need"
	@$(PIP) install --editable '.[test]'
	@touch $(VENV)/.installed $@

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/none -n 2 --dist worksteal

test: check
	@# Test processes share the cores: their threads must not spin while they wait for one another.
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests --ignore=tests/none -n 2 --dist worksteal
	$(BIN)/python -m tests.gpu.compiled --arch 90

kernels: $(VENV)/.test
	$(BIN)/python -m pytest tests/cpu/triton -n 2 --dist worksteal
	$(BIN)/python -m tests.gpu.compiled --arch 90 80 89 100

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
