# Each target makes .venv and installs on first use; a second call finds the stamps and costs nothing.
PYTHON ?= python3
BIN := .venv/bin
# setup_lightning.sh leaves the versions that go with the torch it kept in .venv
VERSIONS = $(firstword $(wildcard .venv/constraints.txt) constraints.txt)
PIP = $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint $(VERSIONS)
# two workers of one thread each; whoever has run out of tests takes some of the other's. A test with two threads
# has them sleep where they wait, since the other worker needs the core
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# in the tests of kernels, rollouts and update every call of a kernel is checked: addresses, sizes, indices
CHECKED = TINY_MATH_CHECK_KERNELS=1 $(PYTEST)
EVERYDAY = not slow and not fuzz and not browser and not large and not real

.PHONY: quickstart test test-all release sanitize bench bench-gpu lint clean

quickstart: .venv/.installed ## train the embedded model and prove what it gained: half a minute once installed, no GPU
	$(BIN)/tiny-math train configs/quickstart.yaml

test: .venv/.installed-dev ## the tests of everyday work, offline: four to five minutes on two cores
	$(CHECKED) -m "$(EVERYDAY)"

test-all: .venv/.installed-dev ## with real waits, killed runs, drawn inputs and the pages in Chromium
	$(CHECKED) -m "$(EVERYDAY)"
	$(PYTEST) -m "(slow or fuzz or browser) and not large and not real"

release: .venv/.installed-dev ## build sdist and wheel into dist, and train the quickstart with each from an empty folder
	$(BIN)/python scripts/try_release.py

sanitize: .venv/.installed-dev ## the kernels' tests and a short training under the sanitizers of g++: half an hour
	$(BIN)/python scripts/sanitize.py address
	$(BIN)/python scripts/sanitize.py undefined

bench: .venv/.installed ## rollouts and GRPO steps side by side with transformers and stock TRL
	$(BIN)/tiny-math bench

bench-gpu: .venv/.installed ## the same on a CUDA machine, with a model of 0.5B's shape: four minutes
	$(BIN)/python -c 'import sys, torch; sys.exit("no CUDA GPU here" if not torch.cuda.is_available() else 0)'
	$(BIN)/tiny-math bench --limit 60 --out bench/results/gpu.json

lint: .venv/.installed-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv
