# Two commands do everything for a newcomer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
VENV3 := .venv-tl3
# Progress bars of many test workers would only mix.
WORKERS ?= auto
# `make test-faults FAULTS=short` takes about a minute.
FAULTS ?= long

.PHONY: demo test test-tl3 test-faults lint docs notebooks bench clean

demo: $(VENV)/.installed
	$(VENV)/bin/tvlens demo --out out/demo --open

test: lint
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup

test-tl3: $(VENV3)/.installed
	$(VENV3)/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m "tl3 and not slow"

# Kills, full disks, damaged files, bad command lines: prints a table of tried and failed.
test-faults: $(VENV)/.installed
	PYTHONPATH=tests $(VENV)/bin/python -m faults $(FAULTS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# From docstrings, notebooks and docs/: every warning is an error, nothing asks a network.
docs: $(VENV)/.docs
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going -b html -d out/.doctrees docs out/docs
	@echo "out/docs/index.html"

bench: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks

# Every notebook in full, with its outputs, also as a page; no page asks the network for anything.
notebooks: $(VENV)/.installed
	$(VENV)/bin/jupyter nbconvert --execute --to notebook --output-dir out/notebooks notebooks/*.ipynb
	$(VENV)/bin/jupyter nbconvert --to html out/notebooks/*.ipynb \
		--HTMLExporter.mathjax_url= --HTMLExporter.require_js_url=

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'tvlens needs Python 3.11 or newer: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

# The same lock with the older TransformerLens, which still has HookedTransformer.
$(VENV3)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV3)
	sed 's/^transformer-lens==.*/transformer-lens==3.9.0/' constraints.txt > $(VENV3)/constraints.txt
	$(VENV3)/bin/python -m pip install --quiet --constraint $(VENV3)/constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV3) out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
