# Every target makes the environment that it needs, once; a second call is quick. `make` alone lists the targets.
# ARGS is handed to the command that a target runs: make test ARGS="-k manifest", make serve ARGS="--port 9000".

# Candidates for making the environments; the first that is Python 3.11 or newer does. `make PYTHON=/path/to/python3.12`.
PYTHON ?= python3 python3.13 python3.12 python3.11
TASK ?= image_classification
SCENARIO ?= locustfile
ARGS ?=
UV := uv==0.13.8
AUDIT := pip-audit==2.10.1

SERVE := .venv/serve/bin
DEV := .venv/dev/bin
CLIENTS := .venv/clients/bin
LOADTEST := .venv/loadtest/bin
FUZZ := .venv/fuzz/bin
CHART := .venv/chart/bin
IMAGE := .venv/image/bin
BROWSER := .venv/browser/bin
LOCK := .venv/lock/bin
AUDITED := .venv/audit/bin
PROTO := service/protocols/open_inference/grpc
COMPARED := bentoml fastapi litserve mlserver mosec ray triton

.DEFAULT_GOAL := help
.PHONY: help serve test test-clients test-browser coverage check audit proto train export loadtest loadtest-ci bench-hostile bench-speed bench-text bench-translate compare chaos soak fuzz image sbom chart test-emulated lock lock-compare clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

serve: $(SERVE)/.ready ## serve models/ on 127.0.0.1:8000 (INFERD_HOST, INFERD_PORT)
	$(SERVE)/inferd serve $(ARGS)

# In two processes: those that start servers, which mostly wait for them, one after the other in one of the two.
test: $(DEV)/.ready ## run every test (with INFERD_DATA_DIR those on real data too)
	$(DEV)/python -m pytest -n 2 --dist loadgroup $(ARGS)

# Each pytest is a process of its own: the two clients' messages have the same names, and only one of them gets those.
test-clients: $(SERVE)/.ready $(CLIENTS)/.ready ## call a server with the clients of Triton, KServe, OpenAI, Hugging Face and LibreTranslate
	$(CLIENTS)/python -m pytest --confcutdir tests/clients tests/clients/triton $(ARGS) $(or_none_chosen)
	$(CLIENTS)/python -m pytest --confcutdir tests/clients tests/clients/kserve $(ARGS) $(or_none_chosen)
	$(CLIENTS)/python -m pytest --confcutdir tests/clients tests/clients/text $(ARGS) $(or_none_chosen)

# Screenshots go to build/screenshots/.
test-browser: $(SERVE)/.ready $(BROWSER)/.ready ## try the playground in a real browser (Debian's chromium)
	@$(require_chromium)
	$(BROWSER)/python -m pytest --confcutdir tests/browser tests/browser $(ARGS)

or_none_chosen = $(if $(ARGS),|| test $$? = 5)

coverage: $(DEV)/.ready ## run every test, and list the lines and branches that none reaches
	$(DEV)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

check: $(DEV)/.ready ## lint, formatting, types, import rules
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy
	$(DEV)/lint-imports

audit: $(AUDITED)/.ready ## ask for known weaknesses of what is locked for serving (needs the network)
	$(AUDITED)/pip-audit --strict --disable-pip --require-hashes -r requirements/serve.txt -r requirements/build.txt $(ARGS)

proto: $(DEV)/.ready ## generate the Python of the gRPC messages anew from their .proto
	cd $(PROTO) && $(CURDIR)/$(DEV)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. open_inference.proto

train: $(DEV)/.ready ## train a TASK (image_classification, image_generation, text_generation, translation); a run that was cut off goes on
	$(DEV)/python -m training $(TASK) train $(ARGS)

export: $(DEV)/.ready ## turn the trained TASK into a bundle under models/
	$(DEV)/python -m training $(TASK) export $(ARGS)

loadtest: $(LOADTEST)/.ready ## put load on a running server: loadtests/SCENARIO.py (locustfile)
	$(LOADTEST)/locust --headless --locustfile loadtests/$(SCENARIO).py $(ARGS)

# Thresholds that a slow machine keeps as well: they are for what breaks, not for what is slow.
loadtest-ci: $(SERVE)/.ready $(LOADTEST)/.ready ## 30 s of mixed load on a server of its own; fails past a threshold
	$(SERVE)/python loadtests/run_locust.py $(LOADTEST)/locust --users 12 --spawn-rate 12 --run-time 30s --pause 0.2 --only-summary \
	  --tasks-wanted image-classification,text-generation,translation,text-to-image $(ARGS)

chaos: $(SERVE)/.ready ## kill a server's workers under load, fifty times; fails where more than requests in flight is lost
	$(SERVE)/python loadtests/chaos.py --output loadtests/results $(ARGS)

