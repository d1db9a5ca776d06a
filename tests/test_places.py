"""A miscounted reference is told with the line that took it, or with why that is not known."""

import json
import os
import re
import signal
import subprocess

import pytest
import support
from references import CASES

PYTHONS = support.with_gil()
BUGS = [case for case in CASES if case.verdict == "leak" and case.kind in ("reference", "over-release")]

#: Where no write shows the function: it returns what it has only borrowed, and the interpreter gives that back.
NOT_KNOWN = {"release_none"}
#: Cases in which another line than the marked one writes the count, and which one.
OTHER_LINES = {
    # Stolen by a tuple, and given back when that is freed.
    "release_stolen": "Py_DECREF(tuple);",
    # The first two are alike, and either may be the one too many.
    "leak_defaults": "Py_INCREF(zoo_refs_defaults);",
    # The compiler makes one addition of this line and the next.
    "leak_none": "Py_RETURN_NONE;",
    # Nothing is written where an instance does not give back its type: the function begins there.
    "leak_hidden_type": "{",
    "leak_module_type": "{",
}


def finding(python, setup, statement, *arguments, **more):
    done = support.leaktight(python, "check", "--json", *arguments, "-s", setup, statement, **more)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    [found] = [each for each in report["findings"] if each["kind"] in ("reference", "over-release")]
    return found, report


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("case", BUGS, ids=lambda case: case.name)
def test_the_line_that_took_it(python, case):
    if case.immortal(python.version):
        pytest.skip("the object is immortal")
    found, _ = finding(python, case.setup, case.statement)
    problem = place_complaint(case, found)
    assert not problem, f"{problem}: {found}"


def place_complaint(case, found):
    """What is wrong with where a finding says that the references come from; empty when nothing is."""
    if case.name in NOT_KNOWN:
        is_right = not found["stack"] and "borrowed" in found["stack_note"]
        return "" if is_right else "a place that cannot be known"
    if "stack_note" in found or not found["stack"]:
        return f"no place: {found.get('stack_note')}"
    for stack in [found["stack"], *found.get("also", [])]:
        # What the marked function calls may be in front of it.
        own = [frame for frame in stack if _bare(frame["function"]) == case.function]
        if not own and case.name.startswith("rs_"):
            # With other optimisation the wrapper that PyO3 makes is what is left over: it takes the argument that the
            # function itself drops. It stands at the line of the function's head, one above.
            wrappers = [frame for frame in stack if _bare(frame["function"]) == f"__pyfunction_{case.function}"]
            if not wrappers or wrappers[0]["line"] != case.line() - 1:
                return f"neither {case.function} nor its wrapper"
            continue
        if not own or os.path.basename(own[0]["file"]) != os.path.basename(case.file):
            return f"not in {case.function}"
        if case.name in OTHER_LINES:
            if own[0]["source"].split(" /*")[0] != OTHER_LINES[case.name]:
                return f"not at {OTHER_LINES[case.name]}"
        elif own[0]["line"] != case.line():
            return f"not at line {case.line()}"
    return ""


def _bare(function):
    return re.split(r"\.|::", function or "")[-1]


LEAK = "import zoo_refs; KEY = ''.join(['time', 'out'])", "zoo_refs.leak_passed(KEY)"
PYTHON = support.pythons()[0]


BUFFERS = ["leak_buffer", "leak_buffer_bytearray", "cy_leak_buffer"]


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("case", [case for case in BUGS if case.name in BUFFERS], ids=lambda case: case.name)
def test_a_buffer_that_is_not_released_is_told_as_that(python, case):
    found, report = finding(python, case.setup, case.statement)
    assert found["buffer_export"] and "PyBuffer_Release is missing" in report["reason"], found
    assert "Py_DECREF" not in json.dumps(report), report
    assert found["stack"][0]["line"] == case.line(), found


#: Exports a buffer of an array of its own, whose reference the library takes that exports, and not the interpreter.
EXPORTER = "import array, zoo_refs; DATA = array.array('b', range(40)); KEY = DATA"


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_buffer_of_a_library_is_told_with_who_asked_for_it(python):
    found, _ = finding(python, EXPORTER, "zoo_refs.leak_buffer(DATA)")
    assert found["buffer_export"] and found["stack"][0]["function"] == "leak_buffer", found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize(
    "statement",
    [
        "zoo_refs.leak_passed(KEY)",
        "zoo_refs.twin_buffer(KEY); zoo_refs.leak_passed(KEY)",
        "zoo_refs.leak_passed(KEY); bytes(memoryview(KEY)[1:])",
    ],
)
def test_a_reference_beside_buffers_that_are_released_is_none_of_theirs(python, statement):
    for setup in (EXPORTER, "import zoo_refs; KEY = bytes(range(40))"):
        found, report = finding(python, setup, statement)
        assert "buffer_export" not in found and "a Py_DECREF is missing" in report["reason"], found
        assert found["stack"][0]["function"] == "leak_passed", found


