"""Leak tests for ``unittest``, under psleak's names.

``docs/from-psleak.md`` says how each name is meant here.
"""

from __future__ import annotations

import functools
import unittest
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Optional, Union

from leaktight import _check, _inert
from leaktight._core import CheckError
from leaktight.errors import (
    LeakError,
    MemoryLeakError,
    ReferenceLeakError,
    UnclosedFdError,
    UnclosedHandleError,
    UnclosedHeapCreateError,
    UnclosedNativeThreadError,
    UnclosedPythonThreadError,
    UnclosedResourceError,
    UncollectableGarbageError,
    UnreapedChildError,
    UnremovedFileError,
    UnremovedIpcError,
)
from leaktight._garbage import GCDebugger
from leaktight._options import CONFIRMED_AFTER, Checkers, Options, of_type, run_table
from leaktight._report import Finding, Report
from leaktight._resources import Resources

__all__ = [
    "Checkers",
    "GCDebugger",
    "LeakError",
    "LeakTest",
    "MemoryLeakError",
    "MemoryLeakTestCase",
    "ReferenceLeakError",
    "UnclosedFdError",
    "UnclosedHandleError",
    "UnclosedHeapCreateError",
    "UnclosedNativeThreadError",
    "UnclosedPythonThreadError",
    "UnclosedResourceError",
    "UncollectableGarbageError",
    "UnreapedChildError",
    "UnremovedFileError",
    "UnremovedIpcError",
]

#: Keeps the frames of this file out of what unittest and pytest show of a failure.
__unittest = True

#: Kinds of findings that count references.
MISCOUNTED = ("reference", "over-release")
#: A test is bounded by its number of calls, as with psleak, and not by the clock.
NO_TIME_LIMIT_SECONDS = 1e8


class LeakTest:
    """A function, its arguments and the options of its test, for :meth:`MemoryLeakTestCase.auto_generate`."""

    __slots__ = ("args", "execute_kwargs", "fun")

    def __init__(self, fun: Callable[..., Any], *args: Any, **execute_kwargs: Any) -> None:
        of_type("fun", fun, Callable)
        self.fun = fun
        self.args = args
        self.execute_kwargs = execute_kwargs

    def _method(self, name: str) -> Callable[[MemoryLeakTestCase], None]:
        fun = functools.partial(self.fun, *self.args) if self.args else self.fun

        def test(case: MemoryLeakTestCase) -> None:
            case.execute(fun, **self.execute_kwargs)

        test.__name__ = test.__qualname__ = name
        test.__doc__ = f"Generated leak test of {_name(self.fun)!r}."
        return test


