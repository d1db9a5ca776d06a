"""What was found: one result per test, and the findings of all tests grouped by the place that leaks."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Optional

import pytest

from leaktight._pytest import alone, inside
from leaktight._pytest.fixtures import Definitions

#: Marks the report that fails a leaking test.
LEAKED = "leaktight"
#: And the one that fails an undecided test, or one that could not be judged.
OPEN = "leaktight_open"

#: Of a Python stack without native frames, so many name the place.
PYTHON_FRAMES = 3


@dataclass
class Result:
    """What judging one test found out."""

    test: str
    #: "clean", "bounded", "leak", "indeterminate" or "not judged".
    verdict: str
    #: Why it is so, in one sentence; empty when there is nothing to explain.
    reason: str
    #: Runs in all, the ordinary one included.
    runs: int
    #: Of the ordinary run, and of the rounds after it.
    plain_seconds: float
    seconds: float
    #: As in the report of a check, and "site": what identifies the place.
    findings: list[dict[str, Any]] = field(default_factory=list)
    #: The engine could not work: not the test's doing.
    blind: bool = False
    file: str = ""
    line: int = 0
    #: Parts that were asked for and could not be done here.
    not_done: list[str] = field(default_factory=list)
    #: What the check did not look at: those, and what nobody asked for.
    not_seen: list[str] = field(default_factory=list)
    #: Of the seconds those within the rounds; the rest is the engine's.
    round_seconds: float = 0.0
    #: Somebody wants the test not to be judged.
    excused: bool = False
    #: Shows the leaks of the test without the rest of the suite.
    command: str = ""
    #: The run had too little time for it, and the next should have so much; 0 where more would not help.
    wants_seconds: float = 0.0

    @classmethod
    def of(cls, item: pytest.Item, report: dict[str, Any], plain: float, seconds: float, definitions: Definitions) -> Result:
        findings = [finding for found in report["findings"] for finding in _by_place(found) if not _is_the_runners(item.config, finding)]
        verdict = report["verdict"]
        if report["findings"] and not findings:
            verdict = "clean"
        for finding in findings:
            finding["fixture"] = definitions.name_of(finding["stack"])
            finding["stack"] = _without_runner(finding["stack"])
            for key in {"also", "kept_by"} & finding.keys():
                finding[key] = [_without_runner(stack) for stack in finding[key]]
            finding["site"] = site(finding, str(item.path))
            finding["message"] = re.sub(r"\bcall(s?)\b", r"run\1", finding["message"])
            if finding["fixture"]:
                finding["message"] += f", in fixture `{finding['fixture']}`"
        reason = "" if verdict in ("clean", "leak") else report["reason"]
        control = report["control"]
        blind = verdict == "indeterminate" and (control["caught"] < control["planted"] or not control["planted"])
        not_done, not_seen = report.get("not_done", []), report["blind_spots"]
        command = alone.command(item) if findings else ""
        runs = report["calls"] + 1
        return cls(
            item.nodeid, verdict, reason, runs, plain, seconds, findings, blind, *_place(item), not_done, not_seen, command=command
        )

    @classmethod
    def not_judged(
        cls, item: pytest.Item, reason: str, plain: float, seconds: float = 0.0, *, blind: bool = False, excused: bool = False, wants_seconds: float = 0.0
    ) -> Result:
        place = _place(item)
        return cls(item.nodeid, "not judged", reason, 1, plain, seconds, [], blind, *place, excused=excused, wants_seconds=wants_seconds)

    @property
    def leaks(self) -> list[dict[str, Any]]:
        """The findings that are certain enough to act on."""
        return self.findings if self.verdict == "leak" else []

    @property
    def is_open(self) -> bool:
        """Whether nothing is known about the test, and somebody wanted to know."""
        return self.verdict in ("indeterminate", "not judged") and not self.excused

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _place(item: pytest.Item) -> tuple[str, int]:
    file, line, _ = item.location
    return file, (line or 0) + 1


#: Parts of the paths of what runs tests.
RUNNERS = ("/_pytest/", "/pluggy/", "/unittest/case.py", "/pytest_asyncio/", "/anyio/pytest_plugin.py", "/asyncio/", "/hypothesis/")


def _is_runner(frame: dict[str, Any]) -> bool:
    return frame["python"] and any(part in (frame.get("file") or "") for part in RUNNERS)


def _is_the_runners(config: pytest.Config, finding: dict[str, Any]) -> bool:
    """Whether only what runs the test took part, or these are files in pytest's own folder, which it keeps for
    a look and removes later."""
    if finding["stack"] and all(map(_is_runner, finding["stack"])):
        return True
    base = inside.folder_for_tests(config)
    examples = finding.get("examples") or []
    return finding["kind"] == "file" and base is not None and bool(examples) and all(base in example for example in examples)


def _by_place(finding: dict[str, Any]) -> list[dict[str, Any]]:
    """Each certain place of a finding by itself: a baseline may know one of them and not the others."""
    also = finding.get("also", [])
    if finding.get("one_of") or not also:
        return [finding]
    return [{**finding, "stack": stack, "also": []} for stack in [finding["stack"], *also]]


def _without_runner(stack: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A stack that ends with the test, not with what called it."""
    end = len(stack)
    while end and _is_runner(stack[end - 1]):
        end -= 1
    return stack[:end]


