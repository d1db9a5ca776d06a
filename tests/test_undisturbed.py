"""A correct program stays one while it is checked: what it drops dies at once, and what it raises comes out."""

import os

import pytest
import support

EVERYWHERE = os.environ.get("LEAKTIGHT_PYTHONS") == "all"
PYTHONS = support.pythons() if EVERYWHERE else support.pythons()[:1]

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
    return support.run(python, ["-c", script], paths=support.zoo_paths()[python.version])


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
sys.files = []
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
