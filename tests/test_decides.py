"""What is sure, and what is said where it is not: caches, too few calls, too little time."""

from __future__ import annotations

import json

import pytest
from support import leaktight, pythons, run, with_gil

PYTHONS = with_gil()

CHECK = """
import functools, itertools, leaktight, time
n = itertools.count(1000)
{setup}
def call():
    {call}
print(leaktight.check(call{options}).to_json())
"""

LRU = "@functools.lru_cache(maxsize={})\ndef f({}): {}\n"

#: Code before, the call, options, the verdict, and words of the reason or the findings.
GROWTH = {
    "an lru_cache that is not full": (
        LRU.format(20000, "x", "return str(x)"),
        "f(next(n))",
        "max_calls=9000",
        "bounded",
        "`f`, which has 9,000 of at most 20,000 entries",
    ),
    "an lru_cache up to the end": (
        LRU.format(100_000, "x", "return [str(x)]"),
        "f(next(n))",
        "",
        "bounded",
        "of at most 100,000 entries",
    ),
    "an lru_cache by several arguments, of tuples": (
        LRU.format(20000, "x, y", "return (x, str(x))"),
        "k = next(n); f(k, k + 1)",
        "max_calls=9000",
        "bounded",
        "9,000 of at most 20,000",
    ),
    "an lru_cache of instances": (
        "class V:\n    def __init__(self, x): self.name = 'n%d' % x\nf = functools.lru_cache(20000)(V)",
        "f(next(n))",
        "max_calls=9000",
        "bounded",
        "9,000 of at most 20,000",
    ),
    "an lru_cache of few calls": (
        LRU.format(20000, "x", "return str(x)"),
        "f(next(n))",
        "max_calls=500, period=512",
        "indeterminate",
        "500 of 2,048 calls; memory grows, held by the `lru_cache` of `f`",
    ),
    "an lru_cache that is full": (LRU.format(1000, "x", "return str(x)"), "f(next(n))", "max_calls=9000", "bounded", "stopped growing"),
    "an lru_cache without a limit": (
        LRU.format(None, "x", "return str(x)"),
        "f(next(n))",
        "max_calls=9000",
        "indeterminate",
        "a cache of more than 9,000 entries looks the same",
    ),
    "an lru_cache without a limit, up to the end": (LRU.format(None, "x", "return str(x)"), "f(next(n))", "", "leak", ""),
    "a list that is one entry of an lru_cache": (
        LRU.format(100_000, "", "return []"),
        "f().append(object())",
        "max_calls=9000",
        "indeterminate",
        "looks the same",
    ),
    "a list beside an lru_cache": (
        "k = []\n" + LRU.format(100_000, "x", "return str(x)"),
        "f(next(n)); k.append(object())",
        "",
        "leak",
        "",
    ),
    "a list that a cached function fills": (
        "k = []\n" + LRU.format(100_000, "x", "k.append(object())"),
        "f(next(n))",
        "",
        "leak",
        "held by a list",
    ),
    "a cache that is full late": (
        "d = {}",
        "k = next(n)\n    if len(d) < 10000: d['word-%d' % k] = None",
        "",
        "bounded",
        "stopped growing",
    ),
    "a cache that is not full": (
        "d = {}",
        "k = next(n)\n    if len(d) < 10000: d['word-%d' % k] = None",
        "max_calls=9000",
        "indeterminate",
        "a cache of more than 9,000 entries looks the same",
    ),
    "a table of random slots": (
        "t = [None] * 16384",
        "s = 'user-%08d' % next(n); t[hash(s) % 16384] = s",
        "",
        "bounded",
        "grows ever more slowly",
    ),
    "a list that grows": ("k = []", "k.append({})", "", "leak", ""),
    "a callback that stays": ("k = {}", "k[next(n)] = lambda: None", "", "leak", ""),
    "a list in a thread's own data": (
        "import threading\nown = threading.local(); own.k = []",
        "own.k.append({})",
        "",
        "leak",
        "",
    ),
    "a slow list that grows": (
        "k = []",
        "k.append({}); end = time.perf_counter() + 2e-4\n    while time.perf_counter() < end: pass",
        "",
        "leak",
        "",
    ),
    "a list that grows, and little time": (
        "k = []",
        "k.append({}); time.sleep(0.01)",
        "time_budget=1",
        "indeterminate",
        "held by a list",
    ),
}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("name", GROWTH)
def test_growth_is_told_from_caches(python, name):
    setup, call, options, verdict, words = GROWTH[name]
    done = run(python, ["-c", CHECK.format(setup=setup, call=call, options=", " + options if options else "")])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    said = " ".join([report["reason"], *(finding["message"] for finding in report["findings"])])
    assert (report["verdict"], words in said) == (verdict, True), report


