"""What the library is given wrongly, and what goes wrong in the call: the next check works as if nothing had been.

Each script runs in a process of its own.
"""

from __future__ import annotations

import textwrap

import pytest
from support import pythons, run, zoo_paths

PYTHON = pythons()[0]

PRELUDE = """
import asyncio, ctypes, gc, itertools, os, signal, sys, threading, time, tracemalloc
import leaktight, zoo
from leaktight import CheckError, check

def raised(kind, fun, *args, **options):
    try:
        report = check(fun, *args, **options)
    except BaseException as error:
        assert type(error) is kind, repr(error)
        return str(error)
    raise AssertionError(f"not raised: {kind.__name__}, but {report.verdict}")

def at_call(number, action, leak=zoo.leak_malloc):
    calls = itertools.count(1)
    def call():
        leak()
        if next(calls) == number:
            action()
    return call

def throw(error):
    raise error

def state():
    return gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.get_freeze_count(), hooked()

def hooked():
    # Words in the data of loaded files that point into the core's code: patched slots and allocators.
    with open("/proc/self/maps") as maps:
        lines = maps.readlines()
    spans = []
    for line in lines:
        span, mode, _, _, _, *file = line.split()
        start, end = (int(address, 16) for address in span.split("-"))
        spans.append((start, end, mode, file[0] if file else ""))
    code = [(start, end) for start, end, mode, file in spans if file == leaktight._core.__file__ and "x" in mode]
    count = 0
    for start, end, mode, file in spans:
        if mode[0] == "r" and "x" not in mode and os.path.basename(file).startswith(("lib", "python", "zoo")):
            words = memoryview(ctypes.string_at(start, end - start)).cast("Q")
            count += sum(any(low <= word < high for low, high in code) for word in words if word > 1 << 32)
    return count

def assert_leak(report, size=100):
    assert report.verdict == "leak", str(report)
    assert (report.control.planted, report.control.caught) == (6, 6), report.control
    assert [(found.blocks_per_call, found.bytes_per_call) for found in report.findings] == [(1, size)], str(report)

def assert_clean(report):
    assert report.verdict == "clean", str(report)
    assert (report.control.planted, report.control.caught) == (6, 6), report.control

def assert_works():
    assert_leak(check(zoo.leak_malloc))
    assert_clean(check(zoo.twin_malloc))
    assert_leak(check(zoo.leak_pymem), 80)
    assert state() == before, (before, state())

assert_leak(check(zoo.leak_malloc))  # What stays for good, such as handlers around fork, is there now.
before = state()
"""