soak: $(SERVE)/.ready ## ask a server for everything for 20 minutes (ARGS="--minutes 5"); fails on a wrong or lost answer, or where memory grows
	$(SERVE)/python loadtests/soak.py --output loadtests/results $(ARGS)

bench-hostile: $(SERVE)/.ready ## measure what hostile requests do to a server and to its other clients
	$(SERVE)/python loadtests/hostile.py --output loadtests/results $(ARGS)

bench-speed: $(SERVE)/.ready ## measure what is promised of plain networks' speed beside ONNX Runtime alone (a quarter of an hour)
	$(SERVE)/python loadtests/bench_speed.py --output loadtests/results $(ARGS)

bench-translate: $(SERVE)/.ready ## measure translation beside the raw limit of its graphs
	$(SERVE)/python loadtests/bench_translate.py --output loadtests/results $(ARGS)

bench-text: $(SERVE)/.ready ## measure text generation beside the raw limit of its graph
	$(SERVE)/python loadtests/bench_text.py --output loadtests/results $(ARGS)

compare: $(SERVE)/.ready $(COMPARED:%=.venv/compare/%/bin/.ready) ## measure inferd beside other servers of the same ONNX file
	$(SERVE)/python -m loadtests.compare --output loadtests/results $(ARGS)

# Cases are found anew in each run; what one has found again: ARGS="--seed N --only NAME".
fuzz: $(DEV)/.ready $(FUZZ)/.ready ## fuzz a server of its own for 5 minutes (ARGS="--seconds 30"); fails on what it finds
	$(DEV)/python -m tests.fuzz --schemathesis $(FUZZ)/schemathesis $(ARGS)

# Where nobody may install or run them as root, Docker or Podman builds it as `inferd`, and it stays untested.
image: $(IMAGE)/.ready ## build the container image and run it hardened: answers, SIGTERM under load, memory limits, what is in it
	@$(bring_builders); \
	if $(can_build); then \
	  $(IMAGE)/python -m pytest --confcutdir tests/deploy/image tests/deploy/image $(ARGS); \
	else \
	  engine=$$(command -v docker || command -v podman) || { \
	    echo "make image: needs docker or podman, or root and Debian's packages $(BUILDERS)" >&2; exit 1; }; \
	  "$$engine" build --tag inferd . && \
	  echo "make image: built as inferd, and not tested: that takes root and Debian's packages $(BUILDERS)"; \
	fi

sbom: $(IMAGE)/.ready ## write what is in the image `inferd` (another: FROM=NAME) to build/inferd.cdx.json (CycloneDX)
	@mkdir -p build
	$(IMAGE)/python -m deploy.sbom $(or $(FROM),inferd) build/inferd.cdx.json

# What can't be had here is skipped, and said at the end. nginx and Prometheus are started by the tests, on loopback only.
chart: $(SERVE)/.ready $(CHART)/.ready ## check the Helm chart, its alerts and dashboard on real servers, and rollouts under load
	@$(bring_nginx_and_prometheus)
	$(CHART)/python -m pytest --confcutdir tests/deploy/chart tests/deploy/chart $(ARGS)

# An x86-64 CPU with AVX2 and no VNNI: int8 arithmetic saturates there where a newer CPU's doesn't. What is taken off it
# are features for operating systems, which qemu doesn't emulate and would warn of in every thread.
EMULATED := qemu-x86_64 -cpu Haswell-noTSX,-pcid,-x2apic,-tsc-deadline,-invpcid
test-emulated: $(SERVE)/.ready ## replay the shipped bundles on an emulated older CPU (Debian's qemu-user)
	@$(require_qemu)
	$(EMULATED) $(SERVE)/python -m service.cli verify $(ARGS)

lock: $(LOCK)/.ready ## remake requirements/ from pyproject.toml (newest of all: ARGS=--upgrade)
	echo setuptools | $(compile) --generate-hashes - --output-file requirements/build.txt
	$(compile) --generate-hashes pyproject.toml --extra cpu --excludes requirements/unneeded.in --output-file requirements/serve.txt
	$(compile) --generate-hashes pyproject.toml --extra gpu --excludes requirements/unneeded.in --output-file requirements/serve-gpu.txt
	$(compile) pyproject.toml --extra cpu --extra tracing --extra training --extra dev --constraints requirements/serve.txt \
	  --excludes requirements/unlocked.in --output-file requirements/test.txt
	$(compile) pyproject.toml --extra loadtest --constraints requirements/serve.txt --output-file requirements/loadtest.txt
	$(compile) --group clients --output-file requirements/clients.txt
	$(compile) --group browser --output-file requirements/browser.txt
	$(compile) --group fuzz --output-file requirements/fuzz.txt
	$(compile) --group chart --output-file requirements/chart.txt
	$(compile) --group image --output-file requirements/image.txt

