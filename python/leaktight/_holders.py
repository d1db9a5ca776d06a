"""What in the interpreter holds an object, worded to follow "held by", without running code of its class."""

from __future__ import annotations

import _thread
import gc
import sys
import types
from collections.abc import Iterable
from typing import Any, Optional

from leaktight import _objects

#: Steps from an object to something that has a name.
MOST_STEPS = 5
#: Each question who refers to an object looks at all objects that the collector knows.
MOST_QUESTIONS = 40
#: How a place begins that can be told no better.
INSIDE = "inside "
#: Containers that tell how many items they have without code of the program.
SIZED = ("list", "dict", "set", "frozenset", "tuple", "collections.deque", "collections.OrderedDict", "collections.defaultdict")


def known(arguments: tuple[Any, ...], names: dict[str, Any]) -> list[Any]:
    """The objects of the collector, and those that it leaves out but the program has a name for."""
    found = [*gc.get_objects(), *arguments, *names.values()]
    for space in _objects.modules().values():
        found += list(space.values())
    return found


def holder(
    objects: list[Any],
    owners: list[Any],
    is_interned: bool,
    thread_data: Optional[dict[Any, Any]],
    function: Any,
    arguments: tuple[Any, ...],
    names: dict[str, Any],
    statement: str,
) -> Optional[str]:
    """What holds the only one of `objects`, or else the first of `owners`, whose memory points there."""
    search = _Search([objects, owners], _objects.roots(arguments, names, statement), function, thread_data)
    for item in objects:
        found = search.owner(item)
        if found is not None:
            return found
        if is_interned:
            return "the dict of interned strings"
    return next((search.in_words(owner) for owner in owners), None)


#: Which no other dict has.
_INTERNED = sys.intern("leaktight: the dict of interned strings")


class _Search:
    def __init__(self, ours: list[list[Any]], roots: list[tuple[Any, str]], function: Any, thread_data: Any) -> None:
        self.roots = roots
        self.function = function
        self.thread_data = thread_data
        self.modules = _objects.modules()
        self.questions = 0
        #: Containers that exist because we look.
        self.ours = {id(part) for part in (ours, *ours, roots, self.modules, vars(self), *roots)}

    def owner(self, item: Any) -> Optional[str]:
        """The container or instance that refers to an object; one with a name, if there is one."""
        answers = [self.in_words(referrer) for referrer in self.referrers(item) if id(referrer) != id(self.function)]
        named = [answer for answer in answers if answer is not None and answer.endswith(")")]
        return next(iter(named), next((answer for answer in answers if answer is not None), None))

    def in_words(self, item: Any) -> Optional[str]:
        if item is self.thread_data:
            return "a thread's own data"
        kind = type(item)
        # From 3.14 on the collector knows it.
        if kind is dict and item.get(_INTERNED) is _INTERNED:
            return "the dict of interned strings"
        if kind is types.FrameType:
            return f"a local variable of `{item.f_code.co_name}`"
        if kind is dict and id(item) in self.modules:
            return f"the namespace of the module `{_objects.name_of_namespace(item)}`"
        if kind is types.CellType:
            return self._closure(item)
        words = _objects.instance(item)
        if _objects.name(kind) in SIZED:
            count = kind.__len__(item)
            words = f"{_kind_of(item)} of {count:,} item{'s' * (count != 1)}"
        place = self.place(item, MOST_STEPS)
        return f"{words} ({place})" if place else words

    def place(self, item: Any, steps: int) -> Optional[str]:
        """How a person reaches an object."""
        for value, words in self.roots:
            if value is item:
                return words
        if item is self.thread_data:
            return "a thread's own data"
        if issubclass(type(item), type):
            return f"the type `{_objects.name(item)}`"
        if steps == 0:
            return None
        referrers = list(self.referrers(item))
        for referrer in referrers:
            if id(referrer) in self.modules:
                return f"`{_objects.key(referrer, item)}` of module `{_objects.name_of_namespace(referrer)}`"
        for referrer in referrers:
            found = self._step(item, referrer, steps)
            if found:
                return found
        return None

    def _step(self, item: Any, referrer: Any, steps: int) -> Optional[str]:
        kind = type(referrer)
        if issubclass(kind, _thread._local):
            return "a thread's own data, `threading.local`"
        if kind is types.CellType:
            return self._closure(referrer)
        if kind is types.FrameType:
            return f"a local variable of `{referrer.f_code.co_name}`"
        owner = self._owner_of_namespace(referrer) if kind is dict else None
        if owner is not None:
            of = self.place(owner, steps - 1) or _objects.instance(owner)
            return f"attribute `{_objects.key(referrer, item)}` of {_whole(owner, of)}"
        part = _objects.inside(referrer, item)
        outer = self.place(referrer, steps - 1)
        if part and not outer and not issubclass(kind, (list, tuple, dict, set, frozenset)):
            outer = _objects.instance(referrer)
        if not outer:
            return None
        if outer.startswith("a thread's own data"):
            return outer
        if part:
            return f"{part} of {_whole(referrer, outer)}"
        return outer if outer.startswith(INSIDE) else INSIDE + outer

    def _owner_of_namespace(self, space: dict[str, Any]) -> Any:
        for owner in self.referrers(space):
            if issubclass(type(owner), type):
                if _objects.dict_of(owner) is space:
                    return owner
            elif _objects.namespace(owner) is space:
                return owner
        return None

    def _closure(self, cell: Any) -> Optional[str]:
        for closure in self.referrers(cell):
            for function in self.referrers(closure):
                if type(function) is types.FunctionType:
                    return f"a variable around the function `{function.__qualname__}`"
        return None

    def referrers(self, item: Any) -> Iterable[Any]:
        if self.questions >= MOST_QUESTIONS:
            return ()
        self.questions += 1
        found = gc.get_referrers(item)[: _objects.MOST_REFERRERS]
        # Nothing is held by itself, as functions of ctypes would be.
        self.ours.add(id(found))
        return [referrer for referrer in found if referrer is not item and id(referrer) not in self.ours and not is_ours(referrer)]


def is_ours(referrer: Any) -> bool:
    """A frame that looks, or what carries the question."""
    files = (__file__, _objects.__file__, __file__.replace("_holders", "_paths"))
    if type(referrer) is types.FrameType:
        return referrer.f_code.co_filename in files
    return type(referrer) is types.GeneratorType and referrer.gi_code.co_filename in files


def _whole(item: Any, place: str) -> str:
    """What something is a part of: a place with a name, or else what is there."""
    return f"{_kind_of(item)} {place}" if place.startswith(INSIDE) else place


def _kind_of(item: Any) -> str:
    kind = type(item)
    return f"{_objects.article(kind.__name__)} {kind.__name__}" if _objects.name(kind) in SIZED else _objects.instance(item)
