"""The engine, as tests need it."""

from __future__ import annotations

import json
from typing import Any, Callable, Optional

from leaktight import _core

#: Reachable growth of a test is a leak from so many rounds on.
CONFIRMED_AFTER = 1024

inside: Callable[..., Any] = getattr(_core, "inside", lambda function: function())


def keep_hooks(keep: bool) -> None:
    if hasattr(_core, "keep_hooks"):
        _core.keep_hooks(keep)


def check(name: str, run: Callable[[], None], *, rounds: Optional[int], period: int, checks: Optional[list[str]], time_budget: float) -> dict[str, Any]:
    """Judges ``run``; the report as a dictionary."""
    more: dict[str, Any] = dict(rounds=rounds, confirm=CONFIRMED_AFTER, inside=True) if hasattr(_core, "inside") else dict(max_calls=64)
    text = _core.check(name, run, (), **{**dict(max_calls=None, time_budget=time_budget, period=period, raises=None, checks=checks), **more})
    return json.loads(text)
