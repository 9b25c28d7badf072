# make demo    register a phantom pair and write its report: the quickest look
# make test    lint, format check and all tests
# make bench   the methods and their peers on real images (needs the evaluation data)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: demo test bench
.NOTPARALLEL:

demo: $(VENV)/demo.stamp
	$(BIN)/inrreg demo --output demo

test: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks.run --output bench
	$(BIN)/python -m benchmarks.phantoms --output bench

# A stamp is newer than pyproject.toml and constraints.txt once its extras are installed from them.
$(VENV)/demo.stamp: EXTRAS = report
$(VENV)/test.stamp: EXTRAS = test,report,slicer-test
$(VENV)/bench.stamp: EXTRAS = report,bench

$(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[$(EXTRAS)]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
