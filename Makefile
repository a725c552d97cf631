# The two commands are `make up` and `make test`; `make` alone lists the rest. Whatever takes more than a line is in scripts/.
.DEFAULT_GOAL := help
.PHONY: help up up-ha ha-keys join-ha leave-ha stack down status logs keys backup restore test check test-replay test-two-hosts test-faults test-failover test-adversary fuzz soak audit sbom repeatable bench bench-smoke bench-recall bench-scale bench-graph workers test-ready lint generate screenshots install wheel image engine venv setup lock clean
SHELL := /bin/bash
ARGS ?=

COMPOSE := docker compose
WITH_STANDBYS := TWINHOST_DATABASE=1 # any database: docker-compose.yml selects the image that has a client of one
OF_SOMEBODY_ELSE = grep -qs ^TWINHOST_DATABASE=. .env && ! grep -q ^TWINHOST_DATABASE_KEYS=. .env && echo 1
# A witness has no agent, and a database of somebody else has no part here.
HA_IMAGES = $(if $(shell grep -sw ^TWINHOST_HOST=witness .env),,certs-init) $(if $(shell $(OF_SOMEBODY_ELSE)),,database-keys)

# testcontainers' reaper is an image of its own, which a machine without a registry can't pull; the tests clean up themselves.
export TESTCONTAINERS_RYUK_DISABLED ?= true

# dockerd, iptables and nats-server are in /usr/sbin, which the PATH of `su` or of a job may lack.
export PATH := $(PATH):/usr/sbin

# Some images set it. Hundreds of the tests' processes would each compile the whole project again.
export PYTHONDONTWRITEBYTECODE :=

# Most tests wait most of the time, so two cores run six processes of them. A part of the suite runs in one process, because
# each takes seconds to collect. (WORKERS=0: the whole suite in one. tests/side_by_side.py distributes the tests.)
WORKERS ?= $(if $(ARGS),0,$(shell cores=$$(nproc); echo $$((cores > 4 ? 12 : 3 * cores))))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: image ## install what is missing, start both hosts, wait until they are healthy, and show them
	@scripts/setup/up.sh

up-ha: engine ## the same with a standby of each agent, and a database with two nodes and a witness: either machine may die
	@$(WITH_STANDBYS) scripts/setup/image.sh $(HA_IMAGES)
	@scripts/setup/up_ha.sh

join-ha: engine ## the same on one machine of three, with the keys that it reads from `make ha-keys` on another one
	@$(WITH_STANDBYS) scripts/setup/image.sh $(HA_IMAGES) </dev/null
	@scripts/setup/up_ha.sh --with-keys

ha-keys: engine ## print what another machine of three needs of this one (FOR=pc2), for `make join-ha` there
	@$(WITH_STANDBYS) scripts/setup/image.sh $(HA_IMAGES) >&2
	@scripts/setup/ha_keys.sh "$$FOR"

stack: ## deploy both hosts to a Docker Swarm, from its manager (docs/how-to/deploy-to-a-swarm.md)
	@scripts/setup/stack.sh

down: ## stop both hosts; keys and state stay
	@$(COMPOSE) --profile '*' down --remove-orphans

leave-ha: engine ## go back to one process of each agent, which has all that was stored; the standbys and their database end
	@$(if $(filter certs-init,$(HA_IMAGES)),TWINHOST_DATABASE= scripts/setup/image.sh certs-init)
	@scripts/setup/leave_ha.sh

status: ## both agents, as they are now
	@./twinhost status || [ $$? = 1 ] # 1: something needs attention

logs: ## follow the logs of both hosts
	@$(COMPOSE) logs --follow --tail 50 mainpc pc2

keys: image ## make the keys that are missing and show every fingerprint
	@$(COMPOSE) --progress quiet run --rm certs-init

backup: ## write mainpc's whole state, secrets too, into a new file (FILE=mainpc.backup), while it runs
	@scripts/setup/backup.sh "$$FILE" $(ARGS)

restore: engine ## replace mainpc's state with such a file (FILE=...), while mainpc is stopped (ARGS=--replace: over another)
	@scripts/setup/restore.sh "$$FILE" $(ARGS)

test: test-ready ## run the whole test suite (ARGS="-k name" for a part), also while a stack is running
	@.venv/bin/python -m pytest -n $(WORKERS) $(ARGS)

check: venv ## while you work: the linters and the unit tests, in parallel (about a minute; no container)
	@scripts/setup/check.sh $(ARGS)

test-two-hosts: FILES ?= tests/two_hosts
test-two-hosts: test-ready ## two engines in two network namespaces, joined by a virtual link; both as a swarm; and three with standbys (25 minutes)
	@TWINHOST_TWO_HOSTS=all .venv/bin/python -m pytest $(FILES) $(ARGS)

test-replay: FILES ?= tests/unit tests/loopback
test-replay: test-ready ## the tests outside containers, with a replica of every database that repeats what was noted of it (17 minutes)
	@TWINHOST_REPLAY=$$(mktemp -d) .venv/bin/python -m pytest -n $(WORKERS) -p tests.replayed -p scripts.second_try \
		--timeout 600 $(FILES) \
		--ignore tests/unit/unified_memory_reasoning/test_uninterrupted.py $(ARGS) # whose times are of one database

