# Every target makes .venv and installs what is missing. Override: make test PYTHON=python3.12 WORKERS=8
PYTHON ?= python3
WORKERS ?= $(shell nproc)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
SOURCES := compiler passes backends benchmarks tests packaging
# the machine that `make synth` measures
SYNTHESIZED := rows=4,columns=4,dram_bytes=4,activation_kib=32,weight_kib=16,accumulator_kib=16,parameter_kib=8,activation_banks=4,dram_latency=32,queue_depth=4
# what clicks in reports, in tests
INSTALL_CHROMIUM := apt-get install -y --no-install-recommends chromium
# one thread each for the libraries inside test workers, which share the cores
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test test-full lint types bench synth install clean

demo: $(INSTALLED)
	$(BIN)/python benchmarks/demo.py

test: lint types
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -rs -m "not slow" </dev/null

test-full: lint types
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -rs --hypothesis-profile=random </dev/null

lint: $(INSTALLED)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# mypy does not follow the mapping of three folders to one package, so it gets the package as a tree of links
types: $(INSTALLED)
	@rm -rf build/types && mkdir -p build/types/fxpress
	@ln -s $(abspath passes) $(abspath backends) $(wildcard $(abspath compiler)/*) build/types/fxpress
	MYPYPATH=build/types $(BIN)/mypy -p fxpress

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py --suite vision,text,tiny --peers eager,inductor,ort,openvino,iree

# a systolic machine of 4x4 cells on an ECP5 FPGA, in ten minutes or so
synth: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[synth]'
	$(BIN)/python -m fxpress.backends.systolic.rtl.synthesis $(SYNTHESIZED) benchmarks/results/systolic-synthesis.json

install: $(INSTALLED)

# torch is asked for alone and first: a later requirement must not choose another build of it
$(INSTALLED): pyproject.toml constraints.txt
	@command -v g++ >/dev/null || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends g++; }
	@command -v chromium >/dev/null || \
		{ command -v apt-get >/dev/null && timeout 900 $(SUDO:sudo=sudo -n) sh -c 'apt-get update && $(INSTALL_CHROMIUM)'; } || \
		echo "chromium is not there and cannot be installed here: tests that click in pages will be skipped" >&2
	@$(PYTHON) -c 'import sys; sys.exit("Python must be 3.11 or newer: make PYTHON=...") if sys.version_info < (3, 11) else 0'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install -y python3-venv && $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
