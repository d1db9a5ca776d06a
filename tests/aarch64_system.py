"""Checks on an emulated aarch64 machine with a kernel of its own: python3 tests/aarch64_system.py ROOT PROGRAM...

The debug registers take a kernel, which user-mode emulation has not. ROOT is what tests/aarch64.py runs in, with
Debian's kernel in /boot; the programs are the Rust tests to run there. All of it becomes the machine's first file system
in memory, and tests/aarch64_guest.py runs there and answers on the console. tests/aarch64.sh calls this.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import support
from aarch64_guest import MARK
from manifest import BY_NAME as CASES
from references import BY_NAME as REFERENCES
from test_kept_by import KEPT
from test_places import BUGS, place_complaint
from test_references import complaint as reference_complaint

OUT = support.BUILD / "aarch64" / "machine"
#: A processor without atomic instructions (LSE) and signatures, and one with all that qemu knows. The second signs by a
#: fast algorithm of qemu's own.
OLD, NEW = "cortex-a72", "max,pauth-impdef=on"
SECONDS = 1500  # For one machine, from its start to its end.
NOBODY = 65534
#: Where perf is allowed to everybody, and what Debian's kernels begin with, where it is not.
ALLOWED, FORBIDDEN = "2", "3"
#: Takes five minutes, and is run on one processor.
STORM = "two_hundred_runs_under_signals_threads_and_forks_leave_nothing"
#: Of the zoo's memory cases those that user-mode emulation cannot show.
THREADS = ("leak_thread_joined", "twin_thread_joined")
#: Not in the machine.
UNUSED = ["boot", "site", "zoo", "usr/include", "usr/lib/modules", "usr/lib/udev", "usr/share/doc", "usr/share/locale"]
UNUSED += ["usr/share/man", "var/cache", "var/lib/apt"]

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 HOME=/root TMPDIR=/tmp
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t devtmpfs dev /dev && mount -t tmpfs tmp /tmp
chmod 1777 /tmp
python3 /guest.py
echo o >/proc/sysrq-trigger
sleep 60
"""

Answer = dict[str, Any]


@dataclass
class Job:
    """A command for the machine, and what is wrong with its answer; empty when nothing is."""

    name: str
    command: list[str]
    complaint: Callable[[Answer], str]
    user: Optional[int] = None
    paranoid: str = ALLOWED
    seconds: int = 120


