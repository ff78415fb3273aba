# make rollout   from nothing to a five-minute labelled driving video in rollouts/first
# make test      from nothing to a tested checkout
# Both create .venv once; a second call is instant.

PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/installed

.PHONY: rollout test lint types clean

rollout: $(STAMP)
	$(VENV)/bin/drivesim rollout --minutes 5 --out rollouts/first

test: $(STAMP)
	$(VENV)/bin/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(VENV)/bin/ruff check .

types: $(STAMP)
	$(VENV)/bin/mypy

# torch goes first and pinned: an unpinned resolver may fetch gigabytes of GPU libraries that nobody asked for.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -c constraints.txt torch
	$(VENV)/bin/pip install -c constraints.txt -e '.[dev,perceptual,pretrained,ray]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info
