"""What outlives the run: the JSON file, properties in junit XML, annotations on GitHub, and a journal
from which the results can be told after a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Optional

import pytest

from leaktight._pytest.baseline import Baseline, entry_of
from leaktight._pytest.results import Group, Result, Results, blamed

SCHEMA = "leaktight.pytest/1"


def write_json(path: Path, results: Results, baseline: Baseline) -> None:
    """All results, and the places that leak with the tests that reach them."""
    document = {
        "schema": SCHEMA,
        "summary": counts(results, baseline),
        "not_seen": [{"what": what, "tests": [result.test for result in tests]} for what, tests in results.not_seen().items()],
        "findings": [
            {
                **group.finding,
                "known": baseline.knows(group.finding),
                "tests": [result.test for result in group.tests],
                "command": group.tests[0].command,
                "baseline": entry_of(group.finding).strip(),
            }
            for group in results.groups()
        ],
        "tests": [{**result.as_dict(), "findings": [finding["site"] for finding in result.findings]} for result in results.all],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def counts(results: Results, baseline: Baseline) -> dict[str, float]:
    """The run in figures."""
    known = [baseline.knows(group.finding) for group in results.groups()]
    return {
        "judged": len(results.judged),
        "leaking": len(results.of("leak")),
        "undecided": len(results.of("indeterminate")),
        "not_judged": len(results.of("not judged")),
        "places": len(known),
        "known": sum(known),
        "new": len(known) - sum(known),
        "not_seen": len(results.not_seen()),
        "plain_seconds": round(results.plain_seconds, 3),
        "seconds": round(results.seconds, 3),
    }


def github_annotations(groups: list[Group], root: Path) -> Iterator[str]:
    """Workflow commands that show each leak beside its line."""
    for group in groups:
        test = group.tests[0]
        file, line = test.file, test.line
        finding = group.finding
        # Of a line that is not sure it would be wrong to say that it leaks.
        is_sure = not (finding.get("earlier_owner") or finding.get("one_of")) and len(finding.get("kept_by", [])) <= 1
        for frame in blamed(finding) if is_sure else []:
            path = root / (frame.get("file") or "")
            if frame.get("line") and path.is_file() and path.is_relative_to(root):
                file, line = str(path.relative_to(root)), frame["line"]
                break
        message = f"{finding['message']} (in {test.test})"
        yield f"::error file={_escape(file, True)},line={line},title=memory leak::{_escape(message)}"


def _escape(text: str, in_property: bool = False) -> str:
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")] + ([(":", "%3A"), (",", "%2C")] if in_property else [])
    for char, escaped in pairs:
        text = text.replace(char, escaped)
    return text


class Journal:
    """One line for each test that starts and for each result. It is removed when the run ends; one that
    is still there at the next start is of a run that crashed."""

    def __init__(self, path: Optional[Path]) -> None:
        self.path = path
        self.file: Optional[IO[str]] = None
        #: What is known of a run that crashed, for the header of this one.
        self.last_crash = self._last_crash()

    @classmethod
    def of(cls, config: pytest.Config) -> Journal:
        """In pytest's cache; without the cache there is none."""
        cache: Any = getattr(config, "cache", None)
        return cls(cache.mkdir("leaktight") / "journal.jsonl" if cache is not None else None)

    def begin(self) -> None:
        if self.path is not None:
            # Line-buffered: a crash loses nothing that was written.
            self.file = self.path.open("w", encoding="utf-8", buffering=1)
            self._write({"process": os.getpid()})

    def started(self, test: str) -> None:
        self._write({"started": test})

    def ended(self, result: Result) -> None:
        self._write({"result": result.as_dict()})

    def end(self) -> None:
        if self.file is not None and self.path is not None:
            self.file.close()
            self.file = None
            self.path.unlink(missing_ok=True)

    def _write(self, entry: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.write(json.dumps(entry) + "\n")

    def _last_crash(self) -> list[str]:
        if self.path is None or not self.path.exists():
            return []
        entries = list(_read(self.path))
        if any(_runs(entry["process"]) for entry in entries if "process" in entry):
            return []
        started = [entry["started"] for entry in entries if "started" in entry]
        results = [entry["result"] for entry in entries if "result" in entry]
        if not started:
            return []
        lines = [f"leaks: the run before did not end; its last test was {started[-1]}, {len(results)} were judged until then"]
        leaking = [(result["test"], finding["message"]) for result in results for finding in result["findings"] if finding["severity"] == "error"]
        lines += [f"leaks: found then: {test} - {message}" for test, message in leaking[:MOST_TOLD]]
        return lines


#: Leaks of a crashed run that the next one tells.
MOST_TOLD = 5


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # Cut short by the crash.
            continue
        if isinstance(entry, dict):
            yield entry


def _runs(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
