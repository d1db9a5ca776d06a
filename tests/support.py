"""What the tests share: the interpreters of this machine, the built zoo, and running a check."""

from __future__ import annotations

import functools
import glob
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "tests" / "zoo"
BUILD = ROOT / "build"
sys.path[:0] = [str(ZOO), str(ROOT / "tests" / "faults")]

import build as zoo_build  # noqa: E402
from faults import FAULTS, Fault  # noqa: E402,F401
from manifest import CASES, Case  # noqa: E402,F401

SUPPORTED = [(3, minor) for minor in range(9, 16)]
#: Those of them that are served without a GIL, too.
FREE_THREADED = [(3, 14), (3, 15)]


@dataclass(frozen=True)
class Python:
    """An interpreter that the wheel is tried on."""

    path: str
    version: tuple[int, int]
    is_free_threaded: bool = False

    def __str__(self) -> str:
        where = "system-" if self.path.startswith("/usr/bin/") else ""
        return f"{where}{self.name}"

    @property
    def name(self) -> str:
        """The version, as builds are called."""
        return f"{self.version[0]}.{self.version[1]}{'t' if self.is_free_threaded else ''}"

    @property
    def site(self) -> str:
        """A folder with the package under test."""
        return free_threaded_site(self) if self.is_free_threaded else os.environ.get("LEAKTIGHT_SITE", str(ROOT / "python"))


@functools.lru_cache(maxsize=None)
def pythons() -> list[Python]:
    """The running interpreter first, then one of each supported version, then a distribution's own."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [Python(sys.executable, sys.version_info[:2])]
    candidates = sorted(glob.glob(str(home / "versions" / "3.*" / "bin" / "python3")))
    candidates += [f"/usr/bin/python3.{minor}" for _, minor in SUPPORTED]
    for python in filter(None, map(_python, candidates)):
        system = python.path.startswith("/usr/bin/")
        known = [known.version for known in found if known.path.startswith("/usr/bin/") == system]
        if not python.is_free_threaded and python.version in SUPPORTED and python.version not in known:
            found.append(python)
    return found


@functools.lru_cache(maxsize=None)
def free_threaded() -> list[Python]:
    """Interpreters without a GIL, one of each supported version: on PATH, or pyenv's."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python3.{minor}t") for _, minor in FREE_THREADED]
    candidates += sorted(glob.glob(str(home / "versions" / "3.*t*" / "bin" / "python3")))
    found: dict[tuple[int, int], Python] = {}
    for python in filter(None, map(_python, filter(None, candidates))):
        if python.is_free_threaded and python.version in FREE_THREADED:
            found.setdefault(python.version, python)
    return list(found.values())


def everywhere() -> list[Python]:
    """The interpreters that a test is to be run on: the running one, or as LEAKTIGHT_PYTHONS says all, all others, or those
    without a GIL."""
    asked = os.environ.get("LEAKTIGHT_PYTHONS")
    every = {"all": [*pythons(), *free_threaded()], "others": [*pythons()[1:], *free_threaded()], "free-threaded": free_threaded()}
    return every[asked] if asked else pythons()[:1]


def with_gil() -> list[Python]:
    """Those of them that have one, for tests of what needs it."""
    return [python for python in everywhere() if not python.is_free_threaded]


def _python(path: str) -> Optional[Python]:
    if not os.access(path, os.X_OK):
        return None
    ask = "import sys; print(sys.implementation.name, *sys.version_info[:2], 't' in sys.abiflags)"
    answer = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=False).stdout.split()
    return Python(path, (int(answer[1]), int(answer[2])), answer[3] == "True") if answer[:1] == ["cpython"] else None


