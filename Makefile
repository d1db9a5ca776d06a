# Everything a developer runs. Each task does its own set-up on a fresh checkout.

PYTHON ?= python3
# One wheel serves every version, so everything is built and tried in one folder.
VENV := build/venv
SITE := build/site
PY := $(VENV)/bin/python
# Two at a time: most tests are a process of their own, and wait for it.
PYTEST := LEAKTIGHT_SITE=$(SITE) $(PY) -m pytest -q -n 2 --dist worksteal
# The packages that the tests use, without their versions.
NEWEST := $(shell sed -nE 's/^([a-z-]+)==[^;]*(; python_version >= .*)?$$/\1/p' tests/requirements.txt)
RUST := $(shell find crates -name '*.rs') Cargo.toml Cargo.lock $(wildcard crates/*/Cargo.toml)

.PHONY: help demo test test-rust test-python test-thorough test-pythons test-newest check bench bench-suites sanitize soak mutants check-platforms clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(SITE)/.done ## show a real leak report: a bundled extension, and a published package
	@$(PY) tests/demo.py

test: test-rust test-python ## run all tests with the default interpreter

# Without link-time optimisation, which would be done again for each of the many test programs.
test-rust: ## the Rust crates, and a crate of a user's
	cargo test --workspace --release --quiet --locked --config 'profile.release.lto="off"'
	CARGO_TARGET_DIR=build/rust-user cargo test --quiet --locked --manifest-path tests/rust-user/Cargo.toml

test-python: $(SITE)/.done ## behaviour tests with the default interpreter
	$(PYTEST) -m "not thorough"

test-thorough: $(SITE)/.done ## the behaviour tests that `make test` leaves out, because they only repeat or sweep
	$(PYTEST) -m thorough

test-pythons: $(SITE)/.done ## the zoos, faults, clean calls, resources and the test case on every CPython 3.9 to 3.13 that is found here
	LEAKTIGHT_PYTHONS=all $(PYTEST) \
		tests/test_zoo.py tests/test_references.py tests/test_clean_calls.py tests/test_pythons.py \
		tests/test_resources.py tests/test_testcase.py tests/test_faults.py

test-newest: $(SITE)/.done ## the tests beside other people's packages, with the newest release of each
	rm -rf build/newest build/packages-newest
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade $(NEWEST)
	LEAKTIGHT_SITE=$(SITE) LEAKTIGHT_NEWEST=1 build/newest/bin/python -m pytest -q \
		tests/test_types.py tests/test_pytest_plugin.py tests/test_testcase.py tests/test_heap.py tests/test_clean_calls.py

check: ## what CI runs: formatting, lints, and all tests on all interpreters
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release --quiet -- -D warnings
	$(MAKE) test test-thorough test-pythons

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

# Fast builds, since there are hundreds; the tests look at figures, not at speed.
mutants: export CARGO_PROFILE_RELEASE_LTO = off
mutants: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS = 16
mutants: export CARGO_PROFILE_RELEASE_INCREMENTAL = true
mutants: export CARGO_PROFILE_RELEASE_DEBUG = 0
mutants: build/tools/bin/cargo-mutants ## break each rule of the verdict in turn: a test must fail; takes an hour or two
	PATH="$(CURDIR)/build/tools/bin:$$PATH" cargo mutants -p leaktight-verdict --profile release --jobs 1 --timeout 60 --output build/mutants

build/tools/bin/cargo-mutants:
	CARGO_TARGET_DIR=build/tools/target cargo install --quiet --locked --root build/tools --version 25.3.1 cargo-mutants
	rm -rf build/tools/target

clean: ## remove what was built
	rm -rf build target

$(VENV)/.done: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade --no-deps -r tests/requirements.txt
	$(PY) -m pip --disable-pip-version-check check
	touch $@

# The wheel as a user gets it, unpacked.
$(SITE)/.done: $(VENV)/.done pyproject.toml $(RUST) $(wildcard python/leaktight/* python/leaktight/*/*)
	$(PY) -m maturin build --release --quiet --out build/wheels
	rm -rf $(SITE)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $(SITE) \
		"$$(ls -t build/wheels/leaktight-*.whl | head -n 1)"
	touch $@
