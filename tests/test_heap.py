"""``heap_info``, ``heap_trim`` and ``allocators``: beside psutil, block by block, and under other allocators."""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path

import pytest
import support
from packages import PSUTIL, debian_library, wheels
from support import pythons, zoo_build

PYTHON = pythons()[0]

PRELUDE = """
import ctypes, gc, mmap, os, sys, threading
import leaktight
from leaktight import Allocator, allocators, heap_info, heap_trim, pheap

libc = ctypes.CDLL(None)
def function(name, result, *arguments):
    found = getattr(libc, name)
    found.restype, found.argtypes = result, arguments
    return found

malloc = function("malloc", ctypes.c_void_p, ctypes.c_size_t)
calloc = function("calloc", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
free = function("free", None, ctypes.c_void_p)
usable_size = function("malloc_usable_size", ctypes.c_size_t, ctypes.c_void_p)
blocks = (ctypes.c_void_p * 20000)()

def grown(action, *arguments):
    before = heap_info()
    action(*arguments)
    after = heap_info()
    return after.heap_used - before.heap_used, after.mmap_used - before.mmap_used

def allocate(size, count):
    for at in range(count):
        blocks[at] = malloc(size)

def release(count):
    for at in range(count):
        free(blocks[at])

def in_thread(action):
    # Its arena is new, so that each block is cut from fresh memory.
    failed = []
    def body():
        try:
            action()
        except BaseException as error:
            failed.append(error)
    thread = threading.Thread(target=body)
    thread.start(); thread.join()
    if failed:
        raise failed[0]

def raised(kind, fun):
    try:
        fun()
    except kind as error:
        return error
    raise AssertionError(f"not raised: {kind.__name__}")
"""


def passes(script: str, *, preload: str = "", paths: list[str] = (), arguments: list[str] = (), python=PYTHON) -> str:
    """Runs a script in a process of its own; what it prints."""
    code = PRELUDE + textwrap.dedent(script)
    done = support.run(python, ["-W", "error", "-c", code, *arguments], paths=list(paths), env={"LD_PRELOAD": preload})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def compiled(folder: Path, name: str, source: str, *flags: str) -> str:
    path = folder / f"{name}.c"
    path.write_text(source)
    zoo_build.compile_shared("cc", folder / f"{name}.so", [path], ["-Wall", "-Wextra", *flags])
    return str(folder / f"{name}.so")


