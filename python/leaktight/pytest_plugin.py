"""``pytest --leaks``: every test of a suite is a leak test.

pytest imports this module at every start, so it imports nothing but pytest. What does the work is in
``leaktight._pytest``.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Callable, Optional

import pytest

MARKER = (
    "leaktight(skip=False, rounds=None, period=None, checks=None): "
    "how `pytest --leaks` judges this test; skip takes True or a reason"
)
#: What the names of our options begin with. The first gives way where another plugin has an option of that name.
SHORT, LONG = "--leaks", "--leaktight"
#: Names of options that gave way in this run.
taken: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    taken.clear()
    _Conflicts.start()
    # Ours has no value, and pytest reads the command line before it reads the conftest that has the other option.
    if any(word.startswith(SHORT + "=") for word in (*sys.argv, *os.environ.get("PYTEST_ADDOPTS", "").split())):
        taken.add(SHORT)
    group = parser.getgroup("leaktight", "memory leaks (leaktight)")

    def add(name: str, **attributes: Any) -> None:
        names = [LONG + name] if SHORT + name in taken else [SHORT + name, LONG + name]
        group.addoption(*names, dest="leaktight" + name.replace("-", "_"), **attributes)

    add("", action="store_true", help="repeat each test that passes, and fail it when it leaks")
    add(
        "-rounds",
        type=int,
        metavar="N",
        help="run each test N times, its ordinary run included, before it may be called clean (default: 5)",
    )
    add(
        "-period",
        type=int,
        metavar="N",
        help="rule out leaks that happen once in up to N runs; takes 4 * N runs of each test (default: 1)",
    )
    add("-checks", metavar="NAMES", help="what to look at, separated by commas (default: everything)")
    add(
        "-time-budget",
        type=float,
        metavar="SECONDS",
        help="after so many seconds of the whole run tests run only once (default: no end)",
    )
    add("-json", metavar="FILE", help="write all results to FILE")
    add(
        "-fail-on",
        choices=("error", "warning"),
        help="the least severity that fails a test (default: error)",
    )
    add("-baseline", metavar="FILE", help="leaks that are known and fail no test (TOML)")
    add("-update-baseline", action="store_true", help="write the leaks of this run to the baseline")
    add("-durations", type=int, metavar="N", help="show where the time of the N slowest tests went, and of all")
    add("-strict", action="store_true", help="a test that is undecided or could not be judged fails")

    parser.addini("leaktight_rounds", "default of --leaks-rounds")
    parser.addini("leaktight_period", "default of --leaks-period")
    parser.addini("leaktight_checks", "default of --leaks-checks", type="args")
    parser.addini("leaktight_time_budget", "default of --leaks-time-budget")
    parser.addini("leaktight_fail_on", "default of --leaks-fail-on")
    parser.addini("leaktight_baseline", "default of --leaks-baseline, relative to the root folder")
    parser.addini("leaktight_strict", "default of --leaks-strict", type="bool", default=False)
    parser.addini("leaktight_markers", "judge only tests with one of these markers", type="args")


def pytest_configure(config: pytest.Config) -> None:
    _Conflicts.stop()
    config.addinivalue_line("markers", MARKER)
    given = [name for name, value in sorted(vars(config.option).items()) if name.startswith("leaktight_") and value not in (None, False)]
    if config.option.leaktight:
        from leaktight._pytest import install

        install(config)
    elif given:
        raise pytest.UsageError(f"{option_name(given[0])} needs {option_name('leaktight')}")


def pytest_report_header(config: pytest.Config) -> Optional[str]:
    return _who_has_our_options(config)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    line = _who_has_our_options(config)
    # With `-q` there is no header.
    if line and config.option.verbose < 0:
        terminalreporter.write_line(line, yellow=True)


def _who_has_our_options(config: pytest.Config) -> Optional[str]:
    words = {str(argument).partition("=")[0] for argument in config.invocation_params.args}
    if taken and (config.option.leaktight or taken & words):
        return f"leaks: another plugin has {', '.join(sorted(taken))}; ours: {', '.join(sorted(LONG + name[len(SHORT) :] for name in taken))}"
    return None


def option_name(dest: str) -> str:
    """How an option of ours is written in this run."""
    rest = dest[len("leaktight") :].replace("_", "-")
    return LONG + rest if SHORT + rest in taken else SHORT + rest


class _Conflicts:
    """While pytest reads the command line, another plugin may have options of the same names as ours. argparse would
    end the run; here ours lose that name, whoever came first."""

    @staticmethod
    def start() -> None:
        home: Any = argparse._ActionsContainer
        plain = getattr(home, "_handle_conflict_error", None)
        if plain is None or hasattr(plain, "before"):
            return

        def handle(container: Any, action: argparse.Action, conflicts: list[tuple[str, argparse.Action]]) -> None:
            others = []
            for name, other in conflicts:
                if _is_ours(action) == _is_ours(other):
                    others.append((name, other))
                    continue
                taken.add(name)
                if _is_ours(other):
                    del container._option_string_actions[name]
                _without(other if _is_ours(other) else action, name)
            if others:
                plain(container, action, others)

        handle.before = plain  # type: ignore[attr-defined]
        home._handle_conflict_error = handle

    @staticmethod
    def stop() -> None:
        home: Any = argparse._ActionsContainer
        before = getattr(getattr(home, "_handle_conflict_error", None), "before", None)
        if before is not None:
            home._handle_conflict_error = before


def _is_ours(action: argparse.Action) -> bool:
    return action.dest == "leaktight" or action.dest.startswith("leaktight_")


def _without(action: argparse.Action, name: str) -> None:
    action.option_strings = [other for other in action.option_strings if other != name]


@pytest.fixture(name="leaktight")
def _leaktight(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``leaktight(fun, *args, **options)`` judges one call as ``leaktight.check`` does. It returns the
    report, and fails the test when the call leaks or cannot be judged."""

    def leaktight(fun: Callable[..., Any], *args: Any, **options: Any) -> Any:
        from leaktight._check import check
        from leaktight._pytest.options import fail_on

        report = check(fun, *args, **options)
        failing = [finding for finding in report.findings if finding.severity in fail_on(request.config)]
        if failing or report.verdict == "indeterminate":
            pytest.fail(str(report), pytrace=False)
        return report

    return leaktight
