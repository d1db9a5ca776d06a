"""The ground truth of the zoo: what each function loses, where, and how much.

Figures are what the caller asked of the allocator, not what the allocator
rounds up to. Those of Python objects include the 16 byte GC head that precedes
every object of a GC type, or the 16 bytes by which every head is longer without
a GIL, and hold for 64-bit builds without Py_DEBUG.
smoke.py measures every figure on every interpreter.
"""

# Annotations are evaluated, so that 3.9 can load this file by its path alone.
import mmap
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Callable, Optional, Union

HERE = Path(__file__).resolve().parent

#: sys.version_info, or (3, 14, "t") without a GIL.
Version = tuple[Union[int, str], ...]
#: Of the running interpreter.
THIS: Version = sys.version_info[:2] + (("t",) if "t" in getattr(sys, "abiflags", "") else ())
Amount = Union[None, int, Fraction, Callable[[Version], int]]


@dataclass(frozen=True)
class Case:
    """One statement to run again and again, and what is true of it."""

    name: str
    #: The extension module, or None for a statement of pure Python.
    module: Optional[str]
    #: Runs once, before the check; imports what the statement needs.
    setup: str
    statement: str
    #: "leak", or "clean": nothing kept, or no more than a bound.
    verdict: str
    #: Exact, per call, as an average where it is a fraction; 0 for twins. None
    #: where there is no exact figure: the note says why. A callable takes
    #: the version of the interpreter.
    blocks_per_call: Amount
    bytes_per_call: Amount
    #: The innermost frame of the zoo's own source on the stack of the leaking
    #: allocation, as a person reads it. None when Python code allocates.
    function: Optional[str]
    #: Where that function is, relative to this folder.
    file: Optional[str]
    #: The comment at the end of the leaking source line; None for twins.
    marker: Optional[str]
    #: "c", "c++", "cython", "rust" or "python".
    language: str
    note: str = ""
    #: The type of the lost object, when it is a Python object.
    type_name: Optional[str] = None
    #: The certainty that a report should state; None when any will do.
    certainty: Optional[str] = None
    #: The exception that `bare_statement` raises, and that `statement` catches.
    raises: Optional[str] = None
    bare_statement: Optional[str] = None
    #: A statement that returns when what the calls left running has ended.
    quiesce: str = ""
    #: The calls after which a twin has reached its bound.
    settles_after: int = 0
    #: How far a settled twin's live memory may move up and down.
    wander_blocks: int = 0
    wander_bytes: int = 0

    def line(self) -> Optional[int]:
        """The number of the leaking line: the only one that ends in `marker`."""
        return None if self.marker is None or self.file is None else marked_line(self.file, self.marker)

    def blocks(self, version: Version = THIS) -> Union[None, int, Fraction]:
        """blocks_per_call for an interpreter of that version."""
        return self.blocks_per_call(version) if callable(self.blocks_per_call) else self.blocks_per_call

    def bytes(self, version: Version = THIS) -> Union[None, int, Fraction]:
        """bytes_per_call for an interpreter of that version."""
        return self.bytes_per_call(version) if callable(self.bytes_per_call) else self.bytes_per_call


def marked_line(file: str, marker: str) -> int:
    """The number of the line that ends in `marker`, in a file relative to this folder."""
    lines = (HERE / file).read_text(encoding="utf-8").splitlines()
    found = [number for number, text in enumerate(lines, 1) if text.endswith(marker)]
    if len(found) != 1:
        raise LookupError(f"{marker!r} ends {len(found)} lines of {file}, not 1")
    return found[0]


def find(name: str) -> Case:
    """The case of that name; KeyError when there is none."""
    return BY_NAME[name]


# Sizes of Python objects, as asked of PyObject_Malloc (Include/cpython/*.h).

# PyGC_Head: two pointers. Without a GIL no object has one, and every object's own head is as much longer.
GC_HEAD = 16


def plain(version: Version) -> int:
    """By how much objects without a GC head are longer than with a GIL."""
    return 16 if version[2:3] == ("t",) else 0


