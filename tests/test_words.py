"""What a report says of objects, holders and causes: each sentence against a small program that it must be true of."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess

import pytest
from reports import INCREF, built, findings, one, text
from support import ROOT, leaktight, pythons, run, with_gil

pytestmark = pytest.mark.parametrize("python", with_gil(), ids=str)
#: The dict is borrowed, and ctypes takes it for given.
THREAD_STATE = INCREF + """
get = ctypes.pythonapi.PyThreadState_GetDict; get.restype = ctypes.py_object
def rows():
    data = get(); incref(data); return data.setdefault('rows', [])
"""

IN_PARTIAL = """
import functools
def g(rows): rows.append(object())
p = functools.partial(g, [])
def f(p): p()
"""
IN_ITERATOR = """
def g(rows):
    while True: rows.append(object()); yield
it = enumerate(enumerate(g([])))
def f(it): next(it)
"""
IN_OBJECT_IN_ITERATOR = """
class A:
    def __init__(self): self.rows = []
    def __iter__(self): return self
    def __next__(self): self.rows.append(object())
it = enumerate(enumerate(A()))
def f(it): next(it)
"""
FUNCTION = "ctypes.CDLL.__init__.<locals>._FuncPtr"


@pytest.mark.parametrize(
    "setup, statement, type_name, holder",
    [
        ("k = []", "k.append(object())", "object", "a list of 65,536 items (variable `k`), which grows by 8."),
        ("k = {}; n = iter(range(10**9))", "k[next(n)] = None", "int", "a dict of 65,536 items (variable `k`), which grows by "),
        ("class A: pass\na = A(); a.rows = []", "a.rows.append(object())", "object", "(attribute `rows` of variable `a`)"),
        ("k = {'rows': []}", "k['rows'].append(object())", "object", "(the value of 'rows' of variable `k`)"),
        ("import json; json.rows = []", "json.rows.append(object())", "object", "(`rows` of module `json`)"),
        ("class A: rows = []", "A.rows.append(object())", "object", "(attribute `rows` of variable `A`)"),
        ("import functools; k = []", "k.append(functools.partial(len, ''))", "functools.partial", "items (variable `k`)"),
        ("def f():\n    rows = []\n    return lambda: rows.append(object())\ng = f()", "g()", "object", "a variable around the function `f.<locals>.<lambda>`"),
        ("import threading; here = threading.local(); here.rows = []", "here.rows.append(object())", "object", "a thread's own data"),
        (THREAD_STATE, "rows().append(object())", "object", "(a thread's own data)"),
        ("class A: __slots__ = 'rows'\na = A(); a.rows = []\ndef f(a): a.rows.append(object())", "f(a)", "object", "(attribute `rows` of argument 1, `a`)"),
        (IN_PARTIAL, "f(p)", "object", "(item 0 of attribute `args` of argument 1, `p`)"),
        (IN_ITERATOR, "f(it)", "object", "(inside argument 1, `it`)"),
        (IN_OBJECT_IN_ITERATOR, "f(it)", "object", "(attribute `rows` of a `__main__.A` object inside argument 1, `it`)"),
        ("import ctypes; f = ctypes.pythonapi.Py_IncRef; f.rows = [[]]", "f.rows[0].append(object())", "object", "(item 0 of attribute `rows` of variable `f`)"),
        ("import ctypes; k = []", "k.append(ctypes.pythonapi['Py_IncRef'])", FUNCTION, " items (variable `k`)"),
    ],
    ids=[
        *("list", "dict", "attribute", "value", "module", "class", "owner", "closure", "thread local", "thread state"),
        *("slot", "partial", "inside", "object inside", "of ctypes", "itself"),
    ],
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
    # In 16,384 calls what the types own would be seen to grow as well, with stacks that free lists have handed on.
    found = one(python, setup, "import again; del sys.modules['again']", "--max-calls", "4096")
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
    command = ["cc", "-g", "-O1", "-fno-builtin", "-shared", "-fPIC", *headers(python), str(tmp_path / "again_c.c"), "-o", str(tmp_path / "again_c.so")]
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


def test_a_small_int_is_not_named_after_an_equal_constant(python):
    if python.version >= (3, 12):
        return  # It is immortal there, and no leak.
    found = one(python, INCREF, "incref(5)")
    assert found["examples"] == ["the `int` 5"] and found["severity"] == "warning", found
    assert one(python, INCREF + "five = 5", "incref(five)")["examples"] == ["the `int` 5 (argument 1, `five`)"]


@pytest.mark.parametrize(
    "setup, item, words",
    [
        ("", "incref", "the ctypes function `Py_IncRef` (variable `incref`)"),
        ("f = ctypes.CFUNCTYPE(None)(lambda: None)", "f", "a ctypes function (argument 1, `f`)"),
        ("class _FuncPtr: pass\nf = _FuncPtr()", "f", "a `__main__._FuncPtr` object (argument 1, `f`)"),
        ("class Aid: pass\nAid.__module__ = 'aids'\nf = Aid()", "f", "an `aids.Aid` object (argument 1, `f`)"),
    ],
    ids=["function", "callback", "other", "article"],
)
def test_a_function_of_ctypes_is_called_what_it_is_in_c(python, setup, item, words):
    assert one(python, INCREF + setup, f"incref({item})")["examples"] == [words]


def test_a_check_of_one_too(python):
    done = run(python, ["-c", "import ctypes, leaktight; print(leaktight.check(ctypes.pythonapi.Py_IsInitialized).subject)"])
    assert done.stdout == "ctypes.Py_IsInitialized()\n", done


def test_lost_functions_of_ctypes_have_no_odd_name(python):
    output = text(python, INCREF, "incref(ctypes.pythonapi['Py_IncRef'])")
    assert "every call loses 1 ctypes function (" in output and "<locals>" not in output, output


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


HELD_IN_C = """
#include <Python.h>
typedef struct { PyObject_HEAD } Object;
static PyTypeObject Kind = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "held.Kind", .tp_basicsize = sizeof(Object), .tp_flags = Py_TPFLAGS_DEFAULT, .tp_new = PyType_GenericNew};
static Object one = {PyObject_HEAD_INIT(&Kind)};
static PyObject *pointer;
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "held", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_held(void)
{
    PyObject *module = PyModule_Create(&definition);
    *(long long *)&one = 2; /* It was made immortal. */
    if (module == NULL || PyType_Ready(&Kind) < 0)
        return NULL;
    pointer = PyObject_CallNoArgs((PyObject *)&Kind);
    PyModule_AddObject(module, "variable", (PyObject *)&one);
    PyModule_AddObject(module, "pointed_to", (Py_INCREF(pointer), pointer));
    PyModule_AddObject(module, "Kind", (Py_INCREF(&Kind), (PyObject *)&Kind));
    return module;
}
"""


@pytest.mark.parametrize("item, severity", [("held.variable", "warning"), ("held.pointed_to", "error"), ("held.Kind()", "error")])
def test_an_object_that_is_a_variable_in_c_lives_on(python, tmp_path, item, severity):
    built(tmp_path, "held.c", HELD_IN_C, *headers(python))
    setup = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport held; item = {item}"
    found = one(python, INCREF + setup, "incref(item)")
    assert found["severity"] == severity and found["type_name"] == "held.Kind", found


TEXT_IN_C = """
#include <Python.h>
#include <string.h>
static PyObject *text;
static PyObject *leak(PyObject *self, PyObject *unused) { return Py_INCREF(text), Py_INCREF(Py_None), Py_None; }
static PyMethodDef methods[] = {{"leak", leak, METH_NOARGS, NULL}, {NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "held", NULL, -1, methods};
PyMODINIT_FUNC PyInit_held(void)
{
    void *used = PyObject_Malloc(90);
    PyObject_Free(memset(used, 0xff, 90));
    text = PyUnicode_FromFormat("a text of %d characters in a block", 36);
    return PyModule_Create(&definition);
}
"""


def test_a_text_in_c_is_found_in_memory_that_was_used_before(python, tmp_path):
    """Of the word that says how it is laid out only the lowest byte is written."""
    built(tmp_path, "held.c", TEXT_IN_C, *headers(python))
    found = one(python, f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport held", "held.leak()")
    assert found["kind"] == "reference" and "a text of 36 characters" in found["message"], found


def headers(python):
    return ["-I" + run(python, ["-c", "import sysconfig; print(sysconfig.get_paths()['include'])"]).stdout.strip()]


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


#: Writes another version where the interpreter tells its own, which may lie in the program itself: code that returns a word.
STRANGE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
static const char version[] = "3.99.0 (main, Jan  1 2030, 00:00:00) [GCC 12.2.0]";
__attribute__((constructor)) static void become(void)
{
    unsigned char *tells = dlsym(RTLD_DEFAULT, "Py_GetVersion"), code[] = "\\x48\\xb8........\\xc3";
    const void *told = version;
    if (tells == NULL)
        return;
    memcpy(code + 2, &told, sizeof told);
    mprotect((void *)((uintptr_t)tells & -4096UL), 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(tells, code, 11);
    mprotect((void *)((uintptr_t)tells & -4096UL), 8192, PROT_READ | PROT_EXEC);
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code")
def test_what_cannot_be_done_here_is_told_everywhere(python, tmp_path):
    if python.version < (3, 10):
        pytest.skip("the module would call what later versions have")
    source, library = tmp_path / "strange.c", tmp_path / "strange.so"
    source.write_text(STRANGE)
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)

    def env():
        return {"LD_PRELOAD": str(library)}

    done = leaktight(python, "check", "--json", "--period", "16", "len('')", env=env())
    report = json.loads(done.stdout)
    assert len(report["not_done"]) == 1 and report["not_done"][0].startswith("leaked references"), report
    assert "not seen here: leaked references" in text(python, "", "len('')", env=env())
    assert "not_done" not in json.loads(leaktight(python, "check", "--json", "--checks", "memory", "len('')", env=env()).stdout)
    # Nothing was looked at then.
    done = leaktight(python, "check", "--json", "--checks", "references", "len('')", env=env())
    report = json.loads(done.stdout)
    assert done.returncode == 3 and report["reason"] == f"what was asked for cannot be seen here: {report['not_done'][0]}", report
    done = run(python, ["-c", TEST_CASE], env=env())
    assert done.returncode == 0, done.stderr
    if python == pythons()[0]:
        (tmp_path / "test_here.py").write_text("def test_here(): len('')\n")
        done = run(python, ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "--leaks", str(tmp_path)], env=env())
        assert "not seen here: leaked references" in done.stdout, done


RING = "import collections; ring = collections.deque(maxlen=5); n = iter(range(10**9))"
ONCE = "k = []; n = iter(range(10**9))"
ONE_OPEN = "import os; k = []; n = iter(range(10**9))"


@pytest.mark.parametrize(
    "setup, statement, reason",
    [
        ("", "sorted([3, 1, 2])", "no call after the warm-up left anything behind"),
        (RING, "ring.append(bytes(1000 + next(n) % 3))", r"nothing stayed behind in step with the calls; 6 blocks \(5,\d+ bytes\), the last of them from call 2,048, are left"),
        (ONCE, "if next(n) == 20: k.append(bytes(100))", r"nothing stayed behind in step with the calls; \d blocks \(\d+ bytes\), the last of them from call 21, are left"),
        (ONE_OPEN, "if next(n) == 20: os.open('/dev/null', 0)", r"nothing stayed behind in step with the calls; 1 descriptor, thread or the like, from call 21, is left"),
    ],
    ids=["nothing", "ring", "once", "descriptor"],
)
def test_clean_does_not_say_that_nothing_is_left_where_something_is(python, setup, statement, reason):
    done = leaktight(python, "check", "--json", "-s", setup, statement)
    report = json.loads(done.stdout)
    assert report["verdict"] == "clean" and re.fullmatch(reason, report["reason"]), report["reason"]


def test_what_was_not_looked_at_is_not_called_clean(python):
    done = leaktight(python, "check", "--json", "--checks", "threads,fds", "-s", "k = []", "k.append(object())")
    assert json.loads(done.stdout)["reason"] == "no call after the warm-up left anything behind (looked at: fds, threads)", done


@pytest.mark.parametrize("period", [1, 2, 4, 5, 20])
def test_few_calls_suffice_for_references_that_leak_in_each(python, period):
    found = one(python, "import zoo_refs", "zoo_refs.leak_exception_type()", "--period", str(period))
    assert found["kind"] == "reference" and found["every"] == 1, found


@pytest.mark.parametrize("period", [1, 2, 4, 5, 20, 256, 512])
def test_a_leak_of_the_period_is_found_in_as_many_calls_as_it_takes(python, period):
    """References are fewer than blocks, and take more calls to be sure of."""
    setup = f"import zoo_refs\ncalls, KEY = [0], 'time' + str(1)\ndef step():\n    calls[0] += 1\n    if calls[0] % {period} == 0: zoo_refs.leak_passed(KEY)"
    report = json.loads(leaktight(python, "check", "--json", "--period", str(period), "-s", setup, "step()").stdout)
    assert report["verdict"] == "leak" and [finding["kind"] for finding in report["findings"]] == ["reference"], report
    report = json.loads(leaktight(python, "check", "--json", "--period", str(period), "-s", "import zoo", "zoo.twin_malloc()").stdout)
    assert (report["verdict"], report["period"]) == ("clean", period) and "were too few" not in str(report["blind_spots"]), report


@pytest.mark.parametrize(
    "period, limit, seen, rarest",
    [(4, 16, 1, "references that leak less often than in every call"), (100, 4000, 49, "references that leak less often than once in 49 calls")],
)
def test_rarer_ones_are_not_called_clean(python, period, limit, seen, rarest):
    arguments = ["--json", "--period", str(period), "--max-calls", str(limit), "-s", "import zoo", "zoo.twin_malloc()"]
    report = json.loads(leaktight(python, "check", *arguments).stdout)
    spots = [spot.removesuffix(" (the calls were too few)") for spot in report["blind_spots"] if "were too few" in spot]
    assert (report["verdict"], report["period"], spots) == ("clean", seen, [rarest]), report
    report = json.loads(leaktight(python, "check", "--checks", "memory", *arguments).stdout)
    assert report["period"] == period and "were too few" not in str(report), report


#: `mmap` of two pages by an instruction of its own.
RAW = """
void *volatile lost;
void take(void)
{
    long pages = 9;
    register long flags __asm__("r10") = 0x22, file __asm__("r8") = -1, offset __asm__("r9") = 0;
    __asm__ volatile("syscall" : "+a"(pages) : "D"(0), "S"(8192L), "d"(3L), "r"(flags), "r"(file), "r"(offset) : "rcx", "r11", "memory");
    lost = (void *)pages;
    lost = 0;
}
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code")
def test_what_only_the_kernel_counts_is_told_in_words_of_its_own(python, tmp_path):
    setup = built(tmp_path, "raw.c", RAW) + "take = library.take"
    said = text(python, setup, "take()")
    assert "on average a call takes 8,192 bytes from the kernel: the kernel counts them, but no function" in " ".join(said.split()), said
    assert "  8,192 B per call  growing\n" in said and "in one block" not in said, said
    unsure = " ".join(leaktight(python, "check", "--max-calls", "1000", "-s", setup, "take()").stdout.split())
    assert unsure.startswith("INDETERMINATE") and unsure.count("from the kernel") == 1, unsure


def test_one_block_that_grows_is_said_to_be_one(python):
    setup = "k = []; rows = [b''] * 100\nn = iter(range(10**9))"
    assert one(python, setup, "k.append(None)")["message"].startswith("one block grows by 8.")
    several = one(python, setup, "number = next(n); rows[number % 100] = bytes(number)")
    assert several["message"].startswith("memory grows by 100 bytes per call on average, in few blocks that become larger"), several


def test_info_is_about_the_interpreter_and_not_about_few_calls(python):
    assert "too few" not in leaktight(python, "info").stdout


def test_the_console_examples_of_the_guide_are_true(python):
    """Those of the zoo and the standard library, but for what differs from run to run."""
    guide = (ROOT / "docs" / "guide.md").read_text()
    examples = re.findall(r"^\$ leaktight (check .*)\n((?:.*\n)*?)```", guide, re.MULTILINE)
    examples = [(command, said) for command, said in examples if "|" not in command and "numpy" not in command]
    assert len(examples) >= 7
    if python.version != (3, 11):
        return  # They are from CPython 3.11.
    for command, said in examples:
        told = leaktight(python, *shlex.split(command)).stdout
        wanted, told = (re.sub(r"; [\d,]+ calls,[\s\S]* s$", "", text.strip()).replace("…\n", "") for text in (said, told))
        wanted = wanted.removesuffix("…").strip()
        assert _without_versions(told).startswith(_without_versions(wanted)), command


def _without_versions(text):
    # Words elsewhere in memory look like the object by chance, and come and go.
    text = re.sub(r"(could\s+hold one: )[+-]\d+", r"\1", text)
    return re.sub(r"CPython [\d.]+, glibc [\d.]+", "", text)


def test_each_thing_that_is_left_is_named(python, tmp_path):
    said = text(python, "import os, tempfile", "os.close(tempfile.mkstemp()[0]); os.open('/dev/null', 0)", env={"TMPDIR": str(tmp_path)})
    lines = said.splitlines()
    assert "  2 leaks; the first: every call leaves 1 file descriptor open: /dev/null" in lines, said
    assert any(line.startswith("    such as /tmp/") for line in lines), said


def test_what_is_kept_unseen_is_one_note(python):
    setup = "import threading\ndef end():\n    go.wait()\ngo = threading.Event()"
    said = " ".join(text(python, setup, "threading.Thread(target=end, daemon=True).start()").split())
    assert said.count("note: calls keep references to") == 1 and " other objects in memory" in said, said


@pytest.mark.parametrize(
    "statement, subject",
    [
        ("try:\n    int('x')\nexcept ValueError:\n    pass\n", "try: int('x'); except ValueError: pass"),
        ("a = int(1);\n\nint(2)", "a = int(1); int(2)"),
    ],
)
def test_a_statement_is_told_on_one_line(python, statement, subject):
    done = leaktight(python, "check", "--json", "--period", "1", statement)
    assert json.loads(done.stdout)["subject"] == subject, done


@pytest.mark.parametrize("limit, every", [(580, 18), (640, 28), (1060, 100), (1540, 220), (2000, 300)])
def test_what_is_too_rare_for_the_calls_that_are_left_is_not_called_clean(python, limit, every):
    setup = f"import zoo_refs\ncalls, KEY = [0], {{'q': 1}}\ndef step():\n    calls[0] += 1\n    if calls[0] % {every} == 0: zoo_refs.leak_passed(KEY)"
    report = json.loads(leaktight(python, "check", "--json", "--max-calls", str(limit), "-s", setup, "step()").stdout)
    assert report["verdict"] in ("leak", "indeterminate") or report["period"] < every, report
    report = json.loads(leaktight(python, "check", "--json", "--max-calls", str(limit), "-s", "import json", "json.loads('[1, 2, {}]')").stdout)
    assert report["verdict"] == "clean", report
