"""How psleak's options bound a check, and which growth they tolerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Optional, Union

from leaktight._report import Finding, Report

#: What psleak measures.
METRICS = ("heap", "mmap", "uss", "rss", "vms")
#: glibc's malloc takes a mapping for a block from this size on (M_MMAP_THRESHOLD, mallopt(3)).
MMAP_THRESHOLD_BYTES = 128 * 1024
#: A leak that happens once in so many calls is never called clean, however few `times` are asked for.
LEAST_PERIOD = 64
#: A clean verdict takes so many calls for each call of the period.
CALLS_PER_PERIOD = 4
#: Growth that something still holds is called a leak from so many calls on.
CONFIRMED_AFTER = 16_384
#: More calls the engine does not count.
MOST_CALLS = 2**31 - 1
#: Each run of psleak is so much longer than the one before.
ESCALATION = 1.5


@dataclass(frozen=True)
class Checkers:
    """What a leak test looks at."""

    memory: bool = True
    fds: bool = True
    #: Windows only.
    handles: bool = True
    c_threads: bool = True
    py_threads: bool = True
    gcgarbage: bool = True
    #: References to Python objects.
    refcounts: bool = True
    #: Child processes.
    children: bool = True
    #: Names in folders for temporary files; shared memory, semaphores and message queues.
    files: bool = True

    @classmethod
    def only(cls, *checks: str) -> Checkers:
        """Those of the given names, and no other.

        :raises ValueError: when a name is unknown.
        """
        return cls(**{name: name in checks for name in cls._names(checks)})

    @classmethod
    def exclude(cls, *checks: str) -> Checkers:
        """All but those of the given names.

        :raises ValueError: when a name is unknown.
        """
        return cls(**{name: name not in checks for name in cls._names(checks)})

    @classmethod
    def _names(cls, checks: tuple[str, ...]) -> list[str]:
        known = [field.name for field in fields(cls)]
        unknown = [name for name in checks if name not in known]
        if unknown:
            raise ValueError(f"invalid checker names: {', '.join(unknown)}; there are {', '.join(known)}")
        return known

    @property
    def checks(self) -> list[str]:
        """What `leaktight.check` calls them."""
        chosen = {
            "memory": self.memory,
            "references": self.refcounts,
            "fds": self.fds,
            "threads": self.c_threads or self.py_threads,
            "children": self.children,
            "files": self.files,
        }
        return [name for name, is_on in chosen.items() if is_on]


@dataclass(frozen=True)
class Options:
    """The options of one test, looked through.

    :raises TypeError, ValueError: when one of them is wrong.
    """

    warmup_times: int
    times: int
    retries: int
    tolerance: Union[int, dict[str, int]]
    trim_callback: Optional[Callable[[], Any]]
    checkers: Checkers

    def __post_init__(self) -> None:
        for name, least in (("warmup_times", 0), ("times", 2), ("retries", 1)):
            value = getattr(self, name)
            of_type(name, value, int)
            if value < least:
                raise ValueError(f"{name} must be >= {least} (got {value})")
        of_type("tolerance", self.tolerance, (int, dict))
        for metric, limit in self.tolerances.items():
            if metric not in METRICS:
                raise ValueError(f"invalid tolerance key {metric!r}; there are {', '.join(METRICS)}")
            if limit < 0:
                raise ValueError(f"tolerance must be >= 0 (got {limit} for {metric!r})")
        if self.trim_callback is not None:
            of_type("trim_callback", self.trim_callback, Callable)
        of_type("checkers", self.checkers, Checkers)

    @property
    def tolerances(self) -> dict[str, int]:
        """The tolerance by metric."""
        return self.tolerance if isinstance(self.tolerance, dict) else dict.fromkeys(METRICS, self.tolerance)

    @property
    def period(self) -> int:
        """A clean function is called `times` times, or as often as the least period needs."""
        return max(LEAST_PERIOD, self.times // CALLS_PER_PERIOD)

    @property
    def max_calls(self) -> int:
        """As many calls as psleak makes at most, or as a clean verdict needs."""
        calls, run = 0, self.times
        for _ in range(self.retries):
            calls, run = calls + run, int(run * ESCALATION)
            if calls > MOST_CALLS:
                return MOST_CALLS
        return max(calls, self.period * CALLS_PER_PERIOD)

    def tolerates(self, findings: Iterable[Finding]) -> bool:
        """Whether `times` calls grow no metric by more than it may."""
        limits = self.tolerances
        return all(rate * self.times <= limits.get(metric, 0) for metric, rate in growth(findings).items())


def growth(findings: Iterable[Finding]) -> dict[str, float]:
    """The bytes that each call adds to psleak's metrics."""
    sums: dict[str, float] = {}
    for finding in findings:
        metric = _metric(finding)
        sums[metric] = sums.get(metric, 0) + finding.bytes_per_call
    return sums


def run_table(report: Report, findings: Iterable[Finding]) -> list[str]:
    """How memory grew from look to look, as psleak would tell of its runs."""
    rates = growth(findings)
    metrics = list(rates)
    if metrics == ["rss"]:
        # Looks tell of blocks, and these are none.
        return [_run_line(1, f"rss=+{round(rates['rss'] * report.calls)}", report.calls, round(rates["rss"]))]
    lines = []
    for number, (earlier, look) in enumerate(zip(report.looks, report.looks[1:]), 1):
        calls, mapped = look.calls - earlier.calls, look.mapped - earlier.mapped
        total = look.bytes - earlier.bytes
        grown = {metrics[0]: total} if len(metrics) == 1 else {"heap": total - mapped, "vms": mapped}
        if total > 0:
            parts = " | ".join(f"{metric}=+{size:<6}" for metric, size in grown.items() if size > 0)
            lines.append(_run_line(number, parts, calls, total // calls))
    return lines


def _run_line(number: int, metrics: str, calls: int, average: int) -> str:
    return f"Run #{number:>2}: {metrics:<50} (calls={calls:>4}, avg/call=+{average})"


def _metric(finding: Finding) -> str:
    # What the kernel alone counts has no allocator.
    if finding.allocator in ("", "mmap"):
        # Pages that are touched without being allocated are known by having neither blocks nor a place.
        return "rss" if finding.blocks_per_call == 0 and not finding.stack else "vms"
    size = finding.bytes_per_call / finding.blocks_per_call if finding.blocks_per_call else 0
    return "mmap" if size >= MMAP_THRESHOLD_BYTES else "heap"


def of_type(name: str, value: object, kinds: Any) -> None:
    """Raises a TypeError when the value is of none of the kinds."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, kinds):
        raise TypeError(f"{name!r} must be instance of {' or '.join(kind.__name__ for kind in kinds)} (got {value!r})")
