"""Reference cycles in words that a person can follow."""

from __future__ import annotations

import collections
import gc
from typing import Any, Optional

#: Longer cycles are cut.
MOST_STEPS = 6


def describe(objects: list[Any]) -> str:
    """Say which types the objects are of, and how one of them leads back to itself.

    >>> node = []; node.append(node)
    >>> describe([node])
    'list (list[0] -> list)'
    """
    counts = collections.Counter(type(item).__qualname__ for item in objects)
    kinds = ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.most_common(4))
    found = cycle(objects)
    return f"{kinds} ({found})" if found else kinds


def cycle(objects: list[Any]) -> Optional[str]:
    """The shortest way from one of the objects back to itself: ``Node.children -> list[0] -> Node``."""
    inside = {id(item): item for item in objects}
    # An instance may keep its dict out of sight until somebody asks for it.
    for item in objects:
        for other in gc.get_referents(item):
            if isinstance(other, (dict, list, tuple, set)):
                inside.setdefault(id(other), other)
    for start in objects:
        steps = _way_back(start, inside)
        if steps:
            return _in_words(steps)
    return None


def _way_back(start: Any, inside: dict[int, Any]) -> list[Any]:
    before: dict[int, Optional[Any]] = {id(start): None}
    queue = collections.deque([start])
    while queue:
        item = queue.popleft()
        for other in gc.get_referents(item):
            if other is start:
                steps = [start]
                at: Optional[Any] = item
                back = []
                while at is not None and at is not start:
                    back.append(at)
                    at = before[id(at)]
                return [*steps, *reversed(back), start]
            if id(other) in inside and id(other) not in before:
                before[id(other)] = item
                queue.append(other)
    return []


def _in_words(steps: list[Any]) -> str:
    words = []
    at = 0
    while at < len(steps) - 1:
        item, following = steps[at], steps[at + 1]
        name = type(item).__qualname__
        after = steps[at + 2] if at + 2 < len(steps) else None
        if after is not None and following is getattr(item, "__dict__", None):
            # The namespace of an instance is a detail.
            words.append(f"{name}.{_key(following, after)}")
            at += 2
        else:
            words.append(name + _place(item, following))
            at += 1
    words.append(type(steps[-1]).__qualname__)
    if len(words) > MOST_STEPS:
        words[MOST_STEPS - 1 : -1] = ["…"]
    return " -> ".join(words)


def _place(item: Any, following: Any) -> str:
    if isinstance(item, dict):
        return f"[{_key(item, following)!r}]"
    if isinstance(item, (list, tuple)):
        return next((f"[{at}]" for at, other in enumerate(item) if other is following), "")
    for name in _slots(type(item)):
        if getattr(item, name, None) is following:
            return f".{name}"
    names = getattr(item, "__dict__", None) or {}
    return next((f".{name}" for name, value in names.items() if value is following), "")


def _slots(cls: type) -> list[str]:
    found: list[str] = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        found += [slots] if isinstance(slots, str) else slots
    return found


def _key(namespace: dict[Any, Any], value: Any) -> Any:
    found = (key for key, item in namespace.items() if item is value)
    key = next(found, "?")
    return key if isinstance(key, (str, int)) else type(key).__qualname__
