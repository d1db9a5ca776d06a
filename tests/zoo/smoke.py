"""Measures the zoo: python3 tests/zoo/smoke.py --out DIR [--python PY ...]

Each case runs in processes of its own, under libmeter.so and PYTHONMALLOC=malloc,
so that every block and byte is counted as it was asked for. A leak must grow by
exactly what the manifest says; a twin must stop growing. Then all cases run in
one process with the default allocators, and nothing may crash.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import build
from manifest import CASES, Case, find

CALLS = 50
WINDOWS = 4  # Looks at a settled twin.
TIMEOUT_SECONDS = 600

# What the total of all blocks cannot show exactly, and how it is checked.
BY_SIZE = {  # The number of live blocks of exactly this size, amid others.
    "leak_registry": 32,
    "leak_thread_detached": 100,
    "leak_beside_lru": 16,
    "leak_beside_fragments": 16,
    "leak_beside_background": 16,
    "twin_beside_lru": 16,
    "twin_beside_fragments": 16,
    "twin_beside_background": 16,
}
MAPPED = {"leak_mmap", "twin_mmap", "twin_mmap_pieces"}  # Mapped bytes.
AVERAGED = {"leak_random_1_in_50"}  # Within a third, over enough calls.
DOUBLING = {"cpp_leak_static_vector"}  # 4 to 16 bytes a call, in rare steps.

# The interpreter's own growth that a twin in Python may show: adaptive
# specialization, resized tables of interned strings.
PYTHON_SLACK_BLOCKS = 4
PYTHON_SLACK_BYTES = 2048


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure every case of the zoo.")
    parser.add_argument("--out", help="where the zoo is, or will be, built")
    parser.add_argument("--python", action="append", help="an interpreter to run; may be repeated")
    parser.add_argument("--only", action="append", help="the name of a case; may be repeated")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"calls of each statement ({CALLS})")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (2)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        return child(json.loads(arguments.child))
    if arguments.out is None:
        parser.error("--out is required")
    pythons = arguments.python or [sys.executable]
    try:
        paths = build.build(arguments.out, pythons)
    except build.BuildError as error:
        print(f"zoo: {error}", file=sys.stderr)
        return 1
    cases = [case for case in CASES if not arguments.only or case.name in arguments.only]
    for case in cases:
        case.line()  # LookupError when a marker is missing or not unique.
    failed = 0
    for python in pythons:
        folders = paths[build.probe(python).version]
        failed += check_interpreter(python, folders, cases, arguments)
    return 1 if failed else 0


def check_interpreter(python: str, folders: list[str], cases: list[Case], arguments: argparse.Namespace) -> int:
    """Runs the cases whose module was built; prints and counts the failures."""
    built = {path.name.split(".")[0] for folder in folders for path in Path(folder).glob("*.so")}
    runnable = [case for case in cases if case.module is None or case.module in built]
    failures = []

    def measured(case: Case) -> str:
        task = {"case": case.name, "calls": arguments.calls, "measure": True}
        preload = {"LD_PRELOAD": str(build.meter(arguments.out)), "PYTHONMALLOC": "malloc"}
        return run_child(python, folders, task, preload)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for case, failure in zip(runnable, pool.map(measured, runnable)):
            if failure:
                failures.append(f"{case.name}: {failure}")
    names = [case.name for case in runnable]
    failure = run_child(python, folders, {"cases": names, "calls": arguments.calls, "measure": False}, {})
    if failure:
        failures.append(f"all in one process: {failure}")
    skipped = len(cases) - len(runnable)
    print(f"{python}: {len(runnable)} cases, {len(failures)} failed, {skipped} skipped")
    for failure in failures:
        print(f"  {failure}")
    return len(failures)


def run_child(python: str, folders: list[str], task: dict, environment: dict[str, str]) -> str:
    """What went wrong, or an empty text."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [python, "-B", __file__, "--child", json.dumps({"folders": folders, **task})]
    try:
        done = subprocess.run(
            command,
            env={**clean, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"still running after {TIMEOUT_SECONDS} s"
    if done.returncode == 0:
        return ""
    return done.stdout.strip() or done.stderr.strip() or f"ended with status {done.returncode}"


def child(task: dict) -> int:
    sys.path[:0] = task["folders"]
    if task["measure"]:
        problem = measure(find(task["case"]), task["calls"])
        if problem:
            print(problem)
        return 1 if problem else 0
    for name in task["cases"]:
        case = find(name)
        Runner(case.setup, case.statement, case.quiesce).call(task["calls"])
    return 0


class Runner:
    """A statement, set up in this process."""

    def __init__(self, setup: str, statement: str, quiesce: str = "") -> None:
        self.namespace: dict[str, object] = {"__name__": "__main__"}
        exec(setup, self.namespace)
        self.code = compile(statement, "<statement>", "exec")
        self.quiesce = compile(quiesce, "<quiesce>", "exec")

    def call(self, times: int) -> None:
        code, namespace = self.code, self.namespace
        for _ in range(times):
            exec(code, namespace)
        exec(self.quiesce, namespace)


def measure(case: Case, calls: int) -> str:
    """What differs from the manifest, or an empty text."""
    import ctypes

    meter = ctypes.CDLL(None)
    for name in ("blocks", "bytes", "mapped", "of_size"):
        getattr(meter, f"meter_{name}").restype = ctypes.c_long
    size = BY_SIZE.get(case.name, 0)
    blocks = case.blocks()
    if case.name in AVERAGED:
        calls = max(calls, 5000)
    elif isinstance(blocks, Fraction):
        calls *= blocks.denominator
    runner = Runner(case.setup, case.statement, case.quiesce)
    runner.call(max(calls, case.settles_after))
    settle()
    meter.meter_read(0, size)  # The first reading itself changes what ctypes keeps.
    for window in range(WINDOWS + 1):
        runner.call(calls)
        settle()
        meter.meter_read(window, size)
    reading = {
        name: [getattr(meter, f"meter_{name}")(window) for window in range(WINDOWS + 1)]
        for name in ("blocks", "bytes", "mapped", "of_size")
    }
    if case.verdict == "leak":
        return check_leak(case, reading, calls)
    return check_twin(case, reading)


def settle() -> None:
    """Empties what the interpreter keeps in reserve."""
    import gc

    gc.collect()  # A full collection also empties the free lists.
    # The type attribute cache owns the names it was asked for (Objects/typeobject.c,
    # struct type_cache_entry). C code that looks up a fresh str each time, as
    # PyObject_GetAttrString does, leaves up to 4,096 of them there.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        sys._clear_type_cache()


def check_leak(case: Case, reading: dict[str, list[int]], calls: int) -> str:
    grown = {name: values[-1] - values[0] for name, values in reading.items()}
    total = calls * WINDOWS
    blocks, size = case.blocks(), case.bytes()
    if case.name in MAPPED:
        return differs("mapped bytes", grown["mapped"], size * total)
    if case.name in BY_SIZE:
        return differs(f"blocks of {BY_SIZE[case.name]} bytes", grown["of_size"], blocks * total)
    if case.name in AVERAGED:
        within = abs(grown["blocks"] - blocks * total) <= blocks * total / 3
        return "" if within else f"blocks grew by {grown['blocks']}, not by about {blocks * total}"
    if case.name in DOUBLING:
        within = 4 * total <= grown["bytes"] <= 16 * total
        return "" if within else f"bytes grew by {grown['bytes']} in {total} calls"
    return differs("blocks", grown["blocks"], blocks * total) or differs("bytes", grown["bytes"], size * total)


def differs(what: str, grown: int, expected: int | Fraction) -> str:
    return "" if grown == expected else f"{what} grew by {grown}, not by {expected}"


def check_twin(case: Case, reading: dict[str, list[int]]) -> str:
    slack_blocks = case.wander_blocks + (PYTHON_SLACK_BLOCKS if case.module is None else 0)
    slack_bytes = case.wander_bytes + (PYTHON_SLACK_BYTES if case.module is None else 0)
    allowed = {"blocks": slack_blocks, "bytes": slack_bytes, "mapped": 0, "of_size": 0}
    for name, values in reading.items():
        if max(values) - min(values) > allowed[name]:
            return f"{name} moved by more than {allowed[name]}: {[value - values[0] for value in values]}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
