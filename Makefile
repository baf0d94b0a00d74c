# Everything runs in .venv, which `make setup` makes and every other target needs.
PYTHON ?= python3.11
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Training and tests share two cores with servers: one thread each is faster than two that wait for each other.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-all test-gpu gpu-wheels test-browser test-services services test-lowest browser lint docs format protos bench fuzz compose-demo compose-down compose-test wheels dist clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	lrpilot demo --out out/demo

# Three at once, since many wait: a file's tests stay together, and files in their order, in which what uses JAX comes last.
test: setup
	python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder

test-all: setup browser services
	python -m pytest -m 'not containers'

# On a GPU: what is made for one, then the client's own tests with all their tensors on it, then what hook and snapshot
# cost there. Where there is none it says so, and fails. It runs on the PyTorch of `python3`, or of PYTHON if that is given,
# and installs beside it what the tests need, from the folder WHEELS if one is given: then it needs no network. That
# PyTorch's deprecations are no errors of ours.
GPU := .venv-gpu
GPU_PYTHON := $(if $(filter file,$(origin PYTHON)),python3,$(PYTHON))
GPU_PYTEST := $(GPU)/bin/python -m pytest --noconftest -p tests.support.device_plugin -W default
GPU_TESTS := tests/unit/client/backends/torch/rollback/test_snapshot.py \
	tests/unit/client/backends/torch/rollback/test_optimizer_states.py \
	tests/unit/client/backends/torch/rollback/test_snapshot_matrix.py \
	tests/unit/client/backends/torch/test_losses.py tests/unit/client/backends/torch/test_group_lrs.py \
	tests/unit/client/backends/torch/test_lr_tensors.py \
	tests/unit/client/test_rng.py tests/e2e/test_loops.py
test-gpu:
	$(GPU_PYTHON) -m tests.gpu_environment make $(GPU) $(if $(WHEELS),--wheels '$(WHEELS)')
	$(GPU_PYTEST) -m gpu tests/gpu
	$(GPU_PYTEST) -m '' --on=cuda $(GPU_TESTS)
	mkdir -p out
	$(GPU)/bin/python -m benchmarks.device --json out/device.json

# Wheels for `make test-gpu` on a machine that has no network, for its version of Python: GPU_PYTHON_VERSION=3.13 for another.
GPU_PYTHON_VERSION ?= 3.12
gpu-wheels: setup
	python -m tests.gpu_environment fetch '$(or $(WHEELS),build/gpu-wheels)' --python $(GPU_PYTHON_VERSION)

# On the lowest versions that pyproject.toml allows, in an environment of its own. Says where no index has the lowest. The
# lowest PyTorch on PyPI is its build with CUDA, 6 GB; PIP_EXTRA_INDEX_URL can name PyTorch's index of CPU builds. Old
# packages use what newer ones beneath them deprecate, which is no error of ours.
test-lowest: $(LOWEST)/.installed
	PYTEST_ADDOPTS='-W ignore::DeprecationWarning' $(LOWEST)/bin/python -m pytest tests/unit tests/contract tests/e2e tests/integrations

$(LOWEST)/.installed: pyproject.toml constraints.txt tests/lowest.py | setup
	mkdir -p build
	python -m tests.lowest build/lowest.txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --progress-bar off -c build/lowest.txt -e '.[server,otel,demo,frameworks,test]'
	touch $@

# The dashboard, in a real browser. Beside `make test` since that one needs no right to install Chromium.
test-browser: setup browser
	python -m pytest -m 'not containers' tests/browser

# Behind Debian's nginx and PgBouncer, as they are documented.
test-services: setup services
	python -m pytest -m 'not containers' tests/services

services:
	PATH=$$PATH:/usr/sbin; { command -v nginx && command -v pgbouncer; } || { apt-get update && apt-get install --yes --no-install-recommends nginx-light pgbouncer; }

# Debian's Chromium.
browser:
	command -v chromium || { apt-get update && apt-get install --yes chromium; }

lint: setup docs
	ruff check .
	ruff format --check .
	mypy
	cd protos && buf lint
	protos/check.sh
	towncrier build --draft --version next > build/news.md