@dataclass
class Ran:
    """What came of one machine."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    root, programs = Path(sys.argv[1]), [Path(program) for program in sys.argv[2:]]
    headers = max((root / "usr/include").glob("python3.*"))
    version = tuple(int(part) for part in headers.name.removeprefix("python").split("."))
    total = Ran()
    for processor, jobs in machines(version, programs):
        pack(root, programs, jobs)
        ran = run(root, processor, jobs)
        if ran is not None:
            total.count += ran.count
            total.wrong += [f"{name} on {processor}" for name in ran.wrong]
    print(f"not run: {STORM} on {NEW}")
    print(f"ran: {total.count} checks on emulated machines; wrong: {', '.join(total.wrong) or 'none'}")
    return 1 if total.wrong else 0


def machines(version: tuple[int, ...], programs: list[Path]) -> list[tuple[str, list[Job]]]:
    """The processors, and what is run on each."""

    def tests(*arguments: str) -> list[Job]:
        one = ["--test-threads=1", *arguments]
        return [Job(bare(program), [f"/tests/{bare(program)}", *one], status_complaint, seconds=800) for program in programs]

    mortal = [case for case in REFERENCES.values() if case.module == "zoo_refs" and not case.immortal(version)]
    places = [case for case in mortal if case in BUGS]

    def places_of(some: list[Any], zoo: str = "signed", how: str = "") -> list[Job]:
        return [check(zoo, case.name + how, case.setup, case.statement, place_of(case, version)) for case in some]

    others = [case for case in mortal if case not in BUGS]
    unwatched = [check("signed", case.name, case.setup, case.statement, reference_of(case, version)) for case in others]
    unwatched += [
        check("signed", case.name, case.setup, case.statement, memory_of(case, version))
        for case in (CASES[name] for name in THREADS)
    ]
    kept = [
        check("signed", f"kept: {name}", f"import zoo_refs\n{setup}", statement, keeper_of(function))
        for name, (setup, statement, function) in KEPT.items()
        if "zoo_" not in setup
    ]
    by_perf = places_of(places)
    unsigned = places_of(places[:3], "plain", " (plain)")
    by_ptrace = places_of(places, how=" by ptrace")
    for job in by_ptrace:
        job.user, job.paranoid = NOBODY, FORBIDDEN
    info = [information("perf_event_open"), information("ptrace", user=NOBODY, paranoid=FORBIDDEN)]
    return [
        (NEW, info + by_perf + kept + unsigned + by_ptrace + unwatched + tests("--skip", STORM)),
        (OLD, info + by_perf + kept + unsigned + tests()),
    ]


def bare(program: Path) -> str:
    return program.name.rsplit("-", 1)[0]


def command(zoo: str, *arguments: str) -> list[str]:
    return ["/usr/bin/env", f"PYTHONPATH=/site:/zoo/{zoo}", "NO_COLOR=1", "python3", "-m", "leaktight", *arguments]


def information(way: str, **more: Any) -> Job:
    def complaint(answer: Answer) -> str:
        return "" if f"watchpoints  by {way}:" in answer["out"] else answer["out"] + answer["err"]

    return Job(f"leaktight info by {way}", command("signed", "info"), complaint, **more)


def check(zoo: str, name: str, setup: str, statement: str, complaint: Callable[[Answer], str]) -> Job:
    def of_report(answer: Answer) -> str:
        if answer["status"] not in (0, 1, 3):
            return f"exit status {answer['status']}: {answer['out']}{answer['err']}"
        report = json.loads(answer["out"])
        problem = complaint(report)
        return problem and f"{problem}\n{answer['out']}"

    return Job(name, command(zoo, "check", "--json", "-s", setup, statement), of_report)


def place_of(case: Any, version: tuple[int, ...]) -> Callable[[Answer], str]:
    def complaint(report: Answer) -> str:
        problem = reference_complaint(REFERENCES[case.name], report, version)
        return problem or place_complaint(case, next(each for each in report["findings"] if each["kind"] == case.kind))

    return complaint


def reference_of(case: Any, version: tuple[int, ...]) -> Callable[[Answer], str]:
    return lambda report: reference_complaint(case, report, version)


def memory_of(case: Any, version: tuple[int, ...]) -> Callable[[Answer], str]:
    return lambda report: support.complaint(support.Python("python3", version), case, report)


def keeper_of(function: str) -> Callable[[Answer], str]:
    def complaint(report: Answer) -> str:
        found = [each for each in report["findings"] if each["kind"] == "memory"]
        keepers = [[frames[0]["function"] for frames in each.get("kept_by", [])] for each in found]
        return "" if keepers == [[function]] else f"kept by {keepers}, not {function}"

    return complaint


def status_complaint(answer: Answer) -> str:
    is_right = answer["status"] == 0 and " 0 failed;" in answer["out"]
    return "" if is_right else f"exit status {answer['status']}: {answer['out'][-4000:]}{answer['err'][-4000:]}"


def pack(root: Path, programs: list[Path], jobs: list[Job]) -> None:
    """Writes the machine's file system: that of ROOT, and over it what is tried."""
    shutil.rmtree(OUT, ignore_errors=True)
    over = OUT / "over"
    for folder in ("tests", "site", "zoo"):
        (over / folder).mkdir(parents=True)
    for program in programs:
        shutil.copy(program, over / "tests" / bare(program))
    for folder in ("site", "zoo"):
        shutil.copytree(root / folder, over / folder, dirs_exist_ok=True)
    # Where the debug information says that it lies.
    shutil.copytree(support.ZOO / "c", over / str(support.ZOO / "c").lstrip("/"))
    shutil.copy(support.ROOT / "tests" / "aarch64_guest.py", over / "guest.py")
    (over / "init").write_text(INIT)
    (over / "init").chmod(0o755)
    keys = ("name", "command", "user", "paranoid", "seconds")
    (over / "jobs.json").write_text(json.dumps([{key: getattr(job, key) for key in keys} for job in jobs]))
    with open(OUT / "files.cpio", "wb") as archive:
        for folder, unused in (root, UNUSED), (over, []):
            names = [b"."]
            for path, folders, files in os.walk(folder):
                inside = os.path.relpath(path, folder)
                kept = [name for name in folders if os.path.normpath(f"{inside}/{name}") not in unused]
                folders[:] = [name for name in kept if not os.path.islink(f"{path}/{name}")]
                names += [os.fsencode(f"{inside}/{name}") for name in [*kept, *files]]
            pack = ["cpio", "--null", "--create", "--format=newc", "--quiet"]
            subprocess.run(pack, input=b"\0".join(names), cwd=folder, stdout=archive, check=True)


def run(root: Path, processor: str, jobs: list[Job]) -> Optional[Ran]:
    """Starts the machine and judges what it answers; `None` if it does not start."""
    [kernel, *_] = sorted((root / "boot").glob("vmlinuz-*"))
    arguments = ["-M", "virt", "-cpu", processor, "-m", "2G", "-nographic", "-no-reboot", "-nic", "none"]
    # The machine's clock counts instructions, one a nanosecond: what has a time limit must not depend on the host's speed.
    arguments += ["-icount", "shift=0,sleep=off"]
    arguments += ["-kernel", str(kernel), "-initrd", str(OUT / "files.cpio"), "-append", "console=ttyAMA0 quiet panic=-1"]
    qemu = subprocess.Popen(
        ["qemu-system-aarch64", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    limit = threading.Timer(SECONDS, qemu.kill)
    limit.start()
    ran, waiting, others = Ran(), {job.name: job for job in jobs}, []
    is_up = False
    assert qemu.stdout is not None
    for line in qemu.stdout:
        if not line.startswith(MARK):
            others.append(line)
            continue
        answer = json.loads(line.removeprefix(MARK))
        if "kernel" in answer:
            is_up = True
            atomics, signatures = ("atomics" in answer["features"], "paca" in answer["features"])
            print(f"machine: {processor}, Linux {answer['kernel']}, atomics: {atomics}, signatures: {signatures}")
            continue
        problem = waiting.pop(answer["name"]).complaint(answer)
        ran.count += 1
        print(f"{'WRONG' if problem else 'ok   '} {answer['name']:40} {answer['seconds']:4.0f} s {problem}", flush=True)
        if problem:
            ran.wrong.append(answer["name"])
    qemu.wait()
    limit.cancel()
    if not is_up:
        print(f"not run: {processor}: the machine does not start: {''.join(others[-3:]).strip()}")
        return None
    if waiting:
        print(f"WRONG the machine ended first: {''.join(others[-10:])}")
        ran.wrong += waiting
    return ran


if __name__ == "__main__":
    sys.exit(main())
