# Two commands do everything: `make demo` shows the proxy at work, `make test` proves it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The compiled build lies apart: in the virtual environment the package is the source tree.
COMPILED := $(CURDIR)/build/compiled

# What users' code in Node has of SDKs.
SDKS := tests/integration/sdks

# The suites are processes of their own, and most of them wait most of the time: three at once. Output comes as each ends.
TOGETHER := --no-print-directory --jobs=3 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: demo test check bench fuzz sdks lint types behaviour rest compiled unit install install-test install-bench install-fuzz parts clean

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@ $(VENV)/.demo

$(VENV)/.fuzz: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable '.[fuzz]'
	touch $@ $(VENV)/.test $(VENV)/.demo

# Without npm the tests that need these are skipped, or fail in CI.
$(SDKS)/node_modules/.package-lock.json: $(SDKS)/package-lock.json
	if command -v npm >/dev/null; then npm ci --prefix $(SDKS) --ignore-scripts --no-audit --no-fund --loglevel=error; fi

install: $(VENV)/.demo
install-bench: $(VENV)/.bench
install-test: $(VENV)/.test
install-fuzz: $(VENV)/.fuzz

## demo: install into a virtual environment, then serve an embedded upstream behind the proxy
demo: install
	$(BIN)/streamproxy demo

## test: install what the tests need (Debian packages too, where that is allowed), then run everything
test: install-test parts lint types
	@echo 'the suites run now, three at once; each shows what it did when it ends'
	@$(MAKE) $(TOGETHER) behaviour rest compiled

## check: lint, types and unit tests, at once, in under two minutes
check: install-test
	@$(MAKE) $(TOGETHER) --keep-going unit lint types

# The laws are tried with fewer examples here than in `make test`, which runs these tests too.
unit: install-test
	$(BIN)/python -m pytest --hypothesis-profile=check tests/unit

sdks: $(SDKS)/node_modules/.package-lock.json

parts:
	sh tests/install-parts.sh

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-test
	$(BIN)/mypy

behaviour: install-test
	$(BIN)/python -m pytest tests/conformance tests/faults

rest: install-test sdks
	$(BIN)/python -m pytest --ignore=tests/conformance --ignore=tests/faults

## compiled: compile the hot modules, and run the behaviour suites on what comes of it; what is not ours needs no second run
compiled: install-test
	rm -rf $(COMPILED)
	STREAMPROXY_COMPILE=1 $(BIN)/pip install --quiet --no-deps --target $(COMPILED) .
	PYTHONPATH=$(COMPILED) PYTHONSAFEPATH=1 \
		$(BIN)/python -m pytest --build compiled -o pythonpath='$(COMPILED) .' -k 'not hypercorn and not user+uvicorn and not httpx+uvicorn' \
		tests/conformance tests/faults \
		tests/integration/test_drain.py tests/integration/test_workers.py

## bench: measure beside nginx, HAProxy, Caddy (those that are installed) and Envoy; BENCH=--help shows how to choose
bench: install-bench
	$(BIN)/python -m benchmarks $(BENCH)

## fuzz: SECONDS of coverage-guided fuzzing for each part without I/O; PARTS="sse chunked" chooses
fuzz: install-fuzz
	$(BIN)/python -m fuzz $(or $(SECONDS),600) $(PARTS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
