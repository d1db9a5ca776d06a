"""An object in words that a person knows it by, without running code of its class."""

from __future__ import annotations

import ast
import collections
import gc
import sys
import types
from collections.abc import Iterator
from typing import Any, Optional

#: Longer texts are cut.
MOST_CHARACTERS = 40
#: Referrers that are looked at.
MOST_REFERRERS = 1000
#: Types whose ``repr`` is the interpreter's own, and short or easily shortened.
LITERALS = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), type(NotImplemented))
CONTAINERS = (list, tuple, dict, set, frozenset)
#: Flag of types that were made at run time (``Py_TPFLAGS_HEAPTYPE``).
HEAP_TYPE = 1 << 9


def describe(
    item: Any, function: Any, arguments: tuple[Any, ...], names: dict[str, Any], statement: str = ""
) -> tuple[str, str, bool, bool]:
    """Name an object: its description, its type, whether it lives as long as the program anyway, and whether it is a
    constant that the call was not given.

    It is looked for among the arguments of a function, or the variables of a statement.

    >>> describe("timeout", len, ("timeout",), {})
    ("the `str` 'timeout' (argument 1)", 'str', False, False)
    >>> describe("timeout", None, (), {"KEY": "timeout"}, "len(KEY)")
    ("the `str` 'timeout' (argument 1, `KEY`)", 'str', False, False)
    """
    given = roots(arguments, names, statement)
    place = _place(item, function, given)
    words = _words(item) + (f" ({place})" if place else "")
    is_constant = type(item) in LITERALS and not any(value is item for value, _ in given)
    return words, name(type(item)), _is_permanent(item), is_constant


def roots(arguments: tuple[Any, ...], names: dict[str, Any], statement: str) -> list[tuple[Any, str]]:
    """What a call is given, in words."""
    found = [(argument, f"argument {number}") for number, argument in enumerate(arguments, 1)]
    roles = _roles(statement)
    variables = [(value, roles.get(name, f"variable `{name}`")) for name, value in names.items() if not name.startswith("__")]
    return found + variables


def _words(item: Any) -> str:
    kind = type(item)
    if item is None or item is Ellipsis or item is NotImplemented or kind is bool:
        return f"`{item!r}`"
    if kind in LITERALS:
        return f"the `{kind.__name__}` {_short(item)}"
    if kind in CONTAINERS:
        return f"the `{kind.__name__}` of {len(item):,} item{'s' * (len(item) != 1)}"
    if isinstance(item, type):
        return f"the type `{name(item)}`"
    if kind is types.ModuleType:
        return f"the module `{_attribute(item, '__name__')}`"
    if kind is types.CodeType:
        return f"the code of `{item.co_name}`"
    if kind in (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType):
        return f"the function `{_attribute(item, '__qualname__')}`"
    return instance(item)


def instance(item: Any) -> str:
    """An object of which no more is known than its type; of ctypes also which function it stands for."""
    kind = type(item)
    if _is_function_of_ctypes(kind):
        # `CDLL.__getattr__` notes it there; a type like `ctypes.CDLL.__init__.<locals>._FuncPtr` tells nobody anything.
        function = namespace(item).get("__name__")
        return f"the ctypes function `{function}`" if type(function) is str else "a ctypes function"
    return f"{article(kind.__qualname__ if _module(kind) == 'builtins' else _module(kind))} `{name(kind)}` object"


def article(word: str) -> str:
    return "an" if word[:1] in tuple("aeiouAEIOU") else "a"


def _is_function_of_ctypes(kind: type) -> bool:
    module = sys.modules.get("_ctypes")
    base = None if module is None else namespace(module).get("CFuncPtr")
    return base is not None and base in type.__dict__["__mro__"].__get__(kind)


def _short(item: Any) -> str:
    if isinstance(item, int) and item.bit_length() > 100:
        return f"of {item.bit_length()} bits"
    # Only so much of a long text is put into words at all.
    text = repr(item[: MOST_CHARACTERS + 1]) if isinstance(item, (str, bytes)) else repr(item)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def name(kind: type) -> str:
    """The name of a type: bare for builtins, else with its module. Not asked of the type itself, whose metaclass may answer."""
    name: str = type.__dict__["__qualname__"].__get__(kind)
    module = _module(kind)
    return name if module in ("builtins", "") else f"{module}.{name}"


def _attribute(item: Any, name: str) -> str:
    value = getattr(item, name, "?")
    return value if type(value) is str else "?"


def _is_permanent(item: Any) -> bool:
    if isinstance(item, type):
        return _is_static(item) or _is_in_module(item) or _is_cythons(item)
    kind = type(item)
    if kind is dict:
        return any(_is_static(owner) and item is dict_of(owner) for owner in _types())
    return _is_shared(item)


def _is_static(kind: type) -> bool:
    flags: int = type.__dict__["__flags__"].__get__(kind)
    return flags & HEAP_TYPE == 0


def _is_cythons(kind: type) -> bool:
    """Types that Cython makes once for all modules, such as `generator` and `cython_function_or_method`."""
    return _module(kind).startswith("_cython_")