GLIBC = {
    "it is a named tuple": """
        told = heap_info()
        assert type(told) is pheap and isinstance(told, tuple) and pheap._fields == ("heap_used", "mmap_used")
        assert told == tuple(told) == (told.heap_used, told.mmap_used) and hash(told) == hash(tuple(told))
        assert told._replace(heap_used=1)._asdict() == {"heap_used": 1, "mmap_used": told.mmap_used}
        assert repr(told) == f"pheap(heap_used={told[0]}, mmap_used={told[1]})"
        assert told.heap_used > 0 and heap_trim() is None
        kept = [heap_info() for _ in range(10_000)]
        gc.collect()
        assert all(type(told[0]) is int for told in kept)
    """,
    "each block counts as the chunk that the ABI makes of it": """
        def body():
            for size in (0, 1, 8, 16, 24, 25, 40, 41, 100, 1000, 1032, 1033, 5000, 100_000):
                chunk = max(32, (size + 8 + 15) // 16 * 16)
                # What the thread's start has left in its cache goes first.
                allocate(size, 20)
                told = grown(allocate, size, 100)
                assert told == (100 * chunk, 0), (size, told)
        in_thread(body)
    """,
    "a large block has a mapping of its own": """
        # Above the largest threshold that glibc sets itself (DEFAULT_MMAP_THRESHOLD_MAX).
        for size in (64 << 20, (64 << 20) + 1, (100 << 20) - 24, (100 << 20) - 23):
            chunk = (size + 8 + 15) // 16 * 16
            pages = (chunk + 8 + 4095) // 4096 * 4096
            assert grown(allocate, size, 3) == (0, 3 * pages)
            assert grown(release, 3) == (0, -3 * pages)
    """,
    "a block in a thread's cache counts as used": """
        def body():
            allocate(100, 20)
            assert grown(release, 7) == (0, 0)
            heap_trim()
            assert grown(allocate, 100, 7) == (0, 0)
            # The cache keeps seven of a size, and none above 1032 bytes.
            assert grown(release, 9) == (-2 * 112, 0)
            allocate(5000, 20)
            assert grown(release, 20) == (-20 * 5008, 0)
        in_thread(body)
    """,
    "a mapping that malloc did not make is not in it": """
        raw = function("mmap", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
        before = heap_info()
        address = raw(None, 64 << 20, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        ctypes.memset(address, 1, 64 << 20)
        assert heap_info() == before
    """,
    "trimming gives memory back": """
        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * mmap.PAGESIZE
        size, page = 100_000, mmap.PAGESIZE
        for at in range(2000):
            blocks[at] = malloc(size)
            ctypes.memset(blocks[at], 1, size)
        for at in range(0, 2000, 2):
            free(blocks[at])
        before = resident()
        assert grown(heap_trim) == (0, 0)
        # Each hole but for the pages at its ends.
        assert before - resident() > 1000 * (size - 3 * page)
    """,
    "every entry tells what it is of": """
        (entry,) = [entry for entry in allocators() if entry.serves_malloc]
        assert entry is not allocators()[0] and type(entry) is Allocator
        assert (entry.name, entry.note, os.path.basename(entry.object)) == ("glibc", None, "libc.so.6")
        assert entry.version == os.confstr("CS_GNU_LIBC_VERSION").split()[1]
        assert entry.mapped == entry.used + entry.held_free
        used = lambda: allocators()[0].used
        used()
        before = used()
        allocate(10_000, 1000); malloc(64 << 20)
        assert 0 <= used() - before - 1000 * 10_016 - (64 << 20) <= 64 << 10
        raised(AttributeError, lambda: setattr(entry, "used", 0))
    """,
    "many threads at once": """
        over, wrong, counts = threading.Event(), [], [0] * 6
        def work(at, action):
            try:
                while not over.is_set():
                    action()
                    counts[at] += 1
            except BaseException as error:
                wrong.append(error)
        def churn():
            kept = [bytes(size) for size in range(0, 40_000, 100)]
        def look():
            told = heap_info()
            assert told.heap_used > 0, told
        actions = (look, look, heap_trim, allocators, churn, lambda: free(malloc(1 << 20)))
        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(actions)]
        for thread in threads: thread.start()
        over.wait(1.5); over.set()
        for thread in threads: thread.join()
        assert not wrong and min(counts) > 10, (wrong, counts)
    """,
    "a forked child asks for itself": """
        import warnings; warnings.simplefilter("ignore")
        def succeeds(child_does):
            child = os.fork()
            if child == 0:
                os._exit(0 if child_does() > 0 else 1)
            assert os.waitpid(child, 0)[1] == 0
        succeeds(lambda: allocators()[0].used)
        over = threading.Event()
        def look():
            while not over.is_set():
                heap_info()
        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads: thread.start()
        for _ in range(100):
            succeeds(lambda: heap_info().heap_used)
        over.set()
        for thread in threads: thread.join()
    """,
}


@pytest.mark.parametrize("name", GLIBC)
def test_with_glibc(name: str) -> None:
    assert passes(GLIBC[name]) == ""


def test_the_fields_are_psutils_at_the_same_moment() -> None:
    script = """
        import psutil
        states, same = 300, 0
        psutil.heap_info(); heap_info()
        for number in range(states):
            blocks[number % 7 * 100] = malloc(number * 997 % 200_000)
            if number % 3:
                free(blocks[number % 7 * 100])
            theirs, ours, again = psutil.heap_info(), heap_info(), psutil.heap_info()
            assert tuple(theirs) == tuple(ours) == tuple(again), (number, theirs, ours, again)
        assert type(theirs)._fields == type(ours)._fields and type(theirs).__name__ == type(ours).__name__
        assert psutil.heap_trim() is heap_trim() is None
    """
    assert passes(script, paths=[wheels("psutil", [PSUTIL])]) == ""


