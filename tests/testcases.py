"""Code with a ``MemoryLeakTestCase``, for tests of that."""

from __future__ import annotations

import textwrap

import support

PREAMBLE = """
import gc, os, pickle, sys, threading, unittest
import leaktight, zoo
from leaktight import *
from leaktight.testcase import UnclosedResourceError

class Test(MemoryLeakTestCase):
    pass

def failure(kind, fun, *args, execute="execute", **options):
    try:
        getattr(Test(), execute)(fun, *args, **options)
    except kind as error:
        assert type(error) is kind, error
        return error
    raise SystemExit(f"no {kind.__name__}")

def passes(fun, *args, execute="execute", **options):
    getattr(Test(), execute)(fun, *args, **options)

class Counted:
    def __init__(self, fun=lambda: None): self.fun, self.calls = fun, 0
    def __call__(self, *args):
        self.calls += 1
        return self.fun(*args)
"""


def run(python: support.Python, code: str, **more: object) -> str:
    """Runs code after the preamble; it must not raise."""
    # What cannot be seen there is told once for each test.
    quiet = ["-W", "ignore:leaktight cannot see here"] if python.is_free_threaded else []
    script = PREAMBLE + textwrap.dedent(code)
    done = support.run(python, ["-W", "error", *quiet, "-c", script], paths=support.zoo_of(python), **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
