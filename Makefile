# From nothing but python3, its venv module and make:
#   make demo   the whole chain on synthetic families, on the CPU
#   make test   lint, types, audit and tests, on all cores
#   make lint   lint, types and dangerous calls alone
#   make audit  published vulnerabilities of what is installed; skipped where PyPI cannot be asked
#   make docs   the pages of docs/, into site/; warnings are errors
#   make bench  speed beside Keras, PyTorch, DeepFace and others, in under 20 minutes on two cores
PYTHON ?= python3
VENV ?= .venv
OTHERS ?= $(VENV)-others
# The torch release the project is tested with. Any that pyproject.toml admits will do:
#   make demo TORCH=torch
# On Linux, pip brings the build with CUDA; the much smaller one for CPUs:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
TORCH ?= torch==2.13.0
# A worker more than there are cores, as tests wait for each other's processes, and at most four: each
# imports torch, half a gigabyte. One at a time, for a debugger or for plain output:
#   make test WORKERS=0
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, 1 + (os.cpu_count() or 1)))")

# Passive: threads that wait for each other leave their cores to whatever else runs; where they
# spin instead, a busy machine takes four times as long.
demo: $(VENV)/installed
	OMP_WAIT_POLICY=passive $(VENV)/bin/kinembed demo

test: lint audit
	$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/bandit --quiet --recursive --configfile pyproject.toml kinembed cli.py

audit: $(VENV)/installed-dev
	$(VENV)/bin/python .ci/audit.py

docs: $(VENV)/installed-docs
	$(VENV)/bin/mkdocs build --strict

# What else is measured has packages of its own, which do not fit kinembed's. What cannot be had
# (a - goes on) is named with its reason. DeepFace imports werkzeug, but does not ask for it.
bench: $(VENV)/installed-bench
	test -x $(OTHERS)/bin/python || $(PYTHON) -m venv $(OTHERS)
	-$(OTHERS)/bin/pip install --quiet tensorflow-cpu tf_keras
	-$(OTHERS)/bin/pip install --quiet deepface werkzeug
	$(VENV)/bin/python benchmarks/bench.py --others $(OTHERS)/bin/python --out bench.json

# torch is named in the same command, so that facenet-pytorch's torchvision is chosen to fit it.
$(VENV)/installed: EXTRAS = plots
$(VENV)/installed-dev: EXTRAS = dev
$(VENV)/installed-docs: EXTRAS = docs
$(VENV)/installed-bench: EXTRAS = onnx,sface
$(VENV)/installed $(VENV)/installed-dev $(VENV)/installed-docs $(VENV)/installed-bench: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$(TORCH)" -e ".[$(EXTRAS)]"
	touch $@

.PHONY: demo test lint audit docs bench
