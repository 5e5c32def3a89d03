PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test steady check lint types completeness coverage bench soak versions docs build lock clean

help:  ## Print this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Prepare .venv with every extra and the tools of development
	@echo ".venv is ready: its commands are in $(BIN)"

$(STAMP): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(f"Orkestra needs Python 3.11 or newer, and $(PYTHON) is {v}: name one by make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing what Orkestra needs into .venv: a minute the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)  ## Watch workflows of three tenants run on a real Temporal server
	@$(BIN)/orkestra demo

test: $(STAMP)  ## Run the tests on a real Temporal server, the snippets of the docs included
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

steady: $(STAMP)  ## Run the tests RUNS times in a row (5) while half of each core is busy with something else
	@$(BIN)/python -m tests.load --runs $(or $(RUNS),5) -- $(MAKE) test

check: lint types test  ## Run everything that CI runs

lint: $(STAMP)  ## Check style, formatting and the layers of the imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

types: $(STAMP)  ## Check the types, with two checkers
	$(BIN)/mypy
	$(BIN)/pyright

completeness: $(STAMP)  ## Say how completely the package is typed for its users
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pyright --verifytypes orkestra --ignoreexternal

coverage: $(STAMP)  ## Run the tests and report which branches they leave out
	@$(BIN)/python -m pytest --cov

bench: $(STAMP)  ## Measure what Orkestra costs beside the bare SDK; OPTIONS=--all for everything
	@$(BIN)/python -m benchmarks $(OPTIONS)

soak: $(STAMP)  ## See that nothing grows; SOAK="--hours 8" or "--workflows 20000 --tenants 1000" for longer
	@$(BIN)/python -m tests.soak $(SOAK)

versions: $(STAMP)  ## Test each Python with pinned, lowest and newest packages; VERSIONS="--python 3.12" for one
	@$(BIN)/python -m tests.versions $(VERSIONS)

docs: $(STAMP)  ## Build the documentation into site; it fails on every warning
	@$(BIN)/zensical build --clean --strict

build: $(STAMP)  ## Build the wheel and the source distribution into dist
	@$(BIN)/python -m build --no-isolation

lock: $(STAMP)  ## Pin requirements.txt to pyproject.toml; LOCK=--upgrade takes newer versions
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --all-extras --group dev $(LOCK) --output-file requirements.txt pyproject.toml

clean:  ## Remove .venv and everything that was built or cached
	@rm -rf .venv dist htmlcov site .cache .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
