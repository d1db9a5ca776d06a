"""What a statement or a function says without being run.

What calls nothing cannot leak, and is a mistake: it is told before anything is judged. What cannot be told so, such as an
attribute that a property computes, passes.
"""

from __future__ import annotations

import _ast
import builtins
import types
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    import dis

#: Longer functions do more than hand something out.
MOST_BYTES_OF_CODE = 100
#: Instructions that prepare a call of the function itself.
PROLOGUE = ("RESUME", "COPY_FREE_VARS", "MAKE_CELL", "NOP", "PUSH_NULL", "CACHE")
#: Instructions that make a function, beside its constants.
MAKING = ("LOAD_CLOSURE", "LOAD_FAST", "LOAD_FAST_BORROW", "BUILD_TUPLE", "LOAD_CONST", "MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE")
RETURN = ("RETURN_VALUE", "RETURN_CONST")

_UNKNOWN = object()


def of_statement(statement: str, names: dict[str, Any]) -> Optional[str]:
    """What is wrong with a statement that calls nothing, given its variables.

    >>> of_statement("len", {})
    '`len` is not called: write `len()`'
    >>> of_statement("len('')", {})
    """
    tree: Any = compile(statement, "<statement>", "exec", _ast.PyCF_ONLY_AST)
    body: list[_ast.stmt] = tree.body
    if not body:
        return "the statement is empty: write the call that is to be judged, such as `module.function()`"
    hints = [_hint(node, names) for node in body if not isinstance(node, _ast.Pass)]
    return hints[0] if hints and all(hints) else None


def used(statement: str, names: dict[str, Any]) -> list[Any]:
    """The objects to which a statement refers by names that it does not replace: variables, and what modules have. But for
    those whose death runs something: a function that is called may replace them, and rely on that.

    >>> used("a.b(c); d = c", {"c": 1, "d": 2})
    [1]
    """
    nodes = list(_nodes(compile(statement, "<statement>", "exec", _ast.PyCF_ONLY_AST)))
    replaced: set[str] = set()
    for node in nodes:
        if isinstance(node, (_ast.Name, _ast.Attribute)):
            replaced |= set() if isinstance(node.ctx, _ast.Load) else {node.id if isinstance(node, _ast.Name) else node.attr}
        else:
            # Imports, definitions, exceptions and patterns.
            new = (getattr(node, field, None) for field in ("name", "asname", "rest"))
            replaced |= {name.split(".")[0] for name in new if isinstance(name, str)}
    found: list[Any] = []
    for node in nodes:
        name, space = "", names
        if isinstance(node, _ast.Name):
            name = node.id
        elif isinstance(node, _ast.Attribute) and (module := _module(node.value, names)) is not None:
            name, space = node.attr, module.__dict__
        if name in space and name not in replaced and not _is_missed(space[name]):
            found.append(space[name])
    return found


def _is_missed(value: Any) -> bool:
    """Whether something notices when it dies. Types with `tp_finalize` have a `__del__`, too."""
    return any("__del__" in vars(base) for base in type.mro(type(value))) or weakref.getweakrefcount(value) > 0


def _nodes(node: _ast.AST) -> Iterator[_ast.AST]:
    yield node
    for field in node._fields:
        value = getattr(node, field, None)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, _ast.AST):
                yield from _nodes(child)


def _module(node: _ast.AST, names: dict[str, Any]) -> Optional[types.ModuleType]:
    found = None
    if isinstance(node, _ast.Name):
        found = names.get(node.id)
    elif isinstance(node, _ast.Attribute) and (outer := _module(node.value, names)) is not None:
        found = outer.__dict__.get(node.attr)
    return found if type(found) is types.ModuleType else None


def refuse(function: Any, args: tuple[Any, ...]) -> None:
    """Raises a TypeError for a function of which :func:`of_function` knows something to say."""
    complaint = of_function(function, args)
    if complaint:
        raise TypeError(complaint)


