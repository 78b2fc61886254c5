PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check bench clean

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/installed-bench: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

install: $(VENV)/installed  ## the core, without torch

demo: $(VENV)/installed  ## the main job: compare matchers on one network, and a report with pictures
	$(BIN)/gainnet compare vehicular --matchers nearest,cloud,greedy,price --seeds 3 --set duration_s=20 --out runs/demo

test: $(VENV)/installed-dev  ## the tests, with a floor under their coverage; kernels are compiled before the tracer watches
	$(BIN)/gainnet compare campus --matchers random,nearest,greedy,exact,price --seeds 1 --set duration_s=0.5 --out runs/compiled > /dev/null
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term --cov-fail-under=95

check: $(VENV)/installed-dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-bench
	$(BIN)/gainnet bench matching
	$(BIN)/gainnet bench simulator
	$(BIN)/gainnet bench environment
	$(BIN)/gainnet bench dag
	$(BIN)/gainnet bench generative

clean:
	rm -rf $(VENV) runs
