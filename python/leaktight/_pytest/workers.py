"""pytest-xdist: results travel from the worker processes with the reports of tests, so that a worker
that crashes takes no more than its last result with it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Callable

import pytest

from leaktight._pytest.results import Result

KEY = "leaktight_results"


class Sender:
    """A plugin of a worker."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.pending: list[Result] = []

    def _take(self) -> list[dict[str, Any]]:
        taken = [result.as_dict() for result in self.pending]
        self.pending.clear()
        return taken

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_to_serializable(self) -> Generator[None, Any, Any]:
        data = yield
        if isinstance(data, dict) and self.pending:
            data[KEY] = self._take()
        return data

    def pytest_sessionfinish(self) -> None:
        self.config.workeroutput[KEY] = self._take()  # type: ignore[attr-defined]


class Receiver:
    """A plugin of the process that has workers."""

    def __init__(self, deliver: Callable[[Result], None]) -> None:
        self.deliver = deliver

    def _receive(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            self.deliver(Result(**result))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_from_serializable(self, data: dict[str, Any]) -> Generator[None, Any, Any]:
        self._receive(data.pop(KEY, []))
        return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._receive(getattr(node, "workeroutput", {}).get(KEY, []))
