"""Interpreters that the module would load into, and misjudge, are refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from support import BUILD, ROOT, pythons, run

SENTENCE = "Leaktight does not support %s, whose objects and allocators are others: install it for a CPython with a GIL"

#: What the build is told of an interpreter (`PYO3_CONFIG_FILE`), and what it calls that; nothing where it is built for.
INTERPRETERS = {
    "version=3.14\nbuild_flags=Py_GIL_DISABLED": "free-threaded CPython 3.14",
    "version=3.15\nbuild_flags=Py_GIL_DISABLED": "free-threaded CPython 3.15",
    "implementation=PyPy\nversion=3.11": "PyPy 3.11",
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


@pytest.mark.parametrize("config, name", INTERPRETERS.items(), ids=map(str, INTERPRETERS.values()))
def test_the_build(project, config, name):
    file = project / "config"
    file.write_text(config + "\n")
    environment = {**os.environ, "PYO3_CONFIG_FILE": str(file), "CARGO_TARGET_DIR": str(BUILD / "refused")}
    done = subprocess.run(["cargo", "check", "--quiet"], capture_output=True, text=True, cwd=project, env=environment, check=False)
    said = [line.split(": ", 2)[2] for line in done.stderr.splitlines() if line.startswith("error: leaktight-python@")]
    assert (done.returncode == 0) == (name is None), done.stderr
    assert [line[: len(SENTENCE % name)] for line in said] == ([SENTENCE % name] if name else []), done.stderr


def test_the_package():
    done = run(pythons()[0], ["-c", "import sys; sys.abiflags = 't'; import leaktight"])
    # The last line of a traceback.
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("ImportError: " + SENTENCE % "free-threaded CPython"), done
