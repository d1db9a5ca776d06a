"""Leaktight finds native memory leaks in extension modules, and names the line.

>>> import leaktight
>>> report = leaktight.check(sorted, [3, 1, 2])
>>> report.verdict
'clean'
"""

from leaktight._check import CHECKS, check
from leaktight._core import CheckError, heap_info, heap_trim
from leaktight._exit import ExitStatus
from leaktight._heap import Allocator, allocators, pheap
from leaktight._report import Control, Environment, Finding, Frame, Report

__all__ = [
    "Allocator",
    "CHECKS",
    "CheckError",
    "Control",
    "Environment",
    "ExitStatus",
    "Finding",
    "Frame",
    "Report",
    "allocators",
    "check",
    "heap_info",
    "heap_trim",
    "pheap",
]
