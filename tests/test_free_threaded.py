"""What is true without a GIL: nobody switches it on, figures are exact beside busy threads, and what cannot be seen is told."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time

import packages
import pytest
import support
from manifest import find

pytestmark = pytest.mark.parametrize("python", support.free_threaded(), ids=str)

#: Two threads that allocate and free all the time, cycles for the collector among it.
BUSY = """
import threading
def work(number):
    kept = {}
    while True:
        number += 1
        kept[number % 50] = [str(number), (number, float(number)), {number: bytes(number % 100)}]
        cycle = []
        cycle.append(cycle)
for seed in (1, 10**6):
    threading.Thread(target=work, args=(seed,), daemon=True).start()
"""

#: Of each allocator, of objects that come from free lists, and of those that do not leak.
BESIDE = ["leak_malloc", "leak_pymem", "leak_list", "leak_dict", "leak_bytes", "leak_every_50th", "leak_thread_joined", "cy_leak_malloc"]
BESIDE += ["twin_malloc", "twin_objects", "twin_thread_joined"]


@pytest.mark.parametrize("case", map(find, BESIDE), ids=lambda case: case.name)
def test_figures_are_exact_beside_busy_threads(python, case):
    case = dataclasses.replace(case, setup=BUSY + case.setup)
    assert support.complaint(python, case, support.check(python, case, "--time-budget", "100")) == ""


def test_the_gil_stays_off(python):
    script = "import sys, leaktight, zoo; leaktight.check(zoo.leak_malloc, max_calls=64); assert not sys._is_gil_enabled()"
    done = support.run(python, ["-W", "error", "-c", script], paths=support.zoo_of(python))
    assert (done.returncode, done.stderr) == (0, ""), done


def test_frames_are_right_on_threads_that_run_copies_of_the_code(python):
    """Each thread but the first specialises a copy of its own (Objects/codeobject.c, `_PyCode_GetTLBC`)."""
    script = """
import threading, leaktight, zoo
def inner(n):
    for _ in range(n):
        len(str(n))
    zoo.leak_malloc()

def outer(): inner(3)
def call():
    thread = threading.Thread(target=outer)
    thread.start()
    thread.join()
lines = []
def judge():
    stack = leaktight.check(call).findings[0].stack
    lines.append([(frame.function, frame.line) for frame in stack if frame.python and frame.file == '<string>'])
judge()
other = threading.Thread(target=judge)
other.start()
other.join()
assert lines == [[('inner', 6), ('outer', 8)]] * 2, lines
"""
    done = support.run(python, ["-c", script], paths=support.zoo_of(python))
    assert done.returncode == 0, done.stderr


def test_references_are_not_counted_and_that_is_told_everywhere(python, tmp_path):
    spot = "leaked references to objects that live on anyway (they are not counted on free-threaded CPython)"
    done = support.leaktight(python, "check", "--json", "-s", "import zoo_refs; KEY = 'time' + str(1)", "zoo_refs.leak_passed(KEY)")
    report = json.loads(done.stdout)
    assert (report["verdict"], report["not_done"], report.get("objects", 0)) == ("clean", [spot], 0), report
    text = " ".join(support.leaktight(python, "check", "len('')").stdout.split())
    assert f"not seen here: {spot}" in text, text
    # Who asks for nothing else has asked in vain.
    done = support.leaktight(python, "check", "--json", "--checks", "references", "len('')")
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]) == (3, "indeterminate") and spot in report["reason"], report
    script = f"""
import warnings, leaktight
class Test(leaktight.MemoryLeakTestCase): pass
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    Test().execute(len, "")
assert [str(warning.message) for warning in caught] == ["leaktight cannot see here: {spot}"], caught
try:
    Test().execute(len, "", checkers=leaktight.Checkers.only("refcounts"))
except leaktight.CheckError as why:
    assert "{spot}" in " ".join(str(why).split()), why
else:
    raise AssertionError
"""
    done = support.run(python, ["-W", "ignore:leaktight cannot see here", "-c", script])
    assert done.returncode == 0, done.stderr


#: Pure Python, as in requirements.txt.
PYTEST = ["--no-deps", "pytest==8.4.2", "iniconfig==2.1.0", "packaging==26.3", "pluggy==1.6.0", "pygments==2.21.0"]


def test_pytest_names_exactly_the_leaking_tests(python, tmp_path):
    for file in (support.ROOT / "tests" / "pytest-demo").glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    tools = packages.wheels("pytest", PYTEST, python.version, free_threaded=True)
    done = support.run(
        python, ["-m", "pytest", "-p", "no:cacheprovider", "--leaks", str(tmp_path)], paths=[tools, *support.zoo_of(python)], timeout=600
    )
    # One keeps what it makes, and can be told from a cache only where there is the time for thousands of calls.
    assert done.returncode == 1 and (" 11 leaked in " in done.stdout or " 10 leaked in " in done.stdout), done.stdout
    leaked = {line.split("::")[-1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("LEAKED ")}
    assert leaked and all("leaks" in name for name in leaked), leaked
    assert "not seen here: leaked references" in done.stdout, done.stdout


CRASH = """
import gc, json, sys, threading, time
import leaktight, zoo
over = threading.Event()
def start_and_end():
    while not over.is_set():
        threads = [threading.Thread(target=lambda: [bytes(n) for n in range(300)]) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
def collect():
    while not over.is_set():
        gc.collect()
        gc.get_objects()
def make_types():
    while not over.is_set():
        kept = [type(f"T{n}", (dict,), {"slot": n})() for n in range(50)]
        del kept
def trace():
    import tracemalloc
    while not over.is_set():
        tracemalloc.start()
        kept = [str(n) for n in range(1000)]
        tracemalloc.stop()
        over.wait(0.01)
refused = []
def check_too():
    while not over.is_set():
        try:
            leaktight.check(zoo.twin_malloc, max_calls=64)
        except leaktight.CheckError as why:
            refused.append(str(why))
        over.wait(0.001)
wrong = []
work = [globals()[name] for name in sys.argv[2:]]
others = [threading.Thread(target=task) for task in work]
for thread in others: thread.start()
end, checks = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end or checks < 2:
    try:
        for call, verdicts in ((zoo.leak_list, ["leak"]), (zoo.leak_malloc, ["leak"]), (zoo.twin_malloc, ["clean", "bounded"])):
            report = leaktight.check(call, period=8, time_budget=60)
            if report.verdict not in verdicts:
                wrong.append(str(report))
            checks += 1
    except leaktight.CheckError:
        if check_too not in work:
            raise
over.set()
for thread in others: thread.join()
print(json.dumps({"checks": checks, "wrong": wrong, "refused": len(refused)}))
"""


@pytest.mark.parametrize("work", ["start_and_end", "collect", "make_types", "trace", "check_too"])
def test_nothing_crashes_beside(python, work):
    done = support.run(python, ["-X", "faulthandler", "-c", CRASH, "3", work], paths=support.zoo_of(python), timeout=300)
    assert done.returncode == 0, done
    result = json.loads(done.stdout)
    assert result["checks"] >= 2 and result["wrong"] == [], result
    assert (result["refused"] > 0) == (work == "check_too"), result


def test_ctrl_c_beside_busy_threads(python):
    setup = BUSY + "import zoo, time\n"
    command = [python.path, "-m", "leaktight", "check", "--time-budget", "100", "-s", setup, "time.sleep(0.001); zoo.twin_malloc()"]
    environment = support.environment_of(python, support.zoo_of(python))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, (out, err)