test-faults: test-ready ## every fault, while clients keep ledgers (ten minutes; FAULT_SEED=... repeats a run's choices)
	@TWINHOST_FAULTS=all .venv/bin/python -m pytest tests/faults $(ARGS)

test-failover: FILES ?= tests/failover
test-failover: test-ready ## failures and upgrades of a deployment with standbys, while others write (more than half an hour; REPEAT=20: each failure 20 times)
	@TWINHOST_FAILOVER=all .venv/bin/python -m pytest $(FILES) $(ARGS)

test-adversary: venv ## every attack, while clients work: their p99, and mainpc's memory (five minutes)
	@.venv/bin/python -m pytest -s tests/adversary/full_siege.py $(ARGS)

fuzz: INPUTS ?= 1000000
fuzz: venv ## malformed inputs for the decoders, the key loader, and the port (INPUTS=1000000; ARGS="--seed N" repeats a run)
	@scripts/setup/fuzz.sh $(INPUTS) $(ARGS)

soak: MINUTES ?= 30
soak: venv ## both agents at half their rate (MINUTES=30), and whether anything grows: build/soak/soak.csv and .svg
	@PYTHONPATH=services:. .venv/bin/python -m tests.soak --minutes $(MINUTES) $(ARGS)

audit: venv ## known vulnerabilities in the locks
	@scripts/setup/audit.sh

sbom: venv ## write a CycloneDX list of what the image ships (FILE=twinhost.cdx.json)
	@scripts/setup/sbom.sh "$$FILE"

repeatable: venv ## whether two installations of the image's lock are the same, file by file
	@scripts/setup/repeatable.sh

bench: image venv ## this project compared with its peers (nine minutes; ARGS="--out FOLDER"): table, CSV, and plot (docs/reference/benchmarks.md)
	@scripts/setup/bench_tools.sh
	@PYTHONPATH=services:. build/tools/bench/bin/python -m tests.benchmarks.speed $(ARGS)

bench-smoke: image venv ## the same, as short as possible: fails if a row is missing
	@scripts/setup/bench_tools.sh
	@PYTHONPATH=services:. build/tools/bench/bin/python -m tests.benchmarks.speed --rounds 1 --seconds 0.2 --stack-idle 3 --every-row $(ARGS)

bench-recall: venv ## the quality of searches, compared with FTS5 (docs/reference/memory-search.md)
	@PYTHONPATH=services:. .venv/bin/python -m tests.benchmarks.bench_recall $(ARGS)

bench-scale: INTERACTIONS ?= 10000 100000 1000000
bench-scale: venv ## the memory as it grows, compared with FTS5 (INTERACTIONS="10000 100000"; ARGS="--builtin --plot FILE")
	@PYTHONPATH=services:. .venv/bin/python -m tests.benchmarks.bench_scale --interactions $(INTERACTIONS) $(ARGS)

bench-graph: venv ## the knowledge graph of `twinhost mcp`, compared with the reference memory server (docs/how-to/use-from-an-mcp-client.md)
	@scripts/setup/reference_memory.sh
	@PYTHONPATH=services:. .venv/bin/python -m tests.benchmarks.bench_graph $(ARGS)

workers:
	@echo $(WORKERS)

test-ready: image venv
	@$(WITH_STANDBYS) scripts/setup/image.sh certs-init database-keys
	@scripts/setup/test_tools.sh

lint: venv ## formatting, types, import rules, Dockerfile and Compose file
	@scripts/setup/lint.sh

generate: venv ## write the generated pages, typed clients, diagrams, and the list of public names
	@.venv/bin/python scripts/write_actions.py
	@.venv/bin/python scripts/write_troubles.py
	@.venv/bin/python scripts/write_clients.py
	@.venv/bin/python scripts/write_diagrams.py
	@.venv/bin/python scripts/write_log_events.py
	@PYTHONPATH=services:. .venv/bin/python tests/unit/clients/test_public_api.py

screenshots: venv ## take the pictures of the page in docs/page again: healthy, troubled, and attacked, at three sizes
	@scripts/setup/screenshots.sh docs/page

install: ## put the package alone into .venv, for programs and commands
	@scripts/setup/venv.sh package

wheel: install ## build the package's wheel, which the image installs too, into dist/: the same files give the same bytes
	@scripts/setup/wheel.sh dist && ls dist/*.whl

image: engine ## build the image
	@scripts/setup/image.sh

engine:
	@scripts/setup/engine.sh

venv: ## put the package and the development tools into .venv
	@scripts/setup/venv.sh

setup: image venv ## install the engine, base image, image, and .venv with the development tools; start nothing

lock: ## resolve the dependencies of pyproject.toml again into the locks (needs uv), and pin the base image by digest
	@scripts/setup/lock.sh

clean: ## stop both hosts and DELETE their keys and state (asks first, unless YES=1)
	@scripts/setup/clean.sh $(YES)
