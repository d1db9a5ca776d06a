"""How functions are called in stacks, whatever they are written in and however they were loaded."""

from __future__ import annotations

import json

import pytest
from reports import INCREF, built, findings, one
from support import leaktight, with_gil

pytestmark = pytest.mark.parametrize("python", with_gil(), ids=str)


def test_names_of_cxx_are_demangled(python):
    found = findings(python, "import zoo_cpp", "zoo_cpp.leak_new()") or findings(python, "import zoo_cpp", "zoo_cpp.leak_vector()")
    assert found and not any((finding.get("via") or "").startswith("_Z") for finding in found), found


#: `mov edi, 100; mov rax, PyObject_Malloc; call rax; ret`, with the stack aligned for the call.
MACHINE_CODE = """
import ctypes, mmap, struct
take = ctypes.cast(ctypes.pythonapi.PyObject_Malloc, ctypes.c_void_p).value
code = b'\\x48\\x83\\xec\\x08\\xbf\\x64\\0\\0\\0\\x48\\xb8' + struct.pack('<Q', take) + b'\\xff\\xd0\\x48\\x83\\xc4\\x08\\xc3'
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); memory.write(code)
made = ctypes.PYFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
"""


def test_code_made_at_run_time_is_called_that(python):
    found = one(python, MACHINE_CODE, "made()")
    assert "<code made at run time>" in [frame.get("function") for frame in found["stack"]], found


def in_library(found):
    return [frame for frame in found["stack"] if "/pytest-" in frame.get("module", "")]


NAMED_LIKE_TYPES = """
#include <stdlib.h>
static void *volatile lost;
__attribute__((noinline)) static void i(void) { lost = malloc(100); lost = NULL; }
__attribute__((noinline)) static void St(void) { i(); }
static inline __attribute__((always_inline)) void PKc(void) { St(); lost = NULL; }
void leak(void) { PKc(); lost = NULL; }
"""


@pytest.mark.parametrize("flags", [["-O1"], ["-O1", "-g0"], ["-O1", "-g1"]], ids=["debug", "none", "lines"])
def test_a_name_in_c_is_no_type_of_cxx(python, tmp_path, flags):
    found = one(python, built(tmp_path, "types.c", NAMED_LIKE_TYPES, *flags), "library.leak()")
    names = [frame["function"] for frame in in_library(found) if not frame["inlined"]]
    assert names == ["i", "St", "leak"], found["stack"]
    # Between them and the statement are frames of ctypes, which nobody asked for.
    assert [frame["function"] for frame in found["stack"] if frame not in in_library(found)] == ["<module>"], found["stack"]


def test_frames_of_ctypes_are_shown_where_it_allocates(python):
    found = one(python, INCREF, "incref(ctypes.c_long(2**40))")
    assert any("_ctypes" in frame.get("module", "") for frame in found["stack"]), found["stack"]


LAMBDA = """
#include <cstdlib>
static void *volatile lost;
namespace table {
struct Row { __attribute__((noinline)) void fill(int size) { lost = malloc(size); lost = nullptr; } };
}
extern "C" void leak() {
    auto make = [](int size) __attribute__((noinline)) { table::Row().fill(size); lost = nullptr; };
    make(100);
    lost = nullptr;
}
"""


@pytest.mark.parametrize("flags", [["-O0"], ["-O1"], ["-O1", "-g0"], ["-O1", "-g1"]], ids=["debug", "optimised", "none", "lines"])
def test_names_of_cxx_are_read_back_as_before(python, tmp_path, flags):
    found = one(python, built(tmp_path, "lambda.cpp", LAMBDA, *flags), "library.leak()")
    names = [frame["function"] for frame in in_library(found)]
    assert names == ["table::Row::fill(int)", "leak::{lambda(int)#1}::operator()(int) const", "leak"], names


IN_NAMESPACE = """
#include <stdlib.h>
static void *volatile lost;
__attribute__((noinline)) static void inner(void) { lost = malloc(300); lost = NULL; }
void outer(void) { inner(); lost = NULL; }
"""


DLMOPEN = """
import ctypes
loader = ctypes.CDLL(None); loader.dlmopen.restype = loader.dlsym.restype = ctypes.c_void_p
loader.dlsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p]; loader.dlclose.argtypes = [ctypes.c_void_p]
def load(path):
    handle = loader.dlmopen(ctypes.c_long(-1), path.encode(), 2)
    assert handle
    return handle, ctypes.CFUNCTYPE(None)(loader.dlsym(handle, b"outer"))
def again(path):
    handle, outer = load(path); outer(); loader.dlclose(handle)
"""


@pytest.mark.parametrize("statement", ["outer()", "outer(); gone()"], ids=["namespace", "another gone"])
def test_frames_in_a_namespace_of_its_own_have_names(python, tmp_path, statement):
    built(tmp_path, "names.c", IN_NAMESPACE, "-O1")
    path = str(tmp_path / "names.so")
    setup = DLMOPEN + f"_, outer = load({path!r}); other, _ = load({path!r})\ndef gone():\n    global other\n    if other: loader.dlclose(other)\n    other = None"
    found = one(python, setup, statement)
    assert [frame["function"] for frame in in_library(found)] == ["inner", "outer"], found["stack"]


def test_a_namespace_that_goes_with_each_call_does_no_harm(python, tmp_path):
    """Its memory goes with it, as far as its C library gives it back."""
    built(tmp_path, "names.c", IN_NAMESPACE, "-O1")
    done = leaktight(python, "check", "--json", "--max-calls", "200", "-s", DLMOPEN, f"again({str(tmp_path / 'names.so')!r})")
    assert done.returncode in (0, 1, 3), done