#: A library without Python code, so the version of the interpreter does not matter.
MIMALLOC_WHEEL = ["cmeel-mimalloc==3.4.3", "--no-deps", "--ignore-requires-python"]
OTHERS = {
    "jemalloc": lambda: debian_library("libjemalloc2", "libjemalloc.so.2"),
    "mimalloc 2": lambda: debian_library("libmimalloc2.0", "libmimalloc.so.2"),
    "mimalloc 3": lambda: wheels("mimalloc", MIMALLOC_WHEEL) + "/cmeel.prefix/lib/libmimalloc.so.3",
    "tcmalloc": lambda: debian_library("libtcmalloc-minimal4", "libtcmalloc_minimal.so.4"),
}


@pytest.mark.parametrize("title", OTHERS)
def test_another_allocator_that_serves_malloc_is_asked(title: str) -> None:
    name, library = title.split()[0], OTHERS[title]()
    script = """
        import psutil
        name, library = sys.argv[1:]
        heap_info(); allocators()
        for size, count in ((1, 1000), (100, 10_000), (1000, 10_000), (10_000, 1000), (100_000, 100), (3_000_000, 10), (70_000_000, 1)):
            used, _ = grown(allocate, size, count)
            classes = sum(usable_size(blocks[at]) for at in range(count))
            assert size * count <= used == classes <= (size + 16) * count * 1.25, (size, count, used, classes)
            # What is freed may stay in a cache, but not all of it.
            assert grown(release, count)[0] <= 0
        entry, *rest = allocators()
        assert (entry.name, entry.serves_malloc, entry.note) == (name, True, None)
        assert os.path.realpath(entry.object) == os.path.realpath(library)
        assert entry.version and entry.mapped >= entry.used > 1_000_000
        assert name == "mimalloc" or entry.held_free >= 0
        glibc = [other for other in rest if other.name == "glibc"]
        assert [(other.serves_malloc, other.used) for other in glibc] == [(False, 0)], rest
        assert tuple(psutil.heap_info()) == (0, 0)
        assert heap_trim() is None
        assert heap_info().heap_used > 1_000_000
    """
    assert passes(script, preload=library, paths=[wheels("psutil", [PSUTIL])], arguments=[name, library]) == ""


@pytest.mark.parametrize("title", ["mimalloc 2", "mimalloc 3"])
def test_mimalloc_tells_nothing_of_other_threads(title: str) -> None:
    script = """
        heap_info()
        started, over = threading.Event(), threading.Event()
        def body():
            blocks[0] = malloc(1000)
            started.set(); over.wait()
        thread = threading.Thread(target=body)
        thread.start(); started.wait()
        said = str(raised(NotImplementedError, heap_info))
        assert "other threads" in said and "heap_info" in said, said
        entry = allocators()[0]
        assert entry.used is None and entry.mapped > 1_000_000 and "other threads" in entry.note, entry
        over.set(); thread.join()
    """
    assert passes(script, preload=OTHERS[title]()) == ""


def test_jemalloc_and_tcmalloc_count_the_blocks_of_all_threads() -> None:
    script = """
        heap_info()
        used, _ = grown(in_thread, lambda: allocate(5000, 10_000))
        assert 10_000 * usable_size(blocks[0]) <= used < 10_000 * usable_size(blocks[0]) + 100_000, used
    """
    for title in ("jemalloc", "tcmalloc"):
        assert passes(script, preload=OTHERS[title]()) == ""


def test_an_unknown_allocator_is_no_zero(tmp_path: Path) -> None:
    zoo_build.build_meter(tmp_path)
    script = """
        for call in (heap_info, heap_trim):
            said = str(raised(NotImplementedError, call))
            assert call.__name__ in said and "libmeter.so" in said, said
        entry, *rest = allocators()
        assert (entry.name, entry.serves_malloc, entry.used, entry.mapped) == ("unknown", True, None, None)
        assert entry.object.endswith("/libmeter.so") and "libmeter.so" in entry.note
        assert [other.name for other in rest if other.name == "glibc"] == ["glibc"]
    """
    assert passes(script, preload=str(zoo_build.meter(tmp_path))) == ""


