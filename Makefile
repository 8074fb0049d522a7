# OverDB. `make` alone lists what there is.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run up down test test-all verify format generate lock bench clean setup growth sim campaign torture

DATA ?= overdb-data
GROUPS ?= 2
JOBS ?=
REPLICAS ?= 3
ROUTERS ?= 1
BASE_PORT ?= 7400
FAULTS ?=
TORTURE_ARGS ?=
PYTEST_ARGS ?=
SIM_ARGS ?=
SEED ?= 1
SECONDS ?= 10
FIRST ?= 0
COUNT ?= 0

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: ## start a cluster as local processes (GROUPS=2 REPLICAS=3 ROUTERS=1 BASE_PORT=7400 DATA=overdb-data FAULTS=)
	@scripts/setup.sh run
	@exec .venv/bin/overdb local --groups $(GROUPS) --replicas $(REPLICAS) --routers $(ROUTERS) \
	  --base-port $(BASE_PORT) --data $(DATA) $(if $(filter-out 0,$(FAULTS)),--faults)

up: ## start a cluster in containers and wait until it is healthy (ROUTERS=1 OVERDB_PORT=7400)
	@scripts/setup.sh run
	@ROUTERS=$(ROUTERS) scripts/up.sh

down: ## stop the containers; VOLUMES=1 forgets their data too
	@VOLUMES=$(VOLUMES) scripts/down.sh

setup: ## install everything for development into .venv
	@scripts/setup.sh dev
	@scripts/setup.sh codegen

test: ## set up, verify, run all tests, the big ones in their quick size (JOBS=3 PYTEST_ARGS="-k name")
	@JOBS=$(JOBS) scripts/test.sh quick $(PYTEST_ARGS)

test-all: ## the same, the big tests in their full size
	@JOBS=$(JOBS) scripts/test.sh full $(PYTEST_ARGS)

verify: setup ## ruff, mypy, generated code; writes nothing
	@scripts/verify.sh

format: setup ## format and mend what ruff can
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

generate: setup ## compile protos/ into the stubs
	@scripts/generate.sh

lock: setup ## write requirements/*.txt anew (needs uv)
	@scripts/lock.sh

bench: ## measure side by side with other stores into bench/RESULTS.md (BENCH_ARGS="--quick")
	@scripts/setup.sh dev
	@scripts/setup.sh bench
	@.venv/bin/python -m bench $(BENCH_ARGS)

growth: ## measure how cost, memory and restarts grow, into bench/GROWTH.md (GROWTH_ARGS="--quick")
	@scripts/setup.sh dev
	@.venv/bin/python -m bench.growth $(GROWTH_ARGS)

sim: ## simulate a whole cluster under one seed (SEED=1 SECONDS=10 LINES=60 SIM_ARGS="--faults kill --workloads bank")
	@scripts/setup.sh dev
	@.venv/bin/python -m tests.simulation.cluster --seed $(SEED) --seconds $(SECONDS) --lines $(or $(LINES),60) $(SIM_ARGS)

campaign: ## simulate seed after seed until stopped; failing ones are kept (FIRST=0 COUNT=0 SECONDS=10)
	@scripts/setup.sh dev
	@.venv/bin/python -m tests.simulation.cluster --first $(FIRST) --count $(COUNT) --seconds $(SECONDS)

torture: ## hurt a cluster of its own under load, and judge what clients saw (TORTURE_ARGS="--seconds 60")
	@scripts/setup.sh dev
	@.venv/bin/overdb torture --report torture-report $(TORTURE_ARGS)

clean: ## remove environments and caches; data stays
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
