# Every target sets up .venv first if it has to: make demo, make test and the others work from a fresh clone.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# the small study: what it trains first, what it then runs in this order, and options for each of these, as in
# OPTIONS="--budget 2h"
STUDY := runs/small
DENSE := $(foreach seed,1 2 3,$(STUDY)/dense/blip-$(seed)/card.json $(STUDY)/dense/vit-$(seed)/card.json)
MATRICES ?= dense-eval core sparsities rates exponents scopes after dimensions vit
OPTIONS ?=

# a ViT for fashion-mnist: from the files of Debian's package where it is installed, else from the Hub
FASHION := $(wildcard /usr/share/datasets/fashion-mnist)

.PHONY: help install demo replicate classifier test slow smoke coverage gpu hub lint builtins benchmarks clean

help:
	@echo "make install     .venv with everything the other targets need"
	@echo "make demo        measure the built-in model's IDs, prune it to 95 % with and without them, and compare"
	@echo "make replicate   the paper's experiments on small models, hours in all; keeps whole models and cells"
	@echo "make classifier  train a ViT on fashion-mnist, up to 40 minutes; replication.md prunes it"
	@echo "make test        the fast tests"
	@echo "make slow        the tests that take longer"
	@echo "make smoke       the four commands on tiny models, under 90 seconds"
	@echo "make coverage    83 architectures through the command line, and docs/models.md of it; continues where it stopped"
	@echo "make gpu         check and measure idvl on this machine's GPU, in five minutes at most"
	@echo "make hub         compare the known datasets with the Hub, and run the paper's captioner from there; needs a network"
	@echo "make lint        ruff"
	@echo "make builtins    retrain the built-in models (up to 20 minutes each)"
	@echo "make benchmarks  every benchmark, one after the other"
	@echo "make clean       remove .venv, build files and caches; runs/ stays"

install: $(STAMP)

# torch and torchvision go first and together: builds that do not match break every vision model
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "idvl needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@echo "Setting up .venv (some minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[vlm,faiss,digits,caption,peers,dev]'
	@touch $@

# sums differ between numbers of threads: one gives what docs/demo.md shows
demo: export OMP_NUM_THREADS = 1
demo: $(STAMP)
	$(BIN)/idvl estimate-id --recipe demo --output runs/demo --overwrite
	$(BIN)/idvl prune --recipe demo-prune --profile runs/demo --output runs/demo-prune --overwrite
	$(BIN)/idvl prune --recipe demo-prune --id-weight none --output runs/demo-prune-noid --overwrite
	$(BIN)/idvl eval --score runs/demo-prune/eval/predictions.jsonl --compare runs/demo-prune-noid/eval
	$(BIN)/idvl eval builtin/blip --output runs/demo-eval --overwrite
	$(BIN)/idvl analyze runs/demo runs/demo-prune runs/demo-prune-noid runs/demo-eval --output runs/demo-report.html
	@echo "The pruned models are runs/demo-prune/model and runs/demo-prune-noid/model, the report runs/demo-report.html"

# a matrix with failed cells does not keep the next one from running; an interruption does
replicate: $(DENSE)
	@failed=; for name in $(MATRICES); do \
		$(BIN)/idvl prune --matrix small/$$name --output $(STUDY)/$$name --resume $(OPTIONS); code=$$?; \
		[ $$code -lt 128 ] || exit $$code; [ $$code -eq 0 ] || failed="$$failed $$name"; \
	done; [ -z "$$failed" ] || { echo "not all cells are there:$$failed"; exit 1; }

$(STUDY)/dense/blip-%/card.json: | $(STAMP)
	$(BIN)/python -m idvl.builtin.make blip --seed $* --steps 3000 --images 32000 --precision float32 --output $(@D)

$(STUDY)/dense/vit-%/card.json: | $(STAMP)
	$(BIN)/python -m idvl.builtin.make vit --seed $* --steps 1500 --precision float32 --output $(@D)

classifier: runs/classifier/vit/card.json

runs/classifier/vit/card.json: | $(STAMP)
	$(BIN)/python -m idvl.builtin.make fashion --output $(@D) $(if $(FASHION),--data-dir $(FASHION))

# two at a time, with a thread each: most tests keep one core busy; what one process has compiled the others read
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

smoke: $(STAMP)
	TQDM_DISABLE=1 $(BIN)/python -m tests.smoke

# OPTIONS="qwen2_vl --redo" tries one again
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.coverage $(OPTIONS)

# the machine's own torch, which fits its driver; .venv only where there is none
TORCH := $(PYTHON) -c 'import sys; from importlib.util import find_spec; \
	sys.exit(sys.version_info < (3, 11) or not all(map(find_spec, ["torch", "transformers", "accelerate"])))' 2>/dev/null
gpu:
	@if $(TORCH); then $(PYTHON) -m benchmarks.gpu $(OPTIONS); \
	else $(MAKE) --no-print-directory install && $(BIN)/python -m benchmarks.gpu $(OPTIONS); fi

hub: $(STAMP)
	$(BIN)/python -m benchmarks.hub $(OPTIONS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

builtins: $(STAMP)
	$(BIN)/python -m idvl.builtin.make

benchmarks: $(STAMP)
	set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean:
	rm -rf .venv .gpu build dist idvl.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
