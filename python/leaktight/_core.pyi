from typing import Any, Callable, Optional

from leaktight._heap import pheap

__all__ = ["CHECKS", "CheckError", "allocators", "check", "freeze", "heap_info", "heap_trim", "inside", "keep_hooks", "main", "render"]

class CheckError(RuntimeError):
    """A leak check could not be carried out. Nothing is said about leaks."""

def allocators() -> list[tuple[str, Optional[str], str, bool, Optional[int], Optional[int], Optional[int], Optional[str]]]: ...
def check(
    name: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    max_calls: Optional[int] = None,
    time_budget: Optional[float] = None,
    period: Optional[int] = None,
    raises: Optional[type[BaseException]] = None,
    checks: Optional[list[str]] = None,
    trim: Optional[Callable[[], Any]] = None,
    rounds: Optional[int] = None,
    confirm: Optional[int] = None,
    inside: bool = False,
    warm_up: int = 0,
    objects: Optional[list[Any]] = None,
    holders: bool = False,
) -> str: ...
CHECKS: list[str]

def freeze() -> Any:
    """Hide all objects from the garbage collector until the result dies; None where that could not be undone."""

def heap_info() -> pheap:
    """Ask the C allocator how much it has handed out."""

def heap_trim() -> None:
    """Ask the C allocator to give back to the system what it holds without using it."""

def inside(function: Callable[[], Any]) -> Any:
    """Call it so that what it allocates counts, within a check that was told to count only such."""

def keep_hooks(keep: bool) -> None:
    """Leave the hooks in place between checks, passing everything through, or take them out."""

def main(arguments: list[str]) -> int: ...
def render(json: str, *, color: bool = False, width: int = 100) -> str: ...
