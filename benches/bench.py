"""Benchmarks against the tools people use now: python3 benches/bench.py [--quick] [--only NAME] [--json FILE]

Exit status: 0 when every target is met, 1 when one is missed, 2 when a row could not be measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

from measure import BenchError, Bench, measure, rivals_of
from rows import ROWS, Row, Summary, summarize

REPEATS = 7
QUICK_REPEATS = 3
HEADER = ("row", "leaktight", "rival", "ratio", "target", "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure leaktight against the tools people use now.")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPEATS} repeats instead of {REPEATS}")
    parser.add_argument("--only", metavar="NAME", default="", help="only rows whose name contains this")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all samples there")
    parser.add_argument("--package", metavar="DIR", type=Path, help="import leaktight from this folder")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if arguments.only in row.name]
    if not rows:
        parser.error(f"no row is called {arguments.only!r}; there are {', '.join(row.name for row in ROWS)}")
    repeats = QUICK_REPEATS if arguments.quick else REPEATS
    try:
        bench = Bench.prepare(arguments.package)
        done = [(row, *run_row(bench, row, repeats)) for row in rows]
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    where = f"{cpu_model()}, {platform.python_implementation()} {platform.python_version()}"
    rivals = rivals_of(bench.site)
    print_table([HEADER, *([row.name, *cells(summary)] for row, _, summary in done)])
    print(f"\nMedians of {repeats} processes each (fewer where they take long), quartiles in brackets. {where}; {rivals}.")
    if arguments.json:
        write_json(arguments.json, {"machine": where, "rivals": rivals, "repeats": repeats}, done)
    return 0 if all(summary.ok for _, _, summary in done) else 1


def run_row(bench: Bench, row: Row, repeats: int) -> tuple[dict[str, list[float]], Summary]:
    print(f"{row.name}: {row.what} ...", file=sys.stderr, flush=True)
    samples = measure(bench, row.variants, min(repeats, row.repeats))
    return samples, summarize(row, samples)


def cells(summary: Summary) -> list[str]:
    verdict = "" if summary.target is None else "ok" if summary.ok else "MISSED"
    return [summary.ours, summary.rival, summary.ratio, summary.target or "", verdict]


def print_table(lines: list[Any]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def write_json(path: Path, about: dict[str, Any], done: list[tuple[Row, dict[str, list[float]], Summary]]) -> None:
    rows = [
        {"name": row.name, "what": row.what, "samples": samples, "value": summary.value, "limit": row.limit}
        for row, samples, summary in done
    ]
    path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
