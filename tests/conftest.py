"""Fixtures for all tests."""

import functools
import os
import signal

import pytest
import support
import testcases
from pytest_project import Project

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so would every process
# that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Nor do runs of pytest that tests start belong to the one that they are in.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[name]
# Workers of pytest-xdist say how wide a terminal is that is not theirs.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def zoo():
    """Folders with the zoo's modules for the running interpreter."""
    return support.zoo_paths()[support.pythons()[0].version]


@pytest.fixture
def project(tmp_path):
    """A project of a user, with files of its own."""
    return Project(tmp_path)


@pytest.fixture(params=support.everywhere(), ids=str)
def holds(request):
    """Runs code with a test case, which must not raise."""
    return functools.partial(testcases.run, request.param)


def pytest_terminal_summary(terminalreporter):
    """Says what could not be tried here."""
    missing = []
    if os.environ.get("LEAKTIGHT_PYTHONS") in ("all", "others"):
        found = {python.version for python in support.pythons()}
        missing += [f"CPython {major}.{minor}: neither pyenv nor /usr/bin has it" for major, minor in support.SUPPORTED if (major, minor) not in found]
    found = {python.version for python in support.free_threaded()}
    missing += [f"free-threaded CPython {major}.{minor}t: neither PATH nor pyenv has it" for major, minor in support.FREE_THREADED if (major, minor) not in found]
    if not any(support.built_with(python)["jit"] for python in support.pythons()):
        missing.append("compiled loops (PYTHON_JIT=1): no CPython with a JIT compiler is here")
    if not support.has_old_headers():
        missing.append("counts of immortal objects that old extensions move: no CPython before 3.12 with headers is here")
    for what in missing:
        terminalreporter.write_line(f"NOT RUN: {what}")
