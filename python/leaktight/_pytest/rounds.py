"""Runs one test again and again: each round is a whole one, from set-up to teardown, with fresh fixtures
of function scope, and reported to nobody."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Callable

import pytest

from leaktight._pytest import counting, fixtures, inside


class NotRepeatable(Exception):
    """The rounds of a test cannot be compared. The message follows "it"."""


@contextlib.contextmanager
def rounds(item: pytest.Function, definitions: fixtures.Definitions) -> Iterator[Callable[[], None]]:
    """A function that runs one round. Only the call phase and the suite's own fixtures of function scope count:
    what pytest allocates around them is not the test's.

    :raises NotRepeatable: (the function) when the round fails or skips, or traces memory itself.
    """
    output, properties, markers = len(inside.sections(item)), len(item.user_properties), len(item.own_markers)
    # All of them: a test can ask for any by name while it runs.
    wide = definitions.wide()

    def run() -> None:
        inside.forget_instance(item)
        with inside.warnings_of(item):
            reports = inside.run_round(item)
        del inside.sections(item)[output:]
        del item.user_properties[properties:]
        del item.own_markers[markers:]  # Those that `request.applymarker` has added.
        inside.forget_finished(item, wide)
        if tracing:
            raise NotRepeatable("starts tracemalloc, whose own memory cannot be told from the test's")
        for report in reports:
            if not report.passed:
                raise NotRepeatable(_what_happened(report))

    item.runtest = counting.body_of(item)  # type: ignore[method-assign]
    try:
        with contextlib.ExitStack() as stack:
            for around in (
                counting.no_callbacks(),
                fixtures.counted(item.config),
                _same_examples(item),
                inside.no_folders_kept(item.config),
                inside.no_reports(item),
            ):
                stack.enter_context(around)
            tracing = stack.enter_context(_tracemalloc_starts())
            yield run
    finally:
        del item.runtest


def _what_happened(report: pytest.TestReport) -> str:
    if report.skipped:
        return "skips when it is repeated"
    crash = getattr(report.longrepr, "reprcrash", None)
    message = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    where = "" if report.when == "call" else f" in its {report.when}"
    return f"fails{where} when it is repeated: {message[0][:200] if message else 'no message'}"


@contextlib.contextmanager
def _same_examples(item: pytest.Function) -> Iterator[None]:
    """Makes hypothesis draw the same examples in every round, and keep none; a round is slower than its
    deadlines expect."""
    function = getattr(item.obj, "__func__", item.obj)
    if not getattr(function, "is_hypothesis_test", False):
        yield
        return
    import hypothesis

    names = ("_hypothesis_internal_use_seed", "_hypothesis_internal_use_settings")
    before = {name: getattr(function, name, None) for name in names}
    hypothesis.seed(0)(function)
    own = before["_hypothesis_internal_use_settings"]
    if own is not None:
        patient = hypothesis.settings(own, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        function._hypothesis_internal_use_settings = patient
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(function, name, value)


@contextlib.contextmanager
def _tracemalloc_starts() -> Iterator[list[int]]:
    """A list that gets an entry for each ``tracemalloc.start()``."""
    import tracemalloc

    started: list[int] = []
    start = tracemalloc.start

    def noted(nframe: int = 1) -> None:
        started.append(nframe)
        start(nframe)

    tracemalloc.start = noted
    try:
        yield started
    finally:
        tracemalloc.start = start
