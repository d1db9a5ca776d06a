"""What a report says of objects, holders and causes: each sentence against a small program that it must be true of."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from support import leaktight, pythons, run

EVERYWHERE = pythons() if os.environ.get("LEAKTIGHT_PYTHONS") == "all" else pythons()[:1]
INCREF = "import ctypes, gc; incref = ctypes.pythonapi.Py_IncRef; incref.argtypes = [ctypes.py_object]; incref.restype = None\n"

pytestmark = pytest.mark.parametrize("python", EVERYWHERE, ids=str)
#: The dict is borrowed, and ctypes takes it for given.
THREAD_STATE = INCREF + """
get = ctypes.pythonapi.PyThreadState_GetDict; get.restype = ctypes.py_object
def rows():
    data = get(); incref(data); return data.setdefault('rows', [])
"""


def findings(python, setup, statement, *arguments, **more):
    done = leaktight(python, "check", "--json", *arguments, "-s", setup, statement, **more)
    assert done.returncode in (0, 1, 3), done
    return json.loads(done.stdout)["findings"]


def one(python, setup, statement, *arguments, **more):
    found = findings(python, setup, statement, *arguments, **more)
    assert len(found) == 1, [finding["message"] for finding in found]
    return found[0]


def text(python, setup, statement, **more):
    return leaktight(python, "check", "-s", setup, statement, **more).stdout


def test_of_an_object_the_place_is_where_it_was_made(python):
    found = one(python, INCREF, "incref(object())")
    assert found["message"].endswith("nothing points to it any more; a Py_DECREF is missing in what received it")
    assert "earlier_owner" not in found and "in_cycle" not in found
    assert "made here:" in text(python, INCREF, "incref(object())")


@pytest.mark.parametrize("made", ["[]", "(N[0], N[1])", "{}", "N[0] * 7.125"])
def test_no_line_is_sure_where_memory_comes_through_a_free_list(python, made):
    setup = INCREF + "N = [1.5, 2.5]"
    assert all(finding["earlier_owner"] for finding in findings(python, setup, f"incref({made})"))
    assert "perhaps made here" in text(python, setup, f"incref({made})")


def test_a_cycle_that_the_collector_cannot_see(python):
    found = one(python, "import zoo", "zoo.leak_self_cycle()")
    assert found["in_cycle"] and "Py_DECREF" not in found["message"]


def test_memory_that_is_no_object_is_not_made(python):
    output = text(python, "import zoo", "zoo.leak_malloc()")
    assert "made here" not in output and "Py_DECREF" not in output


@pytest.mark.parametrize(
    "setup, statement, type_name, holder",
    [
        ("k = []", "k.append(object())", "object", "a list of 65,536 items (variable `k`), which grows by 8."),
        ("k = {}; n = iter(range(10**9))", "k[next(n)] = None", "int", "a dict of 65,536 items (variable `k`), which grows by "),
        ("class A: pass\na = A(); a.rows = []", "a.rows.append(object())", "object", "(attribute `rows` of variable `a`)"),
        ("k = {'rows': []}", "k['rows'].append(object())", "object", "(the value of 'rows' of variable `k`)"),
        ("import json; json.rows = []", "json.rows.append(object())", "object", "(`rows` of module `json`)"),
        ("class A: rows = []", "A.rows.append(object())", "object", "(attribute `rows` of variable `A`)"),
        ("import functools; k = []", "k.append(functools.partial(len, ''))", "functools.partial", "a list of 65,536 items (variable `k`)"),
        ("def f():\n    rows = []\n    return lambda: rows.append(object())\ng = f()", "g()", "object", "a variable around the function `f.<locals>.<lambda>`"),
        ("import threading; here = threading.local(); here.rows = []", "here.rows.append(object())", "object", "a thread's own data"),
        (THREAD_STATE, "rows().append(object())", "object", "(a thread's own data)"),
    ],
    ids=["list", "dict", "attribute", "value", "module", "class", "owner", "closure", "thread local", "thread state"],
)
def test_what_grows_and_what_is_in_it_are_one_finding(python, setup, statement, type_name, holder):
    found = one(python, setup, statement)
    assert found["type_name"] == type_name and found["certainty"] == "growing", found
    assert holder in found.get("holder", ""), found


def test_the_dict_of_interned_strings_is_a_holder(python):
    setup = INCREF + "import sys; n = iter(range(10**9))"
    found = one(python, setup, "incref(sys.intern('name-%d' % next(n)))")
    assert found["holder"].startswith("the dict of interned strings"), found


def test_static_data_holds_what_is_in_its_array(python):
    found = one(python, "import zoo", "zoo.leak_registry()")
    assert found["bytes_per_call"] == 32.0 and found["holder"].startswith("static data of zoo"), found
    assert found["holder"].endswith(", which grows by 8 bytes per call"), found


def test_an_owner_is_named_and_not_what_it_owns(python):
    setup = INCREF + "class Connection: pass\ndef connect():\n    one = Connection(); one.rows = [bytes(100) + b'x' for _ in range(20)]; return one"
    found = one(python, setup, "incref(connect())")
    assert found["type_name"] == "__main__.Connection" and found["objects_per_call"] == 1.0, found


AGAIN = """
import ctypes
incref = ctypes.pythonapi.Py_IncRef; incref.argtypes = [ctypes.py_object]; incref.restype = None
incref(object())
class First: pass
incref(First())
def make():
    incref(bytes(100) + b'x')
