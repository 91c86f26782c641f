# One Makefile, used by people and by CI alike. `make demo` and `make test` set everything up by themselves.
#
# PyTorch comes from pip's index. Choose another build with TORCH_INDEX, for example
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu      (Linux without a GPU)
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130    (NVIDIA)
#
# Extras of pyproject.toml are installed by name: make setup EXTRAS="gpu heic" (of: gpu, heic, faces, tagger, dask, ray)

PYTHON ?= python3
TORCH_INDEX ?=
EXTRAS ?=
LOCKED := gpu heic faces tagger dask ray
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1

.PHONY: help setup repository demo base test test-all test-params check format images preset schemas lock miniature miniature-samples miniature-publish miniature-measure miniature-card evidence

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

ifneq ($(filter-out $(LOCKED),$(EXTRAS)),)
$(error EXTRAS: there is no $(filter-out $(LOCKED),$(EXTRAS)); choose of: $(LOCKED))
endif

setup: $(BIN)/.installed $(EXTRAS:%=$(BIN)/.installed-%) ## make .venv, install what requirements.lock pins [EXTRAS="gpu heic faces tagger dask ray"]

PIP_INSTALL = $(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements.lock

# What is installed of Étude itself is the command `etude` alone: see commands/etude_launcher.py.
$(BIN)/.installed: requirements.lock commands/etude_launcher.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
		{ echo "Python 3.11 to 3.14 is needed; name one with PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation .
	@rm -rf build commands/etude.egg-info
	@touch $@

$(BIN)/.installed-%: requirements-%.lock $(BIN)/.installed
	$(PIP_INSTALL) -r $<
	@touch $@

repository:
	@test -e .git || { echo "This is a copy without .git, and DVC keeps its records beside git's. Next:"; \
		echo "  git init && git add -A && git commit -m start      and then this again; or work in a clone"; exit 1; }

demo: repository setup ## the chosen methods on the shipped sample set, from pictures to a report
	$(RUN) etude check
	$(RUN) dvc repro
	@echo
	@echo "Open in a browser:  artifacts/report/index.html"
	@$(RUN) python -c 'from etude.core.params import read_yaml; [print(f"{m}: artifacts/{m}/grid/grid.png, artifacts/pages/{m}/index.html, artifacts/{m}/export/") for m in read_yaml("params.yaml")["methods"]]'

# Three at once on two cores: many tests wait, for a server or a clock.
TESTS = python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

test: setup ## the tests, without those that take minutes [ALSO=lines: with every line of the READMEs]
	$(RUN) $(TESTS) -m "not slow$(if $(ALSO), or $(ALSO))"

test-all: setup ## every test
	$(RUN) $(TESTS)

check: setup ## style, types, layers
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

format: setup ## let ruff mend what it can
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

# What is typed is no text of make's or a shell's: a folder may hold $$, quotes or backticks in its name. What the
# environment holds is not meant: in WSL, NAME is the name of the machine.
typed = $(if $(filter command,$(firstword $(origin $1))),$(value $1))
override FROM := $(call typed,FROM)
override SET := $(call typed,SET)
override NAME := $(call typed,NAME)
override CLASS := $(call typed,CLASS)
override METHOD := $(call typed,METHOD)
export FROM SET NAME CLASS METHOD

images: repository setup ## bring pictures in: make images FROM=~/photos SET=mydog NAME=rex CLASS=dog METHOD="lora dreambooth"
	@test -n "$$FROM" -a -n "$$SET" || { echo 'usage: make images FROM=~/photos SET=mydog [NAME=rex CLASS=dog METHOD="lora"]'; exit 2; }
	@set -f; for method in $$METHOD; do set -- "$$@" --method "$$method"; done; \
		$(RUN) etude images --from "$$FROM" --set "$$SET" --name "$$NAME" --class "$$CLASS" "$$@"

preset: repository setup ## settings for another base: make preset NAME=sd15 (miniature, sd15, sd21, sdxl)
	@test -n "$$NAME" || { echo "usage: make preset NAME=sd15"; exit 2; }
	$(RUN) etude preset "$$NAME"

base: repository setup ## fetch the models that the chosen methods read and that are not here; sizes are told first
	$(RUN) etude base

miniature: setup ## build the embedded base model again (hours on a CPU)
	cd miniature && PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

miniature-samples: setup ## draw the sample sets of data/samples again
	$(RUN) python -m miniature.samples

miniature-publish: setup ## copy the built miniature to models/miniature
	$(RUN) python -m miniature.publish

miniature-measure: setup ## measure models/miniature, real pictures beside drawn ones [SEED=7]
	$(RUN) python -m miniature.measure --model models/miniature $(if $(SEED),--seed $(SEED))

miniature-card: setup ## write the card of models/miniature, with what was measured of it
	$(RUN) python -m miniature.card

schemas: setup ## write the JSON Schemas of the params files, for editors, and docs/reference.md
	$(RUN) etude schemas
	$(RUN) etude settings
	$(RUN) etude reference

test-params: setup ## after a change of shipped parameters: tests/params, which tests run with, holds them too
	$(BIN)/python -m tests.shipped

evidence: setup ## what the notes claim against what is measured (hours) [ONLY=hypernetwork SEEDS=1 JOBS=2 DRY=1]
	$(RUN) etude evidence $(if $(ONLY),--only "$(ONLY)") $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(DRY),--dry)

# One resolution for all platforms and Pythons (README names them) and for all extras together, so that any of them can be
# installed beside any other. What is pinned stays pinned, unless pyproject.toml forbids it or UPGRADE is given.
# What torch needs of CUDA is left out: torch pins it exactly, and each build of torch (CPU, CUDA 12, 13) needs its own.
PINS = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest --no-header --no-annotate
CUDA := ^(cuda-|triton=|nvidia-[^m])
DRAFT := .cache/lock

lock: ## pin what pyproject.toml asks for, for all platforms: requirements*.lock [UPGRADE=1]
	@rm -rf $(DRAFT) && mkdir -p $(DRAFT)/new
	@cat requirements*.lock > $(DRAFT)/all
	$(PINS) --all-extras $(if $(UPGRADE),--upgrade) --output-file $(DRAFT)/all
	$(PINS) --extra dev --constraints $(DRAFT)/all --output-file $(DRAFT)/main
	@{ echo "# By \`make lock\`. CUDA's packages are not here: pip takes those that the chosen build of torch pins."; \
		grep -vE '$(CUDA)' $(DRAFT)/main; } > $(DRAFT)/new/requirements.lock
	@set -e; for extra in $(LOCKED); do \
		$(PINS) --extra $$extra --constraints $(DRAFT)/all --output-file $(DRAFT)/$$extra; \
		{ echo "# By \`make lock\`. To be installed with requirements.lock: make setup EXTRAS=$$extra"; \
			grep -vxFf $(DRAFT)/main $(DRAFT)/$$extra; } > $(DRAFT)/new/requirements-$$extra.lock; \
	done
	@mv $(DRAFT)/new/*.lock .
