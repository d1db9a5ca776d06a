#!/usr/bin/env bash
# The wheel where newer CPythons, C libraries and compilers are: in chroots of Debian's releases, made in a cache
# outside the tree. Needs root, and debootstrap or apt-get. Says which legs ran; what cannot be had is "not run" and no
# failure: the newest release moves, and its packages may be gone for hours.
#
#     tests/newer.sh FOLDER-WITH-THE-UNPACKED-WHEEL [RELEASE:PYTHON,PYTHON...]...
set -uo pipefail
cd "$(dirname "$0")/.."

site=$1
shift
legs=("$@")
[ ${#legs[@]} -gt 0 ] || legs=(trixie:3.13 sid:3.13,3.14,3.15)
# LEAKTIGHT_NEWER_TESTS names fewer.
read -ra tests <<<"${LEAKTIGHT_NEWER_TESTS:-tests/test_zoo.py tests/test_references.py tests/test_clean_calls.py \
  tests/test_pythons.py tests/test_modes.py tests/test_testcase.py tests/test_testcase_checkers.py tests/test_faults.py \
  tests/test_statement.py::test_a_call_that_returns_what_it_should_have_called tests/test_words.py tests/test_pytest_demo.py}"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/leaktight/newer
report=()
failed=0

# Runs a command in the chroot $1, in a mount namespace of its own, so that nothing stays mounted.
enter() {
  local root=$1
  shift
  unshare --mount --propagation private -- bash -c '
    root=$1
    shift
    mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" &&
      mount -t tmpfs tmpfs "$root/tmp" && exec chroot "$root" "$@"
  ' enter "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@"
}

# Makes the chroot $2 of the release $1, with the packages that follow. Prints why it cannot.
prepare() {
  local release=$1 root=$2
  shift 2
  if [ "$(id -u)" != 0 ]; then
    echo "only root makes a chroot"
    return 1
  fi
  if ! command -v debootstrap >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap; } >/dev/null 2>&1 ||
      { echo "there is no debootstrap"; return 1; }
  fi
  if [ ! -d "$root" ]; then
    mkdir -p "$cache"
    rm -rf "$root.new"
    debootstrap --variant=minbase --include=ca-certificates "$release" "$root.new" >"$root.log" 2>&1 ||
      { echo "debootstrap fails: $(tail -n 1 "$root.log")"; return 1; }
    mv "$root.new" "$root"
  fi
  cp /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null
  echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99valid"
  local done="$root/var/lib/leaktight-packages"
  if [ "$(cat "$done" 2>/dev/null)" != "$*" ]; then
    { enter "$root" apt-get update -qq && enter "$root" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "$@"; } >"$root.log" 2>&1 ||
      { echo "packages are not to be had: $(grep -m 1 '^E:' "$root.log" || tail -n 1 "$root.log")"; return 1; }
    echo "$*" >"$done"
  fi
}

# All tests that look at an interpreter, on those of the chroot: once, with the last of them running the tests, and those
# of the plugin with each.
run() {
  local root=$1 python status=0 once=() each=()
  shift
  for test in "${tests[@]}"; do
    if [[ $test == tests/test_pytest_* ]]; then each+=("$test"); else once+=("$test"); fi
  done
  rm -rf "$root/src"
  mkdir -p "$root/src/build/zoo/abi3"
  git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$root/src"
  cp -r "$site" "$root/src/build/site"
  # There is no Rust in there.
  cp build/zoo/abi3/zoo_rs.abi3.so "$root/src/build/zoo/abi3/" && touch -d '+1 day' "$root/src/build/zoo/abi3/zoo_rs.abi3.so"
  enter "$root" bash -c '
    set -e
    for python; do
      # Tests start pytest, too, with paths of their own.
      folder=$("$python" -c "import site; print(site.getsitepackages()[0])")
      mkdir -p "$folder" && echo /tools >"$folder/tools.pth"
    done
    [ -x "/venv/bin/$python" ] || "$python" -m venv /venv
    "/venv/bin/$python" -m pip install --quiet --upgrade --target /tools pip pytest pytest-xdist pytest-randomly setuptools
  ' prepare "$@" || return 1
  for python; do
    [ "$python" = "${!#}" ] && each=("${once[@]}" "${each[@]}")
    [ ${#each[@]} -gt 0 ] || continue
    enter "$root" bash -c '
      cd /src
      export LEAKTIGHT_SITE=build/site LEAKTIGHT_PYTHONS=all LEAKTIGHT_NEWEST=1
      "$0" -m pytest -q -n 2 -p no:cacheprovider "$@"
    ' "$python" "${each[@]}" || status=1
  done
  return $status
}

[ -f build/zoo/abi3/zoo_rs.abi3.so ] || { echo "build the zoo first: python3 tests/zoo/build.py --out build/zoo" >&2; exit 1; }
for leg in "${legs[@]}"; do
  release=${leg%%:*}
  IFS=, read -ra versions <<<"${leg#*:}"
  packages=(gcc g++ libc6-dev make)
  for version in "${versions[@]}"; do
    packages+=("python$version" "python$version-dev" "python$version-venv")
  done
  if ! why=$(prepare "$release" "$cache/$release" "${packages[@]}"); then
    report+=("not run: $release with CPython ${versions[*]}: $why")
    continue
  fi
  libc=$(enter "$cache/$release" ldd --version | head -n 1 | grep -o '[0-9.]*$')
  compiler=$(enter "$cache/$release" gcc -dumpversion)
  what="$release: CPython ${versions[*]}, glibc $libc, gcc $compiler"
  echo "== $what"
  if run "$cache/$release" "${versions[@]/#/python}"; then
    report+=("ran: $what")
  else
    report+=("FAILED: $what")
    failed=1
  fi
done
printf '%s\n' "${report[@]}"
exit $failed
