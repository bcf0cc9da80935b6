# The few commands of this project, the same by hand and in CI. `make` alone lists them.
# Python 3.11+ and make are enough for `make demo`; `make lint` and `make test` bring what else they need.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
RUNTIME := .venv/.runtime
DEV := .venv/.dev
STUBS := gen/.stamp
NODE := node_modules/.package-lock.json
# Directories too: a contract that was added, renamed or removed changes theirs.
CONTRACTS := $(shell find proto third_party/proto -mindepth 1 -name '*.proto' -o -mindepth 1 -type d)
CODE := $(wildcard mesh embed_svc match_svc history_svc alert_svc ingest_svc clients demo bench deploy scripts tests)
IMAGE ?= poi-mesh:dev
# So many tests at a time, on two cores: most wait for servers to start, or to come back.
WORKERS ?= 3
# Of fuzzing in all; two targets run at a time.
FUZZ_SECONDS ?= 1800

# Debian keeps servers where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

.PHONY: help demo test fuzz lint bench bench-secure bench-full proto models media lock image clean ready

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(RUNTIME) $(STUBS) ## the whole mesh on recorded cameras, alerts as they come (ONCE=1: then end; SECURE=1: TLS, roles, audit)
	@$(PY) -m demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(filter-out 0,$(SECURE)),--secure)

test: ready ## all tests, against a real broker and a real Redis (ARGS="-k name" for some)
	@$(PY) -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

fuzz: ready ## mutated messages, images and requests, half an hour in all (FUZZ_SECONDS=60, ARGS="camera match" for some)
	@$(PY) -m tests.fuzz --seconds $(FUZZ_SECONDS) $(ARGS)

lint: $(DEV) $(STUBS) $(NODE) ## ruff, mypy --strict, buf lint, buf breaking
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy $(CODE)
	@node_modules/.bin/buf lint
	@scripts/breaking.sh

bench: $(DEV) $(STUBS) ## measure the mesh, galleries to 100,000, alerts to 1,000 clients, history, security (ARGS="--help": the mesh only)
	@$(PY) -m bench $(ARGS)
	@[ -n "$(ARGS)" ] || $(PY) -m bench.match --rows 1000 --rows 10000 --rows 100000
	@[ -n "$(ARGS)" ] || GRPC_VERBOSITY=ERROR $(PY) -m bench.alerts
	@[ -n "$(ARGS)" ] || $(PY) -m bench.history
	@[ -n "$(ARGS)" ] || $(MAKE) bench-secure

bench-secure: $(DEV) $(STUBS) ## measure what TLS, authorisation, audit, encryption and the gateway cost
	@$(PY) -m bench.secure
	@$(PY) -m bench.vault
	@$(PY) -m bench.edge
	@$(PY) -m bench --faces 4 --pois 1000 --seconds 20
	@$(PY) -m bench --faces 4 --pois 1000 --seconds 20 --secure

bench-full: $(DEV) $(STUBS) ## measure galleries to a million, history with ten million faces (16 GB of memory, 10 GB of disk)
	@$(PY) -m bench.match
	@$(PY) -m bench.history
	@$(PY) -m bench.history --rows 10000000 --out build/bench/history-10m.json

proto: $(STUBS) ## compile the contracts into ./gen

models: $(RUNTIME) ## download the face models from their official place, sums checked
	@$(PY) -m embed_svc.models download

media: $(RUNTIME) ## download Intel's sample clips (CC-BY 4.0) into ./media, sums checked
	@$(PY) -m demo.media

lock: $(DEV) ## resolve the dependencies of pyproject.toml again, with hashes
	@scripts/lock.sh

image: ## build the container image that holds every service (IMAGE=name:tag)
	docker build --tag $(IMAGE) .

clean: ## remove all that make made
	rm -rf .venv gen build node_modules media models .mypy_cache .ruff_cache .pytest_cache .hypothesis

# What a test run needs before pytest starts.
ready: $(DEV) $(STUBS) $(NODE)
	@missing=; \
	command -v mosquitto >/dev/null || missing="$$missing mosquitto"; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	[ -z "$$missing" ] || scripts/system.sh $$missing

$(RUNTIME): requirements.lock scripts/venv.sh
	@scripts/venv.sh
	@echo "installing Python packages (requirements.lock)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "installing Python packages (requirements-dev.lock)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(STUBS): $(CONTRACTS) scripts/compile_protos.py $(RUNTIME)
	@$(PY) scripts/compile_protos.py
	@echo "compiled the contracts into ./gen"

# `install --no-save` and not `ci`, which would ask the lock to hold buf's binaries for systems other than Linux as well.
$(NODE): package-lock.json
	@command -v npm >/dev/null || scripts/system.sh nodejs npm
	@echo "installing Node tools (package-lock.json)"
	@npm install --silent --no-save --ignore-scripts --no-audit --no-fund
	@touch $@
