"""The tests of the pytest plugin on other versions of pytest: python tests/pytests.py [--quick]

Exit status: 0 when all pass, 1 when one fails or an interpreter is missing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import packages
import support

FOLDER = support.BUILD / "pytests"
#: Oldest, middle and newest. From 9 on pytest needs CPython 3.10.
VERSIONS = {(3, 9): ("7.4.4", "8.4.2"), (3, 13): ("7.4.4", "8.3.5", "9.2.0")}
#: The corners, for each change.
QUICK = (((3, 9), "7.4.4"), ((3, 13), "9.2.0"))
#: In the newest release that each pytest and interpreter takes: what pip finds.
PLUGINS = (
    "pytest-xdist pytest-asyncio anyio hypothesis pytest-rerunfailures pytest-timeout pytest-cov pytest-randomly pytest-subtests pytest-instafail"
).split()
TESTS = ("test_pytest_versions.py", "test_pytest_beside.py", "test_pytest_free_lists.py", "test_pytest_options.py", "test_pytest_demo.py")
QUICK_TESTS = ("test_pytest_beside.py", "test_pytest_free_lists.py::test_each_kind_is_found_when_it_is_lost")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the tests of the pytest plugin on other versions of pytest.")
    parser.add_argument("--quick", action="store_true", help="the oldest and the newest, and the tests that say most")
    quick = parser.parse_args().quick
    wanted = [(python, pytest) for python, versions in VERSIONS.items() for pytest in versions]
    failed = []
    for version, pytest in QUICK if quick else wanted:
        name = f"CPython {version[0]}.{version[1]}, pytest {pytest}"
        print(f"== {name}", flush=True)
        python = next((python.path for python in support.pythons() if python.version == version), None)
        if python is None or not _run(_environment(python, version, pytest), quick):
            failed.append(name if python else f"{name}: neither pyenv nor /usr/bin has that CPython")
    print(*(f"FAILED: {name}" for name in failed), sep="\n")
    return 1 if failed else 0


def _environment(python: str, version: tuple[int, int], pytest: str) -> Path:
    folder = FOLDER / f"{version[0]}.{version[1]}-{pytest}"
    inside = folder / "venv" / "bin" / "python"
    wanted = [f"pytest=={pytest}", *PLUGINS]
    with packages.installed_once(folder, " ".join(wanted)) as missing:
        if missing:
            subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
            subprocess.run([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
    return inside


def _run(python: Path, quick: bool) -> bool:
    tests = [str(support.ROOT / "tests" / name) for name in (QUICK_TESTS if quick else TESTS)]
    # A warning of a plugin's in one of its versions is not ours.
    command = [python, "-m", "pytest", "-q", "-n", "2", "-W", "default", "-m", "not thorough", *tests]
    return subprocess.run(command, cwd=support.ROOT, env=dict(os.environ), check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
