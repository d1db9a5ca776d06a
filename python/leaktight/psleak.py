"""A drop-in for psleak: ``import leaktight.psleak as psleak``.

Every public name of psleak 0.1.6, with its meaning. ``docs/from-psleak.md`` says what differs and why.
"""

from leaktight.testcase import (
    Checkers,
    GCDebugger,
    LeakTest,
    MemoryLeakError,
    MemoryLeakTestCase,
    UnclosedFdError,
    UnclosedHandleError,
    UnclosedHeapCreateError,
    UnclosedNativeThreadError,
    UnclosedPythonThreadError,
    UnclosedResourceError,
    UncollectableGarbageError,
)
from leaktight.testcase import LeakError as Error

__all__ = [
    "Checkers",
    "Error",
    "GCDebugger",
    "LeakTest",
    "MemoryLeakError",
    "MemoryLeakTestCase",
    "UnclosedFdError",
    "UnclosedHandleError",
    "UnclosedHeapCreateError",
    "UnclosedNativeThreadError",
    "UnclosedPythonThreadError",
    "UnclosedResourceError",
    "UncollectableGarbageError",
]


def _emit_warnings() -> None:
    """Nothing: what psleak warns of, as an environment variable that is not set, does not matter here."""
