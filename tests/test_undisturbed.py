"""A correct program stays one while it is checked: what it drops dies at once, and what it raises comes out."""

import os
import signal
import subprocess
import tempfile
import time

import pytest
import support

PYTHONS = support.with_gil()

#: Makes objects before the check. `drop` takes the last reference to one of them away, in each of the first calls.
CONN = """
class Conn:
    open = 0
    def __init__(self, *parts):
        Conn.open += 1
    def __del__(self):
        Conn.open -= 1
"""
#: Setup, and a call; what it needs to be true it asserts.
DROPPED = {
    "a pool that is counted in __del__": (
        CONN + "pool = [Conn() for _ in range(50)]",
        "pool.pop(0); assert Conn.open == 49; pool.append(Conn())",
    ),
    "a pool in a dict of tuples": (
        CONN + "pool = {n: (n, (Conn(), 'x')) for n in range(50)}",
        "if pool:\n  left = len(pool) - 1; del pool[next(iter(pool))]; assert Conn.open == left",
    ),
    "a pool that was empty at first": (
        CONN + "pool = []",
        "global pool; pool.append(Conn()); assert Conn.open == len(pool)\nif len(pool) > 9: pool = []",
    ),
    "a pool of instances": (
        CONN + "class User: pass\npool = []\nfor _ in range(50):\n  u = User(); u.conn = Conn(); pool.append(u)\ndel u",
        "if pool: pool.pop(); assert Conn.open == len(pool)",
    ),
    "a closure": (
        CONN + "def make(conn): return lambda: conn\npool = [make(Conn()) for _ in range(50)]",
        "if pool: pool.pop(); assert Conn.open == len(pool)",
    ),
    "a bound method in a partial": (
        CONN + "import functools\npool = [functools.partial(print, [Conn()].append) for _ in range(50)]",
        "if pool: pool.pop(); assert Conn.open == len(pool)",
    ),
    "a pipe": (
        "import os\npipes = []\nfor _ in range(20):\n  r, w = os.pipe(); pipes.append((open(r, 'rb'), open(w, 'wb')))\ndel r, w",
        "if pipes:\n  r, w = pipes.pop(); del w; assert r.read() == b''",
    ),
    "a file": (
        "import os, tempfile, warnings\nwarnings.simplefilter('ignore')\nd = tempfile.mkdtemp()\n"
        "names = [os.path.join(d, str(n)) for n in range(20)]\nfiles = [open(name, 'w') for name in names]",
        "if files:\n  files.pop().write('x'); assert open(names.pop()).read() == 'x'",
    ),
    "a temporary file": (
        "import os, tempfile, warnings\nwarnings.simplefilter('ignore')\nfiles = [tempfile.NamedTemporaryFile() for _ in range(20)]",
        "if files:\n  f = files.pop(); name = f.name; del f; assert not os.path.exists(name)",
    ),
    "a socket": (
        "import socket, warnings\nwarnings.simplefilter('ignore')\npairs = [socket.socketpair() for _ in range(20)]",
        "if pairs:\n  a, b = pairs.pop(); del b; assert a.recv(1) == b''",
    ),
    "a lock that its owner releases": (
        "import threading\nlock = threading.Lock()\nclass Owner:\n  def __enter__(self): lock.acquire(); return self\n"
        "  def __exit__(self, *e): self.done = True\n  def __del__(self): lock.release()\nowners = [Owner() for _ in range(20)]",
        "if owners:\n  with owners.pop() as owner: pass\n  del owner; assert lock.acquire(timeout=1); lock.release()",
    ),
    "a view of a buffer": (
        "import io\nbuffers = [bytearray(8) for _ in range(20)]\nviews = [memoryview(b) for b in buffers]",
        "if views: views.pop(); buffers.pop().append(1)",
    ),
    "a weak reference": (
        "import weakref\nclass Thing: pass\nthings = [Thing() for _ in range(50)]\ndead = []\n"
        "refs = [weakref.ref(thing, dead.append) for thing in things]",
        "if things: things.pop(0); assert refs[len(dead) - 1]() is None and len(dead) == 50 - len(things)",
    ),
    "a weak reference that a call makes": (
        "import weakref\nclass Thing: pass\nthings = [[Thing()] for _ in range(50)]\nfunctions = [lambda: None for _ in range(50)]",
        "if things:\n  for pool, of in ((things, lambda x: x[0]), (functions, lambda x: x)):\n"
        "    thing = pool.pop(); ref = weakref.ref(of(thing)); del thing; assert ref() is None",
    ),
    "a weak dictionary": (
        "import weakref\nclass Thing: pass\nthings = [Thing() for _ in range(50)]\n"
        "table = weakref.WeakValueDictionary(enumerate(things)); every = weakref.WeakSet(things)",
        "if things: things.pop(); assert len(table) == len(every) == len(things)",
    ),
    "weakref.finalize": (
        "import weakref\nclass Thing: pass\nthings = [Thing() for _ in range(50)]\ngone = []\n"
        "for thing in things: weakref.finalize(thing, gone.append, 1)\ndel thing",
        "if things: things.pop(); assert len(gone) == 50 - len(things)",
    ),
    "a generator": (
        "ended = []\ndef generate():\n  try: yield 1\n  finally: ended.append(1)\n"
        "def begun():\n  g = generate(); next(g); return g\ngenerators = [begun() for _ in range(50)]",
        "if generators: generators.pop(); assert len(ended) == 50 - len(generators)",
    ),
    "a context manager": (
        "import contextlib\nended = []\n@contextlib.contextmanager\ndef manage():\n  try: yield\n  finally: ended.append(1)\n"
        "def entered():\n  s = contextlib.ExitStack(); s.enter_context(manage()); return s\nstacks = [entered() for _ in range(50)]",
        "if stacks: stacks.pop(); assert len(ended) == 50 - len(stacks)",
    ),
}