def test_what_else_is_told():
    found, report = finding(PYTHON, *LEAK)
    assert found["references"]["balanced"] > 0 and not found.get("also") and not found.get("one_of"), found
    text = support.leaktight(PYTHON, "check", "-s", *LEAK).stdout
    assert "taken and never given back here:\n    leak_passed  tests/zoo/c/zoo_refs_bugs.c:" in text, text
    assert "taken and given back: " in text, text
    assert report["calls"] <= 65_536


SUBCLASS = "class Sub(zoo_refs.Session): pass"
INSTANCES = {
    "by a call of the type": ("", "zoo_refs.Session()"),
    "of a subclass": (SUBCLASS, "Sub()"),
    "of a subclass, beside other references to it": (SUBCLASS + "\nkept = []", "kept[:] = [Sub] * 3; s = Sub(); t = type(s); isinstance(s, t)"),
}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("setup, statement", INSTANCES.values(), ids=INSTANCES)
def test_the_function_that_forgets_the_type_of_instances(python, setup, statement):
    found, _ = finding(python, f"import zoo_refs\n{setup}", statement)
    assert found["blocks_per_call"] == 1 and "each instance takes one" in found["message"], found
    assert [frame["function"] for frame in found["stack"]] == ["forgetful_dealloc"], found


def test_instances_that_give_their_type_back_are_not_blamed():
    """The call loses a reference to the type by itself."""
    setup = """
import ctypes, zoo_refs
Careful = ctypes.cast(zoo_refs.addresses()["Careful"], ctypes.py_object).value
class Sub(Careful): pass
"""
    for name in ("Careful", "Sub"):
        found, _ = finding(support.pythons()[0], setup, f"{name}(); zoo_refs.leak_passed({name}); {name}()")
        assert [frame["function"] for frame in found["stack"]][:1] == ["leak_passed"] and found["blocks_per_call"] == 1, found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_several_objects_and_more_than_there_are_registers(python):
    setup = LEAK[0] + "; KEYS = [str(n) * 9 for n in range(6)]"
    done = support.leaktight(python, "check", "--json", "-s", setup, "for key in KEYS: zoo_refs.leak_passed(key)")
    findings = json.loads(done.stdout)["findings"]
    assert [one["stack"][0]["function"] for one in findings] == ["leak_passed"] * 6, findings


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_one_object_that_leaks_at_two_places(python):
    statement = "zoo_refs.leak_passed(KEY); zoo_refs.leak_second_passed(1, KEY)"
    found, _ = finding(python, LEAK[0], statement)
    names = {stack[0]["function"] for stack in [found["stack"], *found["also"]]}
    assert names == {"leak_passed", "leak_second_passed"} and not found.get("one_of"), found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize(
    "beside",
    [
        "[KEY for _ in range(5)]",
        "list(iter([KEY, KEY]))",
        "(lambda k: k)(KEY)",
        "{KEY: KEY}.get(KEY)",
        "next(x for x in [KEY])",
        "KEEP.__setitem__(0, KEY)",
        "isinstance(KEY, str) and KEY.upper()",
        "functools.partial(str.upper, KEY)()",
        "sorted([KEY, KEY + '1'], key=lambda k: (k, KEY))",
        "json.dumps([KEY])",
        "re.match('(.*)', KEY).group(1)",
        "zoo_refs.twin_containers(KEY)",
        "zoo_refs.twin_keeper(KEY)",
        "zoo_refs.twin_latest(KEY)",
        "zoo_refs.twin_capsule(KEY)",
        "getattr(USER, 'session'); USER.__dict__.update(session=KEY)",
    ],
)
def test_what_is_right_beside_it_is_not_blamed(python, beside):
    setup = LEAK[0] + "; import functools, json, re\nKEEP = [None]\nclass User: pass\nUSER = User()\nUSER.session = KEY"
    for bug in ("zoo_refs.leak_passed(KEY)", "zoo_refs.release_stolen(KEY)"):
        for statement in (f"{beside}; {bug}", f"{bug}; {beside}"):
            found, _ = finding(python, setup, statement)
            stacks = [found["stack"], *found.get("also", [])]
            assert found["stack"] and bug.split(".")[1].split("(")[0] in {stack[0]["function"] for stack in stacks}, found
            assert len(stacks) == 1 or found["one_of"], found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize(
    "statement",
    [
        "t = threading.Thread(target=zoo_refs.leak_passed, args=(KEY,)); t.start(); t.join()",
        "POOL.submit(zoo_refs.leak_passed, KEY).result()",
    ],
)
def test_another_thread_is_said_to_do_it(python, statement):
    setup = LEAK[0] + "; import threading, concurrent.futures; POOL = concurrent.futures.ThreadPoolExecutor(1)"
    found, _ = finding(python, setup, statement, "--time-budget", "40")
    assert not found["stack"] and "other threads" in found["stack_note"], found


