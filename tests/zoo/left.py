"""The ground truth of `zoo_left`: what each function leaves behind beside memory, and where.

`count()` asks the system what there is, by other means than Leaktight: the tests measure every case with it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))

from manifest import marked_line  # noqa: E402

FILE = "c/zoo_left.c"


@dataclass(frozen=True)
class Left:
    """One function of `zoo_left`, and what each call of it leaves."""

    name: str
    #: "FOLDER" is one of its own, in a folder for temporary files.
    arguments: str = ""
    #: What is left per call, by the kind of the finding. Empty for twins.
    things: tuple[tuple[str, int], ...] = ()
    #: Where; None when it cannot be seen.
    marker: Optional[str] = None
    #: A word of the finding's example.
    example: str = ""

    @property
    def statement(self) -> str:
        return f"zoo_left.{self.name}({self.arguments})"

    def line(self) -> Optional[int]:
        """The number of the leaking line."""
        return None if self.marker is None else marked_line(FILE, self.marker)


def _leak(name: str, kind: str, example: str = "", *, arguments: str = "", seen: bool = True, count: int = 1) -> Left:
    return Left(name, arguments, ((kind, count),), f"/* LEAK: {name} */" if seen else None, example)


LEAKS = [
    *(
        _leak(f"leave_{how}", "file", arguments="FOLDER")
        for how in ("renamed", "linked", "symlink", "fifo", "node", "folder", "socket")
    ),
    *(_leak(f"leave_by_{how}", "file", arguments="FOLDER", seen=False) for how in ("child", "system_call")),
    _leak("leave_shared", "ipc", "shared memory /dev/shm/zoo-left-"),
    _leak("leave_semaphore", "ipc", "semaphore /dev/shm/sem.zoo-left-"),
    _leak("leave_queue", "ipc", "message queue /dev/mqueue/zoo-left-"),
    _leak("leave_system_v_memory", "ipc", "System V shared memory "),
    _leak("leave_system_v_semaphores", "ipc", "System V semaphores "),
    _leak("leave_system_v_queue", "ipc", "System V message queue "),
    _leak("leave_forked", "child", "ended, never waited for"),
    _leak("leave_vforked", "child", "`true`"),
    _leak("leave_spawned", "child", "`true`"),
    _leak("leave_terminals", "fd", "/dev/p", count=2),
    _leak("leave_terminal", "fd", "/dev/p"),
    _leak("leave_received", "fd"),
    _leak("leave_process", "fd", "pidfd"),
    _leak("leave_stream", "fd", "deleted"),
    Left("leave_command", "", (("fd", 1), ("child", 1)), "/* LEAK: leave_command */"),
]
TWINS = [
    *(
        Left(f"twin_{how}", "FOLDER")
        for how in ("renamed", "replaced", "moved_on", "made_anew", "symlink", "folder", "socket", "by_system_call")
    ),
    *(
        Left(f"twin_{how}")
        for how in (
            "shared",
            "semaphore",
            "queue",
            "system_v_memory",
            "system_v_semaphores",
            "system_v_queue",
            "system_v_key",
            "forked",
            "vforked",
            "terminals",
            "received",
            "stream",
            "command",
        )
    ),
]
#: Runs before any case.
SETUP = """
import os, sys, tempfile, zoo_left
FOLDER = tempfile.mkdtemp()
"""


def count(folder: str) -> dict[str, int]:
    """What there is now, by the kind of finding."""
    import zoo_left

    tables = [Path(f"/proc/sysvipc/{kind}").read_text().count("\n") - 1 for kind in ("shm", "sem", "msg")]
    children = [Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task")]
    return {
        "file": len(os.listdir(folder)),
        "ipc": len(os.listdir("/dev/shm")) + zoo_left.queues() + sum(tables),
        "child": sum(len(numbers.split()) for numbers in children),
        "fd": len(os.listdir("/proc/self/fd")),
    }
