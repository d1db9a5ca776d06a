# Everything a developer runs. Each task does its own set-up on a fresh checkout.

PYTHON ?= python3
# One wheel serves every version, so everything is built and tried in one folder.
VENV := build/venv
SITE := build/site
PY := $(VENV)/bin/python
RUST := $(shell find crates -name '*.rs') Cargo.toml Cargo.lock $(wildcard crates/*/Cargo.toml)

.PHONY: help demo test test-rust test-python test-pythons check bench bench-suites sanitize soak check-platforms clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(SITE)/.done ## show a real leak report: a bundled extension, and a published package
	@$(PY) tests/demo.py

test: test-rust test-python ## run all tests with the default interpreter

test-rust: ## the Rust crates, and a crate of a user's
	cargo test --workspace --release --quiet
	CARGO_TARGET_DIR=build/rust-user cargo test --quiet --manifest-path tests/rust-user/Cargo.toml

test-python: $(SITE)/.done ## behaviour tests with the default interpreter
	LEAKTIGHT_SITE=$(SITE) $(PY) -m pytest -q

test-pythons: $(SITE)/.done ## the zoos, clean calls, resources and the test case on every CPython 3.9 to 3.13 that is found here
	LEAKTIGHT_SITE=$(SITE) LEAKTIGHT_PYTHONS=all $(PY) -m pytest -q \
		tests/test_zoo.py tests/test_references.py tests/test_clean_calls.py tests/test_pythons.py \
		tests/test_resources.py tests/test_testcase.py

check: ## what CI runs: formatting, lints, and all tests on all interpreters
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release --quiet -- -D warnings
	$(MAKE) test test-pythons

check-platforms: ## the heap crate on every platform: checked for each, run where this machine can
	tests/check-platforms.sh

bench: $(SITE)/.done ## reproduce every figure that the docs quote, beside its rival
	PYTHONPATH=$(SITE) $(PY) benches/bench.py

bench-suites: $(SITE)/.done ## test suites of published packages with pytest --leaks; takes about an hour
	$(PY) benches/suites.py --package $(SITE)

soak: $(SITE)/.done ## the whole zoo fifty times over; no verdict may differ
	LEAKTIGHT_SITE=$(SITE) $(PY) tests/soak.py

sanitize: $(VENV)/.done ## the address and the thread sanitizer; needs a nightly toolchain, and says what was not run
	PY=$(PY) tests/sanitize.sh

clean: ## remove what was built
	rm -rf build target

$(VENV)/.done: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=23' 'maturin>=1.9,<2' -r tests/requirements.txt
	touch $@

# The wheel as a user gets it, unpacked.
$(SITE)/.done: $(VENV)/.done pyproject.toml $(RUST) $(wildcard python/leaktight/* python/leaktight/*/*)
	$(PY) -m maturin build --release --quiet --out build/wheels
	rm -rf $(SITE)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $(SITE) \
		"$$(ls -t build/wheels/leaktight-*.whl | head -n 1)"
	touch $@