# The site, from docs/ and docstrings. A warning is an error; with --quiet none would be counted.
docs: setup
	NO_MKDOCS_2_WARNING=1 mkdocs build

format: setup
	ruff check --fix .
	ruff format .

protos: setup
	protos/generate.sh $(CURDIR)/client

bench: setup browser
	mkdir -p out/bench
	python -m benchmarks.suggest --json out/bench/suggest.json --plot out/bench/suggest.png
	python -m benchmarks.hook --json out/bench/hook.json --plot out/bench/hook.png
	python -m benchmarks.snapshot --json out/bench/snapshot.json --plot out/bench/snapshot.png
	python -m benchmarks.regret --tables out/bench/oracle.jsonl --json out/bench/regret.json --plot out/bench/regret.png
	python -m benchmarks.regret.later --json out/bench/regret-later.json
	python -m benchmarks.picks --json out/bench/picks.json --plot out/bench/picks.png
	python -m benchmarks.load --quick --json out/bench/load.json --plot out/bench/load.png
	python -m benchmarks.connections --json out/bench/connections.json --plots out/bench
	python -m benchmarks.family --quick --json out/bench/family.json --plot out/bench/family.png
	python -m benchmarks.sensitivity --json out/bench/sensitivity.json
	python -m benchmarks.quality.fresh_seeds --steps 1000 --seeds 2 --workers 2 --json out/bench/fresh-seeds.json --plots out/bench
	python -m benchmarks.late_endings --steps 1000 --seeds 2 --workers 2 --json out/bench/late-endings.json --plots out/bench
	python -m benchmarks.hyperparameters --json out/bench/hyperparameters.json --plots out/bench
	python -m benchmarks.random_trainings --trainings 95 --json out/bench/random.json --plots out/bench
	python -m benchmarks.warnings --quick --json out/bench/warnings-quick.json
	python -m benchmarks.dashboard --json out/bench/dashboard.json --plot out/bench/dashboard.png
	python -m benchmarks.answers --json out/bench/answers.json --plot out/bench/answers.png
	python -m benchmarks.quality --quick --workers 2 --json out/bench/quality-quick.json
	python -m benchmarks.language_model --tiny --workers 2 --json out/bench/language-model-tiny.json --plots out/bench
	python -m benchmarks.scale --measure --json out/bench/scale.json --plots out/bench
	python -m benchmarks.onthefly --quick --workers 2 --json out/bench/onthefly-quick.json

# What fuzzers make up for servers and for clients, ten minutes each. The suite has short rounds of its own.
fuzz: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	python -m tests.fuzz.fuzz_wire -max_total_time=600
	python -m tests.fuzz.fuzz_client --seconds 600
	python -m tests.simulation --seconds 600

# The demo in containers. It needs Docker, with compose v2 or docker-compose 1.29, and nothing else: docs/containers.md.
compose-demo:
	docker/demo.sh out/compose

compose-down:
	docker/compose.sh --profile export --profile grafana down --volumes --remove-orphans

# Runs it, and looks at what it left, under a name and on ports of its own.
compose-test: setup wheels
	python -m pytest -m containers tests/containers

# PyTorch's CPU build for the images, by this machine's pip: for machines that pip has other sources for than the images do.
wheels: setup
	ls docker/wheels/torch-*.whl || pip download --no-deps --dest docker/wheels --constraint constraints.txt \
	    --extra-index-url $${TORCH_INDEX:-https://download.pytorch.org/whl/cpu} torch

# What is released: sdist and wheel, and a run with the wheel and PyTorch alone, in an environment of its own.
dist: setup
	rm -rf dist build/smoke
	python -m build
	twine check --strict dist/*
	$(PYTHON) -m venv build/smoke
	build/smoke/bin/python -m pip install --progress-bar off -c constraints.txt "$$(echo dist/*.whl)[server]" torch
	cd build/smoke && bin/lrpilot --version && bin/python -I $(CURDIR)/examples/text.py

clean:
	rm -rf $(VENV) $(LOWEST) $(GPU) build dist out .mypy_cache .pytest_cache .ruff_cache .hypothesis
