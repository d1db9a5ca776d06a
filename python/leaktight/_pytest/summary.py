"""The text at the end of a run: short, however many tests leak."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Optional

import pytest

from leaktight._pytest import files
from leaktight._pytest.baseline import Baseline
from leaktight._pytest.options import Options
from leaktight._pytest.results import LEAKED, Group, Result, Results, describe, location

#: Findings told in full, and as one line each.
MOST_FINDINGS = 10
#: Tests named per finding.
MOST_TESTS = 3
#: Reasons why tests were not judged, warnings, and unused entries of the baseline.
MOST_LINES = 5
#: Columns where there is no terminal.
WIDE = 160


class Summary:
    """A plugin of the process that talks to the terminal."""

    def __init__(self, config: pytest.Config, options: Options, results: Results) -> None:
        self.config = config
        self.options = options
        self.results = results
        self.baseline = Baseline.read(options)
        self.journal = files.Journal.of(config)
        self.missing_reasons = 0

    def add(self, result: Result) -> None:
        self.results.add(result)
        self.journal.ended(result)

    def pytest_report_header(self) -> list[str]:
        return self.journal.last_crash

    def pytest_sessionstart(self) -> None:
        self.journal.begin()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.journal.started(nodeid)

    def pytest_report_teststatus(self, report: Any) -> Optional[tuple[str, str, Any]]:
        if hasattr(report, LEAKED):
            return "leaked", "L", ("LEAKED", {"red": True})
        return None

    # Before the plugins that write their files.
    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._saw_nothing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.options.update_baseline:
            self.missing_reasons = self.baseline.update(self._failing())
        files.add_to_junit(self.config, self.results)
        if self.options.json is not None:
            files.write_json(self.options.json, self.results, self.baseline)
        self.journal.end()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = list(self._lines(str(self.config.rootpath)))
        terminalreporter.write_sep("=", "leaks")
        for line in lines:
            terminalreporter.write_line(_cut(line, terminalreporter))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in files.github_annotations(self.new(), self.config.rootpath):
                terminalreporter.write_line(line)

    def _failing(self) -> list[Group]:
        return [group for group in self.results.groups() if group.severity in self.options.fail_on]

    def new(self) -> list[Group]:
        if self.options.update_baseline:
            return []
        return [group for group in self._failing() if not self.baseline.knows(group.site)]

    def _saw_nothing(self) -> bool:
        return not self.results.judged and any(result.blind for result in self.results.all)

    def _lines(self, root: str) -> Iterator[str]:
        new, failing = self.new(), self._failing()
        frames = 4 if len(new) <= MOST_FINDINGS // 2 else 2
        for group in new[:MOST_FINDINGS]:
            yield from describe(group.finding, root, frames).splitlines()
            yield f"    in {_tests(group.tests)}"
        if len(new) > MOST_FINDINGS:
            yield f"… and {len(new) - MOST_FINDINGS} more places that leak"
        warnings = [group for group in self.results.groups() if group not in failing and group.severity == "warning"]
        yield from _few("warning: ", [f"{group.finding['message']}, in {_tests(group.tests)}" for group in warnings])
        yield from self._baseline_lines(failing)
        for verdict, words in (("indeterminate", "undecided"), ("not judged", "not judged")):
            reasons = self.results.reasons(verdict)
            told = [f"{reason} ({_tests(tests)})" for reason, tests in sorted(reasons.items(), key=lambda item: -len(item[1]))]
            yield from _few(f"{words}: ", told)
        blind = [f"{part} ({_tests(tests)})" for part, tests in self.results.not_done().items()]
        yield from _few("not seen here: ", blind)
        if self._saw_nothing():
            yield "nothing was judged, so the run does not pass"
        yield self._counts()

    def _baseline_lines(self, failing: list[Group]) -> Iterator[str]:
        path = self.options.baseline
        if path is None:
            return
        if self.options.update_baseline:
            yield f"baseline: {_places(len(failing))} written to {path}"
            if self.missing_reasons:
                yield f"baseline: {self.missing_reasons} of them still need a reason; add it by hand"
            return
        known = [group for group in failing if self.baseline.knows(group.site)]
        if known:
            yield f"baseline: {_places(len(known))} known, in {_tests([test for group in known for test in group.tests])}"
        unused = [f"{entry['kind']} {entry['stack'][0]}" for entry in self.baseline.unused(failing)]
        yield from _few("baseline entry that no leak needed: ", unused)

    def _counts(self) -> str:
        results = self.results
        judged = results.judged
        leaking = [result for result in results.of("leak") if any(f["severity"] == "error" for f in result.findings)]
        parts = [f"{len(judged):,} test{'s' if len(judged) != 1 else ''} judged", f"{len(leaking):,} leak" if leaking else "none leaks"]
        for verdict, words in (("indeterminate", "undecided"), ("not judged", "not judged")):
            if results.of(verdict):
                parts.append(f"{len(results.of(verdict)):,} {words}")
        plain, seconds = results.plain_seconds, results.seconds
        times = f", {(plain + seconds) / plain:.1f} times a plain run" if plain > 0 and seconds > 0 else ""
        return f"leaks: {', '.join(parts)}; {plain + seconds:.1f} s{times}"


class ShortLines:
    """A plugin that names each new leak in one line below pytest's own short summary."""

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    # Outermost, so that it comes after everything else.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Iterator[None]:
        yield
        new = self.summary.new()
        if not new:
            return
        shown = {"f": "failed", "E": "error", "s": "skipped", "x": "xfailed", "X": "xpassed", "p": "passed"}
        if not any(terminalreporter.stats.get(shown.get(char, "")) for char in terminalreporter.reportchars):
            terminalreporter.write_sep("=", "short test summary info", cyan=True, bold=True)
        for group in new[:MOST_FINDINGS]:
            where = group.finding["stack"][:1]
            frame = f"{where[0].get('function') or '?'} {location(where[0], str(self.summary.config.rootpath))}: " if where else ""
            others = f" (and in {len(group.tests) - 1} more)" if len(group.tests) > 1 else ""
            line = f"LEAKED {group.tests[0].test}{others} - {frame}{group.finding['message']}"
            terminalreporter.write_line(_cut(line, terminalreporter))
        if len(new) > MOST_FINDINGS:
            terminalreporter.write_line(f"… and {len(new) - MOST_FINDINGS} more places that leak")


def _cut(line: str, terminalreporter: Any) -> str:
    """A line that fits on a terminal; logs are wide."""
    wished = terminalreporter.isatty or os.environ.get("COLUMNS")
    width = terminalreporter._tw.fullwidth if wished else WIDE
    return line if len(line) <= width else line[: width - 1] + "…"


def _places(count: int) -> str:
    return f"{count} place{'s' if count != 1 else ''}"


def _tests(tests: list[Result]) -> str:
    names = list(dict.fromkeys(result.test for result in tests))
    more = f" … and {len(names) - MOST_TESTS} more" if len(names) > MOST_TESTS else ""
    count = f"{len(names):,} tests: " if len(names) > 1 else ""
    return f"{count}{', '.join(names[:MOST_TESTS])}{more}"


def _few(word: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    for line in lines[:MOST_LINES]:
        yield word + line
    if len(lines) > MOST_LINES:
        yield f"{word}… and {len(lines) - MOST_LINES} more"
