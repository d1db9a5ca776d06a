#!/usr/bin/env bash
# The address and the thread sanitizer over our own code, as far as this machine has what they need.
# What was not run is said, and does not count as passed. Settings: PY, an interpreter with pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

PY=${PY:-python3}
HOST=$(rustc -vV | sed -n 's/^host: //p')
RUN=()
NOT_RUN=()

say() { printf '\n== %s\n' "$*"; }

# The runtime library is a shared one, preloaded: linked into a program, as rustc does it, its malloc would be
# called without a relocation slot, and no hook would see it (the control notices, and nothing is clean). It
# must be GCC's: rustc's has no shared form, and clang's asks for the other's flags.
address() {
  local runtime site=build/asan/site
  runtime=$(cc -print-file-name=libasan.so)
  if [[ $runtime != /* ]]; then
    NOT_RUN+=("the address sanitizer: libasan.so is missing; it comes with GCC")
    return
  fi
  (
    export CARGO_TARGET_DIR=build/asan CARGO_PROFILE_DEV_OPT_LEVEL=1
    export RUSTFLAGS="-Zsanitizer=address -Zexternal-clangrt -Clink-arg=-lasan"
    # Leaks are what the tests are about; their own are planted.
    local options=detect_leaks=0:exitcode=99
    local runner=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$HOST")_RUNNER
    export "$runner=env LD_PRELOAD=$runtime ASAN_OPTIONS=$options"
    say "address sanitizer: the Rust tests"
    # Without Loom, whose own stacks confuse it.
    cargo +nightly test --quiet --target "$HOST" --lib --test model --test series --test files --test closures \
      --test quiet -p leaktight -p leaktight-elf -p leaktight-hooks -p leaktight-liveset -p leaktight-references -p leaktight-stacks \
      -p leaktight-verdict
    say "address sanitizer: the zoo, and everything at once, in CPython"
    cargo +nightly build --quiet --target "$HOST" -p leaktight-python
    rm -rf "$site" && mkdir -p "$site/leaktight"
    cp python/leaktight/*.py "$site/leaktight/"
    cp "build/asan/$HOST/debug/lib_core.so" "$site/leaktight/_core.abi3.so"
    "$PY" tests/zoo/build.py --out build/zoo --python "$PY"
    unset RUSTFLAGS
    # Not without libstdc++: the runtime looks for __cxa_throw when it starts. Not with forks: this runtime
    # does not free its own lock in a child, which then waits for ever.
    LD_PRELOAD="$runtime $(c++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=$options \
      LEAKTIGHT_SITE=$site LEAKTIGHT_STRESS_WITHOUT=fork_children LEAKTIGHT_STRESS_SECONDS=60 \
      "$PY" -m pytest -q tests/test_zoo.py tests/test_stress.py
  )
  RUN+=("address")
  NOT_RUN+=("forks under the address sanitizer, which does not stand them")
}

# With the standard library built anew: threads and channels of an uninstrumented one look like races. Not over
# the hooks: this sanitizer's malloc is always linked into the program.
thread() {
  if [[ ! -d $(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library ]]; then
    NOT_RUN+=("the thread sanitizer: the library's source is missing (rustup component add rust-src --toolchain nightly)")
    return
  fi
  say "thread sanitizer: the live set"
  RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR=build/tsan cargo +nightly test --quiet -Zbuild-std \
    --target "$HOST" --lib --test model -p leaktight-liveset
  RUN+=("thread")
}

if cargo +nightly --version >/dev/null 2>&1; then
  address
  thread
else
  NOT_RUN+=("either sanitizer: there is no nightly toolchain (rustup toolchain install nightly)")
fi
say "passed: ${RUN[*]:-nothing}"
for what in "${NOT_RUN[@]}"; do echo "   NOT RUN: $what"; done
