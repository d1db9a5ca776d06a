"""The report as typed objects. ``crates/report/SCHEMA.md`` describes each field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Optional, TypeVar, cast

from leaktight import _core


@dataclass(frozen=True)
class Frame:
    """One line of a call stack."""

    function: Optional[str] = None
    file: Optional[str] = None
    line: Optional[int] = None
    module: Optional[str] = None
    offset: Optional[int] = None
    source: Optional[str] = None
    python: bool = False
    inlined: bool = False


@dataclass(frozen=True)
class References:
    """The references to one object before and after some calls."""

    calls: int
    before: int
    after: int
    visible: int
    words: int
    balanced: Optional[int] = None


@dataclass(frozen=True)
class Step:
    """One step of the way from a root to a block."""

    name: str = ""
    what: str = ""


@dataclass(frozen=True)
class Finding:
    """One place in the program that leaves something behind."""

    kind: str
    certainty: str
    severity: str
    blocks_per_call: float
    bytes_per_call: float
    allocator: str
    message: str
    stack: list[Frame]
    block_size: Optional[int] = None
    every: Optional[int] = None
    via: Optional[str] = None
    type_name: Optional[str] = None
    objects_per_call: Optional[float] = None
    examples: list[str] = field(default_factory=list)
    holder: Optional[str] = None
    in_cycle: bool = False
    earlier_owner: bool = False
    references: Optional[References] = None
    also: list[list[Frame]] = field(default_factory=list)
    one_of: bool = False
    stack_note: Optional[str] = None
    path: list[Step] = field(default_factory=list)
    buffer_export: bool = False
    kept_by: list[list[Frame]] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """Blocks that calls have left behind at one place, and that are part of no finding."""

    blocks: int
    bytes: int
    allocator: str
    stack: list[Frame]
    type_name: Optional[str] = None
    path: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Look:
    """The memory that calls had left behind at one moment."""

    calls: int
    blocks: int
    bytes: int
    mapped: int


@dataclass(frozen=True)
class Control:
    """The leaks that were planted to prove that the instrument sees, and how many it caught."""

    planted: int
    caught: int
    missed: list[str]


@dataclass(frozen=True)
class Environment:
    """Where the check ran."""

    runtime: str
    libc: str
    platform: str
    leaktight: str


@dataclass(frozen=True)
class Report:
    """What one check found out. ``str(report)`` is the text for people."""

    subject: str
    verdict: str
    reason: str
    findings: list[Finding]
    calls: int
    period: int
    seconds: float
    control: Control
    blind_spots: list[str]
    remarks: list[str]
    environment: Environment
    looks: list[Look] = field(default_factory=list)
    objects: int = 0
    not_done: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    _json: str = field(repr=False, compare=False, default="")

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report that :meth:`to_json` wrote.

        :raises ValueError: when the text is none, or of a schema that this version does not know.
        """
        _core.render(text)
        return cls._of(text)

    @classmethod
    def _of(cls, text: str) -> Report:
        data: dict[str, Any] = json.loads(text)
        findings = [
            {
                **finding,
                "path": _path(finding),
                "stack": [_known(Frame, frame) for frame in finding["stack"]],
                "also": _stacks(finding, "also"),
                "kept_by": _stacks(finding, "kept_by"),
                "references": _known(References, finding["references"]) if finding.get("references") else None,
            }
            for finding in data["findings"]
        ]
        kept = [
            {**kept, "path": _path(kept), "stack": [_known(Frame, frame) for frame in kept["stack"]]}
            for kept in data.get("kept", [])
        ]
        parts = {
            "findings": [_known(Finding, finding) for finding in findings],
            "kept": [_known(Kept, one) for one in kept],
            "looks": [_known(Look, look) for look in data.get("looks", [])],
            "control": _known(Control, data["control"]),
            "environment": _known(Environment, data["environment"]),
            "_json": text,
        }
        return _known(cls, {**data, **parts})

    def to_json(self) -> str:
        """The report as JSON, schema ``leaktight.report/1``."""
        return self._json

    def __str__(self) -> str:
        return _core.render(self._json)


def _stacks(finding: dict[str, Any], key: str) -> list[list[Frame]]:
    return [[_known(Frame, frame) for frame in stack] for stack in finding.get(key, [])]


def _path(part: dict[str, Any]) -> list[Step]:
    return [_known(Step, step) for step in part.get("path", [])]


_Part = TypeVar("_Part")


def _known(kind: type[_Part], data: dict[str, Any]) -> _Part:
    """An object from its fields; those of later versions are skipped."""
    names = [one.name for one in fields(cast(Any, kind))]
    return kind(**{name: data[name] for name in names if name in data})
