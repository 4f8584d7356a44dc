.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-lowest lint bench clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: .venv/installed ## install, train on handwritten digits, test, print the report (about two minutes)
	$(BIN)/python main.py fit --config experiments/quickstart_digits.yaml --then test

test: .venv/installed-dev ## the test suite, without the slow tests
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

test-slow: .venv/installed-dev ## the tests that need minutes
	$(BIN)/python -m pytest -m slow

test-lowest: .venv-lowest/installed ## the test suite with the lowest versions that the requirements allow
	.venv-lowest/bin/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

lint: .venv/installed-dev ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed ## measure what training costs beside a bare PyTorch loop
	$(BIN)/python benchmarks/step.py

clean: ## remove the environment; packed data and runs stay
	rm -rf .venv .venv-lowest

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

.venv-lowest/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct \
		--requirement requirements.txt --requirement requirements-dev.txt
	@touch $@