def judged(python, setup, call, checks="", want=("clean", "bounded")):
    lines = "\n".join("    " + line for line in call.replace("\\n", "\n").splitlines())
    script = f"import leaktight\n{setup}\ndef call():\n{lines}\nreport = leaktight.check(call{checks})\nassert report.verdict in {want!r}, report\n"
    with tempfile.TemporaryDirectory() as folder:  # Of its own, where no other process makes files.
        return support.run(python, ["-c", script], paths=support.zoo_paths()[python.version], env={"TMPDIR": folder})


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("name", DROPPED)
def test_what_is_dropped_dies_at_once(python, name):
    setup, call = DROPPED[name]
    done = judged(python, setup, call)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("when", ("n in (700, 702)", "n == 701", "n == 1", "n == 3", "n % 2 == 0", "n % 4 in (1, 2)", "n > 1000"))
def test_an_exception_comes_out(python, when):
    setup = "import itertools; numbers = itertools.count(1)"
    done = judged(python, setup, f"n = next(numbers)\nif {when}: raise ValueError('the call itself')")
    assert done.returncode == 1 and "ValueError: the call itself" in done.stderr, done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_call_that_waits_for_a_death_of_what_is_held_is_released(python):
    """A list that an extension module names is held; without letting go of it the call would wait for ever."""
    script = """
import leaktight, os, sys
r, w = os.pipe()
sys.files = ['name']
def call():
    sys.files.append(open(w, "wb"))
    sys.files = None
    os.read(r, 1)
try:
    leaktight.check(call, time_budget=0.5)
except TimeoutError:
    print("interrupted")
"""
    done = support.run(python, ["-c", script])
    assert done.stdout == "interrupted\n", done.stdout + done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("of", ("Thing()", "[Thing()]", "{1: Thing()}", "(1, [2])", "lambda: None", "open('/dev/null')"))