def dict_keys(version: Version) -> int:
    """A PyDictKeysObject of 8 slots whose keys are all str."""
    if version >= (3, 11):
        return 32 + 8 + 5 * 16  # Entries of str keys store no hash.
    return 40 + 8 + 5 * 24


def ascii_str(version: Version, length: int) -> int:
    """A compact ASCII str; 3.12 dropped the wstr pointer (PEP 623)."""
    return plain(version) + (40 if version >= (3, 12) else 48) + length + 1


def tuple_of(version: Version, items: int) -> int:
    """A PyTupleObject; from 3.14 on it keeps its hash."""
    return GC_HEAD + (32 if version >= (3, 14) else 24) + items * 8


def one_digit_int(version: Version) -> int:
    """An int of one digit: since 3.11 the struct with its tail padding."""
    return plain(version) + (32 if version >= (3, 11) else 28)


def value_error(version: Version) -> int:
    """A PyBaseExceptionObject; 3.11 added __notes__."""
    return GC_HEAD + (72 if version >= (3, 11) else 64)


def caught(statement: str, exception: str) -> str:
    return f"try:\n    {statement}\nexcept {exception}:\n    pass"


# C.


def _c_leak(name: str, file: str, blocks: Amount, size: Amount, note: str = "", **more: object) -> Case:
    fields = {
        "setup": "import zoo",
        "statement": f"zoo.{name}()",
        "verdict": "leak",
        "blocks_per_call": blocks,
        "bytes_per_call": size,
        "function": name,
        "marker": f"/* LEAK: {name} */",
        "note": note,
    }
    return Case(name=name, module="zoo", file=f"c/{file}", language="c", **{**fields, **more})


def _c_twin(name: str, file: str, note: str = "", **more: object) -> Case:
    return _c_leak(name, file, 0, 0, note, **{"verdict": "clean", "marker": None, **more})


HEADER = b"Content-Type: text/plain; format=flowed; x=1234"

C_NATIVE = [
    _c_leak("leak_malloc", "zoo_native.c", 1, 100),
    _c_leak("leak_calloc", "zoo_native.c", 1, 100),
    _c_leak("leak_realloc_null", "zoo_native.c", 1, 72),
    _c_leak("leak_reallocarray", "zoo_native.c", 1, 120),
    _c_leak("leak_strdup", "zoo_native.c", 1, 5),
    _c_leak("leak_asprintf", "zoo_native.c", 1, 14, "glibc trims its work buffer to the text and its NUL"),
    _c_leak("leak_posix_memalign", "zoo_native.c", 1, 128),
    _c_leak("leak_aligned_alloc", "zoo_native.c", 1, 192),
    _c_leak("leak_memalign", "zoo_native.c", 1, 96),
    _c_leak("leak_mmap", "zoo_native.c", 1, mmap.PAGESIZE, "one page; no malloc is involved"),
    _c_leak("leak_pymem_raw", "zoo_native.c", 1, 64, "PyMem_RawMalloc"),
    _c_leak("leak_pymem", "zoo_native.c", 1, 80, "PyMem_Malloc: inside pymalloc unless PYTHONMALLOC says otherwise"),
    _c_leak("leak_pymem_large", "zoo_native.c", 1, 600, "above pymalloc's limit of 512 bytes"),
    _c_leak("leak_pyobject_malloc", "zoo_native.c", 1, 96, "PyObject_Malloc for a block that is no object"),
    _c_leak(
        "parse_header",
        "zoo_native.c",
        1,
        len(HEADER) + 1,
        "48 bytes; parse_header -> split_header -> copy_field -> strdup",
        function="copy_field",
        statement=f"zoo.parse_header({HEADER!r})",
    ),
    _c_leak(
        "leak_nested",
        "zoo_native.c",
        1,
        256,
        "leak_nested -> open_session -> allocate_session -> malloc",
        function="allocate_session",
    ),
    _c_leak(
        "leak_inlined",
        "zoo_native.c",
        1,
        40,
        "duplicate_label is inlined into leak_inlined",
        function="duplicate_label",
    ),
    _c_leak("leak_recursive", "zoo_native.c", 1, 24, "below 41 frames of descend", function="descend"),
    _c_leak(
        "leak_error_path",
        "zoo_native.c",
        1,
        112,
        "also with bare_statement and --raises ValueError",
        statement=caught("zoo.leak_error_path()", "ValueError"),
        raises="ValueError",
        bare_statement="zoo.leak_error_path()",
    ),
    _c_twin(
        "twin_error_path",
        "zoo_native.c",
        "raises as well, and frees first",
        statement=caught("zoo.twin_error_path()", "ValueError"),
        raises="ValueError",
        bare_statement="zoo.twin_error_path()",
    ),
    _c_leak("leak_growing_buffer", "zoo_native.c", 0, 16, "one reachable block, reallocated 16 bytes longer"),
    _c_leak(
        "leak_registry",
        "zoo_native.c",
        1,
        32,
        "reachable from a static array; the array itself is one more block, which doubles in registry_reserve",
    ),
]