def site(finding: dict[str, Any], test_file: str) -> list[str]:
    """What identifies a place from one version of the code to the next: the kind of the leak, and the
    functions and the files of its stack, without lines.

    Only frames that all tests share: native ones, or those of Python code below the test's own file. What
    a test allocates itself is identified by its function.
    """
    if finding.get("one_of"):
        # What is known of one of the places says nothing of the others.
        names = sorted({" < ".join(_names(stack, test_file)) for stack in [finding["stack"], *finding["also"]]})
        return [finding["kind"], "one of", *names]
    # A leak without a stack, such as of references.
    examples = finding.get("examples") or []
    return [finding["kind"], *(_names(finding["stack"], test_file) or examples[:1] or [finding["message"]])]


#: A line of a file, or a place in a module.
Place = tuple[Any, ...]


def place_of(finding: dict[str, Any]) -> Place:
    """What tells leaks of one site apart in a run: its innermost line."""
    frame = finding["stack"][0] if finding["stack"] and not finding.get("one_of") else {}
    return tuple(frame.get(key) for key in ("file", "line", "module", "offset"))


def blamed(finding: dict[str, Any]) -> list[dict[str, Any]]:
    """The stack of the line that is to be mended, as far as is known: of who keeps what another has made."""
    keepers = finding.get("kept_by") or []
    stack: list[dict[str, Any]] = keepers[0] if len(keepers) == 1 else finding["stack"]
    return stack


def _names(frames: list[dict[str, Any]], test_file: str) -> list[str]:
    native = [frame for frame in _until(frames, lambda frame: frame["python"])]
    return [_name(frame) for frame in native] or names_below(frames, test_file)[:PYTHON_FRAMES] or [_name(frame) for frame in frames[:1]]


def names_below(frames: list[dict[str, Any]], test_file: str) -> list[str]:
    """The frames below the test's own file."""
    return [_name(frame) for frame in _until(frames, lambda frame: _same_file(frame, test_file))]


def _until(frames: list[dict[str, Any]], stop: Any) -> list[dict[str, Any]]:
    end = next((at for at, frame in enumerate(frames) if stop(frame)), len(frames))
    return frames[:end]


def _same_file(frame: dict[str, Any], file: str) -> bool:
    return PurePath(frame.get("file") or "").name == PurePath(file).name


def _name(frame: dict[str, Any]) -> str:
    where = PurePath(frame.get("file") or frame.get("module") or "?").name
    if frame.get("function"):
        return f"{frame['function']} ({where})"
    return f"{where}+{frame.get('offset', 0):#x}"


def location(frame: dict[str, Any], root: str = "") -> str:
    """``file:line`` or ``module+offset`` of a frame."""
    file = frame.get("file") or frame.get("module") or "?"
    if root and file.startswith(root + "/"):
        file = file[len(root) + 1 :]
    if frame.get("line"):
        return f"{file}:{frame['line']}"
    return file if frame.get("offset") is None else f"{file}+{frame['offset']:#x}"


