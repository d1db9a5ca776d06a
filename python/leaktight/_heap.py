"""What the process's allocators say of themselves."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import NamedTuple, Optional

from leaktight import _core

if sys.platform == "win32":

    class pheap(NamedTuple):
        """What the C allocator has handed out. psutil's names, order and meaning."""

        #: Bytes in blocks that are in use.
        heap_used: int
        #: Bytes in mappings beside the heaps.
        mmap_used: int
        #: How many heaps the process has.
        heap_count: int

else:

    class pheap(NamedTuple):
        """What the C allocator has handed out. psutil's names, order and meaning."""

        #: Bytes in blocks that are in use.
        heap_used: int
        #: Bytes in blocks that have a mapping of their own; under jemalloc, mimalloc and tcmalloc all that is mapped.
        mmap_used: int


@dataclass(frozen=True)
class Allocator:
    """One allocator that is found in the process. Sizes are in bytes, and None where it does not tell."""

    #: "glibc", "jemalloc", "mimalloc", "tcmalloc", …
    name: str
    #: As the allocator tells it.
    version: Optional[str]
    #: The path of the program or library that it lives in.
    object: str
    #: Whether the process's ``malloc`` is this one's.
    serves_malloc: bool
    #: In blocks that are in use.
    used: Optional[int]
    #: Taken from the system and not given back.
    mapped: Optional[int]
    #: Free, but not given back.
    held_free: Optional[int]
    #: Why a figure is missing.
    note: Optional[str]


def allocators() -> list[Allocator]:
    """List every allocator that is found in the process, the one that serves ``malloc`` first.

    Those that a library brought along for itself are found by their exported functions or the symbol table of its
    file; one that is linked in statically and stripped is not. Each is asked for its own statistics. Any thread
    may call this at any time.
    """
    return [Allocator(*fields) for fields in _core.allocators()]
