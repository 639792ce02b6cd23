# aha: every recipe is a target. `make help` lists the rest.
PYTHON ?= python3
AHA := .venv/bin/aha
RECIPES := $(basename $(notdir $(wildcard recipes/*.yaml)))
RECIPE ?= recipes/tiny.yaml
OVERRIDES ?=
# What a reward is called and tried on; := because some shells have a NAME of their own.
NAME :=
DATA :=
CLUSTER ?= site.yaml
# pytest-xdist: a file on each of two cores, in the order of tests/conftest.py.
BESIDE := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-long check plan run eval submit status logs cancel report doctor bench bench-rewards bench-algorithms bench-overlap bench-memory test-gpu recipes rewards \
	reward reward-check $(RECIPES)
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z][a-z -]*:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16
	@echo "Recipes: $(RECIPES)"
	@echo 'Variables: RECIPE=recipes/x.yaml  OVERRIDES="grpo.steps=50 name=longer"  RUN=runs/x  CLUSTER=site.yaml'
	@echo '           NAME=my_idea  DATA=rows.jsonl (or the name of a recipe)'

setup:  ## make .venv: the CUDA set where there is an NVIDIA GPU, the CPU set elsewhere
	@$(PYTHON) -I src/aha/install.py

demo: tiny  ## the embedded default: three stages with real vLLM, in minutes

test: setup  ## set up and run the tests, two files at a time
	.venv/bin/python -m pytest $(BESIDE)

test-long: setup  ## the tests that take long: several processes, rollout servers, a real Slurm on virtual nodes
	.venv/bin/python -m pytest -m long $(BESIDE)

test-gpu: setup  ## on a GPU: each kernel and stage against torch, memory and tokens/s with and without Liger
	.venv/bin/python -m pytest tests/gpu -rs -s

check: setup  ## ruff, types, architecture
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest tests/test_architecture.py

plan run eval: setup  ## plan | run | eval RECIPE=recipes/x.yaml
	@$(AHA) $@ $(RECIPE) $(OVERRIDES)

submit: setup  ## give RECIPE=recipes/x.yaml to Slurm; CLUSTER=site.yaml is the site file (slurm/README.md)
	@$(AHA) submit $(RECIPE) --cluster $(CLUSTER) $(OVERRIDES)

status: setup  ## where RUN=runs/x stands, or every run
	@$(AHA) status $(or $(RUN),--all)

logs cancel: setup  ## what the jobs of RUN=runs/x say | end them
	@$(AHA) $@ $(or $(RUN),runs/$(basename $(notdir $(RECIPE))))

$(RECIPES): setup
	@$(AHA) run recipes/$@.yaml $(OVERRIDES)

report: setup  ## write the report of RUN=runs/x again
	@$(AHA) report $(or $(RUN),runs/$(basename $(notdir $(RECIPE))))

doctor: setup  ## what is wrong with RUN=runs/x, and which recipe line to change; exit code 3 if something is
	@$(AHA) doctor $(or $(RUN),runs/$(basename $(notdir $(RECIPE))))

bench: setup  ## how fast RUN=runs/x was, against what this machine can do
	@$(AHA) bench $(or $(RUN),runs/$(basename $(notdir $(RECIPE))))

bench-rewards: setup  ## how fast and how rightly answers are verified, against TRL and math-verify
	@$(AHA) $@

bench-algorithms: setup  ## every algorithm on 3 seeds of the tiny recipe: 40 minutes on 2 cores [OVERRIDES="grpo.steps=20"]
	@$(AHA) $@ $(OVERRIDES)

bench-overlap: setup  ## RUN=runs/x: GRPO steps with completions drawn before and beside the training [OVERRIDES="hardware.threads=1"]
	@$(AHA) $@ $(or $(RUN),runs/$(basename $(notdir $(RECIPE)))) $(OVERRIDES)

bench-memory: setup  ## what a training step takes on a CPU, against TRL's stock path
	@$(AHA) $@

recipes rewards: setup  ## list them
	@$(AHA) $@

reward: setup  ## write a new reward and its test: NAME=my_idea
	@$(AHA) rewards new "$(NAME)"

reward-check: setup  ## is it fit to train on? NAME=my_idea [DATA=rows.jsonl] [OVERRIDES="steps=3"]
	@$(AHA) rewards check "$(NAME)" $(if $(DATA),--data "$(DATA)") $(OVERRIDES)
