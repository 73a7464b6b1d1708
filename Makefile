.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
UV := local/tools/uv
BIN := .venv/bin
MODELS := models/.venv/bin
BENCH := benchmarks/.venv/bin
AIRFLOW := dags/.venv/bin
SPARK := spark/.venv/bin
# Cold imports of Feast and KServe cost 25 to 45 % more without .pyc files.
RUN := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python

# Of `up`, `down` and `kafka`. Set them on the command line: make up HTTP_PORT=8090 DATA=/tmp/sluice
KAFKA_PORT := 9092
STORE_PORT := 6379
HTTP_PORT := 8080
AIRFLOW_PORT := 8793
DATA := var
# Further arguments of `test`, `demo` and `bench`: make test ARGS="tests/unit -x"
ARGS :=

# Each requirements.lock is installed by hash, see docs/how-to/update-locks.md. $(1): the
# environment. $(2): the lock. $(3): what is installed from this tree, if anything. $(4): install or
# sync.
define environment
	@echo "$(1): installing what $(2) names"
	@test -x $(1)/bin/python || $(UV) venv --python "$${PYTHON:->=3.11,<3.14}" $(1)
	@$(UV) pip $(4) --python $(1) --require-hashes $(if $(filter install,$(4)),--requirement) $(2)
	@$(if $(3),$(UV) pip install --python $(1) --no-deps $(3))
	@touch $@
endef
OWN := -e . -e simulator
SOURCES := pyproject.toml simulator/pyproject.toml

.PHONY: help setup check test coverage chart-tools test-chart test-cluster \
  test-cluster-keda test-image sbom test-models train \
  test-dags test-spark airflow retrain cluster cluster-down up down demo bench bench-cluster attack kind kind-loader kind-down kafka kafka-stop locks pins

help: ## Show these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One environment for everything but training and benchmarks. The verbs that run Sluice fill it with
# what the services' image holds (requirements of services/); `setup` adds what only developers need.
# The second lock holds the first, version by version: both are exported from one resolution.
.venv/.services: services/requirements.lock $(SOURCES)
	$(call environment,.venv,services/requirements.lock,$(OWN),install)
.venv/.done: requirements.lock services/requirements.lock $(SOURCES)
	$(call environment,.venv,requirements.lock,$(OWN),sync)
	@touch .venv/.services
models/.venv/.done: models/requirements.lock $(SOURCES)
	$(call environment,models/.venv,models/requirements.lock,$(OWN) -e models,sync)
benchmarks/.venv/.done: benchmarks/requirements.lock $(SOURCES)
	$(call environment,benchmarks/.venv,benchmarks/requirements.lock,$(OWN),sync)
dags/.venv/.done: dags/requirements.lock
	$(call environment,dags/.venv,dags/requirements.lock,,sync)
spark/.venv/.done: spark/requirements.lock $(SOURCES)
	$(call environment,spark/.venv,spark/requirements.lock,$(OWN),sync)
tests/deploy/.venv/.done: tests/deploy/requirements.lock
	$(call environment,tests/deploy/.venv,tests/deploy/requirements.lock,,sync)

setup: .venv/.done ## Install what development needs into .venv

check: setup ## Format, lint, types, import directions, dead code, stale locks, generated pages
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	@# It reads the sources of models without their environment.
	PYTHONPATH=models/src $(BIN)/lint-imports --no-logo
	$(BIN)/vulture
	$(BIN)/python -m local.locks
	$(BIN)/sluice reference --check
	$(BIN)/sluice contracts --check

# Two files at a time, each side with its own broker and store: they wait for most of their time.
test: setup ## Every test; starts a real Kafka and a real Valkey by itself
	$(RUN) -m local.kafka fetch
	$(RUN) -m pytest -n 2 --dist loadfile $(ARGS)

coverage: setup ## Lines and branches that unit, property and contract tests run, and their floor
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/coverage run -m pytest -q tests/unit tests/property tests/contract src $(ARGS)
	$(BIN)/coverage report

chart-tools: setup tests/deploy/.venv/.done
	$(RUN) -m tests.support.crds
