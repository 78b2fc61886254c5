PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find src -name '*.py')

# Where the environment forbids it, as in many containers, each process would compile all it imports anew: seconds of torch.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test netem check style types layers collected bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	touch $@

# Compiling all of 25,000 modules takes longer than the rest of installing them: those that are used are when they are.
# pip takes one core for two minutes: with --jobs=2 two of it unpack half of what is pinned each. The third adds what these
# pins lack elsewhere (libraries of CUDA), and the package.
$(VENV)/unpacked-1: PART := a-o
$(VENV)/unpacked-2: PART := p-z
$(VENV)/unpacked-1 $(VENV)/unpacked-2: constraints.txt | $(BIN)/python
	sed -n '/^#/q; /^[$(PART)]/Ip' constraints.txt > $@.txt
	$(PIP) --no-compile --no-deps -r $@.txt
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt $(VENV)/unpacked-1 $(VENV)/unpacked-2
	$(PIP) --no-compile -e '.[dev]'
	touch $(VENV)/installed $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(PIP) -e '.[bench]'
	touch $@

$(VENV)/compiled: $(SOURCES) $(VENV)/installed-dev  ## kernels are compiled before the tracer watches, which would slow it down
	$(BIN)/python -m pytest -m compiles $$(grep -rl --include='*.py' pytest.mark.compiles tests)
	touch $@

install: $(VENV)/installed  ## the core, without torch

demo: $(VENV)/installed  ## the main job: compare matchers on one network, and a report with pictures
	$(BIN)/gainnet compare vehicular --matchers nearest,cloud,greedy,price --seeds 3 --set duration_s=20 --out runs/demo --overwrite

test: $(VENV)/compiled  ## the tests, with a floor under their coverage
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=95

netem: $(VENV)/installed-dev  ## tests of links that a kernel shapes, in a user-mode Linux, whose kernel has netem
	GAINNET_TEST_NETEM=required deploy/user-mode-linux.sh $(BIN)/python -m pytest -p no:cacheprovider -rsP --color=no $(addprefix tests/serving/,test_netem.py test_namespaces.py test_lab_netem.py)

collected: $(VENV)/installed-dev  ## tests are compiled once, with what they check, before each worker does it under the tracer
	$(BIN)/python -m pytest --collect-only -qq > /dev/null

check: style types layers  ## what needs no test

style: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

layers: $(VENV)/installed-dev
	$(BIN)/lint-imports

bench: $(VENV)/installed-bench
	$(BIN)/gainnet bench matching
	$(BIN)/gainnet bench simulator
	$(BIN)/gainnet bench environment
	$(BIN)/gainnet bench dag
	$(BIN)/gainnet bench generative

clean:
	rm -rf $(VENV) runs
