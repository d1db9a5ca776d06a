"""Runs one test again and again: each round is a whole one, from set-up to teardown, with fresh fixtures
of function scope, and reported to nobody."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Callable, Optional, cast

import pytest
from _pytest.runner import runtestprotocol
from _pytest.warnings import catch_warnings_for_item

from leaktight._pytest import fixtures


class NotRepeatable(Exception):
    """The rounds of a test cannot be compared. The message follows "it"."""


@contextlib.contextmanager
def rounds(item: pytest.Function) -> Iterator[Callable[[], None]]:
    """A function that runs one round. Only the call phase and the suite's own fixtures of function scope count:
    what pytest allocates around them is not the test's.

    :raises NotRepeatable: (the function) when the round fails or skips, or traces memory itself.
    """
    sections, properties, markers = len(item._report_sections), len(item.user_properties), len(item.own_markers)
    # An instance per round, as pytest makes one for each test.
    fresh = ("_obj", "_instance") if isinstance(item.parent, pytest.Class) else ()
    # All of them: a test can ask for any by name while it runs.
    wide = [definition for definition in fixtures.definitions(item.session) if definition.scope != "function"]
    body = item.runtest

    def run() -> None:
        for name in fresh:
            item.__dict__.pop(name, None)
        with _warnings_of(item):
            # Nothing above the test is torn down: its parent is what comes "next".
            reports = runtestprotocol(item, log=False, nextitem=cast(Any, item.parent))
        del item._report_sections[sections:]
        del item.user_properties[properties:]
        del item.own_markers[markers:]  # Those that `request.applymarker` has added.
        _forget_finished_fixtures(wide)
        if tracing:
            raise NotRepeatable("starts tracemalloc, whose own memory cannot be told from the test's")
        for report in reports:
            if not report.passed:
                raise NotRepeatable(_what_happened(report))

    item.runtest = functools.partial(fixtures.count, body)  # type: ignore[method-assign]
    try:
        with fixtures.counted(item), _same_examples(item), _no_folders_kept(item.config), _no_reports(item), _tracemalloc_starts() as tracing:
            yield run
    finally:
        del item.runtest


def _forget_finished_fixtures(wide: list[pytest.FixtureDef[Any]]) -> None:
    """A fixture of a wider scope keeps a finalizer, and all that hangs on it, for each use by a fixture of
    function scope, though that one is long finished (``FixtureDef.execute`` of pytest)."""
    for definition in wide:
        definition._finalizers[:] = [finalizer for finalizer in definition._finalizers if not _is_finished(finalizer)]


def _is_finished(finalizer: Any) -> bool:
    user = getattr(getattr(finalizer, "func", None), "__self__", None)
    return isinstance(user, pytest.FixtureDef) and user.scope == "function" and user.cached_result is None


def _what_happened(report: pytest.TestReport) -> str:
    if report.skipped:
        return "skips when it is repeated"
    crash = getattr(report.longrepr, "reprcrash", None)
    message = (crash.message if crash else str(report.longrepr)).strip().splitlines()
    where = "" if report.when == "call" else f" in its {report.when}"
    return f"fails{where} when it is repeated: {message[0][:200] if message else 'no message'}"


class _Nobody:
    """Takes a warning hook's call and drops it: the ordinary run has told of the same warnings."""

    class pytest_warning_recorded:
        @staticmethod
        def call_historic(kwargs: Any) -> None: ...


def _warnings_of(item: pytest.Item) -> contextlib.AbstractContextManager[None]:
    """The filters that apply to the test; pytest sets them around the protocol, not in it."""
    if not item.config.pluginmanager.hasplugin("warnings"):
        return contextlib.nullcontext()
    return catch_warnings_for_item(config=item.config, ihook=_Nobody, when="runtest", item=item)


@contextlib.contextmanager
def _no_reports(item: pytest.Function) -> Iterator[None]:
    """Subtests report themselves while the test runs (pytest 9 and pytest-subtests), and every report is kept."""
    hooks: Any = item.ihook
    logreport = hooks.pytest_runtest_logreport
    hooks.pytest_runtest_logreport = lambda **report: []
    try:
        yield
    finally:
        hooks.pytest_runtest_logreport = logreport


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
    patient = hypothesis.settings(
        function._hypothesis_internal_use_settings,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
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


@contextlib.contextmanager
def _no_folders_kept(config: pytest.Config) -> Iterator[None]:
    """Makes pytest remove the ``tmp_path`` of each round; it would keep them all until a later run."""
    factory: Optional[Any] = getattr(config, "_tmp_path_factory", None)
    if factory is None or not hasattr(factory, "_retention_policy"):
        yield
        return
    before = factory._retention_policy
    factory._retention_policy = "failed"
    try:
        yield
    finally:
        factory._retention_policy = before
