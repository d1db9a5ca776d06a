"""Leaktight finds native memory leaks in extension modules, and names the line.

>>> import leaktight
>>> report = leaktight.check(sorted, [3, 1, 2])
>>> report.verdict
'clean'
"""

import sys
from typing import TYPE_CHECKING, Any

if "t" in sys.abiflags:
    from importlib.util import find_spec

    # pip installs what was built for it: somebody has copied what serves interpreters with a GIL.
    if find_spec("leaktight._core") is None:
        raise ImportError(
            "this copy of Leaktight serves CPython with a GIL: install it with the pip of this interpreter, if that is "
            "free-threaded CPython 3.14 or later"
        )

if TYPE_CHECKING:
    from leaktight._check import CHECKS, check
    from leaktight._core import CheckError, heap_info, heap_trim
    from leaktight._exit import ExitStatus
    from leaktight._heap import Allocator, allocators, pheap
    from leaktight._report import Control, Environment, Finding, Frame, Kept, References, Report, Step
    from leaktight.testcase import (
        Checkers,
        LeakTest,
        MemoryLeakError,
        MemoryLeakTestCase,
        ReferenceLeakError,
        UnclosedFdError,
        UnclosedHandleError,
        UnclosedHeapCreateError,
        UnclosedNativeThreadError,
        UnclosedPythonThreadError,
        UncollectableGarbageError,
        UnreapedChildError,
        UnremovedFileError,
        UnremovedIpcError,
    )

__all__ = [
    "Allocator",
    "CHECKS",
    "CheckError",
    "Checkers",
    "Control",
    "Environment",
    "ExitStatus",
    "Finding",
    "Frame",
    "Kept",
    "LeakTest",
    "MemoryLeakError",
    "MemoryLeakTestCase",
    "ReferenceLeakError",
    "References",
    "Report",
    "Step",
    "UnclosedFdError",
    "UnclosedHandleError",
    "UnclosedHeapCreateError",
    "UnclosedNativeThreadError",
    "UnclosedPythonThreadError",
    "UncollectableGarbageError",
    "UnreapedChildError",
    "UnremovedFileError",
    "UnremovedIpcError",
    "allocators",
    "check",
    "heap_info",
    "heap_trim",
    "pheap",
]

_HOMES = {
    "_check": ("CHECKS", "check"),
    "_core": ("CheckError", "heap_info", "heap_trim"),
    "_exit": ("ExitStatus",),
    "_heap": ("Allocator", "allocators", "pheap"),
    "_report": ("Control", "Environment", "Finding", "Frame", "Kept", "References", "Report", "Step"),
}


def __getattr__(name: str) -> Any:
    # pytest imports this package at every start, for its plugin: nothing is loaded before it is needed, be it
    # the engine or unittest, which takes longer to import than all the rest.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = next((home for home, names in _HOMES.items() if name in names), "testcase")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
