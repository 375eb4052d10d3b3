# Everything a user types. The environment is made once, in .venv, from the lock file.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STORE ?= sqlite:///$(CURDIR)/runs/mlflow.db
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run serve test unit lint mlflow lock clean

run: $(VENV)/.installed
	$(BIN)/python pipelines/full.py demo

# Serves the newest finished run, the demo's where there is none yet.
serve: $(VENV)/.installed
	ls runs/*/ensemble/_manifest.json > /dev/null 2>&1 || $(MAKE) run
	$(BIN)/python -m serving.local

# The end-to-end tests mostly wait for processes to start: two at a time, each file with its own Ray.
test: lint
	$(BIN)/python -m pytest -m "not ray and not end_to_end" -n 2
	$(BIN)/python -m pytest -m "(ray or end_to_end) and not alone" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone

unit: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not ray and not end_to_end" -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

mlflow: $(VENV)/.installed
	$(BIN)/mlflow ui --backend-store-uri $(STORE) --host 127.0.0.1 --port 5000

# The project itself goes in without its dependencies: those come from the lock file alone.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV): a few minutes"
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# Resolves anew what pyproject.toml asks for; the build of torch differs by platform, so its local mark (+cpu) is not kept.
lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet torch==2.13.0
	$(VENV)-lock/bin/pip install --quiet --editable .[dev]
	$(VENV)-lock/bin/pip freeze --exclude-editable --exclude tandem-rec | sed 's/+cpu$$//' > requirements.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock runs .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
