# make demo: train and evaluate a small detector
# make test: the tests; test-all: the long sweeps as well; test-fast: those of a change
# make lint: format, style, types, layers
PYTHON ?= python3
VENV := .venv
# The second line of mmdet, beside the first: its own packages, torch borrowed.
OPENMMLAB := .venv-openmmlab
BIN := $(VENV)/bin

# mmcv must not compile its operators, whatever the environment says.
export MMCV_WITH_OPS := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PIP_NO_BUILD_ISOLATION

.PHONY: demo test test-slow test-all test-fast second-line lint clean
demo: $(VENV)/.demo-stamp
	$(BIN)/eca-mmdet demo

PYTEST := -m pytest -n 2 --dist worksteal

test: $(VENV)/.test-stamp
	$(BIN)/python $(PYTEST) -m 'not slow'
	$(MAKE) second-line MARKED='openmmlab and not slow'

# The long sweeps, which `make test` leaves out.
test-slow: $(VENV)/.test-stamp
	$(BIN)/python $(PYTEST) -m slow
	$(MAKE) second-line MARKED='openmmlab and slow'

test-all: test test-slow

# The quick tests of what has changed since the last commit, or of PATHS="...".
test-fast: $(VENV)/.test-stamp
	$(BIN)/python $(PYTEST) -m 'not slow' \
	  $$($(BIN)/python tools/tests_of.py $(PATHS))

second-line:
	if $(MAKE) $(OPENMMLAB)/.stamp; then \
	  $(OPENMMLAB)/bin/python $(PYTEST) -m '$(MARKED)'; \
	else \
	  echo 'NOT TESTED: mmdet 3.3.0 and mmcv-lite 2.1.0 could not be installed'; \
	fi

lint: $(VENV)/.test-stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/update_readme.py --check

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e '.[onedl]'
	touch $@

$(VENV)/.test-stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e '.[onedl,test,dev]'
	touch $@ $(VENV)/.demo-stamp

# mmdet 3.3.0's own packages without their dependencies, which the first environment
# has; a path file puts its site-packages and this checkout behind them. Where the wheels
# cannot be had, `make test` says that this line was not tested, and tries again next time.
$(OPENMMLAB)/.stamp: pyproject.toml eca_mmdet/startup.pth $(VENV)/.test-stamp
	rm -rf $(OPENMMLAB)
	$(PYTHON) -m venv $(OPENMMLAB)
	$(OPENMMLAB)/bin/pip install -q --no-deps \
	  mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7 'setuptools<80.9'
	site() { $$1 -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	{ site $(BIN)/python; pwd; cat eca_mmdet/startup.pth; } \
	  > $$(site $(OPENMMLAB)/bin/python)/zz_borrow.pth
	touch $@

clean:
	rm -rf $(VENV) $(OPENMMLAB)