def test_a_check_that_did_not_come_far_enough_is_not_clean():
    rare = "n = next(c); n % 30 or k.append(bytearray(100)); time.sleep(0.01)"
    for statement in ("time.sleep(0.01)", rare):
        arguments = ["--time-budget", "1", "-s", "import itertools, time; c = itertools.count(1); k = []", statement]
        done = leaktight(pythons()[0], "check", *arguments)
        assert done.returncode == 3, done.stdout
        assert done.stdout.startswith("INDETERMINATE"), done.stdout
    done = leaktight(pythons()[0], "check", "--time-budget", "1", "-s", "import time", "time.sleep(0.02)")
    said = " ".join(done.stdout.split())
    assert "stopped by the time budget after" in said and "of 2,048 calls; nothing stayed behind in step with them, up to a period of" in said


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--max-calls", "100"], 0, "no leak with a period up to 15 calls"),
        (["--max-calls", "100", "--period", "8"], 0, "no leak with a period up to 8 calls"),
        (["--max-calls", "9000"], 0, "no leak with a period up to 512 calls"),
        (["--max-calls", "100", "--period", "512"], 3, "stopped by the limit on calls after 100 of 2,048 calls; nothing"),
        (["--max-calls", "8"], 3, "stopped by the limit on calls after 8 calls; so few calls say nothing"),
    ],
)
def test_the_period_or_the_limit_on_calls_says_how_deep_to_look(arguments, status, words):
    done = leaktight(pythons()[0], "check", *arguments, "len('')")
    assert (done.returncode, words in done.stdout) == (status, True), done.stdout
    assert ("no leak" in done.stdout) == (status == 0), done.stdout


REFERENCES = """
import ctypes, leaktight
shared = object()
incref = ctypes.pythonapi.Py_IncRef; incref.argtypes = [ctypes.py_object]; incref.restype = None
print(leaktight.check(lambda: {call}, period=16, max_calls=66).to_json())
"""


def test_counts_that_moved_and_were_not_followed_are_not_clean():
    # After 64 calls memory is clean, and two more are not enough for a close look.
    done = run(pythons()[0], ["-c", REFERENCES.format(call="incref(shared)")])
    report = json.loads(done.stdout)
    assert report["verdict"] == "indeterminate" and "reference counts of some objects moved" in report["reason"], report
    done = run(pythons()[0], ["-c", REFERENCES.format(call="len([shared])")])
    assert json.loads(done.stdout)["verdict"] == "clean", done.stdout


WORKER = """
import collections, queue, threading
jobs, done, kept, ring = queue.Queue(), queue.Queue(), [], collections.deque(maxlen=100)
def work():
    while True:
        jobs.get()()
threading.Thread(target=work, daemon=True).start()
def wait(job):
    jobs.put(lambda: done.put(job()))
    done.get()
import ctypes
incref = ctypes.pythonapi.Py_IncRef; incref.argtypes = [ctypes.py_object]; incref.restype = None
shared = object()
def beat():
    import time
    while True:
        time.sleep(0.003)
        kept.append(bytearray(70))
"""


@pytest.mark.parametrize(
    ("statement", "verdict"),
    [
        ("wait(lambda: kept.append(bytearray(300)))", "leak"),
        # Nobody waits: the thread does many jobs at once, some of them between the calls.
        ("jobs.put(lambda: kept.append(bytearray(300)))", "leak"),
        ("jobs.put(lambda: incref(shared))", "leak"),
        ("jobs.put(lambda: ring.append(bytearray(300)))", "clean"),
        ("jobs.put(lambda: bytearray(300))", "clean"),
    ],
)
def test_a_thread_behind_a_queue_works_for_the_calls(statement, verdict):
    report = json.loads(leaktight(pythons()[0], "check", "--json", "-s", WORKER, statement).stdout)
    # What the queues hold for a moment may look like a cache.
    assert report["verdict"] == verdict or verdict == "clean" and report["verdict"] == "bounded", report


def test_a_thread_that_minds_its_own_business_is_left_out():
    setup = WORKER + "threading.Thread(target=beat, daemon=True).start()"
    report = json.loads(leaktight(pythons()[0], "check", "--json", "-s", setup, "len('x' * 50)").stdout)
    assert (report["verdict"], report["findings"]) == ("clean", []), report


@pytest.mark.parametrize("python", with_gil(), ids=str)
def test_a_call_is_not_interrupted_for_what_came_before_it(python):
    """The time was spent by a collection between the calls, which is over when the next one begins."""
    script = """
import gc, time, leaktight
calls, slow = [], []
def late(phase, info):
    if phase == "stop" and len(calls) == 2 and not slow:
        slow.append(time.sleep(2))
gc.callbacks.append(late)
def call():
    calls.append(None)
    time.sleep(0.3)
report = leaktight.check(call, checks=["memory"], time_budget=0.5, max_calls=20)
assert slow and len(calls) == 3, (slow, calls)
print(report.verdict, len(calls))
"""
    done = run(python, ["-c", script])
    assert done.returncode == 0 and done.stdout.startswith("indeterminate"), done.stdout + done.stderr
