"""Shares the time that a run may take between its tests: what each needs at least is kept for it, and of the rest a test
that keeps growing gets a part."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Optional, Union

import pytest

#: In pytest's cache: the tests that the last run had no time for, with the seconds that they need.
CACHED = "leaktight/no_time_for"
#: A round takes so many times as long as an ordinary run, and our own work so many seconds.
SLOWER, OWN_SECONDS = 2.0, 0.02
#: None is stopped before it has had so many times as much: it would have run for nothing.
MARGIN = 3.0
#: A test that needs more may have one in so many parts of what nobody else needs.
PARTS = 8
USED_UP = "the time budget of the run was used up"
TOO_LITTLE = "less of the time budget of the run was left than it needs"
KEPT_FOR_OTHERS = "the time budget of the run was kept for tests that the run before had no time for"


class Shares:
    """The time of one process that runs tests."""

    def __init__(self, config: pytest.Config, seconds: Optional[float]) -> None:
        self.seconds = seconds
        self.started = time.monotonic()
        self.processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
        cache: Any = getattr(config, "cache", None)
        #: Tests that come first, since the last run had no time for them. They need this much.
        self.first: dict[str, float] = dict(cache.get(CACHED, None) or {}) if cache is not None and seconds is not None else {}
        #: Tests that have not run yet, in this process or another.
        self.tests_left = 0
        #: What those needed at least that have run.
        self._needed: list[float] = []
        #: What some were expected to need, and what they took.
        self._expected = self._took = 0.0
        #: Since the tests run, and of that time what judging took.
        self._running_since = self.started
        self._judging = 0.0

    def begin(self) -> None:
        self.started = time.monotonic()

    def collected(self, tests: Iterable[str]) -> None:
        """Tells which tests will run."""
        tests = set(tests)
        self._running_since = time.monotonic()
        self.tests_left = -(-len(tests) // self.processes)
        self.first = {test: need for test, need in self.first.items() if test in tests}

    def of(self, test: str, rounds: int, plain: float) -> Union[float, str]:
        """So many seconds judging this test may take, or why it may not."""
        assert self.seconds is not None
        now = time.monotonic()
        left = self.seconds - (now - self.started)
        # A busy machine is slower than the ordinary run has shown.
        slower = max(1.0, self._took / self._expected) if self._expected else 1.0
        need = needed(rounds, plain) * slower
        wanted = self.first.pop(test, None)
        ordinary = self.tests_left * (now - self._running_since - self._judging) / max(1, len(self._needed))
        # No less than each of them may take: whoever comes first must not be disappointed twice.
        kept = ordinary + MARGIN * slower * sum(self.first.values()) / self.processes if self.first else 0.0
        if wanted is not None:
            others = kept
        elif left >= need > left - kept:
            return KEPT_FOR_OTHERS
        else:
            others = max(kept, self.tests_left * slower * self._usual_need())
        if left < need:
            return TOO_LITTLE if left > 0 else USED_UP
        # What it needs, and more only of what the others do not.
        least = max(need, min(need * MARGIN, left - MARGIN * others), min(wanted or 0.0, left - others))
        return least + max(0.0, left - least - others) / PARTS

    def _usual_need(self) -> float:
        """What a test is expected to need, by those that have run: a few slow ones say nothing of the others."""
        usual = sorted(self._needed)[: -(len(self._needed) // 8 or 1)]
        return sum(usual) / len(usual) if usual else OWN_SECONDS

    def took(self, rounds: int, plain: float, runs: int, seconds: float) -> None:
        """Judging a test has taken so long."""
        self._expected += needed(rounds, plain)
        self._took += seconds * min(1.0, rounds / runs)
        self._judging += seconds

    def ended(self, rounds: int, plain: float) -> None:
        """A test has run."""
        self.tests_left = max(0, self.tests_left - 1)
        self._needed.append(plain + needed(rounds, plain))


def needed(rounds: int, plain: float) -> float:
    """What judging a test takes at least."""
    return (rounds - 1) * plain * SLOWER + OWN_SECONDS


def remember(config: pytest.Config, ran: Iterable[str], wanting: dict[str, float]) -> bool:
    """Notes for the next run which tests of this one want more time. Says whether it will know."""
    cache: Any = getattr(config, "cache", None)
    if cache is None:
        return not wanting
    before: dict[str, float] = cache.get(CACHED, None) or {}
    ran = set(ran)
    now = {**{test: need for test, need in before.items() if test not in ran}, **wanting}
    if now != before:
        cache.set(CACHED, now)
    return True
