"""Reference cycles in words that a person can follow."""

from __future__ import annotations

import collections
import gc
import types
from collections.abc import Iterator
from typing import Any, Optional

#: Longer cycles are cut.
MOST_STEPS = 6
#: Objects that a shortest cycle is looked for from.
MOST_STARTS = 100
#: Types that are named.
MOST_TYPES = 4


def describe(objects: list[Any]) -> str:
    """Say which types the objects are of, and how one of them leads back to itself.

    >>> node = []; node.append(node)
    >>> describe([node])
    'list (list[0] -> list)'
    """
    counts = collections.Counter(type(item).__name__ for item in objects)
    kinds = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.most_common(MOST_TYPES))
    found = cycle(objects)
    return f"{kinds} ({found})" if found else kinds


def cycle(objects: list[Any]) -> Optional[str]:
    """One of the shortest ways from one of the objects back to itself: ``Node.children -> list[0] -> Node``."""
    inside = {id(item) for item in objects}
    found = [(start, words) for start in objects[:MOST_STARTS] if (words := _way_back(start, inside))]
    if not found:
        return None
    # Seen from an object of the program's own class, not from a list or dict on the way.
    _, words = min(found, key=lambda pair: (type(pair[0]).__module__ == "builtins", len(pair[1])))
    if len(words) > MOST_STEPS:
        words[MOST_STEPS - 1 : -1] = ["…"]
    return " -> ".join(words)


def _way_back(start: object, inside: set[int]) -> Optional[list[str]]:
    """The shortest way from an object to itself, over objects with those ids."""
    ways: collections.deque[tuple[object, list[str]]] = collections.deque([(start, [])])
    seen: set[int] = set()
    while ways:
        item, words = ways.popleft()
        for place, other in _references(item):
            step = [*words, type(item).__name__ + place]
            if other is start:
                return [*step, type(start).__name__]
            if id(other) in inside and id(other) not in seen:
                seen.add(id(other))
                ways.append((other, step))
    return None


def _references(item: object) -> Iterator[tuple[str, object]]:
    """What an object refers to, and how a programmer would write that."""
    placed: set[int] = set()
    for place, other in _places(item):
        placed.add(id(other))
        yield place, other
    for other in gc.get_referents(item):
        if id(other) not in placed:
            yield "", other


def _places(item: object) -> Iterator[tuple[str, object]]:
    if isinstance(item, dict):
        yield from ((f"[{key!r}]" if type(key) in (str, int) else "[…]", value) for key, value in item.items())
    elif isinstance(item, (list, tuple)) and len(gc.get_referents(item)) == len(item):  # An entry may be NULL still.
        yield from ((f"[{at}]", value) for at, value in enumerate(item))
    elif isinstance(item, types.FunctionType):
        cells = zip(item.__code__.co_freevars, item.__closure__ or ())
        yield from ((f"'s variable {name}", cell) for name, cell in cells)
    # Not by getattr, which could run the program's own code. An instance may keep its dict out of sight until
    # somebody asks for it.
    has_dict = getattr(type(item), "__dictoffset__", 0) != 0
    namespace = object.__getattribute__(item, "__dict__") if has_dict else {}
    if isinstance(namespace, dict):
        yield from ((f".{name}", value) for name, value in namespace.items())
    for cls in type(item).__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield f".{name}", slot.__get__(item)
                except AttributeError:
                    pass  # Never assigned.