@functools.lru_cache(maxsize=None)
def free_threaded_site(python: Python) -> str:
    """A folder with the package, built for an interpreter without a GIL, as the stable ABI of the others does not serve it."""
    folder = BUILD / "free-threaded" / python.name
    site, done = folder / "site", folder / ".done"
    sources = [ROOT / "pyproject.toml", ROOT / "Cargo.toml", ROOT / "Cargo.lock"]
    sources += [path for top in ("crates", "python") for path in (ROOT / top).rglob("*") if path.suffix in (".rs", ".toml", ".py")]
    with zoo_build.locked(folder):
        if zoo_build.stale(done, sources):
            # Not optimised across crates, which would take minutes.
            quick = {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
            target = ["--target-dir", str(BUILD / "free-threaded" / "target"), "--out", str(folder / "wheels")]
            command = [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--interpreter", python.path, *target]
            shutil.rmtree(folder / "wheels", ignore_errors=True)
            zoo_build.run(command, f"the package could not be built for {python.path}", quick, cwd=ROOT)
            (wheel,) = (folder / "wheels").glob("*.whl")
            shutil.rmtree(site, ignore_errors=True)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
            done.touch()
    return str(site)


@functools.lru_cache(maxsize=None)
def zoo_paths() -> dict[tuple[int, int], list[str]]:
    """Folders with the zoo's modules for each version. A version without headers uses another's build."""
    with_headers = {}
    for python in pythons():
        if zoo_build.probe(python.path).has_headers:
            with_headers.setdefault(python.version, python.path)
    built = zoo_build.build(BUILD / "zoo", list(with_headers.values()))
    return {tuple(int(part) for part in version.split(".")): [str(path) for path in paths] for version, paths in built.items()}


@functools.lru_cache(maxsize=None)
def zoo_of(python: Python) -> list[str]:
    """Folders with the zoo's modules for an interpreter."""
    if python.is_free_threaded:
        return zoo_build.build(BUILD / "zoo", [python.path])[python.name]
    return zoo_paths()[python.version]


@functools.lru_cache(maxsize=None)
def module_paths(python: Python) -> list[str]:
    """Folders with the zoo's modules and the faults' for an interpreter."""
    folder, source = BUILD / "faults", ROOT / "tests" / "faults"
    with zoo_build.locked(folder):
        library = folder / "library.so"
        if zoo_build.stale(library, [source / "library.c"]):
            zoo_build.compile_shared("cc", library, [source / "library.c"], ["-Wall", "-Wextra"])
        those = [zoo_build.probe(each.path) for each in ([python] if python.is_free_threaded else pythons())]
        module = folder / zoo_build.file_name("native_faults", those)
        if zoo_build.stale(module, [source / "native_faults.c"]):
            include = zoo_build.oldest_with_headers(those).include
            # The functions of the C library's that the compiler knows are still to be called as they are written.
            flags = ["-Wall", "-Wextra", "-fno-builtin", f"-I{include}"]
            zoo_build.compile_shared("cc", module, [source / "native_faults.c"], flags)
    return [*zoo_of(python), str(folder)]


def has_old_headers() -> bool:
    """Whether the zoo's extension with miscounted references can be one that moves the counts of immortal objects."""
    older = [python.path for python in pythons() if python.version < zoo_build.IMMORTAL_OBJECTS]
    return any(zoo_build.probe(path).has_headers for path in older)


def environment_of(python: Python, paths: list[str] = ()) -> dict[str, str]:
    """With the package under test, and more folders, on the path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([python.site, *paths]), "NO_COLOR": "1"}


def run(python: Python, arguments: list[str], *, paths: list[str] = (), timeout: float = 120, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs an interpreter with the package under test, and more folders, on its path."""
    environment = {**environment_of(python, paths), **more.pop("env", {})}
    command = [python.path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT, check=False, **more)


@functools.lru_cache(maxsize=None)
def built_with(python: Python) -> dict[str, bool]:
    """What an interpreter can do, by the name of a variable of its build."""
    ask = "import json, sys, sysconfig; print(json.dumps({**sysconfig.get_config_vars(), 'jit': hasattr(sys, '_jit') and sys._jit.is_available()}))"
    said = json.loads(run(python, ["-c", ask]).stdout)
    return {"": True, **{name: bool(said.get(name)) for name in ("WITH_PYMALLOC", "WITH_MIMALLOC", "jit")}}


def leaktight(python: Python, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command line, with the zoo and the faults at hand."""
    return run(python, ["-m", "leaktight", *arguments], paths=module_paths(python), **more)


def check(python: Python, case: Case, *arguments: str, **more: Any) -> dict[str, Any]:
    """Judges a case of the zoo; the report as a dictionary."""
    done = leaktight(python, "check", "--json", "-s", case.setup, *arguments, case.statement, **more)
    if done.returncode not in (0, 1, 3):
        raise AssertionError(f"{case.name}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def complaint(python: Python, case: Case, report: dict[str, Any]) -> str:
    """What is wrong with a report on a case; empty when nothing is."""
    control = report["control"]
    if control["caught"] != control["planted"] or control["planted"] < 5:
        return f"control: {control}"
    verdict = report["verdict"]
    if case.verdict != "leak":
        return "" if verdict in ("clean", "bounded") else f"{verdict}: {report['reason']}"
    if verdict != "leak":
        return f"{verdict}: {report['reason']}"
    named = [finding for finding in report["findings"] if _names(finding, case)]
    if not named:
        tops = [frame_text(finding["stack"][:1]) for finding in report["findings"]]
        return f"not named: {tops}"
    finding = named[0]
    extra = [frame_text(other["stack"][:1]) for other in report["findings"] if other is not finding]
    if extra and case.name not in MORE_THAN_ONE:
        return f"more than one finding: {extra}"
    version = (*python.version, "t") if python.is_free_threaded else python.version
    for what, expected in (("blocks", case.blocks(version)), ("bytes", case.bytes(version))):
        if expected is not None and not _equal(finding[f"{what}_per_call"], expected, case):
            return f"{what} per call: {finding[f'{what}_per_call']}, not {float(expected)}"
    if case.certainty and finding["certainty"] != case.certainty:
        return f"certainty: {finding['certainty']}, not {case.certainty}"
    if finding.get("type_name") not in (case.type_name, None if case.type_name is None else case.type_name):
        return f"type: {finding.get('type_name')}, not {case.type_name}"
    return ""


#: The array that holds the registry's blocks grows too, and is named on its own.
MORE_THAN_ONE = {"leak_registry"}
#: How far a figure may be off: a leak at random is an average over the calls that were made, and a
#: detached thread that has not run yet when the check looks has not leaked yet.
ABOUT = {"leak_random_1_in_50": 0.5}


def _equal(found: float, expected: Fraction, case: Case) -> bool:
    tolerance = ABOUT.get(case.name, 1e-12)
    return abs(found - expected) <= tolerance * expected


def _names(finding: dict[str, Any], case: Case) -> bool:
    if case.function is None:
        return True
    if not finding["stack"]:
        return False
    frame = finding["stack"][0]
    in_place = Path(frame.get("file") or "").name == Path(case.file).name and frame.get("line") == case.line()
    # A lambda is named after its function by the frame around it.
    names = [frame.get("function") or "" for frame in finding["stack"][:2]]
    wanted = case.function.rsplit("::", 1)[-1].split("<")[0]
    return in_place and any(wanted in name for name in names)


def frame_text(frames: list[dict[str, Any]]) -> str:
    """The first of some frames, in short."""
    return "-" if not frames else f"{frames[0].get('function')} {frames[0].get('file')}:{frames[0].get('line')}"
