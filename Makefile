# Two commands do everything: `make run` and `make test`. Both install what they need first.
#
#   make run                       install, start Airflow, turn the wheel once, leave the UI up
#   make run-nemo                  the same with the jobs on a stand-in for the NeMo microservices
#   make test                      install, lint, type-check, all tests but the drills (docs/testing.md)
#   make coverage                  what the unit tests reach, also as HTML: build/coverage
#   make drills                    the drills alone: hours; before a release, logged in docs/LOG.md
#   make test-kubernetes           of these, the tests on a cluster: KUBECONFIG's, else one built here (needs root and Go)
#   make install                   the set-up alone
#   make install-vllm              a vLLM for CPUs, which tests and benchmarks of serving stand beside (6 GB)
#   make ui                        build the results page anew (Node; users need none: the bundle is committed)
#   make bench NAME=curate ARGS=--quick
#   make lock                      compile the requirements files anew from pyproject.toml, and NOTICE of them
#   make sbom                      what each installation consists of, as CycloneDX: build/sbom
#   make pin-images images         digests of base images into docker/.env; build our images on them (PREFIX=...)
#
# Where torch comes from: by default the package index in use, whose Linux build brings CUDA (4.7 GB).
#   make lock-torch TORCH_INDEX=URL   once: the hashes of that index's torch, such as a CPU-only build
#   make install TORCH_INDEX=URL      take torch from there

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
LOCKS := requirements.txt requirements-students.txt requirements-dev.txt requirements-uv.txt
INSTALL := PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" scripts/install.sh

.PHONY: run run-nemo test what-test-needs coverage drills install install-dev install-vllm lint test-unit test-search test-integration test-kubernetes test-on-nodes \
        drills-search drills-integration drills-kubernetes ui bench lock lock-torch notice sbom pin-images images clean

run: install
	@./flywheel up

run-nemo: $(VENV)/installed-nemo
	@./flywheel up --nemo-stand-in

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml $(LOCKS) scripts/install.sh
	@$(INSTALL) requirements.txt requirements-students.txt
	@./flywheel prepare
	@touch $@

$(VENV)/installed-nemo: $(VENV)/installed requirements-nemo.txt
	@$(INSTALL) requirements-nemo.txt
	@touch $@

install-vllm: .tools/vllm/installed

.tools/vllm/installed: requirements-vllm.txt scripts/install_vllm.sh
	@PYTHON="$(PYTHON)" scripts/install_vllm.sh
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(INSTALL) requirements-dev.txt
	@touch $@

SLOWEST := --durations 25 --durations-min 15

# Of the slow ones those of Airflow and those of a cluster and a search node are done beside each other: each
# waits for half of its time. A target's output comes when it has ended. vLLM comes before, as the disk that is
# free when they begin decides which images are made.
test: what-test-needs lint test-unit
	-@$(MAKE) --no-print-directory install-vllm
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-integration test-on-nodes

test-on-nodes: test-kubernetes
	@$(MAKE) --no-print-directory test-search

what-test-needs:
	@echo "make test: about 45 minutes on two cores, and the first time 7 GB here for libraries (CUDA's among them), 6 GB for a vLLM,"
	@echo "Java and Maven for Elasticsearch, root on Linux, Go and 24 GB for a cluster; what cannot be is skipped with its reason."
	@df -Pk . | awk 'NR == 2 { printf "%.0f GB are free in $(CURDIR).\n", $$4 / 1048576 }'

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry include dags plugins
	$(BIN)/deptry tests benchmarks scripts examples --ignore DEP002,DEP004
	$(BIN)/python scripts/dead_code.py
	$(BIN)/python scripts/lengths.py

test-unit: install-dev
	$(BIN)/pytest tests/unit -n 2

# Lines and branches of the package that the unit tests reach; what Airflow, a cluster or a GPU runs is beyond them.
coverage: install-dev
	$(BIN)/pytest tests/unit -n 2 --cov --cov-report=term --cov-report=html:build/coverage

# On an Elasticsearch node that is fetched the first time (Java and Maven needed, see tests/search).
test-search: install-dev
	$(BIN)/pytest tests/search

# Where there is no vLLM for this machine its tests are skipped; with CI=true they fail.
test-integration: install-dev
	-@$(MAKE) --no-print-directory install-vllm
	$(BIN)/pytest tests/integration $(SLOWEST)

# Skipped with its reason where there is no cluster and none can be built; with CI=true that is a failure.
test-kubernetes: install-dev
	$(BIN)/pytest tests/e2e -s --timeout 2700 $(SLOWEST)

# Each by itself, also after another has failed with --keep-going.
drills: drills-search drills-integration drills-kubernetes

DRILLS := FLYWHEEL_DRILL=full $(BIN)/pytest -m drill -s --timeout 2700

drills-search: install-dev
	$(DRILLS) tests/search

drills-integration: install-dev
	$(DRILLS) tests/integration

drills-kubernetes: install-dev
	$(DRILLS) tests/e2e

# The types of the page's source are made from the API's OpenAPI document first.
ui: install-dev
	cd ui && npm ci --no-audit --no-fund
	$(BIN)/python scripts/page_types.py
	cd ui && npm run build

bench: install-dev
	@$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

lock:
	scripts/lock.sh
	@$(BIN)/python scripts/notice.py

lock-torch:
	@PYTHON="$(PYTHON)" scripts/install.sh --uv
	scripts/lock.sh --torch-index "$(TORCH_INDEX)"

notice: install-dev
	@$(BIN)/python scripts/notice.py

sbom: install-dev
	scripts/sbom.sh

pin-images:
	scripts/images.sh pin

images:
	TORCH_INDEX="$(TORCH_INDEX)" scripts/images.sh build "$(PREFIX)"

clean:
	rm -rf $(VENV) .tools state artifacts
