"""Runs the children in fresh processes, by turns, and prepares what they need under build/bench."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CHILDREN = HERE / "children"
RIVALS = ("psleak==0.1.6", "psutil==7.2.2", "memray")
RIVAL_NAMES = [requirement.partition("==")[0] for requirement in RIVALS]
#: psutil's tests run under it.
OTHERS = ("pytest>=8,<9",)

#: Stand in arguments for files that only the prepared bench knows.
PAIRS, PROFILE, SITE, PSUTIL_TESTS = "{pairs}", "{profile}", "{site}", "{psutil tests}"
_FIGURE = "figure: "
_CHILD_SECONDS = 600
_MESSAGE_LINES = 15


class BenchError(Exception):
    """A figure could not be measured; the message says what to do."""


@dataclass(frozen=True)
class Variant:
    """One of the ways to run that a row compares."""

    name: str
    #: A script in children/ and its arguments.
    command: Sequence[str]
    #: Arguments for the interpreter in front of the script.
    through: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What the children need."""

    package: Path
    site: Path
    zoo: Sequence[str]
    pairs: Path
    profile: Path
    psutil_tests: Path

    @staticmethod
    def prepare(package: Optional[Path]) -> Bench:
        """Installs and builds what is missing. `package` holds leaktight; default: python/."""
        folder = ROOT / "build" / "bench" / "{}.{}".format(*sys.version_info)
        folder.mkdir(parents=True, exist_ok=True)
        package = (package or ROOT / "python").resolve()
        if not list(package.glob("leaktight/_core*.so")):
            raise BenchError(f"no leaktight/_core*.so in {package}: build it first")
        site = _install(folder / "site")
        return Bench(
            package=package,
            site=site,
            zoo=_build_zoo(),
            pairs=_compile(CHILDREN / "pairs.c", folder / "pairs.so"),
            profile=folder / "memray.bin",
            psutil_tests=_psutil_tests(site),
        )


def measure(bench: Bench, variants: Sequence[Variant], repeats: int) -> dict[str, list[float]]:
    """The samples by variant. The variants take turns, so that a busy spell hits all of them."""
    samples: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for repeat in range(repeats):
        for variant in variants if repeat % 2 == 0 else reversed(variants):
            samples[variant.name].append(_sample(bench, variant))
    return samples


def rivals_of(site: Path) -> str:
    found = {found.metadata["Name"].lower(): found.version for found in importlib.metadata.distributions(path=[str(site)])}
    return ", ".join(f"{name} {found.get(name, '?')}" for name in RIVAL_NAMES)


def _sample(bench: Bench, variant: Variant) -> float:
    # Each tool is imported from a folder that the other is not in.
    tool = bench.site if variant.name in RIVAL_NAMES else bench.package
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "PYTHONPATH": os.pathsep.join([str(tool), *bench.zoo]),
        "PYTHONHASHSEED": "0",
        **variant.environment,
    }
    script, *arguments = variant.command
    files = {PAIRS: bench.pairs, PROFILE: bench.profile, SITE: bench.site, PSUTIL_TESTS: bench.psutil_tests}
    command = [sys.executable, *variant.through, str(CHILDREN / script), *arguments]
    lines = _run([str(files.get(part, part)) for part in command], "a measured process failed", environment).splitlines()
    figures = [line[len(_FIGURE) :] for line in lines if line.startswith(_FIGURE)]
    if len(figures) != 1:
        raise BenchError(f"{script} printed {len(figures)} figures instead of one")
    return float(figures[0])


def _install(site: Path) -> Path:
    done = site / "installed.txt"
    wanted = "\n".join([*RIVALS, *OTHERS])
    if not done.is_file() or done.read_text() != wanted:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        _run([*pip, "--target", str(site), *RIVALS, *OTHERS], "the rivals could not be installed")
        done.write_text(wanted)
    return site


def _build_zoo() -> Sequence[str]:
    sys.path.insert(0, str(ROOT / "tests" / "zoo"))
    import build as zoo

    try:
        return zoo.build(ROOT / "build" / "zoo", [sys.executable], ["c"])["{}.{}".format(*sys.version_info)]
    except zoo.BuildError as error:
        raise BenchError(str(error)) from error


def _psutil_tests(site: Path) -> Path:
    sys.path += [str(ROOT / "tests"), str(site)]
    import packages
    import pytest

    try:
        return packages.tests_of(packages.PSUTIL)
    except (pytest.fail.Exception, pytest.skip.Exception) as error:
        raise BenchError(str(error)) from error


def _compile(source: Path, target: Path) -> Path:
    if not target.is_file() or target.stat().st_mtime_ns < source.stat().st_mtime_ns:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, "-O2", "-fPIC", "-shared", str(source), "-o", str(target)]
        _run(command, f"{source.name} could not be compiled")
    return target


def _run(command: Sequence[str], problem: str, environment: Optional[Mapping[str, str]] = None) -> str:
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_CHILD_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{problem}: {error}") from error
    if done.returncode != 0:
        messages = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BenchError("\n".join([problem, f"$ {shlex.join(command)}", *messages[-_MESSAGE_LINES:]]))
    return done.stdout
