"""Checks on an emulated aarch64: python3 tests/aarch64.py ROOT

ROOT is a chroot of an arm64 Debian with /site, the unpacked wheel, and /zoo, the zoo in C twice: `signed`, where return
addresses are signed as in Debian's own packages, and `plain`. tests/aarch64.sh makes all that and calls this.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import support
from references import BY_NAME as REFERENCES
from manifest import BY_NAME as CASES
from test_references import complaint as reference_complaint

SECONDS = 300  # For one check; emulation is some twenty times slower.

#: What emulation does not show.
NOT_RUN = (
    "watchpoints, which take a kernel: tests/aarch64_system.py",
    "threads that end (twin_thread_joined): qemu keeps 280 KiB for each, which is a leak of the process",
    "the zoos in C++, Cython and Rust, processes that calls start, the test case and the plugin",
)

Report = dict[str, Any]


def main() -> int:
    root = Path(sys.argv[1])
    version = tuple(json.loads(emulated(root, "plain", "-c", "import sys; print(list(sys.version_info[:2]))").stdout))
    python = support.Python("python3", version)
    wrong, ran = [], 1
    told = emulated(root, "plain", "-m", "leaktight", "info").stdout
    caught = re.search(r"^control +(\d+) of (\d+) planted leaks caught$", told, re.MULTILINE)
    if caught is None or caught[1] != caught[2] or "aarch64-linux" not in told:
        wrong.append("leaktight info")
    print(told, end="")
    for zoo, name, setup, statement, complaint in cases(python):
        begin = time.monotonic()
        problem = judge(root, zoo, setup, statement, complaint)
        ran += 1
        print(f"{'WRONG' if problem else 'ok   '} {zoo:6} {name:24} {time.monotonic() - begin:4.0f} s {problem}", flush=True)
        if problem:
            wrong.append(f"{name} ({zoo})")
    for what in NOT_RUN:
        print(f"not run: {what}")
    print(f"ran: {ran} checks on CPython {version[0]}.{version[1]} for aarch64, emulated; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def cases(python: support.Python) -> list[tuple[str, str, str, str, Callable[[Report], str]]]:
    """The zoo to take, a name, setup, statement, and what is wrong with a report."""

    def memory(name: str) -> tuple[str, str, str, Callable[[Report], str]]:
        case = CASES[name]
        return name, case.setup, case.statement, lambda report: support.complaint(python, case, report)

    def reference(name: str) -> tuple[str, str, str, Callable[[Report], str]]:
        case = REFERENCES[name]
        return name, case.setup, case.statement, lambda report: reference_complaint(case, report, python.version)

    called = "import functools, zoo, zoo_refs"
    through = "zoo_refs.leak_callback_result(functools.partial(zoo_refs.leak_callback_result, zoo.leak_malloc))"
    outer = ["leak_malloc", "leak_callback_result", "leak_callback_result", "<module>"]
    found = [
        ("plain", *memory("leak_malloc")),
        # From the interpreter's signed code back into code that signs nothing, and whose tables count from the stack
        # pointer, twice: the first shows that signatures are stripped, the second that the stack pointer was right.
        ("plain", "frames beyond CPython's", called, through, lambda report: frames_complaint(report, outer)),
        ("signed", "frames beyond CPython's", called, through, lambda report: frames_complaint(report, outer)),
    ]
    found += [
        ("signed", *memory(name))
        for name in (
            "leak_malloc",
            "twin_malloc",
            "leak_nested",
            "leak_pymem",
            "twin_pymem",
            "leak_mmap",
            "twin_mmap",
            "leak_list",
            "twin_objects",
            "leak_thread_joined",
        )
    ]
    found += [
        ("signed", *reference(name)) for name in ("leak_passed", "release_borrowed", "twin_containers", "stored_in_registry")
    ]
    opens = "os.open('/dev/null', os.O_RDONLY)"
    found += [
        ("signed", "leaked descriptor", "import os", opens, lambda report: kinds_complaint(report, ["fd"])),
        ("signed", "closed descriptor", "import os", f"os.close({opens})", lambda report: kinds_complaint(report, [])),
    ]
    return found


def judge(root: Path, zoo: str, setup: str, statement: str, complaint: Callable[[Report], str]) -> str:
    """What is wrong with the report on a statement; empty when nothing is."""
    try:
        done = emulated(root, zoo, "-m", "leaktight", "check", "--json", "-s", setup, statement)
    except subprocess.TimeoutExpired:
        return f"not done in {SECONDS} s"
    # A negative status is the signal that ended the emulator.
    if done.returncode not in (0, 1, 3):
        return f"exit status {done.returncode}: {(done.stdout + done.stderr)[-1000:]}"
    report = json.loads(done.stdout)
    problem = complaint(report)
    return problem and f"{problem}\n{done.stdout}"


def frames_complaint(report: Report, functions: list[str]) -> str:
    memory = [finding for finding in report["findings"] if finding["kind"] == "memory"]
    named = [[frame.get("function") for frame in finding["stack"]] for finding in memory]
    return "" if named == [functions] else f"frames: {named}, not {functions}"


def kinds_complaint(report: Report, kinds: list[str]) -> str:
    found = [finding["kind"] for finding in report["findings"]]
    verdict = "leak" if kinds else "clean"
    if report["verdict"] != verdict or found != kinds:
        return f"{report['verdict']}: {report['reason']}; kinds {found}, not {kinds}"
    return ""


def emulated(root: Path, zoo: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the chroot's interpreter."""
    environment = ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8", "NO_COLOR=1", f"PYTHONPATH=/site:/zoo/{zoo}"]
    command = [*environment, "chroot", str(root), "/usr/bin/qemu-aarch64-static", "/usr/bin/python3", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


if __name__ == "__main__":
    sys.exit(main())
