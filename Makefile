# Everything a newcomer types. Each command makes the virtual environment that it needs.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
DEMO_VENV ?= .venv-demo
BIN = $(VENV)/bin
PYTEST_ARGS ?=
# most tests wait for processes: more of them than processors run side by side
WORKERS ?= 6
# a wait that ran out on a busy machine is no verdict: it is tried once more, and the summary says so
WAITS = --reruns 1 --only-rerun "in vain until" --only-rerun TimeoutExpired
SEEDS ?= 10000
CHAOS_SECONDS ?= 1800
OUTAGE_SECONDS ?= 300
FUZZ_FACTOR ?= 30
FUZZ_SEED ?= $(shell date +%Y%m%d)

# Hundreds of processes start in the tests: a compiled module is worth keeping, whatever the machine says. Each is compiled
# when it is first imported, most never: compiling all of them takes a third of an installation.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo quick test proof check soak fuzz chaos outage pace format clean

help: ## list the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(DEMO_VENV)/.ready ## generate records and land them in an emulated index, end to end
	@$(DEMO_VENV)/bin/upsertq demo

quick: $(VENV)/.ready ## units, laws and the stories of the simulation, within a minute
	$(BIN)/pytest -n 3 -q -m "not slow" --hypothesis-profile=quick $(PYTEST_ARGS) tests/unit tests/laws tests/simulation/test_draining_stories.py

test: $(VENV)/.ready ## run every test that proves the promises (they start real servers and processes themselves)
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not proof" $(WAITS) $(PYTEST_ARGS)

proof: $(VENV)/.ready ## plant each bug that the tests must catch, and simulate 250 histories more than `make test`
	$(BIN)/pytest -n 3 -m proof $(PYTEST_ARGS) tests/simulation tests/laws/test_transitions.py tests/faults/test_chaos_short.py

check: $(VENV)/.ready ## lint, format and type checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.ready ## simulate 10,000 histories of faults in virtual time
	$(BIN)/python tests/simulation/soak.py --seeds $(SEEDS)

fuzz: $(VENV)/.ready ## give every parser 300 times the hostile inputs of `make test`, from a seed of the day
	FUZZ_FACTOR=$(FUZZ_FACTOR) FUZZ_SEED=$(FUZZ_SEED) $(BIN)/pytest -n 4 -q --timeout 7200 tests/fuzz tests/end_to_end/test_junk_commands.py tests/end_to_end/test_junk_worker.py

chaos: $(VENV)/.ready ## kill and starve real processes for 30 minutes, then check every promise
	@$(BIN)/upsertq chaos --seconds $(CHAOS_SECONDS) --records 1000000

outage: $(VENV)/.ready ## take the index away under load for 5 minutes, both ways, and print the figures
	@$(BIN)/python tests/faults/outage.py --how down --seconds $(OUTAGE_SECONDS)
	@$(BIN)/python tests/faults/outage.py --how 503 --seconds $(OUTAGE_SECONDS)

pace: $(VENV)/.ready ## send as fast as a limit allows with 4 workers for 14 minutes, print the figures and draw docs/pace.svg
	@$(BIN)/python benchmarks/pace.py --chart docs/pace.svg

format: $(VENV)/.ready ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the commands made
	rm -rf $(VENV) $(DEMO_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.ready: pyproject.toml
	@$(call make-venv,$(VENV),dev)

$(DEMO_VENV)/.ready: pyproject.toml
	@$(call make-venv,$(DEMO_VENV),all)

define make-venv
	test -n "$(PYTHON)" || { echo "upsertq needs Python 3.11 or newer: install one, or say make PYTHON=/path/to/python"; exit 1; }; \
	echo "installing upsertq[$(2)] into $(1) with $(PYTHON) …"; \
	$(PYTHON) -m venv $(1) && $(1)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[$(2)]' && touch $(1)/.ready
endef
