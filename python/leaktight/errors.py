"""What a leak test fails with: psleak's exceptions, and the report with each of them."""

from __future__ import annotations

import copyreg
import gc
import pickle
from collections.abc import Collection
from typing import Any, Optional, Union

from leaktight._report import Report


class LeakError(AssertionError):
    """Something stays behind, call after call."""

    #: What the check found out; None where no check ran, as for garbage.
    report: Optional[Report] = None


class MemoryLeakError(LeakError):
    """Memory stays behind, call after call."""

    def __init__(self, message: str, report: Optional[Report] = None) -> None:
        super().__init__(message)
        self.report = report


class ReferenceLeakError(MemoryLeakError):
    """References to Python objects are taken and not given back, or given back too often, call after call."""


class UnclosedResourceError(LeakError):
    """A resource is taken, call after call, and not given back."""

    resource_name = "resource"
    verb = "unclosed"

    def __init__(
        self,
        count: int,
        fun_name: str,
        extras: Optional[Collection[Any]] = None,
        *,
        calls: int = 1,
        report: Optional[Report] = None,
        note: str = "",
    ) -> None:
        #: How many stay behind after so many `calls`; at least 1.
        self.count = count
        self.fun_name = fun_name
        #: As many of them, described or as they are.
        self.extras = extras
        self.calls = calls
        self.report = report
        self.note = note
        things, times = _many(count, f"{self.verb} {self.resource_name}"), _many(calls, "time")
        first = f"detected {things} after calling {fun_name!r} {times}" + ":" * bool(extras)
        super().__init__("\n".join([first, *(f"* {described(extra)}" for extra in extras or ())]))

    def __str__(self) -> str:
        parts = (self.args[0], self.note, str(self.report or ""))
        return "\n\n".join(part for part in parts if part)

    def __reduce__(self) -> Any:
        # Threads and garbage cannot go to another process, as that of a test runner; what they are can.
        state = {**self.__dict__, "extras": _sendable(self.extras)}
        return copyreg.__newobj__, (type(self), *self.args), state  # type: ignore[attr-defined]


class UnclosedFdError(UnclosedResourceError):
    """A file descriptor is opened and not closed."""

    resource_name = "file descriptor"


class UnclosedHandleError(UnclosedResourceError):
    """A handle is opened and not closed. Windows only, so never raised yet."""

    resource_name = "handle"


class UnclosedHeapCreateError(UnclosedResourceError):
    """``HeapCreate`` without ``HeapDestroy``. Windows only, so never raised yet."""

    resource_name = "HeapCreate() call"


class UnclosedNativeThreadError(UnclosedResourceError):
    """A native thread is started and left running, or ends and is never joined."""

    resource_name = "native C thread"


class UnclosedPythonThreadError(UnclosedResourceError):
    """A ``threading.Thread`` is started and left running."""

    resource_name = "Python thread"


class UnreapedChildError(UnclosedResourceError):
    """A child process is started and left running, or ends and is never waited for."""

    resource_name = "child process"
    verb = "unreaped"


class UnremovedFileError(UnclosedResourceError):
    """A name in a folder for temporary files is made and left there."""

    resource_name = "temporary file"
    verb = "unremoved"


class UnremovedIpcError(UnclosedResourceError):
    """Shared memory, a semaphore or a message queue is made and not removed."""

    resource_name = "IPC object"
    verb = "unremoved"


class UncollectableGarbageError(UnclosedResourceError):
    """A call leaves reference cycles of Python objects to the garbage collector."""

    resource_name = "GC object"
    verb = "uncollectable"


def described(extra: object) -> str:
    """`repr` in short, also of objects whose own does not work."""
    LONGEST = 200
    if not _is_filled(extra):
        return f"<{type(extra).__name__} with entries that were never set>"
    try:
        text = repr(extra)
    except Exception:
        text = object.__repr__(extra)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _many(count: int, name: str) -> str:
    ending = "es" if name.endswith("s") else "s"
    return f"{count} {name}" + ending * (count > 1)


def _is_filled(item: object) -> bool:
    """Whether every list and tuple that is met by going through built-in containers has all of its entries.

    C code may have left some NULL, and neither `repr` nor `pickle` bears that in every CPython.
    """
    open_ones, seen = [item], set()
    while open_ones:
        one = open_ones.pop()
        if type(one) not in (list, tuple, dict, set, frozenset) or id(one) in seen:
            continue
        seen.add(id(one))
        parts = gc.get_referents(one)
        if isinstance(one, (list, tuple)) and len(parts) != len(one):
            return False
        open_ones += parts
    return True


def _sendable(extras: Optional[Collection[Any]]) -> Union[Collection[Any], None]:
    if all(_is_filled(extra) for extra in extras or ()):
        try:
            pickle.dumps(extras)
        except Exception:
            pass
        else:
            return extras
    return [described(extra) for extra in extras or ()]
