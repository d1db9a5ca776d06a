"""Source distributions of published packages, whose own tests are run here: fetched by name, once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sources"
sys.path.insert(0, str(ROOT / "tests" / "zoo"))

import build as zoo_build  # noqa: E402

PSLEAK = "psleak==0.1.6"
PSUTIL = "psutil==7.2.2"


class SourceError(Exception):
    """A package could not be fetched; the message says why."""


def source(requirement: str) -> Path:
    """The unpacked source distribution."""
    target = FOLDER / requirement
    with zoo_build.locked(FOLDER):
        if target.is_dir():
            return target
        download = FOLDER / "download"
        # Not in isolation it would need setuptools here; either way nothing is installed.
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--no-binary", ":all:", "--dest", str(download), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SourceError(f"{requirement} could not be downloaded\n{done.stderr.strip()}")
        name, _, version = requirement.partition("==")
        with tarfile.open(download / f"{name}-{version}.tar.gz") as archive:
            archive.extractall(download, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (download / f"{name}-{version}").rename(target)
        return target


def tests_of(requirement: str) -> Path:
    """A folder that holds the package's tests and nothing else of it, so that they import what is installed."""
    folder = FOLDER / f"{requirement}-tests"
    tests = source(requirement) / "tests"
    with zoo_build.locked(FOLDER):
        if not (folder / "tests").is_dir():
            shutil.copytree(tests, folder / "tests")
    return folder