#: A jemalloc that fails, and serves malloc.
FAILING = """
#include <errno.h>
#include <stddef.h>

extern void *__libc_malloc(size_t size);
void *malloc(size_t size) { return __libc_malloc(size); }

int mallctl(const char *name, void *old, size_t *old_length, void *new_value, size_t new_length)
{
    (void)name, (void)old, (void)old_length, (void)new_value, (void)new_length;
    return EAGAIN;
}
"""


def test_an_error_names_the_call_and_its_code(tmp_path: Path) -> None:
    script = """
        import errno
        for call in (heap_info, heap_trim):
            error = raised(OSError, call)
            assert error.errno == errno.EAGAIN and "mallctl(thread.tcache.flush)" in str(error), error
        entry = allocators()[0]
        assert (entry.name, entry.serves_malloc, entry.used, entry.mapped) == ("jemalloc", True, None, None)
        assert "not reachable" in entry.note and "mallctl(thread.tcache.flush)" in entry.note, entry
    """
    assert passes(script, preload=compiled(tmp_path, "failing", FAILING)) == ""


#: A library with a jemalloc of its own that it does not export, so to speak.
HIDDEN = """
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#ifdef ANOTHER_BUILD
static volatile int padding;
__attribute__((used)) static void before(void) { for (int i = 0; i < 9; i++) padding += i * padding; }
#endif

__attribute__((used)) static void give_back(void *page) { madvise(page, 4096, MADV_DONTNEED); }

__attribute__((used)) static int je_own_mallctl(const char *name, void *old, size_t *length, void *new_value, size_t new_length)
{
    static const struct { const char *name; size_t value; } figures[] = {
        {"stats.allocated", 1111}, {"stats.active", 2000}, {"stats.resident", 9999},
        {"stats.arenas.4096.pdirty", 1}, {"arenas.page", 4096},
    };
    (void)new_value, (void)new_length;
    if (!strcmp(name, "thread.tcache.flush") || !strcmp(name, "epoch"))
        return 0;
    if (!strcmp(name, "version")) {
        *(const char **)old = "5.0.0-0-gown";
        return 0;
    }
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        if (!strcmp(name, figures[i].name) && *length == sizeof(size_t)) {
            *(size_t *)old = figures[i].value;
            return 0;
        }
    return ENOENT;
}
"""


def test_an_allocator_that_a_library_keeps_to_itself_is_found(tmp_path: Path) -> None:
    script = """
        import _ctypes
        (path,) = sys.argv[1:]
        def own():
            return [entry for entry in allocators() if not entry.serves_malloc and "mimalloc" not in entry.name]
        for _ in range(3):
            assert own() == []
            library = ctypes.CDLL(path)
            expected = Allocator("jemalloc", "5.0.0-0-gown", path, False, 1111, 9999, 2000 - 1111 + 4096, None)
            assert own() == [expected], own()
            spots = leaktight.check(len, "", max_calls=16).blind_spots
            assert "what hidden.so takes from its own jemalloc" in spots, spots
            _ctypes.dlclose(library._handle)
        assert not any("jemalloc" in spot for spot in leaktight.check(len, "", max_calls=16).blind_spots)
    """
    library = compiled(tmp_path, "hidden", HIDDEN)
    assert passes(script, arguments=[library]) == ""
    subprocess.run(["strip", library], check=True)
    assert passes("ctypes.CDLL(sys.argv[1])\nassert [entry.name for entry in allocators()][:2] in (['glibc'], ['glibc', 'mimalloc'])", arguments=[library]) == ""


def test_a_file_that_was_replaced_leads_to_no_call(tmp_path: Path) -> None:
    library = compiled(tmp_path, "hidden", HIDDEN)
    (tmp_path / "other").mkdir()
    other = compiled(tmp_path / "other", "hidden", HIDDEN, "-DANOTHER_BUILD")
    script = """
        path, other = sys.argv[1:]
        library = ctypes.CDLL(path)
        os.replace(other, path)
        (entry,) = [entry for entry in allocators() if entry.object == path]
        assert (entry.name, entry.used, entry.mapped) == ("jemalloc", None, None)
        assert "no longer the one that was loaded" in entry.note, entry
    """
    assert passes(script, arguments=[library, other]) == ""


