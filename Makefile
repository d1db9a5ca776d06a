# Everything a developer runs. Each task does its own set-up on a fresh checkout.

PYTHON ?= python3
# One wheel serves every version, so everything is built and tried in one folder.
VENV := build/venv
SITE := build/site
PY := $(VENV)/bin/python
# Or "others": all but the default one.
PYTHONS ?= all
# Two at a time: most tests are a process of their own, and wait for it.
PYTEST := LEAKTIGHT_SITE=$(SITE) $(PY) -m pytest -q -n 2 --dist worksteal
PLUGIN_TESTS := $(wildcard tests/test_pytest_*.py)
# The packages that the tests use, without their versions.
NEWEST := $(shell sed -nE 's/^([a-z-]+)==[^;]*(; python_version >= .*)?$$/\1/p' tests/requirements.txt)
RUST := $(shell find crates -name '*.rs') Cargo.toml Cargo.lock $(wildcard crates/*/Cargo.toml)

.PHONY: help demo test test-rust test-python test-thorough test-pythons test-free-threaded check-free-threaded test-pytests test-pytests-quick test-newest test-newer test-aarch64 check bench bench-suites sanitize soak mutants check-platforms clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

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

test-pythons: $(SITE)/.done ## the zoos, faults, clean calls, resources and the test case on every CPython 3.9 to 3.15 that is found here, with a GIL and without
	LEAKTIGHT_PYTHONS=$(PYTHONS) $(PYTEST) \
		tests/test_zoo.py tests/test_references.py tests/test_clean_calls.py tests/test_pythons.py \
		tests/test_resources.py tests/test_testcase.py tests/test_testcase_checkers.py tests/test_faults.py tests/test_modes.py tests/test_free_threaded.py

test-free-threaded: $(SITE)/.done ## the same tests without a GIL, on CPython 3.14t and 3.15t where they are on PATH or pyenv's; says what was not run
	LEAKTIGHT_PYTHONS=free-threaded $(PYTEST) tests/test_free_threaded.py tests/test_zoo.py tests/test_clean_calls.py \
		tests/test_pythons.py tests/test_resources.py tests/test_testcase.py tests/test_testcase_checkers.py tests/test_faults.py tests/test_modes.py

# A file with what the build would ask an interpreter, since there may be none here.
check-free-threaded: ## compile the module for interpreters without a GIL, as far as types: needs none
	@for version in 3.14 3.15; do \
		folder=$(CURDIR)/build/free-threaded/check-$$version; mkdir -p $$folder; \
		printf 'version=%s\nbuild_flags=Py_GIL_DISABLED\n' $$version >$$folder/config; \
		echo "cargo check for CPython $${version}t"; \
		PYO3_CONFIG_FILE=$$folder/config CARGO_TARGET_DIR=$$folder \
			cargo clippy --quiet --locked -p leaktight-python -- -D warnings || exit 1; \
	done

test-pytests: $(SITE)/.done ## the pytest plugin with the oldest, a middle and the newest pytest, on CPython 3.9 and 3.13
	LEAKTIGHT_SITE=$(SITE) $(PY) tests/pytests.py

test-pytests-quick: $(SITE)/.done ## of these the oldest and the newest, and the tests that say most
	LEAKTIGHT_SITE=$(SITE) $(PY) tests/pytests.py --quick

test-newest: $(SITE)/.done ## the tests beside other people's packages, with the newest release of each
	rm -rf build/newest build/packages-newest
	$(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade $(NEWEST)
	LEAKTIGHT_SITE=$(SITE) LEAKTIGHT_NEWEST=1 build/newest/bin/python -m pytest -q \
		tests/test_types.py $(PLUGIN_TESTS) tests/test_testcase.py tests/test_testcase_checkers.py tests/test_heap.py tests/test_clean_calls.py

test-newer: $(SITE)/.done ## the same with newer CPythons, C libraries and compilers, in chroots of Debian: needs root, and says what was not run
	$(PY) tests/zoo/build.py --out build/zoo --language rust >/dev/null
	tests/newer.sh $(SITE) $(LEGS)

test-aarch64: $(VENV)/.done ## the wheel for aarch64, emulated by qemu with Debian's CPython, and in machines with Debian's kernel: needs root, and says what was not run
	tests/aarch64.sh $(PY)

check: ## what CI runs: formatting, lints, and all tests on all interpreters
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --release --quiet -- -D warnings
	$(MAKE) check-free-threaded test test-thorough test-pythons test-pytests-quick

check-platforms: ## the heap crate on every platform: checked for each, run where this machine can
	tests/check-platforms.sh

bench: $(SITE)/.done ## reproduce every figure that the docs quote, beside its rival
	PYTHONPATH=$(SITE) $(PY) benches/bench.py

bench-suites: $(SITE)/.done ## test suites of published packages with pytest --leaks; takes about an hour
	$(PY) benches/suites.py --package $(SITE)

soak: $(SITE)/.done ## both zoos fifty times over; no verdict may differ
	LEAKTIGHT_SITE=$(SITE) $(PY) tests/soak.py

sanitize: $(VENV)/.done ## the address and the thread sanitizer; needs a nightly toolchain, and says what was not run
	PY=$(PY) tests/sanitize.sh

# Fast builds, since there are hundreds; the tests look at figures, not at speed.
mutants: export CARGO_PROFILE_RELEASE_LTO = off
mutants: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS = 16
mutants: export CARGO_PROFILE_RELEASE_INCREMENTAL = true
mutants: export CARGO_PROFILE_RELEASE_DEBUG = 0
# The same random series for each, and a series that fails need not be made short.
mutants: export PROPTEST_RNG_SEED = 1
mutants: export PROPTEST_MAX_SHRINK_ITERS = 0
mutants: export PATH := $(CURDIR)/build/tools/bin:$(PATH)
mutants: MUTANTS = cargo mutants -p leaktight-verdict --profile release --jobs 1 --timeout 30 --output build/mutants
mutants: build/tools/bin/cargo-mutants ## break each rule of the verdict in turn: a test must fail; takes half an hour
	@# The tests of the files themselves, which are built fast, and all tests for what those miss (exit status 2 or 3).
	$(MUTANTS) -- --lib || test $$? -eq 2 -o $$? -eq 3
	$(MUTANTS) --iterate -- --lib --tests

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
