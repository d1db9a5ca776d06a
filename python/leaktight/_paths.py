"""The whole path by which an object is held, from a root of the program, without running code of its class.

Roots are the namespaces of modules, what the call is given, a thread's own data, and variables of functions that run. Who
refers to what is asked of the collector, level by level from the object outwards, so the shortest path is found first.
"""

from __future__ import annotations

import gc
import sys
import types
from typing import Any, Optional

from leaktight import _holders, _objects

#: Longer paths are not followed; nor are more objects than this of each level.
MOST_LEVELS = 10
MOST_OF_A_LEVEL = 64
#: All that the collector knows are looked through only if they are no more.
MOST_OBJECTS = 500_000

#: From here on `f_locals` of a frame that runs is no copy that would be left behind in it (PEP 667).
READS_LOCALS = sys.version_info >= (3, 13)
#: Up to here such a frame tells the collector of its variables; in between they are not found.
SHOWS_LOCALS = sys.version_info < (3, 11)

#: Flag of the code of functions (`inspect.CO_OPTIMIZED`).
OPTIMIZED = 1

Steps = list[tuple[str, str]]


def path(
    targets: list[Any],
    is_interned: bool,
    thread_data: Optional[dict[Any, Any]],
    function: Any,
    arguments: tuple[Any, ...],
    names: dict[str, Any],
    statement: str,
) -> tuple[Steps, Optional[int]]:
    """The steps from a root to the only one of `targets`: what the step before calls it, and what is there.

    If no root is found they begin with an object that nothing refers to that the collector knows, and its address is given.
    """
    if not targets:
        return [], None
    given = _objects.roots(arguments, names, statement)
    search = _Search(targets[0], given, function, names, thread_data)
    search.ours.update(id(part) for part in (targets, given, *given))
    found = search.outwards()
    if found is None and is_interned:
        return [("the dict of interned strings", ""), ("", _what(targets[0]))], None
    if found is None:
        start = search.start()
        chain = search.chain(start)
        return [("", _what(start)), *_edges(chain)], id(start)
    root, chain = found
    # A namespace is no list of things that somebody has put there.
    is_space = id(chain[0]) in search.modules or chain[0] is names or type(chain[0]) in (types.FrameType, types.ModuleType)
    return [(root, "" if is_space else _what(chain[0])), *_edges(chain)], None


class _Search:
    def __init__(self, item: Any, given: list[tuple[Any, str]], function: Any, names: dict[str, Any], thread_data: Any) -> None:
        self.item = item
        self.given = given
        self.function = function
        self.names = names
        self.thread_data = thread_data
        self.modules = _objects.modules()
        self.running = _running()
        #: By address, what each object that was met refers to: one step back to the item.
        self.inner: dict[int, Any] = {id(item): None}
        #: All that were met, the nearest first, and those of them to which something refers.
        self.met = [item]
        self.has_holder: set[int] = set()
        #: Containers that exist because we look.
        parts = (self, vars(self), self.modules, self.running, self.inner, self.met, self.has_holder)
        self.ours = {id(part) for part in parts}

    def outwards(self) -> Optional[tuple[str, list[Any]]]:
        """The nearest root in words, and all from there to the item."""
        level = [self.item]
        for _ in range(MOST_LEVELS):
            for one in level:
                root = self.root(one)
                if root is not None:
                    return root, self.chain(one)
            level = self.holders(level) or self.left_out(level)
            if not level:
                break
        return self.in_variables()

    def holders(self, level: list[Any]) -> list[Any]:
        """What refers to these and was not met yet. Roots come first."""
        # From 3.13 on the arguments of the question are found as well.
        question = object()
        found = gc.get_referrers(*level, question)
        return self.note([one for one in found if type(one) is not tuple or not one or one[-1] is not question], level)

    def left_out(self, level: list[Any]) -> list[Any]:
        """The same among dicts and tuples of plain values, which the collector leaves out, if only the item is looked for."""
        if level[0] is not self.item or gc.is_tracked(self.item):
            return []
        known = gc.get_objects()
        if len(known) > MOST_OBJECTS:
            return []
        known += [value for value, _ in self.given]
        plain = {id(part): part for part in gc.get_referents(*known) if type(part) in (dict, tuple) and not gc.is_tracked(part)}
        self.ours.update((id(known), id(plain)))
        return self.note(list(plain.values()), level)

    def note(self, found: list[Any], level: list[Any]) -> list[Any]:
        """Those that hold any of a level."""
        ours = {id(found), id(level)}
        numbers = {id(one) for one in level}
        roots: list[Any] = []
        others: list[Any] = []
        for holder in found:
            if id(holder) in self.inner or id(holder) in ours or id(holder) in self.ours or _holders.is_ours(holder):
                continue
            is_root = self.root(holder) is not None
            if not is_root and len(others) == MOST_OF_A_LEVEL:
                continue
            held = [one for one in gc.get_referents(holder) if id(one) in numbers and one is not holder]
            if held:
                self.has_holder.update(id(one) for one in held)
                self.inner[id(holder)] = held[0]
                self.met.append(holder)
                (roots if is_root else others).append(holder)
        self.ours.update((id(roots), id(others)))
        return roots + others

    def root(self, item: Any) -> Optional[str]:
        for value, words in self.given:
            if value is item:
                return words
        if item is self.function:
            return "the function that is called"
        if item is self.names:
            return "the variables of the statement"
        if item is self.thread_data:
            return "a thread's own data"
        if item is self.item:
            return None
        if id(item) in self.modules:
            return f"module `{_objects.name_of_namespace(item)}`"
        if type(item) is types.ModuleType:
            return f"module `{types.ModuleType.__getattribute__(item, '__dict__').get('__name__', '?')}`"
        if type(item) is types.FrameType:
            return self.running.get(id(item), (None, ""))[1] or None
        if issubclass(type(item), type) and not type.__dict__["__flags__"].__get__(item) & _objects.HEAP_TYPE:
            return f"the type `{_objects.name(item)}`"
        return None

    def in_variables(self) -> Optional[tuple[str, list[Any]]]:
        """What was met and is a variable of a function that runs."""
        met = {id(one): one for one in self.met}
        for frame, words in self.running.values():
            value = next((value for value in _variables(frame).values() if id(value) in met), None)
            if value is not None:
                return words, [frame, *self.chain(value)]
        return None

    def chain(self, one: Any) -> list[Any]:
        """From an object that was met to the item."""
        chain = []
        while one is not None:
            chain.append(one)
            one = self.inner[id(one)]
        return chain

    def start(self) -> Any:
        """The nearest to which nothing refers that the collector knows."""
        return next((one for one in self.met if id(one) not in self.has_holder), self.item)