test-chart: chart-tools ## Render the chart, check it against schemas; 350 MB of tools
	$(RUN) -m pytest tests/deploy $(ARGS)

test-image: setup ## Build the image on a stand-in base and start it confined; root, minutes
	$(RUN) -m local.kafka fetch
	$(RUN) -m pytest -m image -rP tests/image $(ARGS)

sbom: ## What the image holds of PyPI, as CycloneDX, to var/sbom.cdx.json
	@test -x services/.venv/bin/python || $(UV) venv --quiet --python "$${PYTHON:->=3.11,<3.14}" services/.venv
	@$(UV) pip sync --quiet --python services/.venv --require-hashes services/sbom.lock
	@mkdir -p var
	services/.venv/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible --output-file var/sbom.cdx.json services/requirements.lock

# The cluster's programs are kept in ~/.cache/sluice-cluster; see docs/how-to/test-on-a-cluster.md.
test-cluster: setup tests/deploy/.venv/.done dags/.venv/.done ## The chart on a real Kubernetes, started and ended here; root, Go
	$(RUN) -m local.kafka fetch
	$(RUN) -m pytest -m cluster -rP tests/cluster $(ARGS)

test-cluster-keda: setup tests/deploy/.venv/.done ## KEDA on the same: scaling on lag; compiled once
	$(RUN) -m local.kafka fetch
	$(RUN) -m pytest -m keda -rP tests/cluster $(ARGS)

cluster: setup ## A Kubernetes with KServe on this machine, without Docker; root, Go
	$(RUN) -m tests.cluster up

cluster-down: setup ## End it
	$(RUN) -m tests.cluster down

demo: .venv/.services ## Everything on this machine for a minute, with fraud; checks itself
	$(RUN) -m local.demo $(ARGS)

up: .venv/.services ## Broker, store and services on this machine, until Ctrl-C
	$(RUN) -m local.up up --folder "$(DATA)" \
	  --kafka-port $(KAFKA_PORT) --store-port $(STORE_PORT) --http-port $(HTTP_PORT)

down: ## Stop what `make up` or `make kafka` left running
	@if test -x $(BIN)/sluice; then $(RUN) -m local.up down --folder "$(DATA)" \
	  --kafka-port $(KAFKA_PORT); else echo "nothing was started from here"; fi

bench: benchmarks/.venv/.done ## Every benchmark, to benchmarks/results/
	env -u PYTHONDONTWRITEBYTECODE $(BENCH)/python -m benchmarks.run --out benchmarks/results $(ARGS)

bench-cluster: setup ## Locust on the cluster that kubectl reaches: replicas, CPU, latency over time
	$(RUN) -m benchmarks.cluster $(ARGS)

attack: setup ## Hostile input, storms, faults and floods, and what became of them (15 min)
	$(RUN) -m local.kafka fetch
	$(RUN) -m benchmarks.attack $(ARGS)

# By the verbs that a firm's own history goes through. What is there already is not made again.
TRAIN := var/train
train: .venv/.done models/.venv/.done ## Simulate a history, train, judge, gate, pack and sign a release, in var/train (15 min)
	@mkdir -p $(TRAIN)
	test -e $(TRAIN)/history/world.json || $(BIN)/sluice simulate history --out $(TRAIN)/history \
	  --start 2026-03-01 --days 161 --cards 20000 --seed 11
	test -e $(TRAIN)/dataset || { $(BIN)/sluice backfill $(TRAIN)/history/authorizations.parquet \
	    --labels $(TRAIN)/history/labels.parquet --archive $(TRAIN)/archive --no-store; \
	  $(BIN)/sluice dataset build --from 2026-04-01 --to 2026-08-02 --label-delay 7d --validation 14d \
	    --calibration 14d --recent --tests 3 --archive $(TRAIN)/archive --out $(TRAIN)/dataset; }
	$(MODELS)/sluice train --dataset $(TRAIN)/dataset --out $(TRAIN)/run $(ARGS)
	$(BIN)/sluice judge --run $(TRAIN)/run --dataset $(TRAIN)/dataset \
	  --truth $(TRAIN)/history/truth.parquet --out $(TRAIN)/judgement
	test -e $(TRAIN)/keys/release || { mkdir -p $(TRAIN)/keys; \
	  $(BIN)/sluice release keygen --out $(TRAIN)/keys/release; }
	$(BIN)/sluice gate --run $(TRAIN)/run --dataset $(TRAIN)/dataset --no-champion \
	  --archive $(TRAIN)/archive --key $(TRAIN)/keys/release --out $(TRAIN)/gate
	test -e $(TRAIN)/release || $(BIN)/sluice release pack $(TRAIN)/release \
	  --run $(TRAIN)/run --dataset $(TRAIN)/dataset --judgement $(TRAIN)/judgement/judgement.json \
	  --certificate $(TRAIN)/gate/certificate.json
	$(BIN)/sluice release sign $(TRAIN)/release --key $(TRAIN)/keys/release
	$(BIN)/sluice release verify $(TRAIN)/release --trust $(TRAIN)/keys

