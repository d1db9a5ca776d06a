#!/usr/bin/env bash
# The wheel for aarch64, as far as emulation goes: built by a cross compiler, and run by qemu with the CPython of Debian's
# arm64 packages, in a folder in a cache outside the tree. Then in emulated machines with Debian's kernel: watchpoints take
# one. Needs root, and apt-get for what is not installed. What cannot be had is "not run" and no failure; a wrong verdict is
# one.
#
#     tests/aarch64.sh PYTHON
#
# PYTHON has maturin and pytest.
set -uo pipefail
cd "$(dirname "$0")/.."

python=$(realpath --no-symlinks "$1")
target=aarch64-unknown-linux-gnu
release=trixie
root=${XDG_CACHE_HOME:-$HOME/.cache}/leaktight/newer/arm64
out=build/aarch64

wrong=0
not_run() {
  echo "not run: aarch64: $1"
  exit "$wrong"
}

# The command $1, of the package $2.
need() {
  command -v "$1" >/dev/null || apt-get install -y -qq --no-install-recommends "$2" >/dev/null 2>&1 ||
    not_run "there is no $1"
}

[ "$(id -u)" = 0 ] || not_run "only root enters another root folder"
unshare --mount true 2>/dev/null || not_run "no mount namespace can be made"
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need qemu-aarch64-static qemu-user-static
need debootstrap debootstrap
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || rustup target add "$target" >/dev/null 2>&1 ||
  not_run "there is no Rust for $target"

# Nothing of the packages is executed, so no kernel support for emulated programs is needed: they are only unpacked.
if ! compgen -G "$root/boot/vmlinuz-*" >/dev/null; then
  mkdir -p "$(dirname "$root")"
  rm -rf "$root.new" "$root"
  debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,python3-dev,linux-image-cloud-arm64 \
    "$release" "$root.new" >"$root.log" 2>&1 || not_run "debootstrap fails: $(tail -n 1 "$root.log")"
  for package in "$root.new"/var/cache/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$root.new" || not_run "$(basename "$package") cannot be unpacked"
  done
  mv "$root.new" "$root"
fi

set -e
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L $root"
cargo test --release --quiet --locked --package leaktight-stacks --target "$target" --lib
rm -rf "$out/wheels"
"$python" -m maturin build --release --quiet --target "$target" --compatibility linux --out "$out/wheels"
rm -rf "$root/site" "$root/zoo"
"$python" -m zipfile --extract "$out"/wheels/leaktight-*.whl "$root/site"
cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/"

"$python" - "$root" <<'BUILD'
import os, sys
from pathlib import Path

sys.path.insert(0, "tests/zoo")
import build

root = Path(sys.argv[1])
include = max((root / "usr/include").glob("python3.*"))
for folder, flags in ("plain", ""), ("signed", "-mbranch-protection=standard"):
    os.environ["CC"] = f"aarch64-linux-gnu-gcc --sysroot={root} {flags}"
    build.build_c(root / "zoo" / folder, [build.Interpreter("", include.name.removeprefix("python"), include, "")])
BUILD

# In a mount namespace of its own, so that nothing stays mounted.
unshare --mount --propagation private -- bash -c '
  mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/tmp" &&
    exec "$2" tests/aarch64.py "$1"
' enter "$root" "$python" || wrong=1

need qemu-system-aarch64 qemu-system-arm
need cpio cpio
cargo test --release --quiet --locked --config 'profile.release.lto="off"' --package leaktight-watchpoints \
  --package leaktight-stacks --target "$target" --no-run --message-format json >"$out/programs.json"
mapfile -t programs < <("$python" -c '
import json, sys
told = [json.loads(line) for line in sys.stdin]
print(*(each["executable"] for each in told if each.get("executable")), sep="\n")
' <"$out/programs.json")
"$python" tests/aarch64_system.py "$root" "${programs[@]}" || wrong=1
exit "$wrong"
