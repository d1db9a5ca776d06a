"""What the tests need from elsewhere: published packages, and Debian's libraries. Kept under build/packages.

Every package is asked for by its version, so that nobody's release can break our tests. With LEAKTIGHT_NEWEST=1 the
newest of each is taken where a test does not depend on the text of one release (`make test-newest`). What cannot be
had fails the test that needs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from support import BUILD

NEWEST = os.environ.get("LEAKTIGHT_NEWEST") == "1"
FOLDER = BUILD / ("packages-newest" if NEWEST else "packages")

#: Whose calls ours are measured by, and whose own tests are run here.
PSUTIL = "psutil==7.2.2"
PSLEAK = "psleak==0.1.6"
#: The last version whose build without a GIL there are wheels for.
NEWEST_FREE_THREADED = (3, 14)


def wheels(name: str, requirements: Sequence[str], version: tuple[int, ...] = sys.version_info, *, free_threaded: bool = False) -> str:
    """A folder for sys.path with these wheels (and options of pip's), for an interpreter of that version, with a GIL or not."""
    if NEWEST:
        requirements = [re.sub("==[^;]*", "", requirement) for requirement in requirements if requirement != "--no-deps"]
    dotted = "{}.{}".format(*version)
    folder = FOLDER / (dotted + "t" * free_threaded) / name
    with installed_once(folder, "\n".join(requirements)) as missing:
        if missing:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
            if free_threaded:
                # What is pure Python, too.
                pip += ["--abi", f"cp{dotted.replace('.', '')}t", "--abi", "none", "--implementation", "cp"]
            get([*pip, "--python-version", dotted, "--target", str(folder), *requirements], ", ".join(requirements))
    return str(folder)


def source(requirement: str, *, isolated: bool = False) -> Path:
    """The unpacked source distribution of a package. `isolated`: pip may fetch what reading its metadata takes, too."""
    folder = FOLDER / "sources" / requirement
    name = requirement.replace("==", "-")
    with installed_once(folder, requirement) as missing:
        if missing:
            # Only the package itself. What pip needs to read the metadata of most is in requirements.txt.
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            pip += [] if isolated else ["--no-build-isolation"]
            package = requirement.partition("==")[0]
            get([*pip, "--no-binary", package, "--no-deps", "--dest", str(folder), requirement], requirement)
            (file,) = folder.glob("*.tar.gz")
            with tarfile.open(file) as archive:
                archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    # Some write `-` in the name as `_`.
    return next(path for path in (folder / name, folder / name.replace("-", "_", name.count("-") - 1)) if path.is_dir())


def tests_of(requirement: str) -> Path:
    """A folder that holds a package's tests and nothing else of it, so that they import what is installed."""
    tests = source(requirement) / "tests"
    folder = FOLDER / "tests" / requirement
    with installed_once(folder, requirement) as missing:
        if missing:
            shutil.copytree(tests, folder / "tests")
    return folder


def debian_library(package: str, file: str) -> str:
    """The path of a library from a Debian package: the installed one, or else one that is only unpacked.

    Of the release that the machine runs, which gets no new versions, only corrections.
    """
    system = [Path(folder) / file for folder in ("/usr/lib/{}-linux-gnu".format(platform.machine()), "/usr/lib64", "/usr/lib")]
    found = [path for path in system if path.exists()]
    if found:
        return str(found[0])
    folder = FOLDER / package
    with installed_once(folder, "") as missing:
        if missing:
            if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
                unavailable(f"{file}: install {package}, there is no apt-get to fetch it")
            # Lists and a cache of its own, so that it needs no rights, and none of the system's need to be there.
            state, cache = FOLDER / "apt" / "lists", FOLDER / "apt" / "cache"
            state.mkdir(parents=True, exist_ok=True)
            cache.mkdir(parents=True, exist_ok=True)
            apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={state}", "-o", f"Dir::Cache={cache}"]
            if not any(state.glob("*_Packages*")):
                get([*apt, "update"], package)
            get([*apt, "download", package], package, folder)
            (archive,) = folder.glob("*.deb")
            get(["dpkg-deb", "-x", str(archive), str(folder)], package)
    (path,) = folder.glob(f"usr/lib/*/{file}")
    return str(path)


@contextlib.contextmanager
def installed_once(folder: Path, what: str) -> Iterator[bool]:
    """Whether `folder` has yet to be filled with `what`; several test runs may ask at once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = folder / ".done"
    with open(FOLDER / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = not done.is_file() or done.read_text() != what
        if missing:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        yield missing
        done.write_text(what)


def get(command: Sequence[str], what: str, folder: Path = FOLDER) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        unavailable(f"{what}: {done.stderr.strip()}")


def unavailable(what: str) -> NoReturn:
    """Nothing is left out in silence."""
    pytest.fail(f"cannot be had here: {what}")
