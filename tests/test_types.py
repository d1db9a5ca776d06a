"""What type checkers are told of the package is what is there."""

from __future__ import annotations

import os

from packages import NEWEST
from support import BUILD, ROOT, pythons, run

PACKAGE = os.environ.get("LEAKTIGHT_SITE", str(ROOT / "python"))
#: The package imports pytest, which imports more, and mypy reads all of it. What requirements.txt pins is code for
#: 3.9; the newest releases no longer are.
OLDEST = "{}.{}".format(*pythons()[0].version) if NEWEST else "3.9"


def assert_passes(*arguments: str) -> None:
    environment = {"MYPYPATH": PACKAGE, "MYPY_CACHE_DIR": str(BUILD / "mypy")}
    done = run(pythons()[0], ["-m", *arguments], env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_strictly_typed_for_the_oldest_python() -> None:
    assert_passes("mypy", "--strict", "--python-version", OLDEST, "--package", "leaktight")


def test_the_stub_matches_the_built_module() -> None:
    # The last mypy that runs on 3.9 takes what a module imports for what it exports.
    assert_passes("mypy.stubtest", "leaktight" if pythons()[0].version >= (3, 10) else "leaktight._core")
