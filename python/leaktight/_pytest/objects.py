"""Objects whose references are counted while tests run: those that extension modules share with their users."""

from __future__ import annotations

import importlib.machinery
import sys
import sysconfig
import types
from collections.abc import Iterable
from typing import Any

import pytest

STANDARD_LIBRARY = sysconfig.get_path("platstdlib") + "/lib-dynload/"
#: At most so many; counting them must not take longer than a short test.
MOST = 4000
#: Containers of the test's module whose items count, too, up to this length.
MOST_ITEMS = 100
SINGLETONS = frozenset(map(id, (..., NotImplemented, (), "", b"")))
#: Types whose values the interpreter shares between all who use them, as it does with small numbers (from 3.15 on up to 1,024).
COMMON = (type(None), bool)
SMALL_NUMBERS = range(-5, 1025)


def objects_of(item: pytest.Function) -> list[Any]:
    """What leaked references would show at: what extension modules and the test's module name.

    Everything that lives could be looked at, as :func:`leaktight.check` does, but not in a few rounds of each test. Nor
    are singletons, whose counts pytest itself moves.
    """
    shared = _shared()
    own = _worth_counting(_values(vars(item.module) if item.module else {}))
    return [*shared.values(), *(value for at, value in own.items() if at not in shared)][:MOST]


def _worth_counting(values: Iterable[Any]) -> dict[int, Any]:
    return {id(value): value for value in values if not _is_shared(value)}


def _is_shared(value: Any) -> bool:
    kind = type(value)
    return kind in COMMON or id(value) in SINGLETONS or (kind is int and value in SMALL_NUMBERS)


def _shared() -> dict[int, Any]:
    """What extension modules outside of the standard library have."""
    if _cache.modules != len(sys.modules):
        modules = [module for module in list(sys.modules.values()) if _is_extension(module)]
        _cache.values = _worth_counting(value for module in modules for value in vars(module).values())
        _cache.modules = len(sys.modules)
    return _cache.values


class _Cache:
    """Found anew when there are more modules."""

    modules = 0
    values: dict[int, Any] = {}


_cache = _Cache()


def _is_extension(module: Any) -> bool:
    if type(module) is not types.ModuleType:
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        return False
    return not file.startswith(STANDARD_LIBRARY) and module.__name__ != "leaktight._core"


def _values(namespace: dict[str, Any]) -> list[Any]:
    values = [value for name, value in list(namespace.items()) if not name.startswith("__")]
    for value in list(values):
        if type(value) in (list, tuple, set, frozenset) and len(value) <= MOST_ITEMS:
            values += value
        elif type(value) is dict and len(value) <= MOST_ITEMS:
            values += [*value, *value.values()]
    return [value for value in values if type(value) is not types.ModuleType]
