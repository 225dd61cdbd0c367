# Two commands for a person: `make run` and `make test`. Both set themselves up in .venv and need Python >= 3.11.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := run

PYTHON ?= python3
# What to segment: a file or a DICOM folder. Without it, the bundled sample, with results in out/.
CT ?=
OUT ?=
# Where torch comes from, for example https://download.pytorch.org/whl/cpu (small) or .../whl/cu128 (NVIDIA).
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install -c constraints.txt
# What Slicer 5.10 ships; newer Slicers have what constraints.txt names.
SLICER_5_10 := numpy==2.0.2 scipy==1.13.1
# Two test processes with a thread each: with as many threads as cores in both, they wait for each other.
PYTEST := OMP_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1 $(BIN)/python -m pytest

.PHONY: run test lint nnunet-env clean

run: $(VENV)/run.installed
	@if [[ -n "$(CT)" ]]; then
		$(BIN)/python -m LabelFreeCovidSegLib segment "$(CT)" $(if $(OUT),-o "$(OUT)")
	else
		out="$(or $(OUT),out)"
		[[ -f "$$out/sample.nii.gz" ]] || $(BIN)/python -m LabelFreeCovidSegLib sample -o "$$out/sample.nii.gz"
		$(BIN)/python -m LabelFreeCovidSegLib segment "$$out/sample.nii.gz" -o "$$out"
	fi

test: $(VENV)/dev.installed $(VENV)/slicer-5.10.installed lint
	@$(PYTEST) -n 2
	@echo "Again, the unit tests with $(SLICER_5_10)"
	PYTHONPATH=$(VENV)/slicer-5.10 $(PYTEST) -n 2 -m "not installs" Testing/unit

lint: $(VENV)/dev.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PYTHONPATH=LabelFreeCovidSeg $(BIN)/lint-imports

$(VENV)/torch.installed: constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit("Python %d.%d is too old: 3.11 or later is needed (make PYTHON=...)." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV): torch (about 200 MB for the CPU, 3 GB with CUDA), SimpleITK, scipy and small ones (150 MB)."
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) torch $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	touch $@

$(VENV)/run.installed: $(VENV)/torch.installed pyproject.toml
	@$(PIP) -e .
	touch $@

$(VENV)/dev.installed: $(VENV)/run.installed
	@echo "Installing what the tests need: slicer-core, VTK, MONAI and small ones (500 MB)."
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/slicer-5.10.installed: $(VENV)/torch.installed
	@rm -rf $(VENV)/slicer-5.10
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps --target $(VENV)/slicer-5.10 $(SLICER_5_10)
	touch $@

# For the supervised row of docs/evaluation.md alone: its package brings dozens of others that nothing else here needs.
nnunet-env: $(VENV)-nnunet/installed

$(VENV)-nnunet/installed:
	@echo "Installing nnU-Net v2 and torch into $(VENV)-nnunet (1.5 GB, several with CUDA)."
	"$(PYTHON)" -m venv $(VENV)-nnunet
	pip="$(VENV)-nnunet/bin/python -m pip --disable-pip-version-check --quiet install -c constraints.txt"
	# It imports torchvision, which must come from the same place as torch.
	$$pip torch torchvision $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$$pip nnunetv2==2.8.1
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-nnunet out
