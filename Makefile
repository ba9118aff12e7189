# make demo   draw, encode, train, detect: everything on this machine in a few minutes
# make test   lint, types, tests; threads that wait sleep, so that a busy machine is not much slower
# Both make .venv first, which is quick the second time. Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test clean

demo: .venv/ready
	$(BIN)/latentface demo --out demo

test: .venv/ready-for-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "latentface needs Python 3.10 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/ready: .venv/made pyproject.toml
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/ready-for-tests: .venv/ready
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv demo
