# `make repro` and `make test` are all a newcomer needs. Everything runs in .venv, which the first call sets up.
PYTHON ?= python3
BIN := .venv/bin
IN_TWO := -n 2 --dist loadgroup # processes, whatever the machine: each test may use all of its cores

.DEFAULT_GOAL := help
.PHONY: help setup repro test check ui clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install everything into .venv, once (PUFFERFISH_TORCH=cpu, cu126, ... chooses the PyTorch build)
	@$(PYTHON) -I pufferfish/cli/bootstrap.py

repro: setup ## train a language model within `budget.time` of params.yaml, evaluate and export it
	@$(BIN)/pufferfish check
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro
	@$(BIN)/pufferfish summary

test: setup ## the default test suite
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(IN_TWO)

check: setup ## format, lint, types and tests, as before every commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(IN_TWO)

ui: setup ## all runs in the browser, at port 5000 or PUFFERFISH_UI_PORT of 127.0.0.1
	@$(BIN)/python -m pufferfish.track.browse

clean: ## remove what can be made again, but no results: .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