def describe(finding: dict[str, Any], root: str = "", frames: int = 12) -> str:
    """A finding and its stack as text."""
    message = finding["message"]
    held = f" (held by {finding['holder']})" if finding.get("holder") and "held by" not in message else ""
    lines = [f"{finding['kind']}: {message}{held}"]
    if finding.get("earlier_owner"):
        lines.append("    perhaps made here, or an earlier owner of the same memory was (a free list):")
    elif finding.get("type_name") and finding["kind"] == "memory" and finding["stack"]:
        lines.append("    made here:")
    elif finding["kind"] in TAKEN and finding["stack"]:
        places = " one of these places, the likeliest first:" if finding.get("one_of") else ":"
        lines.append(f"    {TAKEN[finding['kind']]} in{places}")
    elif finding["kind"] in TAKEN and finding.get("stack_note"):
        lines.append(f"    in which function is not known, because {finding['stack_note']}")
    lines += _stack(finding["stack"], root, frames)
    for stack in finding.get("also") or []:
        lines += ["    or in:" if finding.get("one_of") else "    and in:", *_stack(stack, root, frames)]
    for number, stack in enumerate(finding.get("kept_by") or []):
        what = "a buffer that is exported and never released" if finding.get("buffer_export") else "a reference that is taken and never given back"
        lines += ["    or in:" if number else f"    kept by {what} in:", *_stack(stack, root, frames)]
    return "\n".join(lines)


#: What the stack of miscounted references is.
TAKEN = {"reference": "taken and never given back", "over-release": "given back without having been taken"}


def _stack(stack: list[dict[str, Any]], root: str, frames: int) -> list[str]:
    shown = stack[:frames]
    width = max((len(frame.get("function") or "?") for frame in shown), default=0)
    lines = []
    for frame in shown:
        source = f"  {frame['source']}" if frame.get("source") else ""
        lines.append(f"    {frame.get('function') or '?':<{width}}  {location(frame, root)}{source}")
    if len(stack) > frames:
        lines.append(f"    … and {len(stack) - frames} more frame{'s' if len(stack) > frames + 1 else ''}")
    return lines


@dataclass
class Group:
    """One place that leaks, in however many tests."""

    finding: dict[str, Any]
    tests: list[Result] = field(default_factory=list)

    @property
    def severity(self) -> str:
        return str(self.finding["severity"])

    @property
    def site(self) -> list[str]:
        return list(self.finding["site"])


class Results:
    """The results of all tests, in the order in which they ended."""

    def __init__(self) -> None:
        self.all: list[Result] = []

    def add(self, result: Result) -> None:
        self.all.append(result)

    def of(self, *verdicts: str) -> list[Result]:
        return [result for result in self.all if result.verdict in verdicts]

    @property
    def judged(self) -> list[Result]:
        return self.of("clean", "bounded", "leak")

    @property
    def plain_seconds(self) -> float:
        return sum(result.plain_seconds for result in self.all)

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.all)

    def groups(self) -> list[Group]:
        """Errors first, then what most tests reach."""
        found: dict[tuple[Any, ...], Group] = {}
        for result in self.all:
            for finding in result.leaks:
                key = (finding["severity"], *finding["site"], place_of(finding), finding.get("fixture"))
                group = found.setdefault(key, Group(finding))
                if result not in group.tests:
                    group.tests.append(result)
        order = lambda group: (group.severity != "error", -len(group.tests), -group.finding["bytes_per_call"])  # noqa: E731
        return sorted(found.values(), key=order)

    def not_seen(self) -> dict[str, list[Result]]:
        """What was not looked at, and in which tests; first what was asked for."""
        found: dict[str, list[Result]] = {part: [] for result in self.all for part in result.not_done}
        for result in self.all:
            for part in result.not_seen:
                found.setdefault(part, []).append(result)
        return found

    def reasons(self, verdict: str) -> dict[str, list[Result]]:
        """Tests of a verdict by their reason, without its details."""
        found: dict[str, list[Result]] = {}
        for result in self.of(verdict):
            found.setdefault(result.reason.split(": ")[0], []).append(result)
        return found
