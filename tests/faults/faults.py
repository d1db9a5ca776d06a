"""Programs that go wrong in ways that a leak finder easily overlooks, and look-alikes that must not be called a leak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

#: Of each block that a route is about, in native_faults.c and below.
SIZE = 144


@dataclass(frozen=True)
class Fault:
    """One statement to run again and again, and what is true of it."""

    name: str
    setup: str
    statement: str
    #: "leak"; "seen": a leak whose size or place need not be known, so that `indeterminate` will do;
    #: "clean": `bounded` will do; "no leak": whatever but a leak, where more calls would be needed to be sure.
    outcome: str
    #: Bytes of the one block that each call loses, where that is exact.
    size: Optional[int] = None

    @property
    def leaks(self) -> bool:
        return self.outcome in ("leak", "seen")


#: Every way to come by the address of a function of the C library's.
ROUTES = ("data", "import", "dlsym", "heap", "thread", "fresh", "next", "versioned")
#: Every kind of function that is come by so, and the size that it is asked for.
KINDS = {"malloc": SIZE, "calloc": SIZE, "realloc": SIZE, "posix_memalign": SIZE, "strdup": 5}
WAYS = [(route, "malloc") for route in ROUTES] + [("import", kind) for kind in KINDS if kind != "malloc"]


def _way(route: str, kind: str) -> list[Fault]:
    name = route if kind == "malloc" else f"{route}_{kind}"
    # The copies of a thread are made by its first call.
    setup = f"import native_faults\nnative_faults.free_plainly({route!r}, {kind!r})"
    call = f"({route!r}, {kind!r})"
    faults = [
        Fault(f"route_{name}", setup, f"native_faults.lose{call}", "leak", KINDS[kind]),
        Fault(f"route_{name}_freed_plainly", setup, f"native_faults.free_plainly{call}", "clean"),
    ]
    freed = Fault(f"route_{name}_freed_by_it", setup, f"native_faults.free_by_route{call}", "clean")
    return faults + [freed] * (kind == "malloc")


LIBC = (
    "import ctypes\nlibc = ctypes.CDLL(None)\n"
    "for name in ('malloc', 'strdup'): getattr(libc, name).restype = ctypes.c_void_p\n"
    "libc.malloc.argtypes = [ctypes.c_size_t]; libc.free.argtypes = [ctypes.c_void_p]; libc.free.restype = None"
)
BY_ADDRESS = LIBC + (
    "\naddress = ctypes.cast(libc.malloc, ctypes.c_void_p).value"
    "\nallocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(address)"
)
LIBRARY = "import native_faults, os\npath = os.path.join(os.path.dirname(native_faults.__file__), 'library.so')"
COPIED = LIBC + f"\n{LIBRARY}\nlibrary = ctypes.CDLL(path); library.copied.restype = ctypes.c_void_p\nlibrary.copied.argtypes = [ctypes.c_size_t]"

ROUTE_FAULTS = [
    *(fault for way in WAYS for fault in _way(*way)),
    Fault("ctypes_malloc", LIBC, f"libc.malloc({SIZE})", "leak", SIZE),
    Fault("ctypes_malloc_freed", LIBC, f"libc.free(libc.malloc({SIZE}))", "clean"),
    Fault("ctypes_strdup", LIBC, "libc.strdup(b'text')", "leak", 5),
    Fault("ctypes_address", BY_ADDRESS, f"allocate({SIZE})", "leak", SIZE),
    Fault("ctypes_address_freed", BY_ADDRESS, f"libc.free(allocate({SIZE}))", "clean"),
    Fault("library_lost", COPIED, f"library.copied({SIZE})", "leak", SIZE),
    Fault("library_freed_by_ctypes", COPIED, "for size in range(1000, 60000, 7919): libc.free(library.copied(size))", "clean"),
    Fault("load_call_unload", LIBRARY, "native_faults.load_call_unload(path, 'lose')", "leak"),
    Fault("load_call_unload_freed", LIBRARY, "native_faults.load_call_unload(path, 'keep_none')", "clean"),
    Fault("namespace", LIBRARY, "native_faults.call_in_namespace(path, 'lose')", "seen"),
    Fault("namespace_freed", LIBRARY, "native_faults.call_in_namespace(path, 'keep_none')", "clean"),
    Fault("break", "import native_faults", "native_faults.move_break()", "seen"),
    Fault("break_moved_back", "import native_faults", "native_faults.move_break_back()", "clean"),
    Fault("raw_mapping", "import native_faults", "native_faults.map_raw()", "seen"),
    Fault("raw_mapping_unmapped", "import native_faults", "native_faults.map_and_unmap_raw()", "clean"),
    Fault("private_arena", "import native_faults", "native_faults.take_from_arena()", "seen"),
    Fault("private_arena_reset", "import native_faults", "native_faults.take_from_arena_and_reset()", "clean"),
    Fault("untouched_data", "import native_faults", "native_faults.touch_data()", "seen"),
    Fault("untouched_mapping", "import native_faults", "native_faults.touch_mapping()", "seen"),
    Fault("untouched_pages_again", "import native_faults", "native_faults.touch_few_pages()", "clean"),
    Fault("shared_segment", "import native_faults", "native_faults.attach_shared()", "seen"),
    Fault("shared_segment_detached", "import native_faults", "native_faults.attach_and_detach_shared()", "clean"),
]

C11 = "import ctypes; libc = ctypes.CDLL(None); thread = ctypes.c_ulong()"
THREAD_FAULTS = [
    *(Fault(f"stack_of_{size}", "import native_faults", f"native_faults.lose_on_small_stack({size})", "leak", SIZE) for size in (16, 24)),
    *(Fault(f"stack_of_{size}_freed", "import native_faults", f"native_faults.keep_none_on_small_stack({size})", "clean") for size in (16, 24)),
    *(Fault(f"coroutine_of_{size}", "import native_faults", f"native_faults.lose_in_coroutine({size})", "leak", SIZE) for size in (8192, 16384)),
    *(
        Fault(f"coroutine_of_{size}_freed", "import native_faults", f"native_faults.keep_none_in_coroutine({size})", "clean")
        for size in (8192, 16384)
    ),
    Fault("c11_thread", C11, "libc.thrd_create(ctypes.byref(thread), libc.getpid, None); libc.thrd_join(thread, None)", "clean"),
    Fault("c11_thread_left", C11, "libc.thrd_create(ctypes.byref(thread), libc.getpid, None)", "leak"),
    Fault("beside_churn", "import native_faults; native_faults.start_churn()", "native_faults.lose('data', 'malloc')", "leak", SIZE),
    Fault("beside_churn_freed", "import native_faults; native_faults.start_churn()", "native_faults.free_plainly('data', 'malloc')", "clean"),
]

#: Memory that has to be searched.
SEARCH_FAULTS = [
    Fault("tree_lost", "import native_faults", "native_faults.lose_tree(7)", "leak"),
    Fault("tree_felled", "import native_faults", "native_faults.fell_tree(7)", "clean"),
    Fault("held_at_odd_addresses", "import native_faults", "native_faults.hold_at_odd_addresses()", "no leak"),
    Fault("held_with_tags", "import native_faults", "native_faults.hold_with_tags()", "no leak"),
    Fault("held_in_sealed_memory", "import native_faults", "native_faults.hold_in_sealed_memory()", "no leak"),
    Fault("held_in_closed_memory", "import native_faults", "native_faults.hold_in_closed_memory()", "no leak"),
    Fault("held_in_shared_memory", "import native_faults", "native_faults.hold_in_shared_memory()", "no leak"),
]

#: Each chunk is twice as large as the one before, which it points to, and lives for ever.
CHAIN = LIBC + """
chain, left, size = ctypes.c_void_p(), 0, 1024
def take():
    global left, size
    if left < 100:
        chunk = libc.malloc(size)
        ctypes.c_void_p.from_address(chunk).value = chain.value
        chain.value, left, size = chunk, size - 8, size * 2
    left -= 100