lock-compare: $(LOCK)/.ready ## remake the requirements of the servers that `make compare` compares
	for peer in $(COMPARED); do \
	  $(compile) loadtests/compare/$$peer/requirements.in --output-file loadtests/compare/$$peer/requirements.txt || exit 1; \
	done

clean: ## remove the environments, caches and build products
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage htmlcov
	find service training tests loadtests -type d -name __pycache__ -prune -exec rm -rf {} +

# The environments. Each .ready is a stamp: newer than what it was made from, it stands for the whole environment.

$(SERVE)/.ready: requirements/serve.txt requirements/build.txt pyproject.toml
	$(call environment,serve,--require-hashes --no-deps -r requirements/serve.txt -r requirements/build.txt,inferd)

$(DEV)/.ready: requirements/test.txt pyproject.toml
	$(call environment,dev,-r requirements/test.txt,inferd)

$(LOADTEST)/.ready: requirements/loadtest.txt
	$(call environment,loadtest,-r requirements/loadtest.txt)

$(FUZZ)/.ready: requirements/fuzz.txt
	$(call environment,fuzz,-r requirements/fuzz.txt)

$(IMAGE)/.ready: requirements/image.txt
	$(call environment,image,-r requirements/image.txt)

$(BROWSER)/.ready: requirements/browser.txt
	$(call environment,browser,-r requirements/browser.txt)

$(CHART)/.ready: requirements/chart.txt
	$(call environment,chart,-r requirements/chart.txt)

$(CLIENTS)/.ready: requirements/clients.txt
	$(call environment,clients,-r requirements/clients.txt)

# One that can't be made is no reason not to compare the others: the minus. What pip says of it goes into the result.
.venv/compare/%/bin/.ready: loadtests/compare/%/requirements.txt
	-$(call environment,compare/$*,-r $< 2>.venv/compare/$*.log)

$(AUDITED)/.ready: Makefile
	$(call environment,audit,$(AUDIT))

$(LOCK)/.ready: Makefile
	$(call environment,lock,$(UV))

# $(call environment,NAME,ARGUMENTS FOR PIP,inferd or nothing): makes or mends .venv/NAME, and puts this checkout into it
# as an editable package if asked to. Where flock exists, a second make that wants the same environment waits for the first.
define environment
@mkdir -p $(dir .venv/$(1)); exec 9>.venv/$(1).lock; flock 9 2>/dev/null || true; \
set -e; echo "making .venv/$(1) with $(python)"; \
$(python) -m venv .venv/$(1); \
.venv/$(1)/bin/python -m pip install -qq --disable-pip-version-check $(2); \
$(if $(3),.venv/$(1)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .;) \
touch $@
endef

usable = $(shell $(1) -c 'import sys; sys.version_info >= (3, 11) and print("$(1)")' 2>/dev/null)
python = $(or $(firstword $(foreach candidate,$(PYTHON),$(call usable,$(candidate)))),$(error inferd needs Python 3.11 \
  or newer, and found none as: $(PYTHON). Name one with "make PYTHON=/path/to/python3.12"))

# One lock for Python 3.11 and newer on every platform, and one version of a package in it.
compile = $(LOCK)/uv --no-config pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
  --custom-compile-command "make lock" $(ARGS)

define require_qemu
command -v qemu-x86_64 >/dev/null || { \
  test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
    echo "make test-emulated: needs qemu-x86_64 (Debian's package qemu-user)" >&2; exit 1; }; \
  apt-get -o DPkg::Lock::Timeout=300 update -qq && \
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends qemu-user >/dev/null; }
endef

BUILDERS := buildah podman crun catatonit debootstrap
can_build = (test "$$(id -u)" = 0 || exit 1; for one in buildah podman crun debootstrap; do command -v $$one >/dev/null || exit 1; done)

define bring_builders
$(can_build) || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { \
  apt-get -o DPkg::Lock::Timeout=300 update -qq; \
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
    $(BUILDERS) >/dev/null; } || true; }
endef

define bring_nginx_and_prometheus
command -v nginx >/dev/null && command -v promtool >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { \
  apt-get -o DPkg::Lock::Timeout=300 update -qq; \
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
    nginx-light prometheus >/dev/null; } || true; }
endef

# INFERD_CHROMIUM names another one, such as a Chrome that is installed.
define require_chromium
test -n "$$INFERD_CHROMIUM" || command -v chromium >/dev/null || { \
  test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
    echo "make test-browser: needs chromium (Debian's package of this name), or INFERD_CHROMIUM=/path/to/chrome" >&2; exit 1; }; \
  apt-get -o DPkg::Lock::Timeout=300 update -qq && \
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends chromium >/dev/null; }
endef
