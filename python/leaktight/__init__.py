"""Leaktight finds native memory leaks in extension modules, and names the line.

>>> import leaktight
>>> report = leaktight.check(sorted, [3, 1, 2])
>>> report.verdict
'clean'
"""

from typing import TYPE_CHECKING, Any

from leaktight._check import CHECKS, check
from leaktight._core import CheckError, heap_info, heap_trim
from leaktight._exit import ExitStatus
from leaktight._heap import Allocator, allocators, pheap
from leaktight._report import Control, Environment, Finding, Frame, Report

if TYPE_CHECKING:
    from leaktight.testcase import (
        Checkers,
        LeakTest,
        MemoryLeakError,
        MemoryLeakTestCase,
        UnclosedFdError,
        UnclosedHandleError,
        UnclosedHeapCreateError,
        UnclosedNativeThreadError,
        UnclosedPythonThreadError,
        UncollectableGarbageError,
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
    "LeakTest",
    "MemoryLeakError",
    "MemoryLeakTestCase",
    "Report",
    "UnclosedFdError",
    "UnclosedHandleError",
    "UnclosedHeapCreateError",
    "UnclosedNativeThreadError",
    "UnclosedPythonThreadError",
    "UncollectableGarbageError",
    "allocators",
    "check",
    "heap_info",
    "heap_trim",
    "pheap",
]


def __getattr__(name: str) -> Any:
    # The test case needs unittest, which takes longer to import than all the rest.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from leaktight import testcase

    return getattr(testcase, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
