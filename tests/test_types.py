"""What type checkers are told of the package is what is there."""

from __future__ import annotations

import os

from support import BUILD, ROOT, pythons, run

PACKAGE = os.environ.get("LEAKTIGHT_SITE", str(ROOT / "python"))


def assert_passes(*arguments: str) -> None:
    environment = {"MYPYPATH": PACKAGE, "MYPY_CACHE_DIR": str(BUILD / "mypy")}
    done = run(pythons()[0], ["-m", *arguments], env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_strictly_typed_for_the_oldest_python() -> None:
    assert_passes("mypy", "--strict", "--python-version", "3.9", "--package", "leaktight")


def test_the_stub_matches_the_built_module() -> None:
    assert_passes("mypy.stubtest", "leaktight")