test-models: models/.venv/.done ## Tests of training; its environment weighs 4.8 GB
	$(MODELS)/pytest models

pins: .venv/.services ## Pin images by their registries' digests; needs docker, skopeo or crane
	$(RUN) -m local.pins $(ARGS)

test-dags: dags/.venv/.done ## Tests of Airflow's DAGs, in Airflow's own environment
	env -u PYTHONDONTWRITEBYTECODE $(AIRFLOW)/pytest dags/tests dags/steps.py $(ARGS)

test-spark: spark/.venv/.done ## Batch work on a local Spark, equal to one machine's; Java 17, 480 MB
	env -u PYTHONDONTWRITEBYTECODE $(SPARK)/python -m pytest spark/tests $(ARGS)

airflow: .venv/.services dags/.venv/.done ## A real Airflow with the DAGs, until Ctrl-C
	$(RUN) -m local.airflow serve --folder "$(DATA)" --port $(AIRFLOW_PORT)

retrain: .venv/.done models/.venv/.done dags/.venv/.done ## The learning loop once, on a small history
	$(RUN) -m local.airflow retrain --folder "$(DATA)/retrain" --port $(AIRFLOW_PORT)

kind: ## All of it on a Kubernetes in Docker; needs docker, kind, kubectl, helm
	@local/kind/kind.sh up

kind-loader: ## Build the loader of `make bench-cluster` and hand it to that cluster
	@local/kind/kind.sh load

kind-down: ## Delete that cluster
	@local/kind/kind.sh down

kafka: .venv/.services ## Start one Kafka node, on port 9092
	$(RUN) -m local.kafka start --port $(KAFKA_PORT) --data "$(DATA)/kafka"
	$(BIN)/sluice topics apply --bootstrap localhost:$(KAFKA_PORT) --replication 1

kafka-stop: .venv/.services ## Stop it; its data stays
	$(RUN) -m local.kafka stop --port $(KAFKA_PORT) --data "$(DATA)/kafka"

EXPORT := export --quiet --no-emit-local --no-header --no-annotate --format requirements.txt
locks: .venv/.services ## Resolve every requirements.lock and the broker's jars anew
	for folder in . models benchmarks dags spark local/tools tests/deploy; do \
	  $(UV) lock --upgrade --project $$folder; \
	  $(UV) $(EXPORT) --project $$folder --output-file $$folder/requirements.lock; done
	$(UV) $(EXPORT) --no-default-groups --group services --output-file services/requirements.lock
	$(UV) $(EXPORT) --only-group build --output-file services/build.lock
	$(UV) $(EXPORT) --only-group sbom --output-file services/sbom.lock
	$(UV) $(EXPORT) --project models --no-default-groups --group image \
	  --output-file models/image.lock
	$(UV) $(EXPORT) --project benchmarks --only-group loader \
	  --output-file benchmarks/cluster/requirements.lock
	$(UV) lock --upgrade --project local/kafka
	for group in java jgo; do $(UV) $(EXPORT) --project local/kafka --only-group $$group \
	  --output-file local/kafka/$$group.lock; done
	$(RUN) -m local.kafka lock