make()
"""


def test_a_module_that_is_initialised_in_each_call_is_one_finding(python, tmp_path):
    (tmp_path / "again.py").write_text(AGAIN)
    setup = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    found = one(python, setup, "import again; del sys.modules['again']")
    # Its code is gone after each call, and its frames with it.
    assert any("importlib" in frame["file"] for frame in found["stack"]), found


IN_C = """
#include <Python.h>
#include <stdlib.h>
static void *volatile lost;
static void fill_table(void) {
    lost = malloc(100);
    lost = calloc(2, 60);
    lost = NULL;
}
static int fill(PyObject *module) {
    PyBytes_FromStringAndSize(NULL, 200);
    fill_table();
    return 0;
}
static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "again_c", NULL, 0, NULL, slots};
PyMODINIT_FUNC PyInit_again_c(void) { return PyModuleDef_Init(&definition); }
"""


def test_so_is_one_in_c(python, tmp_path):
    (tmp_path / "again_c.c").write_text(IN_C)
    include = run(python, ["-c", "import sysconfig; print(sysconfig.get_paths()['include'])"]).stdout.strip()
    command = ["cc", "-g", "-O1", "-fno-builtin", "-shared", "-fPIC", f"-I{include}", str(tmp_path / "again_c.c"), "-o", str(tmp_path / "again_c.so")]
    subprocess.run(command, check=True)
    setup = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    found = one(python, setup, "import again_c; del sys.modules['again_c']")
    assert "places in the initialisation of `again_c`" in found["message"], found
    assert found["stack"][0]["function"] == "fill" and found["blocks_per_call"] == 3.0, found


def test_a_script_that_is_run_in_each_call_is_no_module(python, tmp_path):
    (tmp_path / "again.py").write_text(AGAIN)
    setup = f"import runpy; path = {str(tmp_path / 'again.py')!r}"
    found = findings(python, setup, "runpy.run_path(path)")
    assert found and not any("initialisation" in finding["message"] for finding in found), found


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


def test_a_small_int_is_not_named_after_an_equal_constant(python):
    if python.version >= (3, 12):
        return  # It is immortal there, and no leak.
    found = one(python, INCREF, "incref(5)")
    assert found["examples"] == ["the `int` 5"] and found["severity"] == "warning", found
    assert one(python, INCREF + "five = 5", "incref(five)")["examples"] == ["the `int` 5 (argument 1, `five`)"]


def test_no_note_names_a_constant(python):
    assert "note:" not in text(python, "import zoo", "zoo.leak_dict()")


@pytest.mark.parametrize(
    "setup, item",
    [
        ("space = gc.get_referents(int.__dict__)[0]", "space"),
        ("import zoo_refs; kind = next(k for k in object.__subclasses__() if k.__name__ == 'Ticket')", "kind"),
        ("import zoo_cy; kind = type(zoo_cy.leak_malloc)", "kind"),
    ],
    ids=["namespace of a static type", "type that C holds", "type of Cython's"],
)
def test_references_to_what_stays_anyway_are_warnings(python, setup, item):
    found = one(python, INCREF + setup, f"incref({item})")
    assert found["severity"] == "warning", found
    lines = text(python, INCREF + setup, f"incref({item})").splitlines()
    assert lines[0].startswith("LEAK (warnings only)  ") and any("it costs nothing" in line for line in lines), lines


def test_a_type_that_nobody_keeps_is_an_error(python):
    found = one(python, INCREF + "kind = [type('Kind', (), {})]", "incref(kind[0])")
    assert found["severity"] == "error", found


TEST_CASE = """
import leaktight, unittest, warnings
class Test(leaktight.MemoryLeakTestCase):
    times = 2
    def test(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.execute(len, "")
        assert any("cannot see here: leaked references" in str(warning.message) for warning in caught), caught
unittest.main()
"""


def test_what_cannot_be_done_here_is_told_everywhere(python, tmp_path):
    """A library in front makes the interpreter one that is not known."""
    source, library = tmp_path / "strange.c", tmp_path / "strange.so"
    source.write_text('const char *Py_GetVersion(void) { return "3.99.0 (main, Jan  1 2030, 00:00:00) [GCC 12.2.0]"; }\n')
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)

    def env():
        return {"LD_PRELOAD": str(library)}

    done = leaktight(python, "check", "--json", "--period", "16", "len('')", env=env())
    report = json.loads(done.stdout)
    assert len(report["not_done"]) == 1 and report["not_done"][0].startswith("leaked references"), report
    assert "not seen here: leaked references" in text(python, "", "len('')", env=env())
    assert "not_done" not in json.loads(leaktight(python, "check", "--json", "--checks", "memory", "len('')", env=env()).stdout)
    done = run(python, ["-c", TEST_CASE], env=env())
    assert done.returncode == 0, done.stderr
    if python == pythons()[0]:
        (tmp_path / "test_here.py").write_text("def test_here(): len('')\n")
        done = run(python, ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--leaks", str(tmp_path)], env=env())
        assert "not seen here: leaked references" in done.stdout, done