class MemoryLeakTestCase(unittest.TestCase):
    """A test case whose :meth:`execute` fails when a function leaks.

    The class attributes are the defaults of the arguments of the same name.
    """

    #: Calls before anything is counted.
    warmup_times: int = 10
    #: A clean function is called so often, and 256 times at least.
    times: int = 200
    #: While something grows, calls go on as in so many runs of psleak, each half as long again as the last.
    retries: int = 10
    #: Bytes by which `times` calls may grow memory: for all metrics, or by metric.
    tolerance: Union[int, dict[str, int]] = 0
    #: Frees caches. Called before memory is counted, each time.
    trim_callback: Optional[Callable[[], Any]] = None
    checkers: Checkers = Checkers()
    #: 1: print the report when something grows, even if that is no reason to fail.
    verbosity: int = 0

    @classmethod
    def auto_generate(cls) -> dict[str, LeakTest]:
        """Tests to generate: each becomes a method ``test_leak_<name>`` of the subclass."""
        return {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tests = cls.auto_generate()
        if not isinstance(tests, dict):
            raise TypeError(f"{cls.__name__}.auto_generate must return a dict, not {tests!r}")
        for name, test in tests.items():
            if not isinstance(test, LeakTest):
                raise TypeError(f"{cls.__name__}.auto_generate()[{name!r}] must be a LeakTest, not {test!r}")
            method = f"test_leak_{name}"
            if method in vars(cls):
                raise RuntimeError(f"{cls.__name__} already defines {method}")
            setattr(cls, method, test._method(method))

    def call(self, fun: Callable[[], Any]) -> Any:
        """Makes one call. Override it to catch what the calls raise."""
        return fun()

    def execute(
        self,
        fun: Callable[..., Any],
        *args: Any,
        warmup_times: Optional[int] = None,
        times: Optional[int] = None,
        retries: Optional[int] = None,
        tolerance: Union[int, dict[str, int], None] = None,
        trim_callback: Optional[Callable[[], Any]] = None,
        checkers: Optional[Checkers] = None,
    ) -> None:
        """Calls ``fun(*args)`` again and again and fails when that leaks.

        :raises UnclosedResourceError: a subclass of it, when descriptors, threads, processes, files or garbage stay behind.
        :raises MemoryLeakError: when memory does.
        :raises CheckError: when nothing can be judged here.
        :raises TypeError, ValueError: when an argument is wrong; nothing was called then.
        """
        options = Options(
            self.warmup_times if warmup_times is None else warmup_times,
            self.times if times is None else times,
            self.retries if retries is None else retries,
            self.tolerance if tolerance is None else tolerance,
            self.trim_callback if trim_callback is None else trim_callback,
            self.checkers if checkers is None else checkers,
        )
        _inert.refuse(fun, args)
        name, text = _name(fun), _check.call_text(fun, args)
        fun = functools.partial(fun, *args) if args else fun
        if not options.checkers.checks:
            for _ in range(options.warmup_times):
                self.call(fun)
            garbage = self._garbage(fun, name, options)
            if garbage is not None:
                raise garbage
            return
        before = Resources()
        report = _check.judge(
            text,
            self.call,
            (fun,),
            max_calls=options.max_calls,
            time_budget=NO_TIME_LIMIT_SECONDS,
            period=options.period,
            confirm=CONFIRMED_AFTER,
            checks=options.checkers.checks,
            trim=options.trim_callback,
            warm_up=options.warmup_times,
        )
        for part in report.not_done:
            warnings.warn(f"leaktight cannot see here: {part}", stacklevel=2)
        if self.verbosity > 0 and report.verdict != "clean":
            print(f"\n{report}", flush=True)
        findings = [finding for finding in report.findings if finding.severity == "error"]
        miscounted = _miscounted(findings, name, report)
        if miscounted is not None and any(finding.kind == "over-release" for finding in findings):
            # Not one more call: an object that others still use could be freed.
            raise miscounted
        resources = _unclosed(findings, options.checkers, before, name, report)
        for error in (*resources, self._garbage(fun, name, options), miscounted, _memory_leak(findings, options, report)):
            if error is not None:
                raise error
        blind = report.control.caught < max(report.control.planted, 1)
        if blind or (report.verdict == "indeterminate" and not findings):
            raise CheckError(f"nothing can be said about {name!r}\n\n{report}")

    def _garbage(self, fun: Callable[[], Any], name: str, options: Options) -> Optional[UncollectableGarbageError]:
        if not options.checkers.gcgarbage:
            return None
        with GCDebugger() as debugger:
            self.call(fun)
        return debugger.error(name)

    def execute_w_exc(self, exc: Any, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """As :meth:`execute`, of a function that raises `exc` at each call.

        :raises AssertionError: when a call does not raise it. Other exceptions come out as they are.
        """
        bound = functools.partial(fun, *args) if args else fun

        @functools.wraps(fun, updated=())
        def call() -> None:
            try:
                self.call(bound)
            except exc:
                return
            self.fail(f"{_name(fun)!r} did not raise {exc}")

        self.execute(call, **kwargs)


def _name(fun: Callable[..., Any]) -> str:
    while isinstance(fun, functools.partial):
        fun = fun.func
    return _check.name(fun)


def _unclosed(
    findings: list[Finding], checkers: Checkers, before: Resources, name: str, report: Report
) -> Iterator[UnclosedResourceError]:
    """One error for each kind of resource that is not given back."""
    def named(kind: str) -> Callable[[int], set[str]]:
        examples = [name for finding in findings if finding.kind == kind for name in finding.examples]
        return lambda count: set(examples[:count])

    kinds: tuple[tuple[bool, Callable[[Finding], bool], type[UnclosedResourceError], Callable[[int], Any]], ...] = (
        (checkers.py_threads, _is_python_thread, UnclosedPythonThreadError, before.newest_python_threads),
        (checkers.fds, _is_descriptor, UnclosedFdError, before.newest_descriptors),
        (checkers.c_threads, _is_native_thread, UnclosedNativeThreadError, before.newest_native_threads),
        (checkers.children, lambda finding: finding.kind == "child", UnreapedChildError, named("child")),
        (checkers.files, lambda finding: finding.kind == "file", UnremovedFileError, named("file")),
        (checkers.files, lambda finding: finding.kind == "ipc", UnremovedIpcError, named("ipc")),
    )
    for is_on, is_of_kind, error, newest in kinds:
        rate = sum(finding.blocks_per_call for finding in findings if is_of_kind(finding))
        if is_on and rate > 0:
            count = max(1, round(rate))
            calls = max(1, round(count / rate))
            yield error(count, name, newest(count), calls=calls, report=report)


def _is_descriptor(finding: Finding) -> bool:
    return finding.kind == "fd"


def _is_python_thread(finding: Finding) -> bool:
    # Threads of several classes share no type.
    named = any(example.startswith("Python thread") for example in finding.examples)
    return finding.kind == "thread" and (finding.type_name is not None or named)


def _is_native_thread(finding: Finding) -> bool:
    return finding.kind == "thread" and not _is_python_thread(finding)


def _miscounted(findings: list[Finding], name: str, report: Report) -> Optional[ReferenceLeakError]:
    found = [finding for finding in findings if finding.kind in MISCOUNTED]
    if not found:
        return None
    return ReferenceLeakError(f"references are miscounted in {name!r}: {found[0].message}\n\n{report}", report)


def _memory_leak(findings: list[Finding], options: Options, report: Report) -> Optional[MemoryLeakError]:
    memory = [finding for finding in findings if finding.kind == "memory"]
    if not options.checkers.memory or not memory or options.tolerates(memory):
        return None
    first = f"memory kept increasing after {len(report.looks) - 1} runs"
    return MemoryLeakError("\n".join([first, *run_table(report, memory), "", str(report)]), report)
