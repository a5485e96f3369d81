# The README's commands. They install everything into .venv, from this folder's files only.
PYTHON ?= python3
BIN    := .venv/bin
RAW    ?=
OUT    ?= $(if $(RAW),demo-raw,demo)

# Keep byte code even where the environment disables it: without it every start takes 2.5 s instead of 1.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo html test test-slow test-docker test-zoo lint bench bench-doctor bench-normbugs clean

setup: .venv/ready

# --no-compile: compile modules at their first import, instead of all of them now.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "skelnorm needs Python 3.11+; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,onnx]'
	@touch $@

# The main job, one command per line. The question's network in four arms: no norm, and BatchNorm called once per
# body, once over all bodies, and once over the present bodies.
TRAIN := $(BIN)/python -m pipeline.train demo --data $(OUT)/clips.h5 --nproc 2

demo: setup
ifeq ($(RAW),)
	@test -e $(OUT)/raw/truth.json || rm -rf $(OUT)/raw
	@test -e $(OUT)/raw || $(BIN)/python -m preprocessing.synthetic $(OUT)/raw --clips 720
endif
	$(BIN)/python -m preprocessing.build $(or $(RAW),$(OUT)/raw) --out $(OUT)/clips.h5
	$(TRAIN) --out $(OUT)/none --norm.kind none --norm.persons loop
	$(TRAIN) --out $(OUT)/bn-loop --norm.kind bn --norm.persons loop --norm.momentum 0.01
	$(TRAIN) --out $(OUT)/bn-fold --norm.kind bn --norm.persons fold
	$(TRAIN) --out $(OUT)/bn-masked --norm.kind bn --norm.persons masked
	$(BIN)/python -m pipeline.doctor $(OUT)/bn-loop --split test
	$(BIN)/python -m pipeline.doctor $(OUT)/bn-masked --split test
	$(BIN)/python -m tuning.search --data $(OUT)/clips.h5 --out $(OUT)/study --trials 4 --epochs 4 --frames 32
	@$(BIN)/python -m pipeline.page $(OUT)/none $(OUT)/bn-loop $(OUT)/bn-fold $(OUT)/bn-masked --study $(OUT)/study --out $(OUT)/report.html

# The documents as a site with search, in site/. It needs no network once the packages are installed.
html: setup
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,onnx,docs]'
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder html --conf-dir tests/site . site
	@echo "site/index.html"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/python docker/policy.py

# Two workers: tests run one thread each. Those of a group (xdist_group) run in one worker.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-slow: setup
	$(BIN)/python -m pytest -m slow -n 2 --dist loadgroup

# Build and run the image without a docker engine (as root; takes minutes).
test-docker: setup
	docker/test.sh

# Networks of other libraries, in an environment of their own (6 GB); minutes of two cores. Not in CI.
test-zoo: .venv-zoo/ready
	@rm -f bench-zoo/zoo.jsonl
	.venv-zoo/bin/python tests/zoo/run.py --out bench-zoo

.venv-zoo/ready: tests/zoo/requirements.txt
	$(PYTHON) -m venv .venv-zoo
	.venv-zoo/bin/pip install --quiet --no-compile --requirement tests/zoo/requirements.txt
	.venv-zoo/bin/pip install --quiet --no-compile --no-build-isolation fvcore==0.1.5.post20221221
	@touch $@

bench: setup
	$(BIN)/python tests/bench/build.py --growth 1000 5000 20000 60000 113945
	$(BIN)/python tests/bench/train.py
	$(BIN)/python tests/bench/models.py

# Half an hour of one core; one line per case; the same command resumes.
bench-doctor: setup
	$(BIN)/python tests/bench/doctor.py --out bench-doctor

# Twenty minutes of two cores; the same command resumes.
bench-normbugs: setup
	$(BIN)/python tests/bench/normbugs.py --out bench-normbugs

clean:
	rm -rf .venv .venv-zoo demo demo-raw .docker-test
