# Everything a person types. Each target sets up what it needs in .venv first.
#
#   make demo    classify encrypted handwritten digits
#   make test    the tests
#   make check   ruff, strict mypy, the boundaries between modules
#   make bench   measure beside peers, interleaved (installs them; goes on where it was stopped)

# The first of these that runs and is new enough; the pinned requirements are those of 3.11.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
# PyTorch keeps its CPU builds on an index of its own; the ordinary one is used if it is out of reach.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
RUN := .venv/bin/python

.PHONY: demo test check bench setup clean

demo: .venv/.ready
	$(RUN) -m he_inference demo

test: .venv/.ready
	$(RUN) -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: .venv/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -q tests/test_architecture.py

bench: .venv/.ready
	$(RUN) -m benchmarks run all --peers
	$(RUN) -m benchmarks readme

setup: .venv/.ready

.venv/.ready: requirements.txt requirements-crypten.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed. Name one: make PYTHON=/path/to/python3.11"; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: on Debian, apt install python3-venv"; exit 2; }
	"$(PYTHON)" -m venv .venv
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps --retries 1 --timeout 15 \
	  --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.txt)" || \
	  echo "no CPU build of PyTorch within reach: taking the ordinary one"
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps -r requirements-crypten.txt
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
