"""Runs each test once as always, and then judges it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Generator
from typing import Any, Callable, Optional

import pytest

from leaktight import CheckError, _core
from leaktight._pytest import budget, inside, progress
from leaktight._pytest.baseline import Baseline, entry_of
from leaktight._pytest.fixtures import Definitions
from leaktight._pytest.objects import objects_of
from leaktight._pytest.options import Options
from leaktight._pytest.results import LEAKED, OPEN, Result, describe, names_below
from leaktight._pytest.rounds import NotRepeatable, rounds

#: What judging one test may take, in seconds; a slow test may take longer, so that its rounds fit in.
SECONDS_PER_TEST = 40.0
#: Growth that something still holds is a leak from so many rounds on: a cache with room for 1,024 entries, or a ring of
#: so many, must have been full for as long again.
CONFIRMED_AFTER = 2048
#: And where an earlier test of the session was found to leak in just that way.
CONFIRMED_AGAIN_AFTER = 64


class Judge:
    """A plugin of the process in which tests run."""

    def __init__(self, config: pytest.Config, options: Options, deliver: Callable[[Result], None]) -> None:
        self.options = options
        self.deliver = deliver
        self.definitions = Definitions()
        config.pluginmanager.register(self.definitions, "leaktight-definitions")
        self.baseline = Baseline.read(options)
        self.shares = budget.Shares(config, options.time_budget)
        #: Why nothing can be judged in this process.
        self.why_not = ""
        #: The reports of the last run of the test that runs now, by phase.
        self.phases: dict[str, pytest.TestReport] = {}
        self.repeating = False
        #: Places that were found to grow up to `CONFIRMED_AFTER`.
        self.growing: set[tuple[str, ...]] = set()

    def pytest_sessionstart(self) -> None:
        self.shares.begin()
        try:
            _core.keep_hooks(True)
        except CheckError as why:
            self.why_not = str(why)

    def pytest_unconfigure(self) -> None:
        if not self.why_not:
            _core.keep_hooks(False)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self.options.for_test(item)  # A wrong marker is told before anything runs.

    # After those that leave some out, or change their order.
    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.shares.collected(item.nodeid for item in session.items)

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
        with inside.scopes_above_stay(item, lambda: self._passed(("setup", "call"))):
            done = yield
        self.shares.ended(self.options.rounds, self._plain_seconds())
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
        unknown = [finding for finding in failing if not self.baseline.knows(finding)]
        if unknown and not self.options.update_baseline:
            told = [describe(finding) for finding in unknown]
            entries = "".join(map(entry_of, unknown))
            _fail(item, result, LEAKED, "\n\n".join([*told, f"alone: {result.command}", f"in a baseline:\n{entries}"]))
        elif self.options.strict and result.is_open:
            _fail(item, result, OPEN, f"{'undecided' if result.verdict == 'indeterminate' else 'not judged'}: {result.reason}")
        return done

    def _passed(self, phases: tuple[str, ...]) -> bool:
        reports = [self.phases.get(phase) for phase in phases]
        return all(report is not None and report.passed and not hasattr(report, "wasxfail") for report in reports)

    def _plain_seconds(self) -> float:
        return sum(report.duration for report in self.phases.values())

    def _judge(self, item: pytest.Item) -> Optional[Result]:
        plain = self._plain_seconds()
        options, reason, excused = self._options(item)
        if options is None:
            return Result.not_judged(item, reason, plain, excused=excused)
        if self.why_not:
            return Result.not_judged(item, self.why_not, plain)
        session = item.session
        if session.shouldstop or session.shouldfail:
            return None
        assert isinstance(item, pytest.Function)
        seconds = most = max(SECONDS_PER_TEST, 4 * options.rounds * plain)
        if options.time_budget is not None:
            share = self.shares.of(item.nodeid, options.rounds, plain)
            if isinstance(share, str):
                # Who stands back for others has had its turn.
                wants = 0.0 if share == budget.KEPT_FOR_OTHERS else budget.needed(options.rounds, plain)
                return Result.not_judged(item, share, plain, wants_seconds=wants)
            seconds = min(most, share)
        result = self._run_rounds(item, options, plain, seconds)
        self.shares.took(options.rounds, plain, result.runs, result.seconds)
        if result.verdict == "indeterminate" and seconds < most:
            result.wants_seconds = min(most, 2 * seconds)
        return result

    def _run_rounds(self, item: pytest.Function, options: Options, plain: float, seconds: float) -> Result:
        started = time.monotonic()
        self.repeating = True
        try:
            with rounds(item, self.definitions) as silent, progress.shown(item.config, silent) as run:
                result, again = None, 0.0
                if self.growing and options.period == 1:
                    result = self._check(item, run, options, plain, seconds, CONFIRMED_AGAIN_AFTER)
                    # Naming what was found may have taken longer than there was time for.
                    seconds = max(budget.OWN_SECONDS, seconds - result.seconds)
                    again = result.round_seconds
                if result is None or not self._stands(result):
                    if result is not None:
                        # Room that it has made by now lasts for a while: as many rounds must show that it has stopped.
                        options = dataclasses.replace(options, period=CONFIRMED_AGAIN_AFTER // 4)
                    result = self._check(item, run, options, plain, seconds, CONFIRMED_AFTER)
                    result.round_seconds += again
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
        self, item: pytest.Function, run: Callable[[], None], options: Options, plain: float, seconds: float, confirm: int
    ) -> Result:
        started = time.monotonic()
        in_rounds = 0.0

        def noted() -> None:
            nonlocal in_rounds
            begun = time.monotonic()
            run()
            in_rounds += time.monotonic() - begun

        report = _core.check(
            item.nodeid,
            noted,
            (),
            # The ordinary run was the first.
            rounds=options.rounds - 1 if options.period == 1 else None,
            period=options.period,
            confirm=confirm,
            checks=options.checks,
            time_budget=seconds,
            inside=True,
            objects=objects_of(item),
        )
        result = Result.of(item, json.loads(report), plain, time.monotonic() - started, self.definitions)
        result.round_seconds = in_rounds
        return result

    def _options(self, item: pytest.Item) -> tuple[Optional[Options], str, bool]:
        """The options of a test; else why it is not judged, and whether somebody wants it so."""
        options = self.options.for_test(item)
        if isinstance(options, str):
            return None, options, True
        if not isinstance(item, pytest.Function):
            kind = "a doctest" if type(item).__name__ == "DoctestItem" else f"a {type(item).__name__}, not a test function"
            return None, f"it is {kind}", False
        if "leaktight" in item.fixturenames or _is_leak_test(item.cls):
            return None, "it makes checks of its own", True
        return options, "", False


def _is_leak_test(of: Optional[type]) -> bool:
    names = {(base.__module__, base.__name__) for base in getattr(of, "__mro__", ())}
    return ("leaktight.testcase", "MemoryLeakTestCase") in names


def _fail(item: pytest.Item, result: Result, mark: str, why: str) -> None:
    report = pytest.TestReport(
        nodeid=item.nodeid, location=item.location, keywords={}, outcome="failed", longrepr=why, when="call", duration=result.seconds
    )
    setattr(report, mark, True)
    item.ihook.pytest_runtest_logreport(report=report)


def _grows_at(result: Result) -> set[tuple[str, ...]]:
    """Where it grows, as far as only more rounds make that certain: the whole stack below the test's file. What
    the test allocates itself is at no place that others reach."""
    growing = [finding for finding in result.findings if finding["certainty"] == "growing" and finding["kind"] == "memory"]
    return {(finding["kind"], *(names_below(finding["stack"], result.file) or [result.test])) for finding in growing}


def _tear_down(item: pytest.Item, nextitem: Optional[pytest.Item]) -> None:
    """What the ordinary run would have torn down above the test."""
    session = item.session
    if session.shouldstop or session.shouldfail:
        nextitem = None
    above, needed = item.listchain()[:-1], nextitem.listchain() if nextitem else []
    if above == needed[: len(above)]:
        return
    sections = len(inside.sections(item))
    reraise: tuple[type[BaseException], ...] = (pytest.exit.Exception, KeyboardInterrupt)
    call: pytest.CallInfo[Any] = pytest.CallInfo.from_call(lambda: inside.tear_down(item, nextitem), when="teardown", reraise=reraise)
    if call.excinfo is not None:
        # As pytest would have reported it.
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)
    del inside.sections(item)[sections:]
