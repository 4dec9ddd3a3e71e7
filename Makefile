# Every command that a contributor or CI runs, under one name. CI runs what `make check` is made of, through .ci/run.
# Lint, docs and tests share the release profile: torch-sys' C++ build script then runs once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# CI passes --locked.
CARGO_FLAGS ?=
CARGO_BUILD := $(CARGO_FLAGS) --release

# A Python that has what bench/peers imports; by default one of our own.
PEER_PYTHON ?= .peers/bin/python
export PEER_PYTHON
PEER_VENV := $(filter .peers/bin/python,$(PEER_PYTHON))

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t26

.PHONY: tools
tools:
	@command -v cargo >/dev/null || { echo "cargo not found: install Rust 1.95 or newer (rustup), or put ~/.cargo/bin on PATH" >&2; exit 1; }
	@command -v $(CXX) >/dev/null || { echo "$(CXX) not found: Debian/Ubuntu: apt-get install g++" >&2; exit 1; }

.PHONY: setup
setup: tools ## fetch libtorch into .libtorch (once; `scripts/get-libtorch --cuda` for GPUs)
	@scripts/get-libtorch

.PHONY: build
build: setup ## build target/release/alexnet-mgpu
	cargo build $(CARGO_BUILD)

.PHONY: demo
demo: setup ## train the paper's two columns on generated images, on two CPU threads
	cargo run $(CARGO_BUILD) -- --config configs/demo.toml --device cpu --gpus 2 --mode split

.PHONY: test
test: setup ## all tests that need no GPU
	cargo test $(CARGO_BUILD)

.PHONY: test-gpu
test-gpu: setup ## the tests that need a GPU, and two with NCCL; they fail where there are none
	cargo test $(CARGO_BUILD) --test cuda_kernels --test collectives -- --ignored

.PHONY: lint
lint: setup ## rustfmt and clippy, warnings are errors; the fuzz targets compile
	cargo fmt --all --check
	cargo clippy $(CARGO_BUILD) --all-targets -- -D warnings
	cargo check $(CARGO_FLAGS) --manifest-path fuzz/Cargo.toml --target-dir target/fuzz

.PHONY: doc
doc: setup ## API docs, broken links are errors
	RUSTDOCFLAGS="-D warnings -D rustdoc::broken_intra_doc_links" cargo doc $(CARGO_BUILD) --no-deps

.PHONY: check
check: lint doc test ## what CI runs

.PHONY: peers
peers: .peers/.installed ## PyTorch to compare with, into .peers (several GB)

.peers/.installed: bench/peers/requirements.txt
	python3 -m venv .peers || { echo "Debian/Ubuntu: apt-get install python3-venv python3-dev" >&2; exit 1; }
	.peers/bin/python -m pip install -r $<
	touch $@

.PHONY: pipeline-peers
pipeline-peers: .peers/.pipeline-installed ## DALI, FFCV and others to compare the input pipeline with

.peers/.pipeline-installed: bench/peers/requirements-pipeline.txt bench/peers/install-ffcv .peers/.installed
	.peers/bin/python -m pip install -r $<
	bench/peers/install-ffcv .peers
	touch $@

.PHONY: golden
golden: $(if $(PEER_VENV),.peers/.installed) ## rewrite tests/golden from Python PyTorch and Pillow
	$(PEER_PYTHON) scripts/golden.py
	$(PEER_PYTHON) scripts/golden-pixels.py

.PHONY: bench
bench: build $(if $(PEER_VENV),.peers/.installed) ## time a training step against PyTorch (bench/README.md)
	bench/run-step --peer --batch 64 --precision bf16 --threads $$(nproc)

.PHONY: bench-pipeline
bench-pipeline: photographs build $(if $(PEER_VENV),.peers/.pipeline-installed) ## time the input pipeline (IMAGES=DIR)
	bench/run-pipeline --images "$(IMAGES)"

.PHONY: photographs
photographs:
	@test -n "$(IMAGES)" || { echo "name photographs: make bench-pipeline IMAGES=DIR, or a tar file" >&2; exit 1; }
