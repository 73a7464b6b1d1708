.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
UV := local/tools/uv
BIN := .venv/bin
MODELS := models/.venv/bin
BENCH := benchmarks/.venv/bin
# Cold imports of Feast and KServe cost 25 to 45 % more without .pyc files.
RUN := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python

# Of `kafka` and `kafka-stop`. Set them on the command line: make kafka KAFKA_PORT=9192
KAFKA_PORT := 9092
DATA := var
# Further arguments of `test`, `demo` and `bench`: make test ARGS="tests/unit -x"
ARGS :=

# Each requirements.lock is installed by hash, see docs/how-to/update-locks.md. $(1): the folder of
# the environment. $(2): the lock. $(3): what is installed from this tree. $(4): install or sync.
define environment
	@echo "$(1)/.venv: installing what $(2) names"
	@test -x $(1)/.venv/bin/python || $(UV) venv --python "$${PYTHON:->=3.11,<3.14}" $(1)/.venv
	@$(UV) pip $(4) --python $(1)/.venv --require-hashes $(if $(filter install,$(4)),--requirement) $(2)
	@$(UV) pip install --python $(1)/.venv --no-deps $(3)
	@touch $@
endef
OWN := -e . -e benchmarks/simulator
SOURCES := pyproject.toml benchmarks/simulator/pyproject.toml

.PHONY: help setup check test test-models train up down demo bench kafka kafka-stop locks

help: ## Show these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One environment for everything but training and benchmarks. The verbs that run Sluice fill it with
# what the services' image holds (requirements of services/); `setup` adds what only developers need.
# The second lock holds the first, version by version: both are exported from one resolution.
.venv/.services: services/requirements.lock $(SOURCES)
	$(call environment,.,services/requirements.lock,$(OWN),install)
.venv/.done: requirements.lock services/requirements.lock $(SOURCES)
	$(call environment,.,requirements.lock,$(OWN),sync)
	@touch .venv/.services
models/.venv/.done: models/requirements.lock $(SOURCES)
	$(call environment,models,models/requirements.lock,$(OWN) -e models,sync)
benchmarks/.venv/.done: benchmarks/requirements.lock $(SOURCES)
	$(call environment,benchmarks,benchmarks/requirements.lock,$(OWN),sync)

setup: .venv/.services ## Broker, store and services on this machine, until Ctrl-C
	$(RUN) -m services.local

down: ## Stop what `make up` or `make kafka` left running
	-pkill -TERM -f "[s]ervices.local"
	-$(BIN)/python -m services.kafka stop 2>/dev/null

bench: benchmarks/.venv/.done ## Every benchmark, to benchmarks/results/
	env -u PYTHONDONTWRITEBYTECODE $(BENCH)/python -m benchmarks.run --out benchmarks/results $(ARGS)

train: models/.venv/.done ## Train on simulated history, and pack a release in var/train (10 min)
	env -u PYTHONDONTWRITEBYTECODE $(MODELS)/python -m sluice_models.train

test-models: models/.venv/.done ## Tests of training; its environment weighs 4.6 GB
	$(MODELS)/pytest models

kafka: .venv/.services ## Start one Kafka node, on port 9092
	$(RUN) -m services.kafka start --port $(KAFKA_PORT) --data $(DATA)/kafka
	$(BIN)/sluice topics apply --bootstrap localhost:$(KAFKA_PORT) --replication 1

kafka-stop: .venv/.services ## Stop it; its data stays
	$(RUN) -m services.kafka stop --port $(KAFKA_PORT) --data $(DATA)/kafka

EXPORT := export --quiet --no-emit-local --no-header --no-annotate --format requirements.txt
locks: .venv/.services ## Resolve every requirements.lock and the broker's jars anew
	for folder in . models benchmarks local/tools; do \
	  $(UV) lock --upgrade --project $$folder; \
	  $(UV) $(EXPORT) --project $$folder --output-file $$folder/requirements.lock; done
	$(UV) $(EXPORT) --no-default-groups --group services --output-file services/requirements.lock
	$(UV) lock --upgrade --project services/kafka
	for group in java jgo; do $(UV) $(EXPORT) --project services/kafka --only-group $$group \
	  --output-file services/kafka/$$group.lock; done
	$(RUN) -m services.kafka lock
