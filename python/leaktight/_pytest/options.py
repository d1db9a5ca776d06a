"""What was asked for: the command line first, then the ini file, then the defaults. A marker on a test
comes before all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterable, Optional, Union

import pytest

from leaktight import CHECKS

#: Fewer runs say nothing: a run that is as always, one to warm up, and two that leave something behind
#: with a run after them.
FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Options:
    """How tests are judged."""

    rounds: int
    period: int
    checks: Optional[list[str]]
    #: Severities that fail a test.
    fail_on: frozenset[str]
    time_budget: Optional[float] = None
    json: Optional[Path] = None
    baseline: Optional[Path] = None
    update_baseline: bool = False
    #: A test that is undecided or could not be judged fails.
    strict: bool = False
    #: So many of the slowest tests are shown.
    durations: int = 0
    #: Only tests with one of these markers are judged, where any are given.
    markers: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """:raises pytest.UsageError: naming the option that is wrong."""
        option = config.option
        here, root = Path(config.invocation_params.dir), config.rootpath
        in_ini = config.getini("leaktight_baseline")
        baseline = here / option.leaktight_baseline if option.leaktight_baseline else root / in_ini if in_ini else None
        if option.leaktight_update_baseline and baseline is None:
            raise pytest.UsageError("--leaks-update-baseline needs --leaks-baseline FILE, or leaktight_baseline in the ini file")
        return cls(
            rounds=_number(config, "rounds", int, FEWEST_ROUNDS) or FEWEST_ROUNDS,
            period=_number(config, "period", int, 1) or 1,
            checks=_checks(option.leaktight_checks.split(",") if option.leaktight_checks else config.getini("leaktight_checks")),
            fail_on=fail_on(config),
            time_budget=_number(config, "time_budget", float, 0),
            json=here / option.leaktight_json if option.leaktight_json else None,
            baseline=baseline,
            update_baseline=option.leaktight_update_baseline,
            strict=is_strict(config),
            durations=_least(option.leaktight_durations or 0, "--leaks-durations", 0),
            markers=tuple(config.getini("leaktight_markers")),
        )

    def for_test(self, item: pytest.Item) -> Union[Options, str]:
        """The options of one test, or why it must not be judged: somebody wants it so.

        :raises pytest.UsageError: when a marker is wrong.
        """
        options = self
        if self.markers and not any(item.get_closest_marker(name) for name in self.markers):
            return f"it is marked neither {' nor '.join(self.markers)}" if len(self.markers) > 1 else f"it is not marked {self.markers[0]}"
        # The closest marker comes first, and must be applied last.
        for marker in reversed(list(item.iter_markers("leaktight"))):
            asked = dict(marker.kwargs)
            skip = asked.pop("skip", False)
            if skip:
                return skip if isinstance(skip, str) else "its marker says so"
            unknown = sorted(set(asked) - {"rounds", "period", "checks"})
            if unknown or marker.args:
                what = f"unknown: {', '.join(unknown)}" if unknown else "it takes keywords only"
                raise pytest.UsageError(f"{item.nodeid}: marker leaktight takes skip, rounds, period and checks; {what}")
            try:
                if asked.get("rounds") is not None:
                    options = replace(options, rounds=_least(asked["rounds"], "rounds", FEWEST_ROUNDS))
                if asked.get("period") is not None:
                    options = replace(options, period=_least(asked["period"], "period", 1))
                if asked.get("checks") is not None:
                    options = replace(options, checks=_checks(asked["checks"]))
            except pytest.UsageError as why:
                raise pytest.UsageError(f"{item.nodeid}: marker leaktight: {why}") from None
        return options


def fail_on(config: pytest.Config) -> frozenset[str]:
    """The severities that fail a test."""
    least = config.option.leaktight_fail_on or config.getini("leaktight_fail_on") or "error"
    if least not in ("error", "warning"):
        raise pytest.UsageError(f"leaktight_fail_on must be error or warning, not {least!r}")
    return frozenset({"error", "warning"} if least == "warning" else {"error"})


def is_strict(config: pytest.Config) -> bool:
    """Whether a test that is undecided or could not be judged fails."""
    return bool(config.option.leaktight_strict or config.getini("leaktight_strict"))


def _number(config: pytest.Config, name: str, kind: Callable[[Any], Any], least: float) -> Any:
    given = getattr(config.option, f"leaktight_{name}")
    if given is None:
        text = config.getini(f"leaktight_{name}")
        if not text:
            return None
        try:
            given = kind(text)
        except ValueError:
            raise pytest.UsageError(f"leaktight_{name} must be a number, not {text!r}") from None
    return _least(given, f"--leaks-{name.replace('_', '-')}", least)


def _least(given: Any, name: str, least: float) -> Any:
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not least <= given < 2**31:
        raise pytest.UsageError(f"{name} must be a number, at least {least}, not {given!r}")
    return given


def _checks(names: Iterable[str]) -> Optional[list[str]]:
    chosen = [names] if isinstance(names, str) else [name.strip() for name in names]
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown:
        raise pytest.UsageError(f"unknown check {unknown[0]!r}; known are {', '.join(CHECKS)}")
    return chosen or None