#: Wheels that bring allocators of their own; older interpreters get the last ones that there are for them.
WHEELS = [
    "duckdb==2.0.0; python_version >= '3.11'",
    "pyarrow==26.0.1; python_version >= '3.11'",
    "polars==2.1.0; python_version >= '3.11'",
    "duckdb==1.4.5; python_version < '3.11'",
    "pyarrow==21.0.0; python_version < '3.11'",
    "polars==1.36.1; python_version < '3.11'",
]


def test_the_private_allocators_of_three_wheels_in_one_process() -> None:
    script = """
        import duckdb, polars, pyarrow
        def entries():
            found = {}
            for entry in allocators():
                found[entry.name, next((word for word in ("duckdb", "arrow", "polars") if word in entry.object), "")] = entry
            return found
        entries()
        connection = duckdb.connect()
        connection.execute("create table t as select range i, repeat('x', 100) s from range(10)")
        before = entries()
        connection.execute("insert into t select range i, repeat('x', 100) s from range(200000)")
        pools = pyarrow.jemalloc_memory_pool(), pyarrow.mimalloc_memory_pool()
        kept = [pyarrow.allocate_buffer(3_000_000, memory_pool=pool) for pool in pools for _ in range(10)]
        frame = polars.DataFrame({"a": range(100_000)})
        after = entries()
        assert set(after) >= {("glibc", ""), ("jemalloc", "duckdb"), ("jemalloc", "arrow"), ("mimalloc", "arrow"), ("jemalloc", "polars")}, after
        assert [entry.name for entry in after.values() if entry.serves_malloc] == ["glibc"]

        grown = after["jemalloc", "duckdb"].used - before["jemalloc", "duckdb"].used
        assert grown > 20_000_000, grown
        # 3,000,000 bytes are of the class of 3 MiB there.
        grown = after["jemalloc", "arrow"].used - before["jemalloc", "arrow"].used
        assert 10 * (3 << 20) <= grown < 10 * (3 << 20) + 100_000, grown
        grown = after["mimalloc", "arrow"].mapped - before["mimalloc", "arrow"].mapped
        assert grown >= 10 * 3_000_000, grown
        for entry in after.values():
            assert entry.version and os.path.isfile(entry.object), entry
            if entry.name == "jemalloc" and entry.used is not None:
                assert entry.mapped >= entry.used + entry.held_free and entry.note is None, entry
        polars = after["jemalloc", "polars"]
        assert (polars.used, polars.mapped) == (None, None) and "keeps no statistics" in polars.note, polars

        spots = leaktight.check(len, "", max_calls=16).blind_spots
        named = [spot for spot in spots if spot.startswith("what ")]
        assert sorted(spot.split()[-1] for spot in named) == ["jemalloc"] * 3 + ["mimalloc"], spots
    """
    assert passes(script, paths=[wheels("allocators", WHEELS)]) == ""


def test_info_shows_the_allocators() -> None:
    arguments = ["info", "--setup", "kept = bytes(10**8)"]
    facts = json.loads(support.leaktight(PYTHON, *arguments, "--json").stdout)
    entry = facts["allocators"][0]
    assert set(entry) == {"name", "version", "object", "serves_malloc", "used", "mapped", "held_free", "note"}
    assert (entry["name"], entry["serves_malloc"], entry["note"]) == ("glibc", True, None)
    assert entry["used"] > 10**8
    lines = support.leaktight(PYTHON, *arguments).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("allocator    glibc ")]
    assert " in libc.so.6, serves malloc: " in line and line.endswith(" MiB held free"), line
    wrong = support.leaktight(PYTHON, "info", "-s", "import missing_module")
    assert wrong.returncode == 2 and "the setup failed" in wrong.stderr and not wrong.stdout