def of_function(function: Any, args: tuple[Any, ...]) -> Optional[str]:
    """What is wrong with a function that only returns another one, which nobody calls.

    >>> of_function(lambda: len, ())
    'the call returns `len` and does not call it: pass `len` itself, or call it inside'
    """
    if type(function) is not types.FunctionType or len(function.__code__.co_code) > MOST_BYTES_OF_CODE:
        return None
    import dis

    code = [instruction for instruction in dis.get_instructions(function) if instruction.opname not in PROLOGUE]
    if not code or code[-1].opname not in RETURN:
        return None
    names = [instruction.opname for instruction in code[:-1]]
    if function.__name__ == "<lambda>" and "MAKE_FUNCTION" in names and all(name in MAKING for name in names):
        return "the call returns a function and does not call it: call it inside, or pass it itself"
    if not names or any(name != "LOAD_ATTR" for name in names[1:]):
        return None
    found = _loaded(code[0], function, args)
    for instruction in code[1:-1]:
        found = _attribute(found, instruction.argval)
    if found is _UNKNOWN or not callable(found):
        return None
    name = ".".join(str(instruction.argval) for instruction in code[:-1])
    return f"the call returns `{name}` and does not call it: pass `{name}` itself, or call it inside"


def _hint(node: _ast.stmt, names: dict[str, Any]) -> Optional[str]:
    if isinstance(node, (_ast.FunctionDef, _ast.AsyncFunctionDef)) and not node.decorator_list:
        return f"the statement only defines `{node.name}`: put that into --setup, and write `{node.name}()`"
    if not isinstance(node, _ast.Expr):
        return None
    value = node.value
    if isinstance(value, _ast.Lambda):
        return f"`{_text(value)}` is a function that nobody calls: write `{_text(value.body)}`"
    if isinstance(value, _ast.Constant):
        return f"`{_text(value)}` calls nothing: write the call that is to be judged"
    found = _value(value, names)
    if found is not _UNKNOWN and callable(found):
        return f"`{_text(value)}` is not called: write `{_text(value)}()`"
    if found is not _UNKNOWN and isinstance(value, _ast.Name):
        return f"`{_text(value)}` calls nothing: write the call that is to be judged"
    return None


def _text(node: _ast.expr) -> str:
    import ast

    return ast.unparse(node)


def _value(node: _ast.expr, names: dict[str, Any]) -> Any:
    """What a name, or an attribute of one, stands for."""
    if isinstance(node, _ast.Name):
        return names.get(node.id, getattr(builtins, node.id, _UNKNOWN))
    if isinstance(node, _ast.Attribute):
        return _attribute(_value(node.value, names), node.attr)
    return _UNKNOWN


def _loaded(instruction: dis.Instruction, function: types.FunctionType, args: tuple[Any, ...]) -> Any:
    name, code = instruction.argval, function.__code__
    if instruction.opname == "LOAD_GLOBAL":
        return function.__globals__.get(name, getattr(builtins, name, _UNKNOWN))
    if instruction.opname == "LOAD_DEREF" and name in code.co_freevars:
        return _content((function.__closure__ or ())[code.co_freevars.index(name)])
    if instruction.opname in ("LOAD_FAST", "LOAD_FAST_BORROW") and name in code.co_varnames[: min(len(args), code.co_argcount)]:
        return args[code.co_varnames.index(name)]
    return _UNKNOWN


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _UNKNOWN  # Not set yet.


def _attribute(value: Any, name: str) -> Any:
    """An attribute, unless code of the program would be asked for it."""
    if value is _UNKNOWN:
        return _UNKNOWN
    if type(value) is types.ModuleType:
        return value.__dict__.get(name, _UNKNOWN)
    import inspect

    plain = (object.__getattribute__, type.__getattribute__)
    if inspect.getattr_static(type(value), "__getattribute__", None) not in plain:
        return _UNKNOWN
    found = inspect.getattr_static(value, name, _UNKNOWN)
    return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
