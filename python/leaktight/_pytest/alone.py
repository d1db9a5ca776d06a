"""The command that shows a leak without the rest of the suite."""

from __future__ import annotations

import ast
import inspect
import shlex
import textwrap
import types
from typing import Any, Optional

import pytest


def command(item: pytest.Item) -> str:
    """`leaktight check`, which looks deeper, where a test is nothing but a call; else pytest for this test."""
    call = _plain_call(item)
    if call is None:
        return f"pytest {shlex.quote(item.nodeid)} --leaks"
    setup, statement = call
    return f"leaktight check -s {shlex.quote(setup)} {shlex.quote(statement)}"


def _plain_call(item: pytest.Item) -> Optional[tuple[str, str]]:
    """An import and a statement that do what the test does."""
    function = getattr(item, "obj", None)
    if type(function) is not types.FunctionType or inspect.signature(function).parameters:
        return None
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if not isinstance(definition, ast.FunctionDef) or len(definition.body) != 1:
        return None
    (only,) = definition.body
    call = only.value if isinstance(only, ast.Expr) else None
    if not isinstance(call, ast.Call):
        return None
    # Its arguments must say themselves what they are.
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not all(_is_literal(argument) for argument in arguments):
        return None
    setup = _import_of(call.func, function.__globals__)
    return None if setup is None else (setup, ast.unparse(call))


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _import_of(called: ast.expr, names: dict[str, Any]) -> Optional[str]:
    """What makes the name of what is called known."""
    while isinstance(called, ast.Attribute):
        called = called.value
    if not isinstance(called, ast.Name):
        return None
    value = names.get(called.id)
    if isinstance(value, types.ModuleType):
        return f"import {value.__name__}" if value.__name__ == called.id else f"import {value.__name__} as {called.id}"
    home = getattr(value, "__module__", None)
    if isinstance(home, str) and home not in ("builtins", names.get("__name__")) and getattr(value, "__name__", None) == called.id:
        return f"from {home} import {called.id}"
    return None