def _running() -> dict[int, tuple[types.FrameType, str]]:
    """The frames that run now, but for ours, by address, with their threads."""
    threading = sys.modules.get("threading")
    names = {} if threading is None else {thread.ident: thread.name for thread in threading.enumerate()}
    running = {}
    for ident, top in sys._current_frames().items():
        name = names.get(ident)
        words = f"the stack of thread `{name}`" if type(name) is str else "the stack of a thread"
        frame: Optional[types.FrameType] = top
        while frame is not None:
            if not _holders.is_ours(frame):
                running[id(frame)] = (frame, words)
            frame = frame.f_back
    return running


def _variables(frame: types.FrameType) -> dict[str, Any]:
    """What the variables of a function that runs hold, by name where that is known. Those of a module are its namespace."""
    if not frame.f_code.co_flags & OPTIMIZED:
        return {}
    if READS_LOCALS:
        return dict(frame.f_locals)
    return {f"?{at}": value for at, value in enumerate(gc.get_referents(frame))} if SHOWS_LOCALS else {}


def _edges(chain: list[Any]) -> Steps:
    """Each but the first, by what the one before it calls it. What only binds the two is left out."""
    steps: Steps = []
    at = 1
    while at < len(chain):
        holder, item, rest = chain[at - 1], chain[at], chain[at + 1 :]
        if rest and type(item) is dict and _is_namespace_of(holder, item):
            name = _objects.key(item, rest[0])
            steps.append(("an attribute's name" if name == "?" else f"attribute `{name}`", _what(rest[0])))
            at += 2
        elif len(rest) > 1 and type(holder) is types.FunctionType and type(rest[0]) is types.CellType and item is holder.__closure__:
            variables = zip(holder.__code__.co_freevars, holder.__closure__ or ())
            name = next((name for name, cell in variables if cell is rest[0]), "?")
            steps.append((f"variable `{name}`", _what(rest[1])))
            at += 3
        else:
            steps.append((_edge(holder, item), _what(item)))
            at += 1
    return steps


def _edge(holder: Any, item: Any) -> str:
    if type(holder) is types.FrameType:
        variable = next((name for name, value in _variables(holder).items() if value is item), "?")
        return f"a variable of `{holder.f_code.co_name}`" if variable[0] == "?" else f"variable `{variable}` of `{holder.f_code.co_name}`"
    if type(holder) is dict and type(holder.get("__name__")) is str and _objects.key(holder, item) != "?":
        return f"`{_objects.key(holder, item)}`"
    return _objects.inside(holder, item) or ""


def _is_namespace_of(holder: Any, space: dict[str, Any]) -> bool:
    if isinstance(holder, type):
        return _objects.dict_of(holder) is space
    return _objects.namespace(holder) is space


def _what(item: Any) -> str:
    kind = type(item)
    if _objects.name(kind) in _holders.SIZED:
        count = kind.__len__(item)
        return f"{_objects.article(kind.__name__)} {kind.__name__} of {count:,} item{'s' * (count != 1)}"
    if kind is types.FunctionType:
        return f"the function `{item.__qualname__}`"
    if issubclass(kind, type):
        return f"the type `{_objects.name(item)}`"
    return _objects.instance(item)
