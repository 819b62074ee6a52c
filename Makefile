# Two jobs, from nothing but python3, its venv module and make:
#   make demo   the whole chain on drawn families, on the CPU
#   make test   lint, types, tests
PYTHON ?= python3
VENV ?= .venv
# The torch release the project is tested with. Any that pyproject.toml admits will do:
#   make demo TORCH=torch
TORCH ?= torch==2.13.0

demo: $(VENV)/installed
	$(VENV)/bin/kinembed demo

test: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest

# torch is named in the same command, so that facenet-pytorch's torchvision is chosen to fit it.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$(TORCH)" -e ".[plots]"
	touch $@

$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$(TORCH)" -e ".[dev]"
	touch $@ $(VENV)/installed

.PHONY: demo test
