"""Interpreters that the module would load into, and misjudge, are refused in one sentence; and none that are served."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import BUILD, ROOT, Python, free_threaded, pythons

SENTENCE = "Leaktight does not support %s, whose objects and allocators are others: install it for CPython 3.9 or later"
#: Of a package that was built for others.
COPIED = "ImportError: this copy of Leaktight serves CPython with a GIL: install it with the pip of this interpreter"

#: What the build is told of an interpreter (`PYO3_CONFIG_FILE`), and what it calls that; nothing where it is built for.
INTERPRETERS = {
    "implementation=PyPy\nversion=3.11": "PyPy 3.11",
    "version=3.14\nbuild_flags=Py_GIL_DISABLED": None,
    "version=3.15\nbuild_flags=Py_GIL_DISABLED": None,
    "version=3.15": None,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A package with the build script of ours, and nothing else that takes time to compile."""
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    described = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout)
    (package,) = [package for package in described["packages"] if package["name"] == "leaktight-python"]
    (script,) = [target["src_path"] for target in package["targets"] if target["kind"] == ["custom-build"]]
    needed = {dependency["name"]: dependency for dependency in package["dependencies"]}
    folder = tmp_path_factory.mktemp("refused")
    (folder / "src").mkdir()
    (folder / "src" / "lib.rs").touch()
    (folder / "Cargo.toml").write_text(f"""
[package]
name = "leaktight-python"
edition = "2024"
build = {json.dumps(script)}
[dependencies]
pyo3-ffi = {{ version = "{needed['pyo3']['req']}", features = {json.dumps(needed['pyo3']['features'])} }}
[build-dependencies]
pyo3-build-config = "{needed['pyo3-build-config']['req']}"
[workspace]
""")
    shutil.copy(ROOT / "Cargo.lock", folder)
    return folder


@pytest.mark.parametrize("config, name", INTERPRETERS.items(), ids=lambda value: str(value).replace("\n", " "))
def test_the_build(project, config, name):
    file = project / "config"
    file.write_text(config + "\n")
    environment = {**os.environ, "PYO3_CONFIG_FILE": str(file), "CARGO_TARGET_DIR": str(BUILD / "refused")}
    done = subprocess.run(["cargo", "check", "--quiet"], capture_output=True, text=True, cwd=project, env=environment, check=False)
    said = [line.split(": ", 2)[2] for line in done.stderr.splitlines() if line.startswith("error: leaktight-python@")]
    assert (done.returncode == 0) == (name is None), done.stderr
    assert [line[: len(SENTENCE % name)] for line in said] == ([SENTENCE % name] if name else []), done.stderr


def test_a_package_without_its_engine(tmp_path):
    """As an interpreter without a GIL sees the one for those with a GIL: it does not look for files of their stable ABI."""
    copied(tmp_path)
    for engine in tmp_path.glob("leaktight/_core*.so"):
        engine.unlink()
    assert_refused(pythons()[0], "import sys; sys.abiflags = 't'; import leaktight", tmp_path)


@pytest.mark.parametrize("python", free_threaded(), ids=str)
def test_the_package_of_interpreters_with_a_gil(python, tmp_path):
    copied(tmp_path)
    assert_refused(python, "import leaktight", tmp_path)


def copied(folder: Path) -> None:
    package = Path(os.environ.get("LEAKTIGHT_SITE", ROOT / "python")) / "leaktight"
    shutil.copytree(package, folder / "leaktight", ignore=shutil.ignore_patterns("__pycache__"))


def assert_refused(python: Python, code: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([python.path, "-c", code], capture_output=True, text=True, env=environment, check=False)
    # The last line of a traceback.
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(COPIED), done
