"""Test suites of published packages with `pytest --leaks`: python3 benches/suites.py [--only NAME] [--python X.Y] [--json FILE]

Exit status: 0 when nothing new was found, the releases that leak were found, and the median is within its target; 1
when not; 2 when a suite did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

from bench import cpu_model
from measure import ROOT, BenchError
from suites_table import PYTEST, SUITES, Suite

sys.path.insert(0, str(ROOT / "tests"))
import packages  # noqa: E402
import support  # noqa: E402

FOLDER = ROOT / "build" / "suites"
#: Leaks that were looked into, with what they are.
BASELINES = Path(__file__).resolve().parent / "baselines"
INTERPRETERS = ("3.11", "3.13")
#: The median of the ratios over all suites.
MOST_TIMES = 4.0
#: After so many seconds the tests that are left run only once, and after twice as many the suite is stopped.
LIMIT_SECONDS = 600
HEADER = ("suite", "Python", "judged", "plain s", "--leaks s", "ratio", "leaks", "undecided", "not judged")


@dataclass(frozen=True)
class Row:
    """What one suite did on one interpreter."""

    suite: str
    python: str
    judged: int
    #: Processor time of the whole process and its children, which other programs on the machine do not change; the mean of
    #: a run before and one after that with --leaks.
    plain_seconds: float
    leaks_seconds: float
    known: list[str]
    new: list[str]
    #: Tests by reason.
    undecided: dict[str, list[str]]
    not_judged: dict[str, list[str]]

    @property
    def ratio(self) -> float:
        return self.leaks_seconds / self.plain_seconds

    def cells(self) -> list[str]:
        counts = [sum(map(len, reasons.values())) for reasons in (self.undecided, self.not_judged)]
        figures = [f"{self.judged:,}", f"{self.plain_seconds:.1f}", f"{self.leaks_seconds:.1f}", f"{self.ratio:.1f}"]
        return [self.suite, self.python, *figures, str(len(self.known) + len(self.new)), *map(str, counts)]

    def details(self) -> Iterator[str]:
        for word, lines in (("known", self.known), ("NEW", self.new)):
            yield from (f"    {word}: {line}" for line in lines)
        for word, reasons in (("undecided", self.undecided), ("not judged", self.not_judged)):
            yield from (f"    {word}: {len(tests)}, as {tests[0]}: {reason}" for reason, tests in reasons.items())


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the test suites of published packages with pytest --leaks.")
    parser.add_argument("--only", metavar="NAME", default="", help="only suites whose name contains this")
    parser.add_argument("--python", metavar="X.Y", action="append", help=f"on these interpreters (default: {', '.join(INTERPRETERS)})")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all rows there")
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=LIMIT_SECONDS, help=f"for one suite (default: {LIMIT_SECONDS})")
    parser.add_argument("--package", metavar="DIR", type=Path, default=ROOT / "python", help="import leaktight from this folder")
    arguments = parser.parse_args()
    suites = [suite for suite in SUITES if arguments.only in suite.name]
    if not suites:
        parser.error(f"no suite is called {arguments.only!r}; there are {', '.join(suite.name for suite in SUITES)}")
    rows: list[Row] = []
    missing = 0
    for version in arguments.python or INTERPRETERS:
        for suite in suites:
            try:
                rows.append(run(suite, version, arguments.package.resolve(), arguments.limit))
            except BenchError as error:
                missing += 1
                print(f"suites: {suite.name} on {version}: {error}", file=sys.stderr)
                continue
            print("  ".join(rows[-1].cells()), *rows[-1].details(), sep="\n", file=sys.stderr, flush=True)
    if not rows:
        return 2
    for cells in (HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)):
        print(f"| {' | '.join(cells)} |")
    leaking = {suite.name for suite in suites if suite.leaks}
    ratios = [row.ratio for row in rows if row.suite not in leaking]
    median = statistics.median(ratios) if ratios else 0.0
    print(f"\nMedian ratio without the releases that leak: {median:.1f}, target <= {MOST_TIMES:.0f}. {cpu_model()}, {platform.machine()}.")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if missing:
        return 2
    unexpected = any(not row.new if row.suite in leaking else row.new for row in rows)
    return 1 if median > MOST_TIMES or unexpected else 0


def run(suite: Suite, version: str, package: Path, limit: float) -> Row:
    """One suite plain, with --leaks, and plain again, so that a busy spell of the machine hits both."""
    print(f"{suite.name} on {version} ...", file=sys.stderr, flush=True)
    python = _environment(suite, version)
    folder = _tests(suite)
    results = FOLDER / "results" / f"{suite.name}-{version}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(_no_settings()), "--rootdir", str(folder)]
    command += [*suite.arguments, *suite.tests]
    # A wheel says itself that it has a plugin.
    plugin = [] if list(package.glob("leaktight-*.dist-info")) else ["-p", "leaktight.pytest_plugin"]
    leaks = [*plugin, "--leaks", "--leaks-json", str(results), "--leaks-time-budget", str(limit)]
    baseline = BASELINES / f"{suite.name}.toml"
    if baseline.exists():
        leaks += ["--leaks-baseline", str(baseline)]
    before = _seconds(command, folder, limit)
    seconds = _seconds([*command, *leaks], folder, 2 * limit, package)
    after = _seconds(command, folder, limit)
    if not results.exists():
        raise BenchError(f"no results in {results}; see the log beside it")
    return _row(suite, version, json.loads(results.read_text()), (before + after) / 2, seconds)


def _row(suite: Suite, version: str, results: dict[str, Any], plain: float, seconds: float) -> Row:
    reasons: dict[str, dict[str, list[str]]] = {"indeterminate": {}, "not judged": {}}
    for test in results["tests"]:
        if test["verdict"] in reasons:
            reasons[test["verdict"]].setdefault(test["reason"].split(": ")[0], []).append(test["test"])
    found: dict[bool, list[str]] = {True: [], False: []}
    for finding in results["findings"]:
        text = f"{finding['severity']}: {' < '.join(finding['site'][1:3])}: {finding['message']} ({len(finding['tests'])} tests, as {finding['tests'][0]})"
        if finding["severity"] == "error":
            found[bool(finding["known"])].append(text)
    judged = sum(test["verdict"] in ("clean", "bounded", "leak") for test in results["tests"])
    return Row(suite.name, version, judged, plain, seconds, found[True], found[False], reasons["indeterminate"], reasons["not judged"])


def _environment(suite: Suite, version: str) -> Path:
    """The interpreter of a virtual environment with the package and what its tests need."""
    python = next((python.path for python in support.pythons() if "{}.{}".format(*python.version) == version), None)
    if python is None:
        raise BenchError(f"no CPython {version} is found here")
    folder = FOLDER / version / suite.name
    inside = folder / "venv" / "bin" / "python"
    wanted = [suite.requirement, *PYTEST, *suite.needs]
    with packages.installed_once(folder, "\n".join(wanted)) as missing:
        if missing:
            _run([python, "-m", "venv", "--without-pip", str(folder / "venv")])
            pip = [sys.executable, "-m", "pip", "--python", str(inside), "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, "--only-binary=:all:", *wanted])
    return inside


def _tests(suite: Suite) -> Path:
    """A folder with the tests and nothing else of the source distribution, so that they import what is
    installed."""
    folder = FOLDER / "tests" / suite.name
    source = packages.source(suite.requirement, isolated=True) if suite.source else None
    with packages.installed_once(folder, repr(suite.source)) as missing:
        if missing and source:
            for part in suite.source:
                shutil.copytree(source / part, folder / part)
    return folder


def _no_settings() -> Path:
    """A suite's own settings ask for plugins that have nothing to do with its tests."""
    file = FOLDER / "pytest.ini"
    file.write_text("[pytest]\n")
    return file


def _seconds(command: Sequence[str], folder: Path, limit: float, package: Path | None = None) -> float:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "GITHUB"))}
    environment = {**keep, **({"PYTHONPATH": str(package)} if package else {})}
    log = FOLDER / "results" / f"{Path(command[0]).parents[2].name}-{Path(command[0]).parents[3].name}{'-leaks' if package else ''}.log"
    started = _processor_time()
    with open(log, "wb") as output:
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"did not end within {limit:.0f} s; see {log}") from None
    # Tests that fail here fail plain, too, and are not judged.
    if done.returncode not in (0, 1):
        raise BenchError(f"pytest ended with status {done.returncode}; see {log}")
    return _processor_time() - started


def _processor_time() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise BenchError(done.stderr.strip() or f"{command[0]} failed")


if __name__ == "__main__":
    sys.exit(main())
