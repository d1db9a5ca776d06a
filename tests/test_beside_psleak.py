"""No leak that psleak finds is clean here: both judge every leak of the zoos and of the faults."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Optional

import packages
import pytest
import references
import support

PYTHON = support.pythons()[0]


@dataclass(frozen=True)
class Leak:
    """A call that leaks."""

    name: str
    setup: str
    statement: str
    #: Objects that are given back too often end a process sooner or later; psleak makes too many calls.
    kills: bool = False


LEAKS = [
    *(Leak(f"zoo-{case.name}", case.setup, case.statement) for case in support.CASES if case.verdict == "leak"),
    *(
        Leak(f"references-{case.name}", case.setup, case.statement, case.kind == "over-release")
        for case in references.CASES
        if case.verdict != "clean"
    ),
    *(Leak(f"faults-{fault.name}", fault.setup, fault.statement) for fault in support.FAULTS if fault.leaks),
]
#: One in eight, from everywhere; the others are left to `make check`.
SAMPLE = LEAKS[::8]


def found_by_psleak(leak: Leak) -> Optional[str]:
    """The name of psleak's error; "" when it finds nothing, None when the process did not live to the end."""
    done = support.run(
        PYTHON,
        [str(support.ROOT / "tests" / "judged_by_psleak.py"), leak.setup, leak.statement],
        # The releases that the docs and the benchmarks compare with.
        paths=[str(packages.source(packages.PSLEAK)), packages.wheels("psutil", [packages.PSUTIL]), *support.module_paths(PYTHON)],
        env={"PYTHONMALLOC": "malloc", "PYTHONUNBUFFERED": "1"},
    )
    if done.returncode < 0 and leak.kills:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def verdict(leak: Leak) -> str:
    done = support.leaktight(PYTHON, "check", "--json", "-s", leak.setup, leak.statement)
    assert done.returncode in (0, 1, 3), f"exit status {done.returncode}\n{done.stderr}"
    return json.loads(done.stdout)["verdict"]


@pytest.mark.parametrize(
    "leak",
    [pytest.param(leak, id=leak.name, marks=() if leak in SAMPLE else pytest.mark.thorough) for leak in LEAKS],
)
def test_leak(leak: Leak) -> None:
    theirs, ours = found_by_psleak(leak), verdict(leak)
    assert not theirs or ours in ("leak", "indeterminate"), f"psleak: {theirs}; here: {ours}"


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        ("zoo", "leak_malloc", "MemoryLeakError"),
        ("zoo", "leak_mmap", "MemoryLeakError"),
        ("zoo", "leak_thread_detached", "UnclosedNativeThreadError"),
        ("zoo", "twin_malloc", ""),
    ],
)
def test_what_psleak_finds_is_heard_of(module: str, name: str, error: str) -> None:
    """So that the test above does not hold for want of findings."""
    assert found_by_psleak(Leak(name, f"import {module}", f"{module}.{name}()")) == error
