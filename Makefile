# aha: every recipe is a target. `make help` lists the rest.
PYTHON ?= python3
AHA := .venv/bin/aha
RECIPES := $(basename $(notdir $(wildcard recipes/*.yaml)))
RECIPE ?= recipes/tiny.yaml
OVERRIDES ?=
CLUSTER ?= site.yaml

.PHONY: help setup demo test check plan run eval submit status logs cancel report bench recipes rewards $(RECIPES)
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z][a-z -]*:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 16
	@echo "Recipes: $(RECIPES)"
	@echo 'Variables: RECIPE=recipes/x.yaml  OVERRIDES="grpo.steps=50 name=longer"  RUN=runs/x  CLUSTER=site.yaml'

setup:  ## make .venv: the CUDA set where there is an NVIDIA GPU, the CPU set elsewhere
	@$(PYTHON) -I src/aha/install.py

demo: tiny  ## the embedded default: three stages with real vLLM, in minutes

test: setup  ## set up and run the tests
	.venv/bin/python -m pytest

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

bench: setup  ## how fast RUN=runs/x was, against what this machine can do
	@$(AHA) bench $(or $(RUN),runs/$(basename $(notdir $(RECIPE))))

recipes rewards: setup  ## list them
	@$(AHA) $@
