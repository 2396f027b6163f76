# Commands for a fresh machine: `make demo`, `make real` (a real model, about 45 min) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Test files run on this many processes, each on one thread: one more than two cores, as many tests wait for programs that they start.
PROCESSES ?= 3

# PyPI's torch for Linux on x86-64 carries CUDA (gigabytes). For the CPU build:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PIP := $(BIN)/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo real test check clean

demo: $(VENV)/.ready
	$(BIN)/limbeck run recipes/demo.yaml
	$(BIN)/limbeck run recipes/mentor-kd-tiny.yaml

real: $(VENV)/.ready
	$(BIN)/limbeck bases get smollm2-135m
	$(BIN)/limbeck run recipes/real/generated.yaml

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.ready-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/typos

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Limbeck needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable .
	touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.ready

clean:
	rm -rf $(VENV) runs