C_RHYTHM = [
    _c_leak("leak_every_call", "zoo_rhythm.c", 1, 100),
    _c_leak("leak_every_10th", "zoo_rhythm.c", Fraction(1, 10), Fraction(100, 10), "the other blocks are freed"),
    _c_leak("leak_every_50th", "zoo_rhythm.c", Fraction(1, 50), Fraction(100, 50), "the other blocks are freed"),
    _c_leak("leak_every_300th", "zoo_rhythm.c", Fraction(1, 300), Fraction(100, 300), "the other blocks are freed"),
    _c_leak(
        "leak_random_1_in_50",
        "zoo_rhythm.c",
        Fraction(1, 50),
        Fraction(100, 50),
        "an average: a fixed xorshift sequence decides each call",
    ),
    _c_leak("leak_silent_10th", "zoo_rhythm.c", Fraction(1, 10), Fraction(100, 10), "other calls allocate nothing"),
]


def _object_leak(name: str, blocks: Amount, size: Amount, type_name: str, note: str = "") -> Case:
    return _c_leak(name, "zoo_objects.c", blocks, size, note, type_name=type_name)


C_OBJECTS = [
    _object_leak("leak_list", 1, GC_HEAD + 40, "list", "empty: no item array"),
    _object_leak(
        "leak_dict",
        3,
        lambda version: GC_HEAD + 48 + dict_keys(version) + one_digit_int(version),
        "dict",
        "the dict, its keys table and one int; the key is interned and shared",
    ),
    _object_leak("leak_tuple", 1, lambda version: tuple_of(version, 2), "tuple", "its two small ints are shared"),
    _object_leak("leak_str", 1, lambda version: ascii_str(version, 16), "str"),
    _object_leak("leak_bytes", 1, lambda version: plain(version) + 33 + 100, "bytes"),
    _object_leak("leak_int", 1, lambda version: plain(version) + 24 + 3 * 4, "int", "three digits of 30 bits"),
    _object_leak("leak_float", 1, lambda version: plain(version) + 24, "float"),
    _object_leak(
        "leak_exception",
        3,
        lambda version: value_error(version) + tuple_of(version, 1) + ascii_str(version, 12),
        "ValueError",
        "the exception, its args tuple and the message",
    ),
    _object_leak("leak_self_cycle", 1, lambda version: plain(version) + 16 + 8, "zoo.Node", "a cycle that the collector does not know of"),
    _object_leak("leak_gc_instance", 1, GC_HEAD + 16 + 8, "zoo.Holder"),
    _c_leak(
        "leak_argument",
        "zoo_objects.c",
        1,
        GC_HEAD + 40,
        "one INCREF too many on an empty list that the statement makes; marker and file are those of the INCREF",
        statement="zoo.leak_argument([])",
        function=None,
        type_name="list",
    ),
    _c_twin("twin_self_cycle", "zoo_objects.c", "the collector frees it", settles_after=2000),
    _c_twin("twin_objects", "zoo_objects.c"),
    _c_twin(
        "twin_argument",
        "zoo_objects.c",
        "keeps the argument until the next call",
        statement="zoo.twin_argument([])",
        settles_after=1,
    ),
]

