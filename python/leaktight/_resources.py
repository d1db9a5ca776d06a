"""Descriptors and threads of this process, described so that a person knows them again."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from typing import NamedTuple, Union

_DESCRIPTORS = "/proc/self/fd"
_THREADS = "/proc/self/task"


class OpenFile(NamedTuple):
    """An open descriptor: a file, or a pipe and the like under the name that Linux gives it."""

    path: str
    fd: int


class Connection(NamedTuple):
    """An open socket."""

    fd: int
    family: Union[socket.AddressFamily, int]
    type: Union[socket.SocketKind, int]
    laddr: object
    raddr: object
    listening: bool


class NativeThread(NamedTuple):
    """A running thread."""

    id: int
    name: str


class Resources:
    """What the process has at one moment, to tell later what came after it."""

    def __init__(self) -> None:
        self.descriptors = set(filter(_is_open, _numbers(_DESCRIPTORS)))
        self.python_threads = set(threading.enumerate())
        self.native_threads = set(_numbers(_THREADS))

    def newest_descriptors(self, count: int) -> set[Union[OpenFile, Connection]]:
        """The highest numbers of those that are open by now: the last ones to be leaked."""
        new = [fd for fd in _numbers(_DESCRIPTORS) if fd not in self.descriptors]
        described = (_describe(fd) for fd in sorted(new, reverse=True))
        return set(itertools.islice((one for one in described if one is not None), count))

    def newest_python_threads(self, count: int) -> set[threading.Thread]:
        """Those that run by now and did not."""
        new = [thread for thread in threading.enumerate() if thread not in self.python_threads]
        return set(new[-count:])

    def newest_native_threads(self, count: int) -> set[NativeThread]:
        """Those that run by now and did not, without those that Python knows."""
        known = self.native_threads | {thread.native_id for thread in threading.enumerate()}
        new = [thread for thread in _numbers(_THREADS) if thread not in known]
        return {NativeThread(thread, _thread_name(thread)) for thread in sorted(new)[-count:]}


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder)]
    except OSError:
        return []  # Without /proc there are no examples; that something leaks is known all the same.


def _is_open(fd: int) -> bool:
    """The descriptor that the folder was listed with is not."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _describe(fd: int) -> Union[OpenFile, Connection, None]:
    """None when it is closed by now."""
    try:
        path = os.readlink(f"{_DESCRIPTORS}/{fd}")
        # A duplicate, since a socket object closes its descriptor.
        return _connection(fd) if path.startswith("socket:") else OpenFile(path, fd)
    except OSError:
        return None


def _connection(fd: int) -> Connection:
    with socket.socket(fileno=os.dup(fd)) as end:
        try:
            peer = end.getpeername()
        except OSError:
            peer = ()
        listening = end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        return Connection(fd, end.family, end.type, end.getsockname(), peer, listening)


def _thread_name(thread: int) -> str:
    try:
        with open(f"{_THREADS}/{thread}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
