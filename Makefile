# Everything a user types. The environment is made once, in .venv, from the lock file.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1
MINUTES ?= 20
STORE ?= sqlite:///$(CURDIR)/runs/mlflow.db
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run serve test faults chaos unit lint bench bench-pipeline mlflow lock clean clean-runs

run: $(VENV)/.installed
	$(BIN)/python pipelines/full.py demo

# Serves the newest finished run, the demo's where there is none yet.
serve: $(VENV)/.installed
	ls runs/*/ensemble/_manifest.json > /dev/null 2>&1 || $(MAKE) run
	$(BIN)/python -m serving.local

# Unit tests compute on one thread each: threads that wait for work would take the cores from each other's tests.
UNIT := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not ray and not end_to_end and not faults" -n 3

# The end-to-end tests mostly wait for processes to start: two at a time, each file with its own Ray.
test: lint
	$(UNIT)
	$(BIN)/python -m pytest -m "(slow or ray or end_to_end) and not alone and not faults" -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone

# The rest of the tests that kill processes of a run: minutes more than `make test` takes.
faults: $(VENV)/.installed
	$(BIN)/python -m pytest -m faults

# Kills processes of the demo's run, again and again, and compares what comes out with an undisturbed run.
chaos: $(VENV)/.installed
	$(BIN)/python -m tests.faults.chaos --seed $(SEED) --minutes $(MINUTES)

unit: $(VENV)/.installed
	$(UNIT)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

# Every benchmark against its peers, under 20 minutes on 2 cores; rewrites the table in README.md. The first time it makes the peers'
# environments in .peers (minutes more, a download), and the demo's run where no run is there to serve.
bench: $(VENV)/.installed
	ls runs/*/ensemble/_manifest.json > /dev/null 2>&1 || $(MAKE) run
	test ! -f benchmarks/peers.sh || PYTHON=$(PYTHON) sh benchmarks/peers.sh .peers || echo "some peers are missing"
	$(BIN)/python benchmarks/all.py

# The whole pipeline on MovieLens-100K (DATA=FOLDER), against its stages' own compute.
bench-pipeline: $(VENV)/.installed
	test -n "$(DATA)" || { echo "make bench-pipeline DATA=FOLDER, where u.data, u.item and u.user are"; exit 2; }
	rm -rf runs/ml-100k-bench
	$(BIN)/python benchmarks/pipeline_overhead.py --data $(DATA)

# MLflow asks nobody who they are: it listens here alone, to pages opened from here, and runs nothing for them.
mlflow: $(VENV)/.installed
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false $(BIN)/mlflow ui \
	    --backend-store-uri $(STORE) --host 127.0.0.1 --port 5000 --allowed-hosts localhost:5000,127.0.0.1:5000

# The project itself goes in without its dependencies: those come from the lock files alone.
$(VENV)/.installed: requirements.lock requirements-dev.lock requirements-torch.lock deploy/install.sh pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV): a few minutes"
	sh deploy/install.sh $(BIN)/python requirements.lock requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Locks what pyproject.toml asks for, with the hashes of all files of each release, so that every platform finds its own.
# Versions that are locked already stay where they can: to resolve all anew, remove requirements.lock and requirements-dev.lock.
# torch is locked by hand; what its builds for GPUs bring along is named, exactly, by torch itself.
LOCKER := $(VENV)-lock/bin/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml
WITHOUT_TORCH := sed '/^\(torch\|triton\|cuda-.*\|nvidia-.*\)==/,/[^\]$$/d'
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv==0.13.9
	cp requirements.lock requirements-dev.lock $(VENV)-lock || true
	$(LOCKER) --extra aws --extra s3 --constraint requirements-torch.lock --output-file $(VENV)-lock/requirements.lock > /dev/null
	$(WITHOUT_TORCH) $(VENV)-lock/requirements.lock > requirements.lock
	sed -n 's/ \\$$//; /==/p' requirements.lock requirements-torch.lock > $(VENV)-lock/known.txt
	$(LOCKER) --extra aws --extra s3 --extra dev --constraint $(VENV)-lock/known.txt --output-file $(VENV)-lock/requirements-dev.lock \
	    $$(sed 's/==.*//; s/^/--no-emit-package /' $(VENV)-lock/known.txt) > /dev/null
	$(WITHOUT_TORCH) $(VENV)-lock/requirements-dev.lock > requirements-dev.lock
	rm -rf $(VENV)-lock

# What can be made again; finished runs are not among it.
clean:
	rm -rf $(VENV) $(VENV)-lock .pytest_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +

clean-runs:
	rm -rf runs
