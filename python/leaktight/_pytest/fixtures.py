"""Fixtures of function scope are part of what a test does: what they allocate counts, and a leak of theirs says
so."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
from collections.abc import Iterator
from types import CodeType
from typing import Any, Callable, Optional

import pytest
from _pytest import fixtures as pytests

from leaktight import _core


@contextlib.contextmanager
def counted(item: pytest.Function) -> Iterator[None]:
    """Makes what the suite's own fixtures of function scope allocate count. Fixtures of pytest and of plugins
    may keep what they like, and asynchronous ones run with machinery of a plugin's around them."""
    plain = pytests.call_fixture_func
    plugins = _plugins(item.config)

    def call(function: Callable[..., Any], request: Any, arguments: dict[str, Any]) -> Any:
        ours = request.scope == "function" and not _is_of(plugins, function) and not _is_asynchronous(function)
        return plain(_inside(function) if ours else function, request, arguments)

    pytests.call_fixture_func = call  # type: ignore[assignment]
    try:
        yield
    finally:
        pytests.call_fixture_func = plain


def name_of(item: pytest.Item, stack: list[dict[str, Any]]) -> Optional[str]:
    """The fixture whose function is in the stack."""
    # A frame's file may be given relative to the current folder.
    frames = {(os.path.abspath(frame.get("file") or ""), (frame.get("function") or "").rpartition(".")[2]) for frame in stack if frame["python"]}
    for definition in definitions(item.session):
        code = getattr(inspect.unwrap(definition.func), "__code__", None)
        in_stack = isinstance(code, CodeType) and (os.path.abspath(code.co_filename), code.co_name) in frames
        if in_stack and definition.scope == "function":
            return str(definition.argname)
    return None


def definitions(session: pytest.Session) -> list[Any]:
    """The definitions of all fixtures."""
    manager: Any = session._fixturemanager
    # By name; from pytest 9.2 on by name and the node, or its id, that they belong to.
    if hasattr(manager, "_arg2fixturedefs"):
        tables = [manager._arg2fixturedefs]
    else:
        tables = [*manager._arg2node2fixturedefs.values(), *manager._arg2nodeid2fixturedefs.values()]
    return [definition for table in tables for same in table.values() for definition in same]


def _plugins(config: pytest.Config) -> frozenset[str]:
    """The top-level packages of pytest and of the plugins that are installed."""
    modules = [getattr(plugin, "__name__", type(plugin).__module__) for plugin, _ in config.pluginmanager.list_plugin_distinfo()]
    return frozenset(name.partition(".")[0] for name in ("_pytest", "leaktight", *modules))


def _is_of(packages: frozenset[str], function: Callable[..., Any]) -> bool:
    return (getattr(function, "__module__", None) or "").partition(".")[0] in packages


def _is_asynchronous(function: Callable[..., Any]) -> bool:
    # A plugin may have wrapped it already.
    inner = inspect.unwrap(function)
    return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)


def _inside(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same fixture function, each part of it counted: set-up, and what follows a `yield`."""
    if not inspect.isgeneratorfunction(function):
        return lambda **arguments: count(functools.partial(function, **arguments))

    def steps(**arguments: Any) -> Iterator[Any]:
        generator = function(**arguments)
        with contextlib.suppress(StopIteration):
            while True:
                yield count(functools.partial(next, generator))

    return steps


def count(part: Callable[[], Any]) -> Any:
    """Calls ``part()`` so that what it allocates counts."""
    # Clears the free lists of the interpreter: an object of a leak that came out of one would be a block that
    # pytest has allocated.
    gc.collect()
    return _core.inside(part)