"""
COUNT = "import functools, itertools\ncount = itertools.count()"
#: What grows and has an end, beside what has none.
GROWTH_FAULTS = [
    Fault("chain_of_ever_larger_chunks", CHAIN, "take()", "leak"),
    Fault("dict_grows", COUNT + "\nkept = {}", "number = next(count); kept[number] = 'n %d' % number", "leak"),
    Fault("dict_has_an_end", COUNT + "\nkept = {}", "number = next(count) % 3000; kept[number] = 'n %d' % number", "no leak"),
    Fault("table_of_random_slots", COUNT + "\nkept = [None] * 9000", "text = 'n %d' % next(count); kept[hash(text) % 9000] = text", "no leak"),
    Fault(
        "lru_cache",
        COUNT + "\n@functools.lru_cache(maxsize=12000)\ndef text(number): return 'n %d' % number",
        "text(next(count))",
        "no leak",
    ),
]

FOLDER = (
    "import atexit, itertools, os, shutil, socket, tempfile\ncount = itertools.count()\n"
    "folder = tempfile.mkdtemp(); atexit.register(shutil.rmtree, folder)\n"
    "def path(): return os.path.join(folder, str(next(count)))"
)
#: What is left behind beside memory.
RESOURCE_FAULTS = [
    Fault("folder_made", FOLDER, "os.mkdir(path())", "leak"),
    Fault("folder_removed", FOLDER, "name = path(); os.mkdir(name); os.rmdir(name)", "clean"),
    Fault("link_made", FOLDER + "\nopen(folder + '/it', 'w').close()", "os.link(folder + '/it', path())", "leak"),
    Fault("link_removed", FOLDER + "\nopen(folder + '/it', 'w').close()", "name = path(); os.link(folder + '/it', name); os.unlink(name)", "clean"),
    Fault("socket_bound", FOLDER, "with socket.socket(socket.AF_UNIX) as it: it.bind(path())", "leak"),
    Fault("socket_removed", FOLDER, "name = path()\nwith socket.socket(socket.AF_UNIX) as it: it.bind(name)\nos.unlink(name)", "clean"),
    Fault("memory_file_open", "import os", "os.memfd_create('it')", "leak"),
    Fault("memory_file_closed", "import os", "os.close(os.memfd_create('it'))", "clean"),
    Fault("terminal_open", "import os", "os.close(os.openpty()[0])", "leak"),
    Fault("terminal_closed", "import os", "for end in os.openpty(): os.close(end)", "clean"),
]

#: A pool that counts its own, as connections do: holding on to one would make it fail.
POOL = (
    "class Connection:\n    open = 0\n    def __init__(self): Connection.open += 1\n    def __del__(self): Connection.open -= 1\n"
    "pool = [Connection() for _ in range(20)]"
)
EXCHANGE = "pool.pop(0)\nassert Connection.open < 25, Connection.open\npool.append(Connection())"
REFERENCE_FAULTS = [
    Fault("reference_kept", "import native_faults; shared = object()", "native_faults.keep_reference(shared)", "leak"),
    Fault("reference_given_back", "import native_faults; shared = object()", "native_faults.keep_no_reference(shared)", "clean"),
    Fault("pool", POOL, EXCHANGE, "clean"),
    Fault("pool_and_a_leak", "import native_faults\n" + POOL, EXCHANGE + "\nnative_faults.lose('data', 'malloc')", "leak", SIZE),
    Fault("tracing_stopped_inside", "import tracemalloc\ntracemalloc.start()", "tracemalloc.stop()", "clean"),
]

FAULTS = [*ROUTE_FAULTS, *THREAD_FAULTS, *SEARCH_FAULTS, *GROWTH_FAULTS, *RESOURCE_FAULTS, *REFERENCE_FAULTS]