SCRIPTS = {
    "the control of these tests": """
        seen = []
        check(at_call(5, lambda: seen.append(hooked())))
        assert seen[0] > before[-1] + 10, (seen, before)
    """,
    "an exception": """
        for number in (1, 2, 3, 16, 100, 1500):
            error = LookupError(number)
            assert raised(LookupError, at_call(number, lambda: throw(error), zoo.twin_malloc)) == str(number)
            assert_works()
    """,
    "an exception once the leak is known": """
        assert raised(LookupError, at_call(17, lambda: throw(LookupError()))) == ""
    """,
    "sys.exit": """
        for number in (1, 40):
            assert raised(SystemExit, at_call(number, lambda: sys.exit(3), zoo.twin_malloc)) == "3"
    """,
    "Ctrl-C in Python": """
        raised(KeyboardInterrupt, at_call(50, lambda: signal.raise_signal(signal.SIGINT), zoo.twin_malloc))
    """,
    "Ctrl-C in native code": """
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        started = time.monotonic()
        raised(KeyboardInterrupt, zoo.twin_malloc, period=10**7)
        assert time.monotonic() - started < 10
    """,
    "a call that does not return": """
        def forever():
            while True: pass
        assert "return" in raised(TimeoutError, forever, time_budget=0.1)
    """,
    "a call that returns just before it is interrupted": """
        sleep_with_gil = ctypes.PyDLL(None).usleep
        for early in (0.001, 0.002):
            report, started = None, time.monotonic()
            end = started + 0.01 + 1 - early
            def call():
                sleep_with_gil(max(0, int((end - time.monotonic()) * 1e6)))
            try:
                report = check(call, time_budget=0.01)
                while time.monotonic() < end + 0.2: pass
            except TimeoutError:
                assert report is None, "raised after the check"
    """,
    "forks": """
        def call(child):
            zoo.leak_malloc()
            pid = os.fork()
            if pid == 0:
                return child()
            assert os.waitpid(pid, 0)[1] == expected << 8
        expected = 0
        assert_leak(check(call, lambda: None, period=16))
        expected = 7
        assert_leak(check(call, lambda: os._exit(7), period=16))
    """,
    "a child that checks on its own": """
        def in_child():
            pid = os.fork()
            if pid == 0:
                try:
                    assert_leak(check(zoo.leak_malloc)); assert_clean(check(zoo.twin_malloc))
                except BaseException as error:
                    os.write(2, repr(error).encode())
                    os._exit(1)
                os._exit(0)
            statuses.append(os.waitpid(pid, 0)[1])
        statuses = []
        in_child()
        def call():
            if not statuses[1:]:
                thread = threading.Thread(target=in_child)
                thread.start(); thread.join()
        check(call, period=16)
        assert statuses == [0, 0], statuses
    """,
    "a nested check": """
        assert "itself" in raised(CheckError, lambda: check(zoo.twin_malloc))
        def tolerant():
            zoo.leak_malloc()
            raised(CheckError, zoo.twin_malloc)
        assert_leak(check(tolerant))
    """,
    "two threads": """
        inside, over = threading.Event(), threading.Event()
        def first():
            inside.set()
            assert over.wait(30)
            zoo.leak_malloc()
        reports = []
        thread = threading.Thread(target=lambda: reports.append(check(first)))
        thread.start()
        assert inside.wait(30)
        said = raised(CheckError, zoo.twin_malloc)
        over.set(); thread.join()
        assert "another thread" in said and "one after the other" in said, said
        assert_leak(reports[0])
    """,
    "wrong arguments": """
        def wrong(kind, name, value):
            said = raised(kind, at_call(1, lambda: os._exit(9)), **{name: value})
            assert name in said, (name, value, said)
        for value in (None, 5, "zoo.leak_malloc()", object()):
            assert "fun must be callable" in raised(TypeError, value)
        for name in ("max_calls", "period"):
            for value in ("5", 1.5, True, b"1", [1]): wrong(TypeError, name, value)
            for value in (0, -1, 2**31, 10**30): wrong(ValueError, name, value)
        for value in ("1", True, 1j, [1]): wrong(TypeError, "time_budget", value)
        for value in (0, -1, -0.5, float("nan"), float("inf"), 1e9, 10**400): wrong(ValueError, "time_budget", value)
        for value in (5, "ValueError", int, ValueError("x"), (ValueError, KeyError)): wrong(TypeError, "raises", value)
        for value in ("memory", 5): wrong(TypeError, "checks", value)
        for value in ([], {"gpu"}, ["memory", "gpu"], [None]): wrong(ValueError, "checks", value)
        wrong(TypeError, "max_call", 5)
        assert leaktight.CHECKS == ("memory", "references", "fds", "threads", "children", "files", "signals", "garbage")
    """,
    "max_calls": """
        for most in (1, 2, 3, 17, 100):
            calls = []
            report = check(calls.append, 0, max_calls=most)
            assert len(calls) == report.calls <= most, (most, len(calls), report.calls)
        zoo.background_start()
        calls = []
        check(lambda: (calls.append(0), zoo.twin_beside_background()), max_calls=2048)
        zoo.background_stop()
        assert len(calls) <= 2048, len(calls)
    """,
    "raises": """
        assert_leak(check(zoo.leak_error_path, raises=ValueError), 112)
        assert_clean(check(zoo.twin_error_path, raises=Exception))
        assert "did not raise ValueError" in raised(AssertionError, zoo.twin_malloc, raises=ValueError)
        assert raised(KeyError, {}.pop, 1, raises=ValueError) == "1"
    """,
    "the garbage collector": """
        for enabled, threshold, debug in itertools.product((True, False), ((700, 10, 10), (123, 4, 5)), (0, gc.DEBUG_SAVEALL)):
            (gc.enable if enabled else gc.disable)()
            gc.set_threshold(*threshold); gc.set_debug(debug)
            before = state()
            assert_works()
            raised(KeyError, {}.pop, 1)
            raised(KeyError, at_call(200, lambda: throw(KeyError()), zoo.twin_malloc))
            assert state() == before, (before, state())
        gc.set_debug(0); gc.collect(); gc.garbage.clear()
        before = None  # No object that dies may be among the frozen ones.
        gc.freeze()
        before = state()
        assert before[3] > 0
        assert_works()
        gc.unfreeze()
        before = state()
    """,
    "tracemalloc": """
        def judge():
            assert_leak(check(zoo.leak_malloc)); assert_leak(check(zoo.leak_pymem), 80)
            assert_clean(check(zoo.twin_malloc)); assert_clean(check(zoo.twin_pymem))
        tracemalloc.start(); judge()
        tracemalloc.stop(); judge()
        tracemalloc.start(5); judge()
        tracemalloc.stop()
        # Started in a call it stands before our hooks, and stays.
        assert_leak(check(at_call(4, tracemalloc.start)))
        assert [check(zoo.leak_malloc).verdict, check(zoo.twin_pymem).verdict] == ["leak", "clean"]
        tracemalloc.stop(); judge()
        assert_leak(check(at_call(4, tracemalloc.start)))
        tracemalloc.stop()
    """,
    "coroutines": """
        async def leaking(size):
            await asyncio.sleep(0)
            zoo.leak_malloc()
        async def clean():
            await asyncio.sleep(0)
            zoo.twin_malloc()
        async def failing():
            raise LookupError("awaited")
        assert_leak(check(leaking, 5))
        assert check(clean).verdict in ("clean", "bounded")
        assert raised(LookupError, failing) == "awaited"
        assert check(failing, raises=LookupError).verdict in ("clean", "bounded")
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_library(name: str) -> None:
    script = PRELUDE + textwrap.dedent(SCRIPTS[name]) + "\nassert_works()\n"
    # What a check leaves open, or awaits never, is an error too; os.fork warns of threads since 3.12.
    warnings = ["-W", "error", "-W", "ignore::DeprecationWarning"]
    done = run(PYTHON, [*warnings, "-c", script], paths=zoo_paths()[PYTHON.version])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr


def test_handlers_of_others_around_fork_may_start_threads() -> None:
    # Registered before ours, and so it runs after ours: OpenBLAS does as much.
    script = """
import ctypes, os, zoo
@ctypes.CFUNCTYPE(None)
def prepare():
    zoo.twin_thread_joined(); zoo.twin_malloc()
ctypes.CDLL(None).__register_atfork(prepare, None, None, None)
def call():
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
import leaktight
report = leaktight.check(call, period=16)
assert report.verdict in ("clean", "bounded"), str(report)
"""
    done = run(PYTHON, ["-W", "ignore::DeprecationWarning", "-c", script], paths=zoo_paths()[PYTHON.version])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
