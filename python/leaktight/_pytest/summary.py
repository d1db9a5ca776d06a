"""The text at the end of a run: short, however many tests leak."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, Optional

import pytest

from leaktight._pytest import budget, files, inside
from leaktight._pytest.baseline import Baseline, entry_of
from leaktight._pytest.options import Options
from leaktight._pytest.results import LEAKED, OPEN, Group, Result, Results, blamed, describe, location

#: Findings told in full, and as one line each.
MOST_FINDINGS = 10
#: Tests named per finding.
MOST_TESTS = 3
#: Reasons why tests were not judged, warnings, and unused entries of the baseline.
MOST_LINES = 5
#: Columns where there is no terminal.
WIDE = 160
#: A line, and how pytest is to write it.
Line = tuple[str, dict[str, bool]]
RED, YELLOW, GREEN = {"red": True}, {"yellow": True}, {"green": True}


class Summary:
    """A plugin of the process that talks to the terminal."""

    def __init__(self, config: pytest.Config, options: Options, results: Results) -> None:
        self.config = config
        self.options = options
        self.results = results
        self.baseline = Baseline.read(options)
        self.journal = files.Journal.of(config)
        self.is_baseline_written = False
        #: What could not be written, and why.
        self.not_written = ""
        #: What becomes of the tests that there was no time for.
        self.next_run = ""

    def add(self, result: Result) -> None:
        self.results.add(result)
        self.journal.ended(result)

    def pytest_report_header(self) -> list[str]:
        return [*(f"leaks: {line}" for line in inside.missing()), *self.journal.last_crash]

    def pytest_sessionstart(self) -> None:
        self.journal.begin()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.journal.started(nodeid)

    def pytest_report_teststatus(self, report: Any) -> Optional[tuple[str, str, Any]]:
        if hasattr(report, LEAKED):
            return "leaked", "L", ("LEAKED", {"red": True})
        if hasattr(report, OPEN):
            return "open", "O", ("OPEN", {"red": True})
        return None

    # Before the plugins that write their files.
    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for finding in (finding for result in self.results.all for finding in result.leaks):
            # In the order in which the tests met them.
            self.baseline.knows(finding)
        if self.options.update_baseline and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self.baseline.update(self._failing(), whole=self._is_whole(session))
            self.is_baseline_written = True
        figures = {f"leaktight.{name}": value for name, value in files.counts(self.results, self.baseline).items()}
        blind_spots = {f"leaktight.not_seen.{number}": what for number, what in enumerate(self.results.not_seen(), 1)}
        second = {result.test.split("::")[-1] for result in self.results.all if result.leaks or result.is_open}
        inside.add_to_junit(self.config, {**figures, **blind_spots}, second)
        wanting = {result.test: result.wants_seconds for result in self.results.all if result.wants_seconds}
        is_known = budget.remember(self.config, [result.test for result in self.results.all], wanting)
        if wanting:
            self.next_run = "the next run judges them first" if is_known else "pytest's cache is off, so the next run does not know them"
        if self.options.json is not None:
            try:
                files.write_json(self.options.json, self.results, self.baseline)
            except OSError as why:
                self.not_written = f"{self.options.json} could not be written: {why.strerror or why}"
        if (self._saw_nothing() or self.not_written) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.journal.end()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = list(self._lines(str(self.config.rootpath)))
        terminalreporter.write_sep("=", "leaks")
        for line, style in lines:
            terminalreporter.write_line(_cut(line, terminalreporter), **style)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in files.github_annotations(self.new(), self.config.rootpath):
                terminalreporter.write_line(line)

    def _failing(self) -> list[Group]:
        return [group for group in self.results.groups() if group.severity in self.options.fail_on]

    def new(self) -> list[Group]:
        if self.options.update_baseline:
            return []
        return [group for group in self._failing() if not self.baseline.knows(group.finding)]

    def _is_whole(self, session: pytest.Session) -> bool:
        """Whether every test that there is was judged: none was chosen, failed, was skipped or had no time."""
        judged = len(self.results.judged)
        return judged == len(self.results.all) == session.testscollected and not _chooses(self.config)

    def _saw_nothing(self) -> bool:
        return not self.results.judged and any(result.blind for result in self.results.all)

    def _lines(self, root: str) -> Iterator[Line]:
        new, failing = self.new(), self._failing()
        frames = 4 if len(new) <= MOST_FINDINGS // 2 else 2
        for group in new[:MOST_FINDINGS]:
            headline, *rest = describe(group.finding, root, frames).splitlines()
            yield headline, RED
            yield from _plain(rest)
            yield from _plain([f"    in {_tests(group.tests)}"])
            yield from _plain([f"    alone: {group.tests[0].command}"])
            if self.config.option.verbose > 0:
                yield from _plain(f"    {line}" for line in entry_of(group.finding).strip().splitlines())
            yield "", {}
        if len(new) > MOST_FINDINGS:
            yield f"… and {_places(len(new) - MOST_FINDINGS, 'more ')} that leak", RED
        warnings = [group for group in self.results.groups() if group not in failing and group.severity == "warning"]
        told = _few("warning: ", [f"{group.finding['message']}, in {_tests(group.tests)}" for group in warnings])
        yield from ((line, YELLOW) for line in told)
        yield from _plain(self._baseline_lines(failing))
        for verdict, words in (("indeterminate", "undecided"), ("not judged", "not judged")):
            reasons = self.results.reasons(verdict)
            told = _few(f"{words}: ", [f"{reason} ({_tests(tests)})" for reason, tests in sorted(reasons.items(), key=lambda item: -len(item[1]))])
            yield from ((line, YELLOW) for line in told)
        if self.next_run:
            yield f"no time was left for some tests: {self.next_run}", {}
        yield from _plain(_few("not seen here: ", self._not_seen()))
        yield from _plain(self._durations())
        if self.not_written:
            yield self.not_written, RED
        if self._saw_nothing():
            yield "nothing was judged, so the run does not pass", RED
        colour = RED if new or self.not_written or self._saw_nothing() else YELLOW if any(result.is_open for result in self.results.all) else GREEN
        yield self._counts(failing), {**colour, "bold": True}

    def _not_seen(self) -> Iterator[str]:
        judged = len(self.results.judged) + len(self.results.of("indeterminate"))
        for part, tests in self.results.not_seen().items():
            yield part if len(tests) == judged else f"{part} ({_tests(tests)})"

    def _durations(self) -> Iterator[str]:
        if not self.options.durations:
            return
        yield "seconds: of the ordinary run, within the rounds, and of the engine around them"
        for result in sorted(self.results.all, key=lambda result: -result.seconds)[: self.options.durations]:
            yield f"{_phases([result])}  {result.runs:>5,} runs  {result.test}"
        yield f"{_phases(self.results.all)}  {sum(result.runs for result in self.results.all):>5,} runs  all {len(self.results.all):,} tests"

    def _baseline_lines(self, failing: list[Group]) -> Iterator[str]:
        path = self.options.baseline
        if path is None:
            return
        if self.options.update_baseline:
            if not self.is_baseline_written:
                yield f"baseline: {path} was left as it is, since the run did not get to its end"
                return
            yield f"baseline: {_places(len(failing))} written to {path}"
            kept = len(self.baseline.unused(failing))
            if kept:
                yield f"baseline: {kept} that no leak of this run needed kept, since not all tests were judged"
            if self.baseline.without_reason:
                yield f"baseline: {self.baseline.without_reason} still need a reason; add it by hand"
            return
        known = [group for group in failing if self.baseline.knows(group.finding)]
        if known:
            yield f"baseline: {_places(len(known))} known, in {_tests([test for group in known for test in group.tests])}"
        unused = [f"{entry['kind']} {entry['stack'][0]}" for entry in self.baseline.unused(failing)]
        yield from _few("baseline entry that no leak needed: ", unused)

    def _counts(self, failing: list[Group]) -> str:
        results = self.results
        judged = len(results.judged)
        leaking = [result for result in results.of("leak") if any(f["severity"] in self.options.fail_on for f in result.findings)]
        parts = [f"{judged:,} test{'s' if judged != 1 else ''} judged" if judged else "no test judged"]
        if leaking:
            new = {result.test for group in self.new() for result in group.tests}
            known = sum(result.test not in new for result in leaking) if self.options.baseline else 0
            words = ", all known" if known == len(leaking) else f", {known:,} of them known" if known else ""
            parts.append(f"{len(leaking):,} leak{words}")
        elif judged:
            parts.append("none leaks")
        for verdict, words in (("indeterminate", "undecided"), ("not judged", "not judged")):
            if results.of(verdict):
                parts.append(f"{len(results.of(verdict)):,} {words}")
        plain, seconds = results.plain_seconds, results.seconds
        # Of less the ratio says nothing.
        times = f", {(plain + seconds) / plain:.1f} times a plain run" if plain >= 1 else ""
        return f"leaks: {', '.join(parts)}; {plain + seconds:.1f} s{times}"


def _chooses(config: pytest.Config) -> bool:
    """Whether the command line names some of the tests."""
    names = ("keyword", "markexpr", "lf", "deselect", "stepwise")
    chosen = any(getattr(config.option, name, None) for name in names)
    is_of_command = getattr(getattr(config, "args_source", None), "name", "ARGS") == "ARGS"
    here = config.invocation_params.dir
    elsewhere = any((here / str(argument)).resolve() != config.rootpath.resolve() for argument in config.args)
    return chosen or bool(is_of_command and elsewhere)


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
        stats, characters = getattr(terminalreporter, "stats", {}), getattr(terminalreporter, "reportchars", "")
        if not any(stats.get(shown[character]) for character in characters if character in shown):
            terminalreporter.write_sep("=", "short test summary info", cyan=True, bold=True)
        for group in new[:MOST_FINDINGS]:
            where = blamed(group.finding)[:1]
            frame = f"{where[0].get('function') or '?'} {location(where[0], str(self.summary.config.rootpath))}: " if where else ""
            others = f" (and in {len(group.tests) - 1} more)" if len(group.tests) > 1 else ""
            line = f"LEAKED {group.tests[0].test}{others} - {frame}{group.finding['message']}"
            terminalreporter.write("LEAKED", red=True)
            terminalreporter.write_line(_cut(line, terminalreporter)[len("LEAKED") :])
        if len(new) > MOST_FINDINGS:
            terminalreporter.write_line(f"… and {_places(len(new) - MOST_FINDINGS, 'more ')} that leak")


def _cut(line: str, terminalreporter: Any) -> str:
    """A line that fits on a terminal; logs are wide."""
    wished = terminalreporter.isatty or os.environ.get("COLUMNS")
    width = (inside.width_of(terminalreporter) if wished else None) or WIDE
    return line if len(line) <= width else line[: width - 1] + "…"


def _plain(lines: Iterable[str]) -> Iterator[Line]:
    return ((line, {}) for line in lines)


def _phases(results: list[Result]) -> str:
    plain, all_rounds, judging = (sum(getattr(result, name) for result in results) for name in ("plain_seconds", "round_seconds", "seconds"))
    return f"{plain:9.3f} {all_rounds:9.3f} {judging - all_rounds:9.3f}"


def _places(count: int, word: str = "") -> str:
    return f"{count} {word}place{'s' if count != 1 else ''}"


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