C_THREADS = [
    _c_leak("leak_thread_joined", "zoo_threads.c", 1, 100, function="joined_leaking_body"),
    _c_twin("twin_thread_joined", "zoo_threads.c"),
    _c_leak(
        "leak_thread_detached",
        "zoo_threads.c",
        1,
        100,
        "the thread allocates 0.3 ms after it was made, often after the call has returned",
        function="detached_leaking_body",
        quiesce="zoo.detached_wait()",
    ),
    _c_twin(
        "twin_thread_detached",
        "zoo_threads.c",
        "glibc keeps a block of its own for each cached thread stack",
        quiesce="zoo.detached_wait()",
        wander_blocks=64,
        wander_bytes=64 * 512,
    ),
    _c_leak(
        "leak_pool",
        "zoo_threads.c",
        1,
        100,
        "in a worker that was started before the check",
        function="leaking_job",
        setup="import zoo\nzoo.pool_start(2)",
    ),
    _c_twin("twin_pool", "zoo_threads.c", setup="import zoo\nzoo.pool_start(2)"),
    _c_twin("twin_lazy_pool", "zoo_threads.c", "the first call starts two workers", settles_after=1),
]

# (256 entries, each of 24 to 2,023 bytes.)
LRU_WANDER = {"settles_after": 2000, "wander_blocks": 0, "wander_bytes": 256 * 2000}
# (1,024 slots, each empty or of 24 to 4,023 bytes.)
FRAGMENTS_WANDER = {"settles_after": 500, "wander_blocks": 1024, "wander_bytes": 1024 * 4024}
BACKGROUND = {"setup": "import zoo\nzoo.background_start()", "quiesce": "zoo.background_stop(); zoo.background_start()"}

C_NOISE = [
    _c_leak("leak_beside_lru", "zoo_noise.c", 1, 16, "the cache's entries are live and of random sizes"),
    _c_twin("twin_beside_lru", "zoo_noise.c", **LRU_WANDER),
    _c_leak("leak_beside_fragments", "zoo_noise.c", 1, 16, "about 512 live blocks of random sizes change all the time"),
    _c_twin("twin_beside_fragments", "zoo_noise.c", **FRAGMENTS_WANDER),
    _c_leak("leak_beside_background", "zoo_noise.c", 1, 16, "zoo.background_stop() ends the noise", **BACKGROUND),
    _c_twin(
        "twin_beside_background",
        "zoo_noise.c",
        "zoo.background_stop() ends the noise",
        wander_blocks=1024,
        wander_bytes=1024 * 1024,
        **BACKGROUND,
    ),
]

C_TWINS = [
    _c_twin("twin_lazy_buffer", "zoo_bounded.c", settles_after=1),
    _c_twin("twin_lazy_buffer_500th", "zoo_bounded.c", "4,096 bytes, once", settles_after=500),
    _c_twin("twin_cache_64", "zoo_bounded.c", "48 bytes a call until full", settles_after=64),
    _c_twin("twin_cache_512", "zoo_bounded.c", "48 bytes a call until full", settles_after=512),
    _c_twin("twin_cache_4096", "zoo_bounded.c", "48 bytes a call until full", settles_after=4096),
    _c_twin("twin_lru_256", "zoo_bounded.c", "256 entries of random sizes", **LRU_WANDER),
    _c_twin("twin_free_list", "zoo_bounded.c", "up to 32 nodes", settles_after=32),
    _c_twin("twin_ring_64", "zoo_bounded.c", settles_after=64),
    _c_twin("twin_ring_200", "zoo_bounded.c", settles_after=200),
    _c_twin(
        "twin_sawtooth_200",
        "zoo_bounded.c",
        "64 bytes a call, all freed on every 200th",
        wander_blocks=200,
        wander_bytes=200 * 64,
    ),
    _c_twin("twin_realloc_up_down", "zoo_bounded.c", settles_after=1, wander_bytes=8192),
    _c_twin("twin_handoff", "zoo_bounded.c", settles_after=1),
    _c_twin("twin_malloc", "zoo_churn.c"),
    _c_twin("twin_strdup", "zoo_churn.c"),
    _c_twin("twin_pymem", "zoo_churn.c"),
    _c_twin("twin_fragmenting", "zoo_churn.c"),
    _c_twin("twin_mmap", "zoo_churn.c"),
    _c_twin("twin_mmap_pieces", "zoo_churn.c", "four pages, unmapped one by one"),
]


