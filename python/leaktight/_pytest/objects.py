"""Objects whose references are counted while tests run: those that extension modules share with their users."""

from __future__ import annotations

import functools
import importlib.machinery
import sys
import sysconfig
import types
from typing import Any

import pytest

#: At most so many; counting them must not take longer than a short test.
MOST = 4000
#: Containers of the test's module whose items count, too, up to this length.
MOST_ITEMS = 100
SINGLETONS = (None, True, False, ..., NotImplemented, (), "", b"")


def objects_of(item: pytest.Function) -> list[Any]:
    """What leaked references would show at: what extension modules and the test's module name.

    Everything that lives could be looked at, as :func:`leaktight.check` does, but not in a few rounds of each test. Nor
    are singletons, whose counts pytest itself moves.
    """
    found: dict[int, Any] = {}
    own = vars(item.module) if item.module else {}
    for value in _shared(len(sys.modules)) + _values(own):
        if not any(value is one for one in SINGLETONS):
            found.setdefault(id(value), value)
    return list(found.values())[:MOST]


@functools.lru_cache(maxsize=1)
def _shared(_modules: int) -> list[Any]:
    """What extension modules outside of the standard library have; new when there are more modules."""
    return [value for module in list(sys.modules.values()) if _is_extension(module) for value in vars(module).values()]


def _is_extension(module: Any) -> bool:
    if type(module) is not types.ModuleType:
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
        return False
    return not file.startswith(_standard_library()) and module.__name__ != "leaktight._core"


@functools.lru_cache(maxsize=1)
def _standard_library() -> str:
    return sysconfig.get_path("platstdlib") + "/lib-dynload"


def _values(namespace: dict[str, Any]) -> list[Any]:
    values = [value for name, value in list(namespace.items()) if not name.startswith("__")]
    for value in list(values):
        if type(value) in (list, tuple, set, frozenset) and len(value) <= MOST_ITEMS:
            values += value
        elif type(value) is dict and len(value) <= MOST_ITEMS:
            values += [*value, *value.values()]
    return [value for value in values if type(value) is not types.ModuleType]