#: Forbids system calls by their numbers, as a container may (linux/seccomp.h).
FORBID = """
import ctypes, struct
def forbid(*numbers):
    code = [(0x20, 0, 0, 0)]
    code += [(0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    code += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x50001)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(text)))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""
PERF, PTRACE = 298, 101


def test_where_perf_is_forbidden_a_helper_does_it_and_where_both_are_it_says_so():
    found, _ = finding(PYTHON, f"{FORBID}\nforbid({PERF})\n{LEAK[0]}", LEAK[1])
    assert found["stack"][0]["function"] == "leak_passed", found
    setup = f"{FORBID}\nforbid({PERF}, {PTRACE})\n{LEAK[0]}"
    found, _ = finding(PYTHON, setup, LEAK[1])
    assert not found["stack"] and found["stack_note"].startswith("the system forbids it: perf_event_open: "), found
    text = support.leaktight(PYTHON, "check", "-s", setup, LEAK[1]).stdout
    assert "which function took it is not known, because the system forbids it" in " ".join(text.split()), text
    told = support.leaktight(PYTHON, "info", "-s", f"{FORBID}\nforbid({PERF}, {PTRACE})").stdout
    assert "watchpoints  none, so the line that took a leaked reference is not known: the system forbids it" in told, told
    facts = json.loads(support.leaktight(PYTHON, "info", "--json").stdout)
    assert facts["watchpoints"] == {"by": "perf_event_open", "why_not": None}


def test_a_handler_of_somebody_else_is_left_alone():
    setup = f"{LEAK[0]}; import signal; signal.signal(signal.SIGTRAP, lambda *_: None)"
    found, _ = finding(PYTHON, setup, LEAK[1])
    assert found["stack_note"] == "somebody else handles SIGTRAP", found


def test_without_calls_left_it_says_so():
    found, _ = finding(PYTHON, *LEAK, "--max-calls", "220")
    assert found["stack"] or found["stack_note"] == "no calls were left to watch the reference count", found


SCRIPT = """
import leaktight, os, signal, sys, zoo_refs
KEY = "".join(["time", "out"])
calls, stop, error, watched = 0, sys.maxsize, None, []
def handles_trap():
    [caught] = [line for line in open("/proc/self/status") if line.startswith("SigCgt")]
    return int(caught.split()[1], 16) >> signal.SIGTRAP - 1 & 1
def call():
    global calls
    calls += 1
    if calls == stop:
        raise error
    if handles_trap():
        watched.append(calls)
    zoo_refs.leak_passed(KEY)
def state():
    return handles_trap(), signal.pthread_sigmask(signal.SIG_BLOCK, []), sorted(os.listdir("/proc/self/fd"))
before = state()
report = leaktight.check(call)
assert report.findings[0].stack[0].function == "leak_passed", report
assert report.calls == calls, (report.calls, calls)
assert len(watched) == 8, watched
for stop in list(watched):
    for error in (KeyboardInterrupt(), ValueError("late")):
        calls = 0
        try:
            leaktight.check(call)
        except BaseException as raised:
            assert raised is error, raised
        assert state() == before, (state(), before)
