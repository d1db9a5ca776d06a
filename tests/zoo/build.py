"""Builds the zoo: python3 tests/zoo/build.py --out DIR [--python PY ...]

DIR/abi3/   zoo, zoo_left, zoo_refs, zoo_cpp and zoo_rs: one stable-ABI file each, for every CPython
DIR/X.Y/    zoo_cy, compiled for CPython X.Y
DIR/X.Yt/   all of them, compiled for free-threaded CPython X.Y, which knows no stable ABI
DIR/meter/  libmeter.so, the preloaded malloc that smoke.py counts with

Only what is older than its sources is built again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LANGUAGES = ("c", "c++", "cython", "rust")

# -O1 keeps helpers as frames and lines in order; sibling calls would drop frames, and a compiler that knows malloc
# (gcc 16 does at -O1) leaves blocks out that nobody uses.
COMPILE_FLAGS = ["-g", "-O1", "-fno-optimize-sibling-calls", "-fno-builtin", "-fPIC", "-shared", "-pthread"]
MESSAGE_LINES = 30  # Of a failed command; the first ones name the cause.
IMMORTAL_OBJECTS = (3, 12)  # The first headers that leave some counts alone (PEP 683).
OLDEST_CYTHON = (3, 1)  # The first that supports CPython 3.13.
CYTHON = "cython==3.3.1"  # What is installed where there is none; pinned, so that no release can break the build.


class BuildError(Exception):
    """The zoo could not be built; the message says what to do."""


@dataclass(frozen=True)
class Interpreter:
    """What a build needs to know of one CPython."""

    executable: str
    version: str  # "3.12", or "3.14t" without a GIL
    include: Path
    extension_suffix: str

    @property
    def is_free_threaded(self) -> bool:
        return self.version.endswith("t")

    @property
    def has_headers(self) -> bool:
        return (self.include / "Python.h").is_file()


def build(
    out: str | os.PathLike[str],
    pythons: Sequence[str],
    languages: Iterable[str] = LANGUAGES,
) -> dict[str, list[str]]:
    """Builds what is missing or stale; returns sys.path entries by "X.Y" or "X.Yt".

    `zoo_cy` is left out for a version none of whose interpreters has headers.
    Safe to call from several processes at once: the builds queue on a lock.
    """
    out = Path(out).resolve()
    languages = set(languages)
    unknown = languages - set(LANGUAGES)
    if unknown:
        raise BuildError(f"unknown language {min(unknown)!r}; known are {', '.join(LANGUAGES)}")
    interpreters = [probe(python) for python in pythons]
    if not interpreters:
        raise BuildError("no interpreter to build for")
    abi3 = out / "abi3"
    together = [interpreter for interpreter in interpreters if not interpreter.is_free_threaded]
    folders_for = [(out / interpreter.version, [interpreter]) for interpreter in interpreters if interpreter.is_free_threaded]
    if together:
        folders_for.append((abi3, together))
    with locked(out):
        build_meter(out)
        for folder, those in folders_for:
            if "c" in languages:
                build_c(folder, those)
            if "c++" in languages:
                build_cpp(folder, those)
            if "rust" in languages:
                build_rust(out, folder, those)
        if "cython" in languages:
            build_cython(out, interpreters)
    paths = {}
    for interpreter in interpreters:
        folders = [out / interpreter.version, *([] if interpreter.is_free_threaded else [abi3])]
        paths[interpreter.version] = [str(folder) for folder in folders if folder.is_dir()]
    return paths


def meter(out: str | os.PathLike[str]) -> Path:
    """The counting malloc that build() put under `out`."""
    return Path(out).resolve() / "meter" / "libmeter.so"


def probe(python: str) -> Interpreter:
    """Asks the interpreter at `python` about itself."""
    question = (
        "import json, sys, sysconfig; print(json.dumps(["
        "sys.executable, '%d.%d' % sys.version_info[:2] + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')), sysconfig.get_path('include'),"
        "sysconfig.get_config_var('EXT_SUFFIX'), sys.implementation.name]))"
    )
    answer = run([python, "-c", question], f"{python} does not run as a Python interpreter")
    executable, version, include, suffix, implementation = json.loads(answer)
    if implementation != "cpython":
        raise BuildError(f"{python} is {implementation}; the zoo is for CPython")
    if numbers(version) < (3, 9):
        raise BuildError(f"{python} is CPython {version}; the zoo needs 3.9 or later")
    return Interpreter(executable, version, Path(include), suffix)


def build_meter(out: Path) -> None:
    source = HERE / "c" / "meter.c"
    target = meter(out)
    if stale(target, [source]):
        compile_shared("cc", target, [source], [])


def build_c(into: Path, interpreters: Sequence[Interpreter]) -> None:
    folder = HERE / "c"
    references, left = set(folder.glob("zoo_refs*.c")), {folder / "zoo_left.c"}
    modules = {"zoo": set(folder.glob("zoo*.c")) - references - left, "zoo_left": left, "zoo_refs": references}
    for name, sources in modules.items():
        target = into / file_name(name, interpreters)
        if stale(target, [*sources, *folder.glob("*.h")]):
            oldest = oldest_with_headers(interpreters)
            if name == "zoo_refs" and version_key(oldest) >= IMMORTAL_OBJECTS and not oldest.is_free_threaded:
                print(
                    f"zoo: zoo_refs is compiled against the headers of CPython {oldest.version}: with these no extension "
                    "moves the counts of immortal objects, so the cases that do are not tried; give an older --python",
                    file=sys.stderr,
                )
            compile_shared("cc", target, sorted(sources), ["-Wall", "-Wextra", f"-I{oldest.include}", "-lrt", "-lutil"])


def build_cpp(into: Path, interpreters: Sequence[Interpreter]) -> None:
    source = HERE / "cpp" / "zoo_cpp.cpp"
    target = into / file_name("zoo_cpp", interpreters)
    if stale(target, [source]):
        include = oldest_with_headers(interpreters).include
        compile_shared("c++", target, [source], ["-std=c++17", "-Wall", "-Wextra", f"-I{include}"])


def build_rust(out: Path, into: Path, interpreters: Sequence[Interpreter]) -> None:
    folder = HERE / "rust"
    sources = [folder / "Cargo.toml", folder / "Cargo.lock", *folder.glob("src/*.rs")]
    target = into / file_name("zoo_rs", interpreters)
    if not stale(target, sources):
        return
    cargo = os.environ.get("CARGO", "cargo")
    built = out / ("cargo-free-threaded" if interpreters[0].is_free_threaded else "cargo")
    environment = {
        "CARGO_TARGET_DIR": str(built),
        "PYO3_PYTHON": min(interpreters, key=version_key).executable,
    }
    command = [cargo, "build", "--release", "--locked", "--manifest-path", str(folder / "Cargo.toml")]
    # In its own folder: a .cargo/config.toml or toolchain file there applies.
    run(command, "cargo could not build zoo-rust", environment, cwd=folder)
    install(built / "release" / "libzoo_rs.so", target)


def build_cython(out: Path, interpreters: Sequence[Interpreter]) -> None:
    source = HERE / "cython" / "zoo_cy.pyx"
    translated = out / "cython" / "zoo_cy.c"
    if stale(translated, [source]):
        translated.parent.mkdir(parents=True, exist_ok=True)
        cython, environment = find_cython(out, interpreters)
        # Line directives make the compiler record lines of the .pyx.
        partial = translated.with_suffix(".partial.c")
        command = [*cython, "--line-directives", "-3", "-o", str(partial), str(source)]
        run(command, "Cython could not translate zoo_cy.pyx", environment)
        partial.replace(translated)
    for interpreter in interpreters:
        target = out / interpreter.version / ("zoo_cy" + interpreter.extension_suffix)
        if not stale(target, [translated]):
            continue
        if not interpreter.has_headers:
            print(f"zoo: no zoo_cy for {interpreter.executable}: no Python.h in {interpreter.include}", file=sys.stderr)
            continue
        compile_shared("cc", target, [translated], ["-w", f"-I{interpreter.include}"])


def find_cython(out: Path, interpreters: Sequence[Interpreter]) -> tuple[list[str], dict[str, str]]:
    """A command that runs Cython, and its environment; installs it when missing."""
    executables = list(dict.fromkeys([sys.executable, *(i.executable for i in interpreters)]))
    for executable in executables:
        if cython_version(executable, {}) >= OLDEST_CYTHON:
            return [executable, "-m", "cython"], {}
    failures = []
    for executable in executables:
        folder = out / "tools" / probe(executable).version
        environment = {"PYTHONPATH": str(folder)}
        if cython_version(executable, environment) < OLDEST_CYTHON:
            pip = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            try:
                run([*pip, "--upgrade", "--target", str(folder), CYTHON], f"{executable} could not install Cython")
            except BuildError as error:
                failures.append(str(error))
                continue
        return [executable, "-m", "cython"], environment
    raise BuildError("no Cython: install it for one of the interpreters\n" + "\n".join(failures))


def cython_version(executable: str, environment: dict[str, str]) -> tuple[int, ...]:
    """(major, minor) of the Cython that `executable` imports; () without one."""
    command = [executable, "-c", "import Cython; print(Cython.__version__)"]
    try:
        answer = run(command, "", environment)
        return tuple(int(part) for part in answer.split(".")[:2])
    except (BuildError, ValueError):
        return ()


def oldest_with_headers(interpreters: Sequence[Interpreter]) -> Interpreter:
    """Whose headers the stable-ABI modules are compiled against."""
    for interpreter in sorted(interpreters, key=version_key):
        if interpreter.has_headers:
            return interpreter
    running = probe(sys.executable)
    if running.has_headers:
        return running
    raise BuildError("no interpreter has Python.h: give one more --python, or install the headers (python3-dev)")


def version_key(interpreter: Interpreter) -> tuple[int, ...]:
    return numbers(interpreter.version)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.rstrip("t").split(".")))


def file_name(module: str, interpreters: Sequence[Interpreter]) -> str:
    """The file of a module that serves all of these, or the one that there is without a GIL."""
    first = interpreters[0]
    return module + (first.extension_suffix if first.is_free_threaded else ".abi3.so")


def compile_shared(kind: str, target: Path, sources: Sequence[Path], flags: Sequence[str]) -> None:
    """Compiles and links `sources` with the C or C++ compiler ("cc" or "c++")."""
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC" if kind == "cc" else "CXX", kind))
    partial = target.with_name(target.name + ".partial")
    command = [*compiler, *COMPILE_FLAGS, *flags, *map(str, sources), "-o", str(partial)]
    run(command, f"{compiler[0]} could not build {target.name}")
    partial.replace(target)


def install(source: Path, target: Path) -> None:
    """Puts a copy of `source` at `target` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(source.read_bytes())
    partial.chmod(0o755)
    partial.replace(target)


