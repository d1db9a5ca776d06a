"""Leaktight finds native memory leaks in extension modules, and names the line.

>>> import leaktight
>>> report = leaktight.check(sorted, [3, 1, 2])
>>> report.verdict
'clean'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leaktight._check import CHECKS, check
    from leaktight._core import CheckError
    from leaktight._report import Control, Environment, Finding, Frame, Report

__all__ = [
    "CHECKS",
    "CheckError",
    "Control",
    "Environment",
    "Finding",
    "Frame",
    "Report",
    "check",
]

_HOMES = {"CHECKS": "_check", "CheckError": "_core", "check": "_check"}


def __getattr__(name: str) -> Any:
    # pytest imports this package at every start, for the plugin; the engine is loaded when it is asked for.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, '_report')}"), name)
    globals()[name] = value
    return value


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})
