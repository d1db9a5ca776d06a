"""Leaks that are easily overlooked are not, and their look-alikes are not called leaks."""

from __future__ import annotations

import json

import pytest
import support
from support import FAULTS, Fault, Python

PYTHONS = support.everywhere()
#: The verdicts that are right for an outcome.
RIGHT = {
    "leak": {"leak"},
    "seen": {"leak", "indeterminate"},
    "clean": {"clean", "bounded"},
    "no leak": {"clean", "bounded", "indeterminate"},
}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(python: Python, fault: Fault) -> None:
    if fault.name == "reference_kept" and python.is_free_threaded:
        pytest.skip("no references are counted without a GIL")
    # The budget is for machines that are busy with other things.
    done = support.leaktight(python, "check", "--json", "--time-budget", "100", "-s", fault.setup, fault.statement)
    report = json.loads(done.stdout) if done.returncode in (0, 1, 3) else None
    # A negative status is the signal that ended the process.
    assert report, f"exit status {done.returncode}\n{done.stderr}"
    assert report["verdict"] in RIGHT[fault.outcome], f"{report['verdict']}: {report['reason']}"
    if fault.size is not None:
        memory = [finding for finding in report["findings"] if finding["kind"] == "memory"]
        assert [(found["blocks_per_call"], found["bytes_per_call"]) for found in memory] == [(1, fault.size)], memory
