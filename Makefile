# Two commands do everything for a newcomer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
VENV3 := .venv-tl3
# Progress bars of many test workers would only mix.
WORKERS ?= auto
# `make test-faults FAULTS=short` takes about a minute.
FAULTS ?= long

PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup

.PHONY: demo test test-fast test-portable test-portable-default test-portable-avx2 test-tl3 lint docs
.PHONY: test-faults notebooks bench clean

demo: $(VENV)/.installed
	$(VENV)/bin/tvlens demo --out out/demo --open

test: lint
	$(PYTEST)

# Without packaged weights and without a browser.
test-fast: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# Those whose outcome depends on arithmetic, on one thread as older processors compute it: kernels
# of PyTorch, oneDNN and MKL without AVX, and those for AVX2.
WITHOUT_AVX = ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE \
	OMP_NUM_THREADS=1
WITH_AVX2 = ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OMP_NUM_THREADS=1

test-portable: test-portable-default test-portable-avx2

test-portable-default: $(VENV)/.installed
	$(WITHOUT_AVX) $(PYTEST) -m "not slow and not no_arithmetic"

test-portable-avx2: $(VENV)/.installed
	$(WITH_AVX2) $(PYTEST) -m "not slow and not no_arithmetic"

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

# The same packages, seen through a .pth file, under the older TransformerLens, which still has
# HookedTransformer.
$(VENV3)/.installed: $(VENV)/.installed
	$(VENV)/bin/python -m venv --clear $(VENV3)
	echo "import site; site.addsitedir('$$($(VENV)/bin/python -c $(PURELIB))')" \
		> "$$($(VENV3)/bin/python -c $(PURELIB))/base.pth"
	sed 's/^transformer-lens==.*/transformer-lens==3.9.0/' constraints.txt > $(VENV3)/constraints.txt
	$(VENV3)/bin/python -m pip install --quiet --constraint $(VENV3)/constraints.txt transformer-lens
	touch $@

clean:
	rm -rf $(VENV) $(VENV3) out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
