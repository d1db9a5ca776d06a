"""The rows of the table: what each runs, what is compared, and the target."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import Mapping, Optional, Sequence

from measure import PAIRS, PROFILE, PSUTIL_TESTS, SITE, Variant

MEMRAY = ("-m", "memray", "run", "--quiet", "--trace-python-allocators", "--force", "--output", PROFILE)


@dataclass(frozen=True)
class Row:
    """One comparison. The first variant is ours, the second the rival, or what ours costs without something."""

    name: str
    what: str
    variants: Sequence[Variant]
    #: "ratio": ours / rival. "added": ours - rival, in the unit. "slow-down": ours / the third variant, the plain run.
    compare: str
    #: The unit of the samples, and how many of them make a second (or 1).
    unit: str
    scale: float
    #: The most that the compared figure may be; None where nothing was promised.
    limit: Optional[float]
    #: How often at most; fewer where one sample takes long.
    repeats: int = 7


@dataclass(frozen=True)
class Summary:
    """A row of the table."""

    ours: str
    rival: str
    ratio: str
    target: Optional[str]
    value: float
    ok: bool


def verdict(name: str, what: str, subject: str, limit: Optional[float], tool: str = "leaktight") -> Row:
    ours = Variant("leaktight", ("verdict.py", tool, subject))
    rival = Variant("psleak", ("verdict.py", "psleak", subject), environment={"PYTHONMALLOC": "malloc"})
    return Row(name, what, (ours, rival), "ratio", "ms", 1000, limit)


def workload(name: str, what: str, prefix: str, limit: Optional[float]) -> Row:
    plain = ("workload.py", prefix + "plain")
    variants = (
        Variant("leaktight", ("workload.py", prefix + "tracked")),
        Variant("memray", plain, through=MEMRAY),
        Variant("plain", plain),
    )
    return Row(name, what, variants, "slow-down", "x", 1, limit)


def heap_info(name: str, what: str, free_chunks: int, unit: str, scale: float, limit: float) -> Row:
    variants = [Variant(package, ("heap.py", package, str(free_chunks))) for package in ("leaktight", "psutil")]
    return Row(name, what, variants, "ratio", unit, scale, limit)


def references(count: int, limit: Optional[float]) -> Row:
    variants = (
        Variant("leaktight", ("references.py", "counted", str(count))),
        Variant("not counted", ("references.py", "uncounted", str(count))),
    )
    what = f"CPU time that counting references adds to a clean verdict beside {count:,} objects"
    return Row(f"references-{count // 1000}k", what, variants, "added", "ms", 1000, limit)


def close_look(count: int, limit: Optional[float]) -> Row:
    variants = (
        Variant("leaktight", ("references.py", "leak", str(count))),
        Variant("no leak", ("references.py", "clean", str(count))),
    )
    what = f"CPU time that a leaked reference adds to a verdict beside {count:,} objects"
    return Row(f"close-look-{count // 1000}k", what, variants, "added", "ms", 1000, limit)


ROWS = (
    verdict("clean", "CPU time of the verdict on a function that does nothing, memory only", "noop", 0.12),
    verdict("leak", "CPU time of the verdict on 100 bytes of malloc lost per call, memory only", "malloc", 0.08),
    verdict("clean-all", "CPU time of the verdict on a function that does nothing, everything looked at", "noop", 0.5, "leaktight-all"),
    verdict("leak-all", "CPU time of the verdict on 100 bytes of malloc lost per call, everything looked at", "malloc", 0.2, "leaktight-all"),
    verdict("busy-clean", "CPU time of the verdict on a clean function that takes longer", "busy", None),
    verdict("busy-leak", "CPU time of the verdict on a leaking function that takes longer", "busy-malloc", None),
    Row(
        "pair",
        "a malloc/free pair while tracked, without stacks",
        (
            Variant("leaktight", ("pairs.py", "tracked", PAIRS)),
            Variant("untracked", ("pairs.py", "plain", PAIRS)),
        ),
        "added",
        "ns",
        1,
        25,
    ),
    Row(
        "psutil",
        "CPU time of psutil's test_memleaks.py",
        (
            Variant("leaktight", ("memleaks.py", "leaktight", SITE, PSUTIL_TESTS)),
            Variant("psleak", ("memleaks.py", "psleak", SITE, PSUTIL_TESTS), environment={"PYTHONMALLOC": "malloc", "PYTHONUNBUFFERED": "1"}),
        ),
        "ratio",
        "s",
        1,
        0.4,
        repeats=3,
    ),
    workload("workload", "slow-down of a Python workload, without stacks", "", 2.5),
    workload("stacks", "slow-down of a Python workload with a stack for each allocation", "stacks-", None),
    heap_info("heap-info", "CPU time of a heap_info() in a small process", 0, "us", 1e6, 0.4),
    heap_info("heap-info-chunks", "CPU time of a heap_info() beside 500,000 free chunks", 500_000, "ms", 1e3, 1.05),
    # 8 ms at 13,000 objects; no process with leaktight has so few.
    references(35_000, 8 * 35 / 13),
    references(90_000, 60),
    references(600_000, None),
    close_look(35_000, 300),
    close_look(90_000, 800),
    close_look(600_000, None),
)


def summarize(row: Row, samples: Mapping[str, Sequence[float]]) -> Summary:
    ours, rival = (variant.name for variant in row.variants[:2])
    scale = row.scale
    if row.compare == "slow-down":
        scale = 1 / median(samples[row.variants[2].name])
    mine, theirs = median(samples[ours]) * scale, median(samples[rival]) * scale
    value = {"ratio": mine / theirs, "added": mine - theirs, "slow-down": mine}[row.compare]
    added = row.compare == "added"
    target = {"ratio": "<= {:.2f}", "added": f"<= +{{:.0f}} {row.unit}", "slow-down": "ours <= {:.1f} x"}[row.compare]
    return Summary(
        ours=spread(samples[ours], scale, row.unit),
        rival=f"{rival} {spread(samples[rival], scale, row.unit)}",
        ratio=f"{value:+.1f} {row.unit}" if added else f"{mine / theirs:.2f}",
        target=None if row.limit is None else target.format(row.limit),
        value=value,
        ok=row.limit is None or value <= row.limit,
    )


def spread(values: Sequence[float], scale: float, unit: str) -> str:
    """The median and the quartiles."""
    low, middle, high = (value * scale for value in quantiles(values, n=4, method="inclusive"))
    digits = 1 if middle >= 10 else 2
    return f"{middle:.{digits}f} {unit} ({low:.{digits}f}-{high:.{digits}f})"
