"""Which objects a call leaves to the garbage collector."""

from __future__ import annotations

import gc
import threading
import types
from collections.abc import Callable
from typing import Any, Optional

from leaktight import _core, _cycles
from leaktight.errors import UncollectableGarbageError


class GCDebugger:
    """Gathers the objects that become cyclic garbage within a ``with`` block.

    The collector would free them; here it does not, so that they can be looked at. Only what was made
    within the block counts.
    """

    #: Exceptions and what hangs on them form cycles that go away with the handler; the main thread stays.
    TRANSIENT_TYPES: tuple[type, ...] = (types.FrameType, types.TracebackType, type(threading.main_thread()), BaseException)
    #: These refer to nothing.
    SCALAR_TYPES: tuple[type, ...] = (int, float, complex, str, bytes, bytearray, type(None))

    def __init__(self) -> None:
        self.before: list[Any] = []
        self.after: list[Any] = []

    def __enter__(self) -> GCDebugger:
        self._flags = gc.get_debug()
        self.before = list(gc.garbage)
        # What is alive is not looked at, which makes the collections nearly free. Where that cannot be undone, garbage
        # from before must go first.
        self._frozen: Any = _core.freeze()
        if self._frozen is None:
            gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        return self

    def __exit__(self, *exception: object) -> None:
        gc.collect()
        self.after = gc.garbage[len(self.before) :]
        del gc.garbage[len(self.before) :]
        gc.set_debug(self._flags)
        self._frozen = None

    def is_transient(self, obj: object) -> bool:
        """Whether this is no leak by itself: a scalar, part of an exception, or a container of such."""
        return self._is_transient(obj, set())

    def _is_transient(self, obj: Any, seen: set[int]) -> bool:
        # Not isinstance, which asks the object itself.
        kind = type(obj)
        if issubclass(kind, self.SCALAR_TYPES + self.TRANSIENT_TYPES) or id(obj) in seen:
            return True
        seen.add(id(obj))
        if issubclass(kind, dict):
            return all(self._is_transient(part, seen) for pair in obj.items() for part in pair)
        if issubclass(kind, (list, tuple, set, frozenset)):
            # Not by iterating: entries that C code has not filled yet are NULL.
            return all(self._is_transient(part, seen) for part in gc.get_referents(obj))
        return False

    def leaked_objects(self) -> list[Any]:
        """The garbage, without what is transient."""
        return [obj for obj in self.after if not self.is_transient(obj)]

    def error(self, name: str) -> Optional[UncollectableGarbageError]:
        """What a test of the call of that name should fail with."""
        leaked = self.leaked_objects()
        if not leaked:
            return None
        note = f"made of: {_cycles.describe(leaked)}"
        return UncollectableGarbageError(len(leaked), name, extras=leaked, note=note)

    def check(self, fun: Callable[..., Any]) -> None:
        """Raises what :meth:`error` says."""
        error = self.error(getattr(fun, "__qualname__", str(fun)))
        if error is not None:
            raise error