def _is_shared(item: Any) -> bool:
    """Values of which the interpreter has one only, so that equal ones are the same."""
    kind = type(item)
    if kind in (type(None), type(Ellipsis), type(NotImplemented), bool):
        return True
    if kind is int:
        return bool(-5 <= item <= 256)
    if kind is str:
        return len(item) == 0 or len(item) == 1 and ord(item) < 256
    if kind is bytes:
        return len(item) <= 1
    return kind is tuple and not item


def _is_in_module(kind: type) -> bool:
    """Whether a type is found in its module under its name, or else in any."""
    found: Any = sys.modules.get(_module(kind))
    for part in type.__dict__["__qualname__"].__get__(kind).split("."):
        found = namespace(found).get(part)
    spaces = modules()
    return found is kind or any(id(referrer) in spaces for referrer in gc.get_referrers(kind)[:MOST_REFERRERS])


def _module(kind: type) -> str:
    """The name of a type's module, not asked of its metaclass; empty where the metaclass has put something else there."""
    name = type.__dict__["__module__"].__get__(kind)
    return name if type(name) is str else ""


def modules() -> dict[int, dict[str, Any]]:
    """The namespaces of modules by their addresses."""
    spaces = [module.__dict__ for module in list(sys.modules.values()) if type(module) is types.ModuleType]
    return {id(space): space for space in spaces}


def name_of_namespace(space: dict[str, Any]) -> str:
    """The module that a namespace is of."""
    found = next((name for name, module in list(sys.modules.items()) if type(module) is types.ModuleType and module.__dict__ is space), "?")
    return found


def _roles(statement: str) -> dict[str, str]:
    """Variables that a statement uses once, as an argument of a call."""
    tree = ast.parse(statement)
    used = collections.Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {
        argument.id: f"argument {number}, `{argument.id}`"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for number, argument in enumerate(node.args, 1)
        if isinstance(argument, ast.Name) and used[argument.id] == 1
    }


def _place(item: Any, function: Any, roots: list[tuple[Any, str]]) -> Optional[str]:
    """Where a person finds the object: as an argument, a variable, in a module, or one step from these."""
    if function is not None and item is function:
        return "the function that is called"
    for value, words in roots:
        if value is item:
            return words
    if isinstance(item, (type, types.ModuleType)) or item is None:
        return None  # Its name says it.
    if _is_shared(item):
        return None  # Whoever has an equal one has this one.
    spaces = modules()
    found = {id(value): words for value, words in roots}
    for referrer in gc.get_referrers(item)[:MOST_REFERRERS]:
        if id(referrer) in spaces and key(referrer, item) != "?":
            return f"`{key(referrer, item)}` of module `{name_of_namespace(referrer)}`"
    if type(item) is dict:
        kind = next((kind for kind in _types() if item is dict_of(kind)), None)
        if kind is not None:
            return f"the namespace of the type `{name(kind)}`"
    for value, words in roots:
        place = inside(value, item)
        if place:
            return f"{place} of {words}"
    for referrer in gc.get_referrers(item)[:MOST_REFERRERS]:
        place = inside(referrer, item)
        if place is None or id(referrer) in found:
            continue
        for outer in gc.get_referrers(referrer)[:MOST_REFERRERS]:
            if id(outer) in spaces:
                return f"{place} of `{key(outer, referrer)}` of module `{name_of_namespace(outer)}`"
    return None


def _types() -> Iterator[type]:
    """Every type, from `object` on."""
    ways: list[type] = [object]
    seen: set[int] = set()
    for kind in ways:
        if id(kind) not in seen:
            seen.add(id(kind))
            yield kind
            ways += type.__subclasses__(kind)


def dict_of(kind: type) -> object:
    """What the mapping proxy of a type stands for."""
    return gc.get_referents(type.__dict__["__dict__"].__get__(kind))[0]


def inside(container: Any, item: Any) -> Optional[str]:
    """Which part of a container or instance an object is."""
    kind = type(container)
    if kind in (list, tuple):
        return next((f"item {at:,}" for at, part in enumerate(container) if part is item), None)
    if kind is dict:
        if any(key is item for key in container):
            return "a key"
        key = next((key for key, part in container.items() if part is item), None)
        return None if key is None else f"the value of {_short(key)}" if type(key) in LITERALS else "a value"
    if kind in (set, frozenset):
        return "an item" if any(part is item for part in container) else None
    if type(container) is item:
        return "the type"
    attributes = {**_members(container), **namespace(container)}
    name = next((name for name, part in attributes.items() if part is item), None)
    return None if name is None else f"attribute `{name}`"


def _members(container: Any) -> dict[str, Any]:
    """What lies in fixed places of the instance: its slots, and what types in C have like them."""
    if isinstance(container, type):
        return {}
    found = {}
    for kind in type.__dict__["__mro__"].__get__(type(container)):
        for name, member in namespace(kind).items():
            if type(member) is types.MemberDescriptorType:
                try:
                    found[name] = member.__get__(container)
                except Exception:
                    pass  # An empty slot.
    return found


def namespace(container: Any) -> dict[str, Any]:
    """The instance's own attributes, asked of no code of its class."""
    if isinstance(container, type):
        return dict(type.__dict__["__dict__"].__get__(container))
    try:
        namespace = object.__getattribute__(container, "__dict__")
    except Exception:
        return {}
    return namespace if type(namespace) is dict else {}


def key(namespace: dict[str, Any], item: Any) -> str:
    return next((str(name) for name, value in namespace.items() if value is item), "?")
