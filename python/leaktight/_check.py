"""``check``: the leak test of one call."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, Optional, Type, Union

from leaktight import _core, _inert
from leaktight._report import Report

if TYPE_CHECKING:
    import asyncio

#: What a check can look at.
CHECKS: tuple[str, ...] = tuple(_core.CHECKS)


def check(
    fun: Callable[..., Any],
    *args: Any,
    max_calls: Optional[int] = None,
    time_budget: Optional[float] = None,
    period: Optional[int] = None,
    raises: Optional[Type[BaseException]] = None,
    checks: Optional[Iterable[str]] = None,
    holders: bool = False,
) -> Report:
    """Call ``fun(*args)`` again and again and say whether it leaks.

    Every block that a call allocates is followed, so the report counts exactly, and names the line
    that allocated what stays behind. Nothing is raised about leaks: look at ``report.verdict``.

    :param fun: what to call. The result is dropped. A coroutine function is awaited, once a call, on
        an event loop of its own. For keyword arguments use :func:`functools.partial`.
    :param max_calls: make no more calls than this. Default: 128 times the period, at
        least 65,536.
    :param time_budget: seconds after which no call is started; what was seen by then is judged, and
        the report says how deep it went. Default: 20.
    :param period: a leak that happens once in so many calls must not be called clean. Default: 512, or a
        quarter of ``max_calls`` if that is less.
    :param raises: each call must raise this; for leaks on error paths.
    :param checks: what to look at, of ``leaktight.CHECKS``. Default: everything.
    :param holders: tell in ``report.kept`` of everything that the calls leave behind what holds it, even if it
        is no leak.
    :raises TypeError, ValueError: when an argument is wrong; nothing was called then.
    :raises CheckError: when nothing can be judged here: a check runs on another thread or around
        this one, or allocations cannot be seen in this process.
    :raises TimeoutError: when a call had not returned some time after the end of the budget.

    What ``fun`` raises itself comes out as it is. One check runs at a time; blocks of all threads
    that keep step with the calls are counted.
    """
    if not callable(fun):
        raise TypeError(f"fun must be callable, not {_kind(fun)}")
    _inert.refuse(fun, args)
    _whole("max_calls", max_calls)
    _whole("period", period)
    if time_budget is not None:
        if isinstance(time_budget, bool) or not isinstance(time_budget, numbers.Real):
            raise TypeError(f"time_budget must be a number of seconds, not {_kind(time_budget)}")
        if not 0 < time_budget < 1e9:
            raise ValueError(f"time_budget must be more than 0 seconds, not {time_budget!r}")
    if raises is not None and not (isinstance(raises, type) and issubclass(raises, BaseException)):
        raise TypeError(f"raises must be an exception class, not {_kind(raises)}")

    name = call_text(fun, args)
    options: dict[str, Any] = dict(
        max_calls=max_calls, time_budget=time_budget, period=period, raises=raises, checks=_known(checks), holders=bool(holders)
    )
    if not (inspect.iscoroutinefunction(fun) or inspect.iscoroutinefunction(getattr(fun, "__call__", None))):
        return judge(name, fun, args, **options)
    import asyncio  # Slow to import, and rarely needed.

    loop = asyncio.new_event_loop()
    try:
        return judge(name, _Await(loop, fun), args, **options)
    finally:
        loop.close()


def judge(name: str, fun: Callable[..., Any], args: tuple[Any, ...], **options: Any) -> Report:
    """:func:`check` for the rest of the package: the arguments are right, and the name is given."""
    return Report._of(_core.check(name, fun, args, **options))


class _Await:
    """Makes a plain callable of a coroutine function."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fun: Callable[..., Any]) -> None:
        self.loop = loop
        self.fun = fun

    def __call__(self, *args: Any) -> None:
        self.loop.run_until_complete(self.fun(*args))


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"


def _whole(name: str, value: Optional[int]) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {_kind(value)}")
    if not 1 <= value < 2**31:
        raise ValueError(f"{name} must be at least 1 and below 2**31, not {value!r}")


def _known(checks: Union[Iterable[str], None]) -> Optional[list[str]]:
    if checks is None:
        return None
    if isinstance(checks, str) or not isinstance(checks, Iterable):
        raise TypeError(f"checks must be a collection of names, such as {set(CHECKS)!r}, not {_kind(checks)}")
    chosen = list(checks)
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown or not chosen:
        what = f"unknown: {unknown!r}" if unknown else "nothing chosen"
        raise ValueError(f"checks must name some of {', '.join(CHECKS)}; {what}")
    return chosen


def call_text(fun: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """``module.name(…)``, without running a foreign ``__repr__``."""
    module = getattr(fun, "__module__", None)
    prefix = f"{module}." if isinstance(module, str) and module not in ("builtins", "__main__") else ""
    plain = (int, float, bool, str, bytes, type(None))
    texts = [repr(arg) if type(arg) in plain else f"<{type(arg).__name__}>" for arg in args]
    inside = ", ".join(text if len(text) <= 40 else text[:37] + "..." for text in texts)
    return f"{prefix}{name(fun)}({inside})"


def name(fun: Callable[..., Any]) -> str:
    """What a callable is called. Functions of ctypes have a ``__name__`` only."""
    names = (getattr(fun, attribute, None) for attribute in ("__qualname__", "__name__"))
    return next((name for name in names if name and isinstance(name, str)), type(fun).__qualname__)
