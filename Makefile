# Everything that can be done here, by `make`. Variables are given on the command line: make reproduce PROFILE=cpu

PROFILE ?= demo
TABLES  ?=
SLOTS   ?=
SEEDS   ?=
DATA    ?=
JOBS    ?=
EXECUTOR ?=
CLUSTER ?=
RESULTS ?=
REHEARSE ?=
PYTHON  ?= python3

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed

# Whether a Python was named, be it by the environment.
NAMED := $(filter command environment,$(firstword $(origin PYTHON)))

# What was given is text, whatever it holds: it is never expanded again, and reaches the commands by the environment.
VARIABLES := PROFILE TABLES SLOTS SEEDS DATA JOBS EXECUTOR CLUSTER RESULTS REHEARSE PYTHON
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
export $(VARIABLES)

UNKNOWN := $(foreach name,$(filter-out $(VARIABLES) MAKE%,$(.VARIABLES)),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
$(if $(strip $(UNKNOWN)),$(error there is no variable $(strip $(UNKNOWN)); known are $(VARIABLES)))

# Only what was given is passed on; the profile knows the rest. What a training is given may be repeated for `status`
# and a rehearsal: a variable by which their answer would be no other is not passed on to them.
CHOSEN   := --profile "$$PROFILE" $${TABLES:+--tables "$$TABLES"} $${SLOTS:+--slots "$$SLOTS"}
COUNTED  := $${SEEDS:+--seeds "$$SEEDS"} $${JOBS:+--jobs "$$JOBS"} $${RESULTS:+--results "$$RESULTS"}
FOUND    := $${DATA:+--data "$$DATA"}
EXECUTED := $${EXECUTOR:+--executor "$$EXECUTOR"} $${CLUSTER:+--cluster "$$CLUSTER"}

.DEFAULT_GOAL := help
.PHONY: help env reproduce theory site test lint bench status clean
.SUFFIXES:

help:
	@echo "make reproduce   train what is missing, write the tables, execute the notebooks into results/PROFILE/"
	@echo "make theory      integrate the flows of section 5 and check its claims into results/theory/"
	@echo "make site        an offline site of all stored results into build/site"
	@echo "make status      what is done, running and missing, and how long the rest will take"
	@echo "make test        run the tests"
	@echo "make lint        ruff and mypy"
	@echo "make bench       side-by-side timings into results/bench/"
	@echo "make env         build .venv (every other target does so when it is missing)"
	@echo "make clean       remove the demo's results, build/ and caches; results/cpu, results/paper and .venv stay"
	@echo
	@echo "Variables: PROFILE=demo|cpu|paper|paper-bf16 (now: $$PROFILE)   TABLES=1-4,6 or beyond   SEEDS=number   JOBS=number"
	@echo "           SLOTS=cifar10: of the tables' data sets only these"
	@echo "           DATA=folder of the data (else NSL_DATA, else ~/.cache/nsl; CIFAR is downloaded when absent)"
	@echo "           RESULTS=folder of records, tables and notebooks in place of results/"
	@echo "           EXECUTOR=local|slurm|submitit-local   CLUSTER=TOML file of job parameters (partition, time, GPUs)"
	@echo "           REHEARSE=1: two steps of every run at full size, with noise for absent data, without records"
	@echo "           (status does without DATA, EXECUTOR and CLUSTER, a rehearsal also without SEEDS and JOBS: ignored)"
	@echo "           PYTHON=the Python 3.11 or newer that builds .venv (now: $$PYTHON)"

TOO_OLD = $$PYTHON is missing or older than Python 3.11; name a newer one: make env PYTHON=python3.12

WHICH := import sys; print("Python %d.%d.%d of %s" % (*sys.version_info[:3], sys.base_prefix))

env: $(STAMP)
ifneq ($(NAMED),)
	@asked=$$("$$PYTHON" -c '$(WHICH)' 2>/dev/null) || { echo "error: $(TOO_OLD)" >&2; exit 2; }; \
	  has=$$($(PY) -c '$(WHICH)'); test "$$asked" = "$$has" \
	  || { echo "error: $(VENV) has $$has, not $$asked; remove $(VENV) and give the same command again." >&2; exit 2; }
endif

# The stamp is a copy of both files and is written last: an interrupted installation is done again, and a checkout that
# only changes a file's date installs nothing.
$(STAMP): pyproject.toml requirements.lock
	@test -x $(VENV)/bin/pip || { "$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: $(TOO_OLD)" >&2; exit 2; }; "$$PYTHON" -m venv $(VENV); }
	@cat $^ | cmp -s - $@ \
	  || $(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[reproduce,site,dev]"
	@cat $^ > $@

reproduce: $(STAMP)
	@case "$$REHEARSE" in \
	  ""|0) exec $(PY) -m reproduce all $(CHOSEN) $(COUNTED) $(FOUND) $(EXECUTED);; \
	  *) exec $(PY) -m reproduce rehearse $(CHOSEN) $(FOUND);; esac

theory: $(STAMP)
	@$(PY) -m reproduce theory

site: $(STAMP)
	@$(PY) -m reproduce site

status: $(STAMP)
	@$(PY) -m reproduce status $(CHOSEN) $(COUNTED)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(STAMP)
	@$(PY) -m reproduce bench
	@$(PY) -m theory bench

clean:
	rm -rf results/demo results/demo+* build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find nsl theory reproduce tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