def test_over_releases_of_arguments_of_any_kind_are_found(python, of):
    setup = f"import zoo_refs\nclass Thing: pass\nthing = {of}"
    script = f"import leaktight\n{setup}\nreport = leaktight.check(zoo_refs.release_stolen, thing)\nprint([f.kind for f in report.findings], thing)\n"
    done = support.run(python, ["-c", script], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0 and done.stdout.startswith("['over-release']"), done.stdout + done.stderr


SURROUNDINGS = {
    "tracemalloc is stopped by a call": (
        "import tracemalloc; tracemalloc.start(); done = []",
        "if not done: done.append(1); tracemalloc.stop()",
    ),
    "tracemalloc is stopped by a late call": (
        "import tracemalloc; tracemalloc.start(); calls = []",
        "if len(calls) < 100: calls.append(1)\nif len(calls) == 99: tracemalloc.stop()",
    ),
    "tracemalloc runs all the time": ("import tracemalloc; tracemalloc.start()", "[object() for _ in range(20)]"),
    "the collector's objects are thawed by a call": ("import gc", "gc.unfreeze()"),
    "40,000 counts move": (
        "import collections; data = [object() for _ in range(40000)]; kept = collections.deque(maxlen=10)",
        "kept.append(data[:])",
    ),
}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_calls_that_change_what_is_looked_at(python, name):
    setup, call = SURROUNDINGS[name]
    done = judged(python, setup, call)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_leak_is_found_after_tracemalloc_took_the_hooks_out(python):
    setup = "import tracemalloc, ctypes; tracemalloc.start(); lose = ctypes.pythonapi.Py_IncRef; lose.argtypes = [ctypes.py_object]"
    for call in ("lose([object()]); tracemalloc.stop()", "lose(object()); tracemalloc.stop()"):
        done = judged(python, setup, call, want=("leak",))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_what_the_program_has_frozen_stays_frozen(python):
    script = """
import gc, leaktight
kept = [[] for _ in range(1000)]
gc.collect(); gc.freeze()
before = gc.get_freeze_count()
new = [{} for _ in range(1000)]
assert leaktight.check(len, kept).verdict == "clean"
# A few of them die: modules that are imported meanwhile replace them.
assert before - 20 < gc.get_freeze_count() <= before > 1000, (before, gc.get_freeze_count())
found = {id(item) for item in gc.get_objects()}
assert id(new) in found and not any(id(item) in found for item in kept)
del kept
assert gc.get_freeze_count() < before - 900
gc.unfreeze(); gc.collect()
"""
    done = support.run(python, ["-c", script])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_check_on_a_daemon_thread_does_not_keep_the_interpreter_from_ending(python):
    script = """
import leaktight, sys, threading, time
calls = []
def call():
    if len(calls) < 3: calls.append(1)
    [number for number in range(300)]
run = lambda: leaktight.check(call, max_calls=10**9, period=10**6, time_budget=1000)
threading.Thread(target=run, daemon=True).start()
while len(calls) < 3: time.sleep(0.001)
time.sleep(float(sys.argv[1]))
"""
    for seconds in (0, 0.01, 0.03, 0.1):
        done = support.run(python, ["-c", script, str(seconds)], timeout=30)
        assert done.returncode == 0, (seconds, done.returncode, done.stderr)


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_child_that_comes_back_beside_other_threads_ends(python):
    script = """
import leaktight, os, threading
def churn():
    while True: [bytearray(300) for _ in range(100)]; os.urandom(10)
for _ in range(3): threading.Thread(target=churn, daemon=True).start()
def call():
    child = os.fork()
    if child: assert os.waitpid(child, 0)[1] == 0
report = leaktight.check(call, max_calls=100, time_budget=20)
assert report.verdict != "leak", report
"""
    done = support.run(python, ["-W", "ignore", "-c", script], timeout=60)
    assert done.returncode == 0, done.stderr


#: A million objects, and a reference that is leaked: a close look takes longer than all its calls.
MANY = "import leaktight, sys, zoo_refs\nrows = [[n] for n in range(1_000_000)]; key = 'time' + str(1)\n"


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_long_look_ends_with_the_time_budget(python):
    script = MANY + "import time; begun = time.monotonic(); leaktight.check(zoo_refs.leak_passed, key, time_budget=0.2)\n"
    script += "print(time.monotonic() - begun)"
    done = support.run(python, ["-c", script], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0 and float(done.stdout) < 3, done.stdout + done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_ctrl_c_ends_a_long_look(python):
    script = MANY + "print('begun', flush=True)\ntry:\n  leaktight.check(zoo_refs.leak_passed, key, time_budget=60)\n"
    script += "except KeyboardInterrupt:\n  print('interrupted')"
    path = os.pathsep.join([os.environ.get("LEAKTIGHT_SITE", str(support.ROOT / "python")), *support.zoo_paths()[python.version]])
    child = subprocess.Popen(
        [python.path, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=support.ROOT
    )
    assert child.stdout.readline() == "begun\n"
    # In the midst of it: all of it takes some 0.7 s.
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    sent = time.monotonic()
    assert child.communicate(timeout=60)[0] == "interrupted\n"
    assert time.monotonic() - sent < 4
