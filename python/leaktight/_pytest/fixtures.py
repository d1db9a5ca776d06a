"""Fixtures of function scope are part of what a test does: what they allocate counts, and a leak of theirs says
so."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Iterator
from types import CodeType
from typing import Any, Callable, Optional

import pytest

from leaktight._pytest import inside
from leaktight._pytest.counting import count


class Definitions:
    """A plugin that knows all fixtures that were set up."""

    def __init__(self) -> None:
        self._by_id: dict[int, Any] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> None:
        self._by_id.setdefault(id(fixturedef), fixturedef)

    def of_scope(self, *scopes: str) -> list[Any]:
        return [definition for definition in self._by_id.values() if definition.scope in scopes]

    def wide(self) -> list[Any]:
        """Those that outlive a test."""
        return self.of_scope("class", "module", "package", "session")

    def name_of(self, stack: list[dict[str, Any]]) -> Optional[str]:
        """The fixture of function scope whose function is in the stack."""
        # A frame's file may be given relative to the current folder.
        frames = {(os.path.abspath(frame.get("file") or ""), (frame.get("function") or "").rpartition(".")[2]) for frame in stack if frame["python"]}
        for definition in self.of_scope("function"):
            code = getattr(inspect.unwrap(definition.func), "__code__", None)
            if isinstance(code, CodeType) and (os.path.abspath(code.co_filename), code.co_name) in frames:
                return str(definition.argname)
        return None


def counted(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Makes what the suite's own fixtures of function scope allocate count. Fixtures of pytest and of plugins
    may keep what they like, and asynchronous ones run with machinery of a plugin's around them."""
    plugins = _plugins(config)

    def wrap(function: Callable[..., Any], request: Any) -> Callable[..., Any]:
        ours = request.scope == "function" and not _is_of(plugins, function) and not _is_asynchronous(function)
        return _inside(function) if ours else function

    return inside.fixtures_called_by(wrap)


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
