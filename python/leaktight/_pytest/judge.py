"""Runs each test once as always, and then judges it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Iterator
from typing import Any, Callable, Optional, cast

import pytest
from _pytest.runner import CallInfo

from leaktight import CheckError, _core
from leaktight._pytest import progress
from leaktight._pytest.baseline import Baseline
from leaktight._pytest.objects import objects_of
from leaktight._pytest.options import Options
from leaktight._pytest.results import LEAKED, Result, describe, names_below
from leaktight._pytest.rounds import NotRepeatable, rounds

#: What judging one test may take, in seconds; a slow test may take longer, so that its rounds fit in.
SECONDS_PER_TEST = 20.0
#: Growth that something still holds is a leak from so many rounds on.
CONFIRMED_AFTER = 1024
#: And where an earlier test of the session was found to leak in just that way.
CONFIRMED_AGAIN_AFTER = 64


class Judge:
    """A plugin of the process in which tests run."""

    def __init__(self, config: pytest.Config, options: Options, deliver: Callable[[Result], None]) -> None:
        self.options = options
        self.deliver = deliver
        self.baseline = Baseline.read(options)
        self.started = time.monotonic()
        #: The reports of the last run of the test that runs now, by phase.
        self.phases: dict[str, pytest.TestReport] = {}
        self.repeating = False
        #: Places that were found to grow up to `CONFIRMED_AFTER`.
        self.growing: set[tuple[str, ...]] = set()

    def pytest_sessionstart(self) -> None:
        self.started = time.monotonic()
        _core.keep_hooks(True)

    def pytest_unconfigure(self) -> None:
        _core.keep_hooks(False)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self.options.for_test(item)  # A wrong marker is told before anything runs.

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> Optional[str]:
        count = sum(isinstance(self.options.for_test(item), Options) for item in items)
        runs = max(self.options.rounds, 4 * self.options.period if self.options.period > 1 else 0)
        return f"leaks: {count:,} test{'s' if count != 1 else ''}, about {runs + 1:,} times a plain run, more where something stays behind"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if not self.repeating:
            if report.when == "setup":  # A plugin may run a test again.
                self.phases.clear()
            self.phases[report.when or ""] = report
        return report

    # Outermost, so that what limits or decorates one run of a test (a timeout, a rerun) is over when the
    # rounds begin.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: Optional[pytest.Item]) -> Generator[None, object, object]:
        self.phases.clear()
        with self._scopes_above_stay(item):
            done = yield
        if not self._passed(("setup", "call", "teardown")):
            return done
        try:
            result = self._judge(item)
        finally:
            _tear_down(item, nextitem)
        if result is None:
            return done
        self.deliver(result)
        failing = [finding for finding in result.leaks if finding["severity"] in self.options.fail_on]
        unknown = [finding for finding in failing if not self.baseline.knows(finding["site"])]
        if unknown and not self.options.update_baseline:
            report = pytest.TestReport(
                nodeid=item.nodeid,
                location=item.location,
                keywords={},
                outcome="failed",
                longrepr="\n\n".join(describe(finding) for finding in unknown),
                when="call",
                duration=result.seconds,
            )
            setattr(report, LEAKED, True)
            item.ihook.pytest_runtest_logreport(report=report)
        return done

    def _passed(self, phases: tuple[str, ...]) -> bool:
        reports = [self.phases.get(phase) for phase in phases]
        return all(report is not None and report.passed and not hasattr(report, "wasxfail") for report in reports)

    @contextlib.contextmanager
    def _scopes_above_stay(self, item: pytest.Item) -> Iterator[None]:
        """Keeps fixtures of classes, modules and the session that the rounds still need, when the
        ordinary run of the last test that uses them would tear them down."""
        state = item.session._setupstate
        plain = state.teardown_exact

        def teardown_exact(nextitem: Optional[pytest.Item]) -> None:
            plain(cast(Any, item.parent) if self._passed(("setup", "call")) else nextitem)

        state.teardown_exact = teardown_exact  # type: ignore[method-assign]
        try:
            yield
        finally:
            del state.teardown_exact

    def _judge(self, item: pytest.Item) -> Optional[Result]:
        plain = sum(report.duration for report in self.phases.values())
        options, reason = self._options(item)
        if options is None:
            return Result.not_judged(item, reason, plain)
        session = item.session
        if session.shouldstop or session.shouldfail:
            return None
        assert isinstance(item, pytest.Function)
        budget = max(SECONDS_PER_TEST, 4 * options.rounds * plain)
        started = time.monotonic()
        if options.time_budget is not None:
            budget = min(budget, self.started + options.time_budget - started)
            if budget <= plain:
                return Result.not_judged(item, "the time budget of the run was used up", plain)
        self.repeating = True
        try:
            with rounds(item) as silent, progress.shown(item.config, silent) as run:
                result = None
                if self.growing and options.period == 1:
                    result = self._check(item, run, options, plain, budget, CONFIRMED_AGAIN_AFTER)
                    budget -= result.seconds
                if result is None or not self._stands(result):
                    result = self._check(item, run, options, plain, budget, CONFIRMED_AFTER)
                    if result.verdict == "leak":
                        self.growing |= _grows_at(result)
        except NotRepeatable as why:
            return Result.not_judged(item, f"it {why}", plain, time.monotonic() - started)
        except CheckError as why:
            return Result.not_judged(item, str(why), plain, time.monotonic() - started, blind=True)
        finally:
            self.repeating = False
        result.seconds = time.monotonic() - started
        return result

    def _stands(self, result: Result) -> bool:
        """Whether more rounds would say the same as a result that was confirmed early."""
        if result.verdict == "leak":
            return _grows_at(result) <= self.growing
        return result.verdict == "indeterminate" or result.runs <= CONFIRMED_AGAIN_AFTER

    def _check(
        self, item: pytest.Function, run: Callable[[], None], options: Options, plain: float, budget: float, confirm: int
    ) -> Result:
        started = time.monotonic()
        report = _core.check(
            item.nodeid,
            run,
            (),
            # The ordinary run was the first.
            rounds=options.rounds - 1 if options.period == 1 else None,
            period=options.period,
            confirm=confirm,
            checks=options.checks,
            time_budget=budget,
            inside=True,
            objects=objects_of(item),
        )
        return Result.of(item, json.loads(report), plain, time.monotonic() - started)

    def _options(self, item: pytest.Item) -> tuple[Optional[Options], str]:
        options = self.options.for_test(item)
        if isinstance(options, str):
            return None, options
        if not isinstance(item, pytest.Function):
            kind = "a doctest" if type(item).__name__ == "DoctestItem" else f"a {type(item).__name__}, not a test function"
            return None, f"it is {kind}"
        if "leaktight" in item.fixturenames:
            return None, "it makes checks of its own"
        return options, ""


def _grows_at(result: Result) -> set[tuple[str, ...]]:
    """Where it grows, as far as only more rounds make that certain: the whole stack below the test's file. What
    the test allocates itself is at no place that others reach."""
    growing = [finding for finding in result.findings if finding["certainty"] == "growing" and finding["kind"] == "memory"]
    return {(finding["kind"], *(names_below(finding["stack"], result.file) or [result.test])) for finding in growing}


def _tear_down(item: pytest.Item, nextitem: Optional[pytest.Item]) -> None:
    """What the ordinary run would have torn down above the test."""
    session = item.session
    state = session._setupstate
    if session.shouldstop or session.shouldfail:
        nextitem = None
    needed = nextitem.listchain() if nextitem else []
    if list(state.stack) == needed[: len(state.stack)]:
        return
    capture = item.config.pluginmanager.getplugin("capturemanager")
    sections = len(item._report_sections)

    def tear_down() -> None:
        with capture.item_capture("teardown", item) if capture else contextlib.nullcontext():
            state.teardown_exact(nextitem)

    reraise: tuple[type[BaseException], ...] = (pytest.exit.Exception, KeyboardInterrupt)
    call: CallInfo[Any] = CallInfo.from_call(tear_down, when="teardown", reraise=reraise)
    if call.excinfo is not None:
        # As pytest would have reported it.
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)
    del item._report_sections[sections:]