def stale(target: Path, sources: Iterable[Path]) -> bool:
    """Whether `target` is missing or older than a source or this script."""
    if not target.is_file():
        return True
    newest = max(path.stat().st_mtime_ns for path in [*sources, Path(__file__)])
    return target.stat().st_mtime_ns < newest


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the build lock of `out`, which is created when missing."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(
    command: Sequence[str],
    problem: str,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """The command's standard output; BuildError with its messages when it fails."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{problem}: cannot run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        messages = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BuildError("\n".join([problem, f"$ {shlex.join(command)}", *messages[:MESSAGE_LINES]]))
    if "warning:" in done.stderr:
        print(done.stderr.strip(), file=sys.stderr)
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the zoo of leaking extension modules.")
    parser.add_argument("--out", required=True, help="folder for everything that is built")
    parser.add_argument("--python", action="append", help="an interpreter to build for; may be repeated")
    parser.add_argument("--language", action="append", choices=LANGUAGES, help="build only this; may be repeated")
    arguments = parser.parse_args()
    try:
        paths = build(arguments.out, arguments.python or [sys.executable], arguments.language or LANGUAGES)
    except BuildError as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 1
    for version, folders in sorted(paths.items(), key=lambda item: numbers(item[0])):
        print(f"{version}: {os.pathsep.join(folders)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
