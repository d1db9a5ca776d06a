"""``pytest --leaks``: every test of a suite is a leak test.

pytest imports this module at every start, so it imports nothing but pytest. What does the work is in
``leaktight._pytest``.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest

MARKER = (
    "leaktight(skip=False, rounds=None, period=None, checks=None): "
    "how `pytest --leaks` judges this test; skip takes True or a reason"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("leaks", "memory leaks (leaktight)")
    group.addoption("--leaks", action="store_true", help="repeat each test that passes, and fail it when it leaks")
    group.addoption(
        "--leaks-rounds",
        type=int,
        metavar="N",
        help="run each test N times, its ordinary run included, before it may be called clean (default: 5)",
    )
    group.addoption(
        "--leaks-period",
        type=int,
        metavar="N",
        help="rule out leaks that happen once in up to N runs; takes 4 * N runs of each test (default: 1)",
    )
    group.addoption("--leaks-checks", metavar="NAMES", help="what to look at, separated by commas (default: everything)")
    group.addoption(
        "--leaks-time-budget",
        type=float,
        metavar="SECONDS",
        help="after so many seconds of the whole run tests run only once (default: no end)",
    )
    group.addoption("--leaks-json", metavar="FILE", help="write all results to FILE")
    group.addoption(
        "--leaks-fail-on",
        choices=("error", "warning"),
        help="the least severity that fails a test (default: error)",
    )
    group.addoption("--leaks-baseline", metavar="FILE", help="leaks that are known and fail no test (TOML)")
    group.addoption("--leaks-update-baseline", action="store_true", help="write the leaks of this run to the baseline")

    parser.addini("leaktight_rounds", "default of --leaks-rounds")
    parser.addini("leaktight_period", "default of --leaks-period")
    parser.addini("leaktight_checks", "default of --leaks-checks", type="args")
    parser.addini("leaktight_time_budget", "default of --leaks-time-budget")
    parser.addini("leaktight_fail_on", "default of --leaks-fail-on")
    parser.addini("leaktight_baseline", "default of --leaks-baseline, relative to the root folder")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    if config.option.leaks:
        from leaktight._pytest import install

        install(config)
    elif config.option.leaks_update_baseline:
        raise pytest.UsageError("--leaks-update-baseline needs --leaks")


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
