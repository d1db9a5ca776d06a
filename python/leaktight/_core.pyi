from typing import Any, Callable, Optional

class CheckError(RuntimeError):
    """A leak check could not be carried out. Nothing is said about leaks."""

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
) -> str: ...
CHECKS: list[str]

def main(arguments: list[str]) -> int: ...
def render(json: str, *, color: bool = False, width: int = 100) -> str: ...
