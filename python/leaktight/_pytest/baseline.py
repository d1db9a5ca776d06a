"""Leaks that are known. They are told, and fail no test.

A baseline is a TOML file of entries like this:

    [[leak]]
    kind = "memory"
    stack = ["copy_field (header.c)", "parse_header (header.c)"]
    reason = "fixed upstream in 2.1"

An entry matches leaks of its kind whose stack begins with its own. Lines and folders play no part, so
it survives changes to the code around it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

import pytest

from leaktight._pytest.options import Options
from leaktight._pytest.results import Group, Place, place_of

#: As in a report.
KINDS = ("memory", "reference", "over-release", "fd", "thread", "child", "file", "ipc", "garbage")
HEADER = "# Leaks that `pytest --leaks` knows and that fail no test. Each entry needs a reason.\n"


class Baseline:
    """The entries of a file, and which of them were needed."""

    def __init__(self, path: Optional[Path], entries: Iterable[dict[str, Any]]) -> None:
        self.path = path
        self.entries = list(entries)
        #: The places that an entry has matched in this run, by its number.
        self._met: dict[int, list[Place]] = {}

    @classmethod
    def read(cls, options: Options) -> Baseline:
        """A file that is to be written has no entries yet.

        :raises pytest.UsageError: saying what is wrong with the file.
        """
        path = options.baseline
        if path is None or (options.update_baseline and not path.exists()):
            return cls(path, [])
        if not path.exists():
            raise pytest.UsageError(f"baseline {path}: there is no such file; --leaks-update-baseline writes it")
        try:
            document = _toml().loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as why:
            raise pytest.UsageError(f"baseline {path}: {why}") from None
        for key in document.keys() - {"leak"}:
            raise pytest.UsageError(f"baseline {path}: unknown table {key!r}; a baseline has [[leak]] tables only")
        entries = document.get("leak", [])
        if not isinstance(entries, list):
            raise pytest.UsageError(f"baseline {path}: leak must be an array of tables: [[leak]]")
        for number, entry in enumerate(entries, 1):
            wrong = _wrong(entry, reasons=not options.update_baseline)
            if wrong:
                raise pytest.UsageError(f"baseline {path}: entry {number}{_called(entry)}: {wrong}")
        return cls(path, entries)

    def entry(self, site: list[str]) -> Optional[dict[str, Any]]:
        """The entry that matches a place; the one that says most about it."""
        kind, *stack = site
        matching = [entry for entry in self.entries if entry["kind"] == kind and stack[: len(entry["stack"])] == entry["stack"]]
        return max(matching, key=lambda entry: len(entry["stack"]), default=None)

    def knows(self, finding: dict[str, Any]) -> bool:
        """Whether an entry matches a leak. Lines are not in a baseline, since they move; so an entry knows as many of
        the lines that its stack has in a run as it says, those that are met first."""
        entry = self.entry(finding["site"])
        if entry is None:
            return False
        met = self._met.setdefault(id(entry), [])
        place = place_of(finding)
        if place not in met:
            met.append(place)
        return met.index(place) < int(entry.get("places", 1))

    def unused(self, groups: Iterable[Group]) -> list[dict[str, Any]]:
        """Entries that no leak of this run needed."""
        used = [id(self.entry(group.site)) for group in groups]
        return [entry for entry in self.entries if id(entry) not in used]

    def update(self, groups: Iterable[Group], *, whole: bool) -> None:
        """Writes the leaks of this run, with the reasons that were given before. What no leak needed goes only after a
        whole run, in which every test was judged."""
        assert self.path is not None
        written: dict[tuple[str, ...], dict[str, Any]] = {}
        if not whole:
            written = {(entry["kind"], *entry["stack"]): entry for entry in self.entries}
        places: dict[tuple[str, ...], int] = {}
        for group in groups:
            kind, *stack = group.site
            entry = self.entry(group.site) or {"kind": kind, "stack": stack, "reason": ""}
            key = (entry["kind"], *entry["stack"])
            places[key] = places.get(key, 0) + 1
            least = 1 if whole else entry.get("places", 1)
            written[key] = {**entry, "places": max(places[key], least)}
        self.entries = list(written.values())
        text = HEADER + "".join(_text(entry) for entry in self.entries)
        self.path.write_text(text, encoding="utf-8")

    @property
    def without_reason(self) -> int:
        return sum(not entry["reason"].strip() for entry in self.entries)


def _toml() -> Any:
    # tomli is what the standard library has from CPython 3.11 on.
    for name in ("tomllib", "tomli"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise pytest.UsageError("a baseline needs the package tomli on this Python: pip install tomli")


def _called(entry: Any) -> str:
    """The place that an entry is about, as far as it says one."""
    stack = entry.get("stack") if isinstance(entry, dict) else None
    return f" ({', '.join(map(str, stack))})" if isinstance(stack, list) and stack else ""


def _wrong(entry: Any, *, reasons: bool) -> str:
    if not isinstance(entry, dict):
        return "it must be a table: [[leak]]"
    unknown = sorted(set(entry) - {"kind", "stack", "reason", "places"})
    if unknown:
        return f"unknown key {unknown[0]!r}; known are kind, stack, reason and places"
    if not isinstance(entry.get("kind"), str):
        return "kind is missing"
    if entry["kind"] not in KINDS:
        return f"unknown kind {entry['kind']!r}; known are {', '.join(KINDS)}"
    places = entry.get("places", 1)
    if not isinstance(places, int) or places < 1:
        return "places must be a number, 1 or more"
    stack = entry.get("stack")
    if not isinstance(stack, list) or not stack or not all(isinstance(name, str) for name in stack):
        return "stack must be a list of names, and not empty"
    reason = entry.get("reason", "")
    if not isinstance(reason, str) or (reasons and not reason.strip()):
        return "reason is missing: say why this leak is accepted"
    entry.setdefault("reason", "")
    return ""


def entry_of(finding: dict[str, Any]) -> str:
    """What accepts a leak, once it has a reason."""
    kind, *stack = finding["site"]
    return _text({"kind": kind, "stack": stack, "reason": ""})


def _text(entry: dict[str, Any]) -> str:
    stack = "".join(f"    {_string(name)},\n" for name in entry["stack"])
    places = f"places = {entry['places']}\n" if entry.get("places", 1) > 1 else ""
    return f"\n[[leak]]\nkind = {_string(entry['kind'])}\nstack = [\n{stack}]\n{places}reason = {_string(entry['reason'])}\n"


def _string(text: str) -> str:
    """A basic string (TOML 1.0): quotes, backslashes and control characters are escaped."""
    escapes = {'"': '\\"', "\\": "\\\\", **{chr(code): f"\\u{code:04x}" for code in (*range(32), 127)}}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'
