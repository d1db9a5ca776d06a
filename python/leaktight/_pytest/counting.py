"""What counts: parts of a round are watched, and the test's own function starts and ends with empty free lists.

The interpreter keeps freed tuples, dicts and the like for the next that asks. What a leak takes from there is a block
that pytest has allocated, and nobody's leak; what pytest takes from there and keeps is a block of the test's.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import types
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from leaktight import _core

#: A full collection ends with clearing the free lists (``gc_collect_main`` of CPython).
clear_free_lists = gc.collect


def count(part: Callable[[], Any]) -> Any:
    """Calls ``part()`` so that what it allocates counts."""
    clear_free_lists()
    try:
        return _core.inside(part)
    finally:
        clear_free_lists()


@contextlib.contextmanager
def no_callbacks() -> Iterator[None]:
    """Nobody is told of collections: what such a callback frees would be in the free lists again."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    try:
        yield
    finally:
        gc.callbacks[:0] = callbacks


def body_of(item: pytest.Function) -> Callable[[], None]:
    """Runs the call phase of a test so that it counts."""
    plain = item.runtest

    def body() -> None:
        with _apart(item):
            count(plain)

    return body


@contextlib.contextmanager
def _apart(item: pytest.Function) -> Iterator[None]:
    """Clears the free lists between the machinery that calls the test and the test's own functions."""
    function = item.obj
    handle: Any = getattr(function, "hypothesis", None)
    if hasattr(handle, "inner_test"):
        # The test's own function is what hypothesis calls.
        owner, name, inner = handle, "inner_test", handle.inner_test
    else:
        owner, name, inner = item, "obj", function
    instance = getattr(function, "__self__", None)
    around = {part: getattr(instance, part) for part in AROUND_METHODS if _has(type(instance), part)} if instance is not None else {}
    # Up to 0.23 pytest-asyncio leaves its own function in place, and goes by this attribute to the test's.
    setattr(owner, name, apart(getattr(inner, "_raw_test_func", inner)))
    for part, method in around.items():
        setattr(instance, part, apart(method))
    try:
        yield
    finally:
        setattr(owner, name, inner)
        for part in around:
            vars(instance).pop(part, None)


#: What `unittest` calls before and after a test.
AROUND_METHODS = ("setUp", "tearDown", "asyncSetUp", "asyncTearDown")


def _has(kind: type, part: str) -> bool:
    """Whether a class of tests has such a method of its own."""
    owner = next((owner for owner in kind.__mro__ if part in vars(owner)), None)
    return owner is not None and owner.__module__.partition(".")[0] != "unittest"


def apart(function: Any) -> Any:
    """The same function, with empty free lists when it begins and when it ends; a coroutine, at each of its steps."""
    if inspect.ismethod(function):
        return types.MethodType(apart(function.__func__), function.__self__)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def steps(*arguments: Any, **named: Any) -> Any:
            return await _Steps(function(*arguments, **named))

        return steps
    if not inspect.isfunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return function

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        # An evaluation loop that calls a Python function itself frees what it was given before the function begins
        # (`_PyEvalFramePushAndInit_Ex`); this one is called by C code, which frees it at the end.
        whole = functools.partial(function, *arguments, **named)
        clear_free_lists()
        try:
            return whole()
        finally:
            clear_free_lists()

    return call


class _Steps:
    """Awaits a coroutine."""

    def __init__(self, coroutine: Any) -> None:
        self._send, self._throw, self.close = coroutine.send, coroutine.throw, coroutine.close

    def __await__(self) -> _Steps:
        return self

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        clear_free_lists()
        try:
            return self._send(value)
        finally:
            clear_free_lists()

    def throw(self, *exception: Any) -> Any:
        clear_free_lists()
        try:
            return self._throw(*exception)
        finally:
            clear_free_lists()
