#!/usr/bin/env bash
# The heap crate on every platform that it has a file for: types and lints are checked for each target, and
# the tests and the example are run where this machine can run them. What could not be done is listed as such;
# only what failed makes the exit status 1.
set -uo pipefail
cd "$(dirname "$0")/.."

crate=leaktight-heap
host=$(rustc -vV | sed -n 's/host: //p')
summary=()
failed=0

note() { summary+=("$(printf '%-28s %s' "$target" "$*")"); }

# The standard library of a target: there already, or installed by rustup.
has_std() {
  compgen -G "$(rustc --print target-libdir --target "$target")/libstd-*" >/dev/null && return
  command -v rustup >/dev/null && rustup target add "$target" >/dev/null 2>&1
}

# step NAME COMMAND...: a step that must succeed.
step() {
  local name=$1
  shift
  printf '\n== %s: %s\n' "$target" "$name"
  if "$@"; then note "$name: yes"; else note "$name: FAILED" && failed=1; fi
}

check() { step "types and lints checked" cargo clippy --package $crate --all-targets --target "$target" --quiet -- -D warnings; }

run() {
  step "tests run" cargo test --package $crate --target "$target" --quiet
  step "example run" cargo run --package $crate --example heap --target "$target" --quiet
}

# needs WHAT-IT-IS-FOR PROGRAM PACKAGE: whether the program is there.
needs() {
  command -v "$2" >/dev/null && return
  note "$1: NO, $2 is missing (Debian: $3)"
  return 1
}

# Wine older than 9 has no bcryptprimitives.dll, which Rust's standard library takes its hash seeds from.
prepare_wine() {
  export WINEPREFIX=$PWD/build/wine WINEDEBUG=-all WINEPATH=$PWD/build/wine-dlls
  export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
  mkdir -p "$WINEPATH"
  echo '#include <windows.h>
        #include <ntsecapi.h>
        __declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return RtlGenRandom(data, size); }' |
    x86_64-w64-mingw32-gcc -shared -x c - -o "$WINEPATH/bcryptprimitives.dll"
}

for target in x86_64-unknown-linux-gnu x86_64-unknown-linux-musl x86_64-apple-darwin aarch64-apple-darwin \
  x86_64-pc-windows-gnu x86_64-pc-windows-msvc x86_64-unknown-freebsd x86_64-unknown-netbsd; do
  if ! has_std; then
    note "checked: NO, its standard library is missing (rustup target add $target)"
    continue
  fi
  check
  case $target in
    "$host") run ;;
    x86_64-unknown-linux-musl)
      if [[ $host = x86_64-*-linux-* ]]; then run; else note "run: NO, the host is $host"; fi
      ;;
    x86_64-pc-windows-gnu)
      needs "run" x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64 && needs "run" wine "wine wine64" && prepare_wine && run
      ;;
    *) note "run: NO, only that system can" ;;
  esac
done

printf '\n'
printf '%s\n' "${summary[@]}"
exit $failed
