.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
BIN := .venv/bin
SERVE := services/.venv/bin
MODELS := models/.venv/bin
BENCH := benchmarks/.venv/bin

# Each folder with a requirements.lock has its own environment beside it, pinned by hash; see
# docs/how-to/update-locks.md. $(1): the folder. $(2): what is installed from this tree.
define environment
$(1)/.venv/.done: $(1)/requirements.lock pyproject.toml benchmarks/simulator/pyproject.toml
	@command -v uv >/dev/null || { echo "uv is missing: python3 -m pip install uv"; exit 1; }
	@test -x $(1)/.venv/bin/python || uv venv --quiet --python ">=3.11,<3.14" $(1)/.venv
	uv pip sync --quiet --python $(1)/.venv --require-hashes $(1)/requirements.lock
	uv pip install --quiet --python $(1)/.venv --no-deps $(2)
	@touch $$@
endef

.PHONY: help setup check test test-image test-models train up down demo bench kafka kafka-stop locks

help: ## Show these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(eval $(call environment,.,-e . -e benchmarks/simulator))
$(eval $(call environment,services,-e . -e benchmarks/simulator))
$(eval $(call environment,models,-e . -e benchmarks/simulator -e models))
$(eval $(call environment,benchmarks,-e . -e benchmarks/simulator))

setup: .venv/.done ## Install what development needs into .venv

check: setup ## Format, lint, types, import directions, generated pages
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	$(BIN)/sluice reference --check
	$(BIN)/sluice contracts --check

test: setup ## Every test; starts a real Kafka and a real Valkey by itself
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

test-image: setup ## Build the image on a stand-in base and start it confined; root, minutes
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -m image -rP tests/image

demo: services/.venv/.done ## Everything on this machine for a minute, with fraud; checks itself
	env -u PYTHONDONTWRITEBYTECODE $(SERVE)/python -m benchmarks.demo

up: services/.venv/.done ## Broker, store and services on this machine, until Ctrl-C
	env -u PYTHONDONTWRITEBYTECODE $(SERVE)/python -m services.local

down: ## Stop what `make up` or `make kafka` left running
	-pkill -TERM -f "[s]ervices.local"
	-$(SERVE)/python -m services.kafka stop 2>/dev/null

bench: benchmarks/.venv/.done ## Every benchmark, to benchmarks/results/
	env -u PYTHONDONTWRITEBYTECODE $(BENCH)/python -m benchmarks.run --out benchmarks/results

train: models/.venv/.done ## Train on simulated history, and pack a release in var/train (10 min)
	env -u PYTHONDONTWRITEBYTECODE $(MODELS)/python -m sluice_models.train

test-models: models/.venv/.done ## Tests of training; its environment weighs 4.6 GB
	$(MODELS)/pytest models

kafka: setup ## Start one Kafka node on port 9092 (Docker where it is, else jars on Java 17)
	$(BIN)/python -m services.kafka start
	$(BIN)/sluice topics apply --bootstrap localhost:9092 --replication 1

kafka-stop: setup ## Stop it; its data stays
	$(BIN)/python -m services.kafka stop

locks: ## Resolve every requirements.lock anew from its pyproject.toml
	for folder in . services models benchmarks; do (cd $$folder && uv lock --quiet --upgrade && \
	  uv export --quiet --no-emit-local --no-header --no-annotate --format requirements.txt -o requirements.lock); done
	cd services && uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --group build -o build.lock