# C++, Cython and Rust. Case names carry the language; function names do not.


def _native(prefix: str, called: str, blocks: Amount, size: Amount, note: str = "", **more: object) -> Case:
    module, language, file, comment, scope = _NATIVE[prefix]
    name = f"{prefix}_{called}"
    fields = {
        "setup": f"import {module}",
        "statement": f"{module}.{called}()",
        "verdict": "leak",
        "blocks_per_call": blocks,
        "bytes_per_call": size,
        "function": scope + called,
        "file": file,
        "marker": f"{comment} LEAK: {name}",
        "note": note,
    }
    return Case(name=name, module=module, language=language, **{**fields, **more})


def _native_twin(prefix: str, called: str, note: str = "", **more: object) -> Case:
    return _native(prefix, called, 0, 0, note, **{"verdict": "clean", "marker": None, **more})


_NATIVE = {
    "cpp": ("zoo_cpp", "c++", "cpp/zoo_cpp.cpp", "//", "zoo_cpp::"),
    "cy": ("zoo_cy", "cython", "cython/zoo_cy.pyx", "#", ""),
    "rs": ("zoo_rs", "rust", "rust/src/lib.rs", "//", "zoo_rs::"),
}


def _rs_twin(called: str, note: str = "", **more: object) -> Case:
    more = {"function": f"zoo_rs::twins::{called}", "file": "rust/src/twins.rs", **more}
    return _native_twin("rs", called, note, **more)


CPP = [
    _native("cpp", "leak_new", 1, 40),
    _native("cpp", "leak_new_array", 1, 128),
    _native("cpp", "leak_string", 2, 32 + 101, "libstdc++: the string and its characters"),
    _native(
        "cpp",
        "leak_static_vector",
        0,
        None,
        "8 bytes of payload a call in one reachable block; libstdc++ doubles the block when it is full",
    ),
    _native("cpp", "leak_unique_ptr", 1, 40),
    _native("cpp", "leak_exception_path", 1, 26, "lost by a throw", function="zoo_cpp::parse_record"),
    _native("cpp", "leak_template", 1, 40, function="zoo_cpp::clone_value<zoo_cpp::Point>"),
    _native("cpp", "leak_method", 1, 80, function="zoo_cpp::Session::open"),
    _native("cpp", "leak_lambda", 1, 88, "in a lambda of leak_lambda", function="zoo_cpp::leak_lambda"),
    _native("cpp", "leak_shared_cycle", 1, 16 + 48, "libstdc++: make_shared puts the counts before the object"),
    _native_twin("cpp", "twin_new"),
    _native_twin("cpp", "twin_string"),
    _native_twin("cpp", "twin_vector"),
    _native_twin("cpp", "twin_retained_capacity", "clear() keeps the capacity", settles_after=1000),
    _native_twin("cpp", "twin_unique_ptr"),
    _native_twin("cpp", "twin_exception_path"),
    _native_twin("cpp", "twin_map", "the latest 100 entries", settles_after=101),
    _native_twin("cpp", "twin_shared_ptr"),
]

