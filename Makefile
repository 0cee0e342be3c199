# Each target sets up what it needs in .venv by itself. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CORE := pyproject.toml setup.py $(wildcard src/ratekeeper/core/*.[ch])
POLICY ?= examples/policy.toml
PORT ?= 8080
DEMO ?= --demo
PROSE := docs src README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md CODE_OF_CONDUCT.md benchmarks examples tests Makefile .ci/run pyproject.toml setup.py
# The caller's environment must not choose another library or core than the installed one, nor have each process compile it anew.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

.PHONY: run help test check format docs coverage bench mutants test-c dist clean

run: $(VENV)/run.stamp  ## serve the example policy on this machine, with made-up traffic (DEMO= for none)
	@$(BIN)/ratekeeper serve $(POLICY) --port $(PORT) $(DEMO)

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: $(VENV)/test.stamp  ## run all tests (ARGS="-k gateway" for some)
	@echo "==> running the tests ($$($(BIN)/ratekeeper --version))"
	@$(BIN)/python -m pytest -q $(ARGS)

check: $(VENV)/check.stamp  ## format, lint, plain words, strict types, also of the Python in the pages
	@echo "==> ruff format" && $(BIN)/ruff format --check --quiet .
	@echo "==> ruff check" && $(BIN)/ruff check --quiet .
	@$(BIN)/python tests/support/pages.py build/pages
	@echo "==> zizmor" && $(BIN)/zizmor --offline --quiet --no-progress .github
	@echo "==> words" && $(BIN)/python tests/support/words.py $(PROSE)
	@echo "==> mypy --strict" && $(BIN)/mypy && $(BIN)/mypy build/pages
	@echo "==> pyright" && $(BIN)/pyright

format: $(VENV)/check.stamp  ## mend what format and lint can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

coverage: $(VENV)/coverage.stamp  ## run the tests that are not slow; show the lines that none of them runs
	@# test_mutants.py measures lines itself, and none of src.
	@$(BIN)/coverage erase && $(BIN)/coverage run -m pytest -q -m "not slow" --ignore=tests/test_mutants.py $(ARGS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

docs: $(VENV)/docs.stamp  ## build the documentation as a site: build/site/index.html
	@echo "==> building build/site"
	@$(BIN)/python -m sphinx -b html -c docs -d build/doctrees -W --keep-going -E -q . build/site
	@echo "open build/site/index.html"

bench: $(VENV)/bench.stamp  ## measure beside other libraries: ratios, in about fifteen minutes (ARGS=--record keeps them)
	@$(BIN)/python -m benchmarks $(ARGS)

mutants: $(VENV)/mutants.stamp  ## do the tests notice careless mistakes? (ARGS="--count 300 --seed 7" for more)
	@cd tests && $(abspath $(BIN))/python -m mutants $(ARGS)

test-c:  ## the C table alone, under ThreadSanitizer and Address/UB sanitizers
	@$(MAKE) --no-print-directory -C tests/c -j2 --output-sync=target

dist: $(VENV)/dist.stamp  ## build the source distribution and a wheel in dist, and check what the package index would show
	@rm -rf dist && $(BIN)/python -m build && $(BIN)/twine check --strict dist/*

clean:  ## remove everything that was built
	rm -rf $(VENV) build dist src/*.egg-info src/ratekeeper/core/*.so tests/c/build

$(VENV)/bin/python:
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

# Without --no-compile, pip compiles all that it installs, which takes longer than the rest. Python compiles what it imports, once.
$(VENV)/run.stamp: $(VENV)/bin/python $(CORE)
	@echo "==> installing ratekeeper with what the service needs; a C compiler and Python's headers make it fast"
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[service]'
	@touch $@

$(VENV)/%.stamp: $(VENV)/run.stamp
	@echo "==> installing what '$*' needs"
	@$(BIN)/python -m pip install --quiet --no-compile $(foreach group,$(GROUPS_$*),--group $(group))
	@touch $@

GROUPS_test := test docs
GROUPS_check := test check mutants docs
GROUPS_coverage := test coverage
GROUPS_docs := docs
GROUPS_bench := bench
GROUPS_mutants := test mutants
GROUPS_dist := dist