calls, stop = 0, sys.maxsize
assert leaktight.check(call).findings[0].stack[0].function == "leak_passed"
assert state() == before
"""


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_however_the_calls_end_nothing_is_left_over(python):
    done = support.run(python, ["-c", SCRIPT], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0, done.stdout + done.stderr


#: What an innocent function makes and drops, and a guilty one makes and loses, of one kind.
FREE_LISTS = {
    "list": ("x = [a for a in N]; return len(x)", "incref([])"),
    "tuple": ("x = (N[0], N[1]); return len(x)", "incref((N[1], N[0]))"),
    "dict": ("x = {'a': N}; return len(x)", "incref({})"),
    "float": ("return (N[0] * 3.25) > 1", "incref(N[0] * 7.125)"),
}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("kind", FREE_LISTS)
@pytest.mark.parametrize("order", ["innocent(); guilty()", "guilty(); innocent()", "innocent(); innocent(); guilty(); innocent()"])
def test_who_made_an_object_whose_memory_had_another_owner(python, kind, order):
    setup = "import ctypes; incref = ctypes.pythonapi.Py_IncRef; incref.argtypes = [ctypes.py_object]; incref.restype = None"
    innocent, guilty = FREE_LISTS[kind]
    setup += f"\nN = [1.5, 2.5]\ndef innocent(): {innocent}\ndef guilty(): {guilty}"
    done = support.leaktight(python, "check", "--json", "-s", setup, order)
    first, *others = json.loads(done.stdout)["findings"]
    assert first["stack"][0]["function"] == "guilty" and first["type_name"] == kind, first
    assert "earlier_owner" not in first and "a Py_DECREF is missing in what received" in first["message"], first
    # Memory that the innocent one has got from the allocator, and that was handed on in a later call.
    assert all(found["stack"][0]["function"] == "guilty" for found in others), others


def test_a_clean_check_watches_nothing():
    script = "import leaktight; assert leaktight.check(len, 'abc').verdict == 'clean'"
    environment = {**os.environ, "PYTHONPATH": os.environ["LEAKTIGHT_SITE"]} if "LEAKTIGHT_SITE" in os.environ else None
    trace = ["strace", "-f", "-e", "trace=perf_event_open", "-o", "/dev/stdout"]
    try:
        done = subprocess.run([*trace, PYTHON.path, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    except FileNotFoundError:
        pytest.skip("there is no strace")
    assert done.returncode == 0 and "perf_event_open" not in done.stdout, done


def test_under_a_debugger_it_says_so():
    command = ["strace", "-f", "-o", "/dev/null", PYTHON.path, "-m", "leaktight", "check", "--json", "-s", *LEAK]
    site = os.environ.get("LEAKTIGHT_SITE", str(support.ROOT / "python"))
    paths = os.pathsep.join([site, *support.zoo_paths()[PYTHON.version]])
    try:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=300)
    except FileNotFoundError:
        pytest.skip("there is no strace")
    [found] = json.loads(done.stdout)["findings"]
    assert not found["stack"] and "traces this one" in found["stack_note"], found


def test_signals_that_come_meanwhile_are_handled_as_ever():
    script = f"""
import leaktight, signal, zoo_refs
KEY, rang = "time" + str(1), 0
def ring(*_):
    global rang
    rang += 1
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for _ in range(20):
    [finding] = leaktight.check(zoo_refs.leak_passed, KEY, max_calls=512).findings
    assert finding.stack[0].function == "leak_passed", finding
signal.setitimer(signal.ITIMER_REAL, 0)
assert rang > 20 and signal.getsignal({int(signal.SIGTRAP)}) == signal.SIG_DFL
"""
    done = support.run(PYTHON, ["-c", script], paths=support.zoo_paths()[PYTHON.version])
    assert done.returncode == 0, done.stdout + done.stderr


UNOPTIMISED = """
#include <Python.h>
static PyObject *store(PyObject *module, PyObject *argument)
{
    PyObject *first = PyDict_New();
    Py_INCREF(argument);
    PyDict_SetItemString(first, "a", argument);
    PyDict_SetItemString(first, "b", argument);
    PyObject *second = PyDict_Copy(first);
    Py_DECREF(first);
    Py_DECREF(second);
    Py_RETURN_NONE;
}
static PyMethodDef methods[] = {{"store", store, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "unoptimised", NULL, -1, methods};
PyMODINIT_FUNC PyInit_unoptimised(void) { return PyModule_Create(&module); }
"""


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_without_optimisation_py_incref_is_the_work_of_who_calls_it(python, tmp_path):
    """There it is a function, which hides what belongs together."""
    source = tmp_path / "unoptimised.c"
    source.write_text(UNOPTIMISED)
    include = support.run(python, ["-c", "import sysconfig; print(sysconfig.get_paths()['include'])"]).stdout.strip()
    subprocess.run(["cc", "-g", "-O0", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(tmp_path / "unoptimised.so")], check=True)
    setup = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport unoptimised\nclass User: pass\nuser = User()"
    found, _ = finding(python, setup, "unoptimised.store(user)")
    assert found["stack"][0]["source"] == "Py_INCREF(argument);", found