CYTHON = [
    _native("cy", "leak_malloc", 1, 100),
    _native("cy", "leak_incref", 1, GC_HEAD + 40, type_name="list"),
    _native(
        "cy",
        "leak_error_path",
        1,
        120,
        "also with bare_statement and --raises ValueError",
        statement=caught("zoo_cy.leak_error_path(3)", "ValueError"),
        raises="ValueError",
        bare_statement="zoo_cy.leak_error_path(3)",
    ),
    _native(
        "cy",
        "leak_extension_type",
        1,
        20 * 8,
        "a cdef class without __dealloc__",
        function="__cinit__",
        statement="zoo_cy.Table(20)",
    ),
    _native("cy", "leak_nested", 1, 56, function="copy_row"),
    _native_twin("cy", "twin_malloc"),
    _native_twin("cy", "twin_list"),
    _native_twin(
        "cy",
        "twin_error_path",
        statement=caught("zoo_cy.twin_error_path(3)", "ValueError"),
        raises="ValueError",
        bare_statement="zoo_cy.twin_error_path(3)",
    ),
    _native_twin(
        "cy",
        "twin_extension_type",
        "frees in __dealloc__",
        function="__cinit__",
        statement="zoo_cy.FreedTable(20)",
    ),
]

RUST = [
    _native("rs", "leak_box", 1, 64),
    _native("rs", "leak_cstring", 1, 15, "the text and its NUL"),
    _native("rs", "leak_forget_vec", 1, 25 * 8),
    _native("rs", "leak_rc_cycle", 1, 16 + 64, "two counts, then the node"),
    _native("rs", "leak_thread", 1, 96, function="zoo_rs::leaking_thread_body"),
    _native("rs", "leak_object", 1, GC_HEAD + 40, type_name="list"),
    _rs_twin("twin_box"),
    _rs_twin("twin_cstring"),
    _rs_twin("twin_vec"),
    _rs_twin("twin_arc"),
    _rs_twin("twin_once", "4,096 bytes, once", settles_after=1),
    _rs_twin("twin_thread"),
    _rs_twin("twin_object"),
]


# Pure Python: what the interpreter and its standard library keep is bounded.
#
# CPython's type attribute cache owns up to 4,096 names of up to 100 characters.
# C code that looks up a fresh str on each call (PyObject_GetAttrString) fills it
# slowly: asyncio, datetime, elementtree. sys._clear_type_cache() empties it.


def _python_twin(name: str, setup: str, statement: str, note: str = "", **more: int) -> Case:
    return Case(
        name=f"py_{name}",
        module=None,
        setup=setup,
        statement=statement,
        verdict="clean",
        blocks_per_call=0,
        bytes_per_call=0,
        function=None,
        file=None,
        marker=None,
        language="python",
        note=note,
        **more,
    )


COUNTER = "import itertools\nfresh = itertools.count(1000)\n"

