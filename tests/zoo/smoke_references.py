"""Measures the reference zoo in the running interpreter: PYTHONPATH=DIR/X.Y:DIR/abi3 pythonX.Y tests/zoo/smoke_references.py

Reads the word that counts an object's references before and after some calls. It must have moved by exactly
what references.py says, and not at all for a twin. Lost memory is counted in blocks.
"""

from __future__ import annotations

import array
import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import zoo_refs
from references import CASES, Reference
from smoke import Runner, differs, settle

#: A multiple of what every rhythm of the zoo needs.
CALLS = 200
WINDOWS = 3
#: So that an over-release takes none of the references that keep the object alive.
SPARE_REFERENCES = 1 << 20
#: Immortal objects have more references than anybody could count (Include/object.h of 3.12).
IMMORTAL_COUNT = 1 << 31
#: Cases that move the word of an immortal object all the same, when they were compiled against headers before 3.12.
MOVE_ANYWAY = {"leak_true", "leak_small_int", "release_true"}
OLD_HEADERS_BELOW = 0x030C0000


def main() -> int:
    problems = [f"{case.name}: {problem}" for case in CASES if (problem := measure(case))]
    print("\n".join(problems) or f"{len(CASES)} cases are as references.py says")
    return 1 if problems else 0


def measure(case: Reference) -> str:
    """What differs from the manifest, or an empty text."""
    case.line()  # LookupError when a marker is missing or not unique.
    runner = Runner(case.setup, case.statement)
    if not case.address:
        return lost_blocks(case, runner)
    if case.kind != "over-release":
        runner.call(max(1, case.settles_after))  # An interned string may not exist before.
    count = ctypes.c_ssize_t.from_address(eval(case.address, runner.namespace))
    if (count.value >= IMMORTAL_COUNT) != case.immortal():
        return f"has a count of {count.value:#x}, and should be {'immortal' if case.immortal() else 'mortal'}"
    if not case.immortal():
        count.value += SPARE_REFERENCES
    elif case.name not in MOVE_ANYWAY or zoo_refs.HEADERS >= OLD_HEADERS_BELOW:
        return ""  # The interpreter itself moves such a count, or nobody does; it means nothing.
    per_call = -case.references_per_call if case.kind == "over-release" else case.references_per_call
    for _ in range(WINDOWS):
        settle()
        before = count.value
        runner.call(CALLS)
        settle()
        grown = count.value - before
        if case.immortal() and abs(grown - per_call * CALLS) < CALLS / 10:
            continue  # The interpreter takes references to what was immortal without counting them.
        problem = differs("the count", grown, per_call * CALLS)
        if problem:
            return problem
    return ""


def lost_blocks(case: Reference, runner: Runner) -> str:
    blocks = array.array("q", [0] * (WINDOWS + 1))  # So that the figures themselves are no new blocks.
    runner.call(CALLS)
    for window in range(WINDOWS + 1):
        runner.call(CALLS)
        settle()
        blocks[window] = sys.getallocatedblocks()
    return differs("blocks", blocks[-1] - blocks[0], case.references_per_call * CALLS * WINDOWS)


if __name__ == "__main__":
    sys.exit(main())
