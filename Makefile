# Everything happens inside .venv and build/. `make demo` and `make test` need nothing set up before them.

PYTHON ?= python3
# PROVIDER=cuda has an environment of its own: the two builds of ONNX Runtime can't be installed together.
PROVIDER ?= cpu
ifeq ($(PROVIDER),cuda)
VENV := .venv-cuda
RUNTIME := gpu
else
VENV := .venv
RUNTIME := cpu
endif
BIN := $(VENV)/bin
# One thread per test process: the workers already fill the cores. The tests start hundreds of Python processes,
# each of which would compile the package, did none keep its bytecode.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -q
INSTALL := $(BIN)/python -m pip install --quiet -c requirements-dev.txt

export ORT_DISABLE_TELEMETRY := 1

# The family that the demo merges: lora, or a trained one: surrogates, magika, ppocr_det and others of
# sample_models/trained.py.
DEMO ?= lora
DEMO_DIR := build/demo

# What `make fuzz-files` draws from, and how many children run at once.
SEED ?= 1
JOBS ?= 2

# The seconds that `make bench` may take, and more of its options: see bench/README.md.
BUDGET ?= inf
BENCH ?=
GRAPHS := build/bench/graphs

.PHONY: help setup engines demo quick test test-all mutants races fuzz-files lint docs bench paper clean
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## Create .venv with everything for development (does nothing when up to date)

# Two stamps: running the compiler takes a small installation, developing it takes torch.
$(VENV)/.run: pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "netfuse-onnx needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing netfuse-onnx and ONNX Runtime"
	@$(INSTALL) -e '.[$(RUNTIME)]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the development tools, torch, transformers and other runtimes and servers"
	@$(INSTALL) -e '.[$(RUNTIME),samples,dev,runtimes,serve,fleet,report,simplify,examples]'
	@touch $@

# Engines that exports are tested on, in `make test-all`. Of nvidia-pytriton, the server that it carries is used
# and nothing else, so it is unpacked beside the environment, without what it requires. With numpy 2, its Python
# backend sends outputs without data.
engines: $(VENV)/.engines ## Install Ray Serve and a Triton server, for the tests marked `engines`
$(VENV)/.engines: $(VENV)/.dev
	@echo "Installing Ray Serve and a Triton server"
	@$(INSTALL) -e '.[ray]'
	@$(INSTALL) --no-deps --upgrade --target build/engines/triton nvidia-pytriton
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/engines/numpy 'numpy<2'
	@touch $@

demo: $(VENV)/.run ## Merge a family of LoRA copies (DEMO=name: a trained one), prove and measure it, show how to run it
	$(BIN)/python -m sample_models.demo $(DEMO) --out $(DEMO_DIR)

quick: lint ## Lint, types, one case of each rule and the main stages: under a minute
	$(PYTEST) -m quick --hypothesis-profile=ci

# `test` draws the same examples in each run, `test-all` draws new ones.
test: lint ## Lint, type check, and all tests but the slow ones
	$(PYTEST) --hypothesis-profile=ci

test-all: lint engines ## The same with the slow tests: full-size models, Ray and Triton
	$(PYTEST) -m ''

# Small mistakes are put into a copy of the code, one at a time; the tests must see each (tests/mutants).
mutants: $(VENV)/.dev ## Do the tests see small mistakes? Before a release; up to 20 minutes
	$(BIN)/python -m tests.mutants.run

# Merges to one target at the same time, killed at any moment, with readers (docs/reliability.md).
races: $(VENV)/.dev ## Does a target ever break? Before a release; some minutes
	$(BIN)/python tests/races.py

# Mutated files through all commands: no crash, no hang, no file left (tests/file_fuzzing).
fuzz-files: $(VENV)/.dev ## 100,000 mutated files must never hurt. Before a release; one or two hours
	$(BIN)/python tests/fuzz_files.py --count 100000 --seed $(SEED) --jobs $(JOBS)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

# On CUDA, models are drawn from graphs without weights, which are exported once, before the time counts.
bench: $(VENV)/.dev ## Measure merged models against all other ways (PROVIDER=cuda BUDGET=540, BENCH="--only bert")
ifeq ($(PROVIDER),cuda)
	$(BIN)/python bench/graphs.py --out $(GRAPHS)
	$(BIN)/python bench/serving.py --provider cuda --graphs $(GRAPHS) --budget $(BUDGET) $(BENCH)
	$(BIN)/python bench/table.py bench/results/cuda
else
	$(BIN)/python bench/serving.py --provider $(PROVIDER) --budget $(BUDGET) $(BENCH)
endif
	$(BIN)/python bench/plot.py bench/results/$(PROVIDER)

# ONNX Runtime's CUDA provider over stub libraries, in the user's cache: bench/launches.
paper: $(VENV)/.dev ## Estimate merged models on a GPU without one (BENCH="--only bert"); an hour, 5 GB of disk
	$(BIN)/python bench/launches/trace.py --self-test || bench/launches/build.sh
	$(BIN)/python bench/paper.py $(BENCH)

docs: $(VENV)/.run ## Write docs/operators.md from the rules, docs/schema.json from the reports, a drawing and a table
	$(BIN)/python docs/operators.py
	$(BIN)/python docs/schema.py
	$(BIN)/python docs/drawings.py
	$(BIN)/python docs/serving_figures.py

clean: ## Remove what make and the tools made
	rm -rf .venv .venv-cuda build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