PYTHON = [
    _python_twin("tuples", "", "[(i, i) for i in range(500)]", "free list of tuples"),
    _python_twin("lists", "", "[[] for i in range(500)]", "free list of lists"),
    _python_twin("floats", "", "[i * 0.5 for i in range(500)]", "free list of floats"),
    _python_twin("dicts", "", "[{'a': i} for i in range(500)]", "free lists of dicts and of their keys"),
    _python_twin(
        "re_cache",
        COUNTER + "import re",
        "re.compile('a%d+b' % next(fresh))",
        "re keeps the 512 latest patterns; their dict is resized now and then",
        settles_after=1100,
        wander_bytes=65536,
    ),
    _python_twin(
        "lru_cache_512",
        COUNTER + "import functools\nlookup = functools.lru_cache(maxsize=512)(lambda key: [key])",
        "lookup(next(fresh))",
        "a new key on each call",
        settles_after=2000,
    ),
    _python_twin(
        "sqlite3",
        COUNTER + "import sqlite3\ndb = sqlite3.connect(':memory:')\n"
        "db.execute('create table log (n integer, t text)')",
        "n = next(fresh)\n"
        "db.execute('insert into log values (%d, ?)' % n, ('x' * 100,))\n"
        "db.execute('select t from log where n = %d' % n).fetchall()\n"
        "db.execute('delete from log where n = ?', (n,))\n"
        "db.commit()",
        "fresh statements pass through the statement cache",
        settles_after=200,
        wander_blocks=300,
        wander_bytes=65536,
    ),
    _python_twin(
        "json",
        "import json\ndocument = {'rows': [{'id': i, 'name': 'row %d' % i, 'x': i / 3} for i in range(50)]}",
        "json.loads(json.dumps(document))",
    ),
    _python_twin(
        "pickle",
        "import pickle\ndocument = {'rows': [(i, 'row %d' % i, i / 3) for i in range(50)]}",
        "pickle.loads(pickle.dumps(document))",
    ),
    _python_twin(
        "datetime",
        COUNTER + "from datetime import datetime, timedelta, timezone",
        "moment = datetime.fromtimestamp(next(fresh), timezone.utc) + timedelta(days=1)\n"
        "datetime.strptime(moment.strftime('%Y-%m-%d %H:%M:%S'), '%Y-%m-%d %H:%M:%S')",
    ),
    _python_twin(
        "class_cycle",
        "import gc",
        "type('Temporary', (), {'method': lambda self: self})()\ngc.collect()",
        "a class is a cycle: the collector frees it",
    ),
    _python_twin(
        "exceptions",
        "def fail(depth):\n    if depth == 0:\n        raise KeyError('missing')\n    fail(depth - 1)",
        "try:\n    fail(5)\nexcept KeyError as error:\n    try:\n        raise ValueError('bad') from error\n"
        "    except ValueError:\n        pass",
    ),
    _python_twin(
        "generator",
        "def countdown(n):\n    while n:\n        yield n\n        n -= 1",
        "sum(countdown(100)); next(countdown(5))",
        "the second generator is dropped before its end",
    ),
    _python_twin(
        "deepcopy",
        "import copy\ndocument = {'rows': [[i, {'n': i}] for i in range(30)]}\ndocument['self'] = document",
        "copy.deepcopy(document)",
        "the copy is a cycle: the collector frees it",
        settles_after=100,
    ),
    _python_twin(
        "decimal",
        "from decimal import Decimal, localcontext",
        "with localcontext() as context:\n    context.prec = 80\n    Decimal(2).sqrt() * Decimal('1e-9') + Decimal(7)",
    ),
    _python_twin("hashlib", "import hashlib", "hashlib.sha256(b'x' * 5000).hexdigest(); hashlib.md5(b'y').digest()"),
    _python_twin("zlib", "import zlib", "zlib.decompress(zlib.compress(b'leaktight' * 1000))"),
    _python_twin(
        "elementtree",
        "from xml.etree import ElementTree\ntext = '<a>' + '<b c=\"1\">text</b>' * 50 + '</a>'",
        "ElementTree.fromstring(text).findall('b')",
    ),
    _python_twin(
        "asyncio",
        "import asyncio\nasync def step(n):\n    await asyncio.sleep(0)\n    return n\n"
        "async def work():\n    return await asyncio.gather(*[step(n) for n in range(5)])",
        "asyncio.run(work())",
        "each run makes and closes an event loop",
        settles_after=500,
    ),
    _python_twin(
        "logging",
        COUNTER + "import io, logging\nstream = io.StringIO()\nlogger = logging.getLogger('zoo')\n"
        "logger.propagate = False\nlogger.addHandler(logging.StreamHandler(stream))",
        "logger.warning('request %d took %.1f ms', next(fresh), 0.5)\n"
        "if stream.tell() > 4096:\n    stream.seek(0)\n    stream.truncate()",
        "the stream is emptied when it has more than 4,096 characters",
        wander_blocks=200,
        wander_bytes=65536,
    ),
    _python_twin(
        "threading",
        "import threading",
        "thread = threading.Thread(target=sorted, args=([3, 1, 2],)); thread.start(); thread.join()",
    ),
]

CASES = [
    *C_NATIVE,
    *C_RHYTHM,
    *C_OBJECTS,
    *C_THREADS,
    *C_NOISE,
    *C_TWINS,
    *CPP,
    *CYTHON,
    *RUST,
    *PYTHON,
]

BY_NAME = {case.name: case for case in CASES}
LEAKS = [case for case in CASES if case.verdict == "leak"]
TWINS = [case for case in CASES if case.verdict == "clean"]
