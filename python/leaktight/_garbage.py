"""Which objects a call leaves to the garbage collector, and how they refer to each other."""

from __future__ import annotations

import collections
import gc
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, Optional

from leaktight.errors import UncollectableGarbageError


class GCDebugger:
    """Gathers the objects that become cyclic garbage within a ``with`` block.

    The collector would free them; here it does not, so that they can be looked at. Only what was made
    within the block counts.
    """

    #: Exceptions and what hangs on them form cycles that go away with the handler; the main thread stays.
    TRANSIENT_TYPES = (types.FrameType, types.TracebackType, type(threading.main_thread()), BaseException)
    #: These refer to nothing.
    SCALAR_TYPES = (int, float, complex, str, bytes, bytearray, type(None))

    def __init__(self) -> None:
        self.before: list[Any] = []
        self.after: list[Any] = []

    def __enter__(self) -> GCDebugger:
        self._flags = gc.get_debug()
        self.before = list(gc.garbage)
        # What is alive is not looked at, which makes the collections nearly free. The objects that the
        # user has frozen stay so, since to unfreeze is to unfreeze all.
        self._frozen = gc.get_freeze_count() == 0
        if self._frozen:
            gc.freeze()
        else:
            gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        return self

    def __exit__(self, *exception: object) -> None:
        gc.collect()
        self.after = gc.garbage[len(self.before) :]
        del gc.garbage[len(self.before) :]
        gc.set_debug(self._flags)
        if self._frozen:
            gc.unfreeze()

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
            return all(self._is_transient(part, seen) for part in obj)
        return False

    def leaked_objects(self) -> list[Any]:
        """The garbage, without what is transient."""
        return [obj for obj in self.after if not self.is_transient(obj)]

    def error(self, name: str) -> Optional[UncollectableGarbageError]:
        """What a test of the call of that name should fail with."""
        leaked = self.leaked_objects()
        if not leaked:
            return None
        kinds = collections.Counter(type(obj).__name__ for obj in leaked)
        note = "by type: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        cycle = readable_cycle(leaked, self.after)
        if cycle is not None:
            note += f"\na cycle: {cycle}"
        return UncollectableGarbageError(len(leaked), name, extras=leaked, note=note)

    def check(self, fun: Callable[..., Any]) -> None:
        """Raises what :meth:`error` says."""
        error = self.error(getattr(fun, "__qualname__", str(fun)))
        if error is not None:
            raise error


def readable_cycle(starts: list[Any], among: list[Any]) -> Optional[str]:
    """One of the shortest cycles from one of the objects to itself, as "Node.children -> list[0] -> Node"."""
    MOST_STARTS = 100
    known = {id(obj) for obj in among}
    cycles = [(start, _cycle(start, known)) for start in starts[:MOST_STARTS]]
    # Seen from an object of the program's own class, not from a list or dict on the way.
    best = min(
        ((type(start).__module__ == "builtins", len(cycle), cycle) for start, cycle in cycles if cycle is not None),
        default=None,
    )
    return None if best is None else best[-1]


def _cycle(start: object, known: set[int]) -> Optional[str]:
    """The shortest way from an object to itself, over objects with the known ids."""
    paths: collections.deque[tuple[object, str]] = collections.deque([(start, "")])
    seen: set[int] = set()
    while paths:
        obj, path = paths.popleft()
        for label, target in _references(obj):
            step = f"{path}{type(obj).__name__}{label} -> "
            if target is start:
                return step + type(start).__name__
            if id(target) in known and id(target) not in seen:
                seen.add(id(target))
                paths.append((target, step))
    return None


def _references(obj: object) -> Iterator[tuple[str, object]]:
    """What an object refers to, and how a programmer would write that."""
    named: set[int] = set()
    for label, target in _named_references(obj):
        named.add(id(target))
        yield label, target
    for target in gc.get_referents(obj):
        if id(target) not in named:
            yield "", target


def _named_references(obj: object) -> Iterator[tuple[str, object]]:
    if isinstance(obj, dict):
        yield from ((f"[{key!r}]" if type(key) in (str, int) else "[...]", value) for key, value in obj.items())
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{at}]", value) for at, value in enumerate(obj))
    elif isinstance(obj, types.FunctionType):
        cells = zip(obj.__code__.co_freevars, obj.__closure__ or ())
        yield from ((f"'s variable {name}", cell) for name, cell in cells)
    # Not by getattr, which could run the program's own code.
    has_dict = getattr(type(obj), "__dictoffset__", 0) != 0
    attributes = object.__getattribute__(obj, "__dict__") if has_dict else {}
    if isinstance(attributes, dict):
        yield from ((f".{name}", value) for name, value in attributes.items())
    for cls in type(obj).__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield f".{name}", slot.__get__(obj)
                except AttributeError:
                    pass  # Never assigned.

