"""Where no test can be judged: said once, and the tests run as always."""

from __future__ import annotations

from typing import Any, Optional

import pytest


def why_not() -> Optional[str]:
    """Why the engine cannot work on this platform; `None` when it can."""
    try:
        from leaktight import _core
    except ImportError as why:
        return f"leaktight's engine cannot be loaded: {why}"
    return None if hasattr(_core, "check") else "leaktight's engine has no checks on this platform"


class NotJudged:
    """A plugin of a process whose tests are not judged."""

    def __init__(self, config: pytest.Config, why: str) -> None:
        self.why = why
        # Not `options`, which needs the engine.
        self.strict = config.option.leaktight_strict or config.getini("leaktight_strict")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.strict and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.write_sep("=", "leaks")
        terminalreporter.write_line(f"not judged here: {self.why}", yellow=True)
        if self.strict:
            terminalreporter.write_line("nothing was judged, so the run does not pass", red=True)
