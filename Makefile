# Two commands for a newcomer: `make demo` and `make test`. Each makes .venv and installs
# what it needs; a C++ compiler, make and Python 3.10 or newer are all that must be there.
# On a machine without a network: `make test OFFLINE=1` builds in place and runs the tests with
# $(PYTHON), where torch, torchvision, pytest and the others of pyproject.toml must be already
# (of [test], and of the build's requirements; without tyro the tests of the command line are left).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc build_support -type f -not -name '*.pyc')
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu')

.PHONY: help demo test campaigns interop sanitize lint format docs bench bench-report bench-scaling gpu-check gpu-rehearsal sass clean

help:
	@echo "make demo    distil scikit-learn's digits and train on the result (2 minutes)"
	@echo "make test    run the tests (OFFLINE=1: with what is installed; ONLY=tests/ops: a part)"
	@echo "make campaigns  kill runs, mutate inputs and more, many times each, with records (hours; ONLY=: a part)"
	@echo "make interop   load exported sets with DD-Ranking and rethinkdc, and whiten beside kornia"
	@echo "make sanitize  run the tests of the ops under the address and undefined-behaviour sanitizers"
	@echo "make lint    check style, types, and that tables and charts fit the records"
	@echo "make format  put the sources into house style"
	@echo "make docs    build the documentation in build/site"
	@echo "make bench   measure the kernels and the pipelines beside their peers (15 minutes)"
	@echo "make bench-report   bring tables and figures up to the newest records"
	@echo "make bench-scaling  measure how time and memory grow with size"
	@echo "make gpu-check  test and measure the CUDA kernels on this machine's GPU (four times 9 minutes at most)"
	@echo "make gpu-rehearsal  start every step of that on the CPU, with small sizes (2 minutes)"
	@echo "make sass    show what nvcc makes of the CUDA kernels, beside the baseline (ARGS=kmeans: a part)"
	@echo "make clean   remove what these commands made, results of runs apart"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# Only the requirements of an extra: the package is there, and pip does not build it again.
$(addprefix $(VENV)/.installed-,dev docs bench interop): $(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'pydream-distill[$*]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/pydream demo

# A process for each processor; one that has nothing left takes tests from another.
AT_ONCE := -n auto --dist worksteal

ifdef OFFLINE
test:
	$(PYTHON) setup.py -q egg_info
	$(PYTHON) setup.py -q build_ext --inplace
	$(PYTHON) -m pytest $(shell $(PYTHON) -c "import xdist" 2>/dev/null && echo "$(AT_ONCE)") $(ONLY)
else
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(AT_ONCE) $(ONLY)
endif

# One after another: some trials measure time and memory.
campaigns: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -p no:randomly --long $(or $(ONLY),tests/campaigns)

interop: $(VENV)/.installed-interop
	$(BIN)/python -m pip install --quiet --no-deps ddranking==0.2.0 rethinkdc==0.3.2
	$(BIN)/python -m pytest tests/sets/test_packages.py tests/data/test_whitening.py

# The checks of pre-commit, with fixes left to `make format`. TOOLS is where they are installed:
# `make lint TOOLS=` takes those on PATH.
TOOLS ?= $(BIN)/
LINTED := $(if $(filter $(BIN)/,$(TOOLS)),$(VENV)/.installed-dev)

lint: $(LINTED)
	$(TOOLS)ruff check .
	$(TOOLS)ruff format --check .
	$(TOOLS)mypy
	$(TOOLS)clang-format --dry-run -Werror $(CPP)
	$(TOOLS)python -m benchmarks.report --check

format: $(LINTED)
	$(TOOLS)ruff check --fix .
	$(TOOLS)ruff format .
	$(TOOLS)clang-format -i $(CPP)

# A second module, in build/sanitize; the usual one stays as it is. Tests are run by `pytest`, since
# `python -m pytest` would take the package from the working directory. An allocation that asks for too
# much fails as it does elsewhere: by itself, AddressSanitizer ends the process. PYTEST_ADDOPTS=--long
# makes all trials of a campaign.
sanitize: $(LINTED)
	PYDREAM_CUDA=off PYDREAM_BUILD_TYPE=Debug \
		CXXFLAGS="-O1 -fsanitize=address,undefined -fno-sanitize-recover=all" \
		$(TOOLS)python setup.py -q build --build-base build/sanitize
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192 \
		PYTHONPATH="$$(echo build/sanitize/lib*):." \
		$(TOOLS)pytest $(or $(ONLY),tests/ops)

# A warning, such as a broken link, is an error.
docs: $(if $(LINTED),$(VENV)/.installed-docs)
	NO_MKDOCS_2_WARNING=1 $(TOOLS)mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# Real images: a folder with cifar10.zip, imagenet-sample-200.zip and observers/.
PYDREAM_DATA ?= ../shared/data

bench: $(VENV)/.installed-bench
	PYDREAM_DATA=$(PYDREAM_DATA) $(BIN)/python -m pytest benchmarks --benchmark-enable
ifneq ($(wildcard $(PYDREAM_DATA)/cifar10.zip),)
	$(BIN)/python -m benchmarks.pipeline_rded --data $(PYDREAM_DATA) --rounds 1
	$(BIN)/python -m benchmarks.pipeline_dream --data $(PYDREAM_DATA) --rounds 1 \
		--classes 5 --images-per-class 500 --arch convnet3-w48-instance
	$(BIN)/python -m benchmarks.pipeline_evaluate --data $(PYDREAM_DATA) --epochs 30
else
	@echo "no pipelines measured: no cifar10.zip in $(PYDREAM_DATA); set PYDREAM_DATA"
endif

bench-report: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.report

bench-scaling: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.scaling --data $(PYDREAM_DATA)

# On a machine with a GPU: with the Python there and what it has installed, no network needed.
# ONLY takes names of steps, and first, second or frameworks for a part of them; OUT is where records and logs go.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY))

gpu-rehearsal:
	$(PYTHON) -m benchmarks.gpu_check --rehearse $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY))

# Needs nvcc and cuobjdump, from the toolkit or their wheels, and no GPU. ARGS takes parts of the
# paths of files, and --keep, which makes what is found the baseline.
sass:
	$(PYTHON) -m benchmarks.sass $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info pydream/*.so
