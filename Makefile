# Everything runs in .venv, which `make` sets up on first use. PYTHON names the interpreter
# to make it with: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SLOW_INSTALLED := .venv/.installed-slow
CODE := ensue tests benchmarks
# Not tests: they misspell on purpose.
SPELLED := ensue benchmarks docs README.md CONTRIBUTING.md CHANGELOG.md

.PHONY: help setup demo test slow check clean

help:
	@echo "make demo    prepare, train, evaluate and recommend on made data; writes demo/"
	@echo "make test    the default tests: no network, no accelerator, under five minutes"
	@echo "make slow    the tests that train for seconds or more, or need the real data sets"
	@echo "make check   lint, format, types and spelling"
	@echo "make setup   only make .venv and install Ensue in it"
	@echo "make clean   remove .venv and the caches"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "Ensue needs Python 3.10 to 3.13; pass one with PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing Ensue and its tools in .venv; the first time takes a few minutes."
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e ".[dev]"
	@touch $@

# What only the slow tests need.
$(SLOW_INSTALLED): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -e ".[slow]"
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/ensue demo

# Two workers of one thread each: two programs of two threads slow each other on two cores.
test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

# pytest ends with 5 when no test is selected, which is no failure here.
slow: $(SLOW_INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow -rs --timeout 3600 -n 2 --dist loadfile || test $$? -eq 5

check: $(INSTALLED)
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/codespell --ignore-words-list hask,lins $(SPELLED)

clean:
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find ensue tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
