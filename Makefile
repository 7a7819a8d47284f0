# The commands of flightmesh. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
SYSTEM := $(BIN)/python -m tools.system
WITH_TOOLS = CONSUL_BIN="$$($(BIN)/python -m tools.binaries consul)" \
	GRPCURL_BIN="$$($(BIN)/python -m tools.binaries grpcurl)" \
	TOXIPROXY_BIN="$$($(BIN)/python -m tools.binaries toxiproxy)"

ROLE ?= customer
SUBJECT ?= ann
SECONDS_OF_LOAD ?= 30
PROFILE := $(if $(SECURE),$(if $(filter 0 no off false,$(SECURE)),--no-secure,--secure))
OWN_POSTGRES := $(if $(DATABASE_URL),,$(filter postgres,$(DATABASE)))

.PHONY: help up down ps sagas release restart logs clean test check format proto token grpcurl load bench chaos audit sbom lock baseline

help: ## List the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

up: $(if $(OWN_POSTGRES),$(DEV),$(RUNTIME)) ## Bring everything up in the background and say what runs (REPLICAS=2: so many instances of each service; SHARDS=2: search in so many parts, each with REPLICAS; DATABASE=postgres: DATABASE_URL or a server of its own; SECURE=1: mTLS, intentions and ACLs)
	@$(SYSTEM) up --replicas $(or $(REPLICAS),0) --shards $(or $(SHARDS),0) $(if $(DATABASE),--database $(DATABASE)) $(PROFILE)

ps: $(RUNTIME) ## Table of the instances, from Consul
	@$(SYSTEM) ps

sagas: $(RUNTIME) ## Table of the bookings that are under way: age, step, attempts (LIMIT=1000: so many)
	@$(BIN)/python -m tools.sagas --limit $(or $(LIMIT),100)

release: $(RUNTIME) ## Canary, blue/green, preview, promote, rollback, status of a service (ARGS='canary booking --to 0.2.0 --weight 10')
	@$(BIN)/python -m tools.release $(ARGS)

restart: $(RUNTIME) ## Restart the instances in turn, each when the one before passes (SERVICE=booking: only those)
	@$(SYSTEM) restart $(SERVICE)

logs: $(RUNTIME) ## Follow the logs (OF=booking: only those)
	@$(SYSTEM) logs $(OF)

down: $(RUNTIME) ## Stop everything
	@$(SYSTEM) down

clean: $(RUNTIME) ## Stop everything and drop its data, logs and keys
	@$(SYSTEM) clean

token: $(RUNTIME) ## Print a bearer token of the local issuer (ROLE=customer|operator SUBJECT=ann)
	@$(SYSTEM) token --role $(ROLE) --subject $(SUBJECT)

grpcurl: $(RUNTIME) ## Run the pinned grpcurl as a client of the mesh (ARGS='-plaintext xds:///booking list')
	@$(BIN)/python -m tools.operators grpcurl $(ARGS)

test: $(DEV) ## Run the tests, on a real Consul (ARGS='-k saga': only those)
	@$(WITH_TOOLS) $(BIN)/python -m pytest $(ARGS)

chaos: $(DEV) ## Run the fault rows at the sizes of the scoreboard, on a real Consul: hours (ARGS='-k streams': only those; FLIGHTMESH_CHAOS_SHARE=0.1: a tenth of the longest)
	@FLIGHTMESH_CHAOS=long $(WITH_TOOLS) $(BIN)/python -m pytest tests/chaos tests/simulation tests/fuzz $(ARGS)

check: $(DEV) ## Format, lint, types, import contracts, protos, generated files, compose file, Kubernetes manifests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -m tools.proto --check --image $(VENV)/image.binpb
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf lint $(VENV)/image.binpb --config buf.yaml
	$(BIN)/buf breaking $(VENV)/image.binpb --against protos/baseline.binpb --config buf.yaml
	$(BIN)/python -m tools.config_entries --check
	$(BIN)/python -m tools.problem_catalogue --check
	$(BIN)/python -m tools.callers --check
	$(BIN)/python -m tools.openapi --check
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/kubernetes-validate --strict --quiet $(filter-out %/kustomization.yaml,$(wildcard deploy/kubernetes/base/*.yaml))

format: $(DEV) ## Format the code and the protos
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	$(BIN)/buf format --write

proto: $(DEV) ## Regenerate gen/, what Consul is told of the services, docs/problems.md, docs/openapi.json and the table in docs/security.md
	$(BIN)/python -m tools.proto
	$(BIN)/python -m tools.config_entries
	$(BIN)/python -m tools.problem_catalogue
	$(BIN)/python -m tools.callers
	$(BIN)/python -m tools.openapi

load: $(DEV) ## Put load on the running system and check its answers (SECONDS_OF_LOAD=60; UI=1: Locust's web page)
	@$(BIN)/python -m bench.load --seconds $(SECONDS_OF_LOAD) $(if $(UI),--ui)

bench: $(DEV) ## Run the benchmarks: both sides of each ratio in one run
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.bookings
	$(BIN)/python -m bench.search --flights 100000 --seconds 20
	$(BIN)/python -m bench.pricing --flights 20000 --seconds 10
	$(BIN)/python -m bench.live --clients 1000 --changes 20

audit: $(RUNTIME) ## Ask for advisories on the pinned dependencies; says so where it could not look
	@$(BIN)/python -m tools.audit

sbom: $(RUNTIME) ## Write build/sbom.cdx.json, the bill of materials of what runs (CycloneDX)
	@$(BIN)/python -m tools.audit --sbom build/sbom.cdx.json

lock: $(DEV) ## Renew the lock files (needs uv on PATH)
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --extra build pyproject.toml -o requirements.lock
	uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  --extra build --extra dev --constraint requirements.lock pyproject.toml -o requirements-dev.lock
	printf 'cyclonedx-bom\npip-audit\n' | uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 - -o tools/audit.lock

baseline: $(DEV) ## At a release: make today's protos and REST API the ones that may not be broken
	$(BIN)/python -m tools.proto --check --image protos/baseline.binpb
	$(BIN)/python -m tools.openapi --baseline

$(RUNTIME): requirements.lock pyproject.toml
	@echo "installing the pinned dependencies into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "installing the pinned development dependencies into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
