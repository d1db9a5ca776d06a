"""What calls leave behind beside memory: each with a look-alike that must stay clean."""

from __future__ import annotations

import json
import os
import textwrap

import pytest
from support import pythons, run

PYTHONS = pythons() if os.environ.get("LEAKTIGHT_PYTHONS") == "all" else pythons()[:1]

#: Code before, the call, and what must be found: kind, things per call, a word of the message.
LEAKS = {
    "file": ("keep = []", "keep.append(os.open('/dev/null', os.O_RDONLY))", "fd", 1, "/dev/null"),
    "every third file": (
        "calls = itertools.count()",
        "next(calls) % 3 == 0 and os.open('/dev/null', os.O_RDONLY)",
        "fd",
        1 / 3,
        "every 3rd call",
    ),
    "listening socket": (
        "keep = []",
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); keep.append(s)",
        "fd",
        1,
        "TCP socket 127.0.0.1:",
    ),
    "pipe": ("", "os.pipe()", "fd", 2, "a pipe"),
    "epoll": ("keep = []", "keep.append(select.epoll())", "fd", 1, "eventpoll"),
    "duplicate": ("", "os.dup(0)", "fd", 1, ""),
    "fcntl": ("import fcntl", "fcntl.fcntl(0, fcntl.F_DUPFD, 0)", "fd", 1, ""),
    "Python thread": (
        "stop = threading.Event()",
        "threading.Thread(target=stop.wait, daemon=True, name='worker').start()",
        "thread",
        1,
        "Python thread `worker`",
    ),
    "child process": ("keep = []", "keep.append(subprocess.Popen(['true']))", "child", 1, "`true`"),
    "temporary file": (
        "tempfile.tempdir = sys.argv[1]",
        "fd, name = tempfile.mkstemp(); os.close(fd)",
        "file",
        1,
        "1 temporary file",
    ),
    "temporary folder": ("tempfile.tempdir = sys.argv[1]", "tempfile.mkdtemp()", "file", 1, "1 temporary file"),
}

LOOK_ALIKES = {
    "file closed": ("", "open('/dev/null').close()"),
    "file opened once": ("keep = []", "keep or keep.append(open('/dev/null'))"),
    "file opened late, once": (
        "keep = []; calls = itertools.count()",
        "next(calls) == 300 and keep.append(open('/dev/null'))",
    ),
    "file replaced": ("import types; box = types.SimpleNamespace()", "box.file = open('/dev/null')"),
    "pool of eight files": (
        "import collections; keep = collections.deque(maxlen=8)",
        "keep.append(open('/dev/null'))",
    ),
    "file in a cycle": ("", "box = [open('/dev/null')]; box.append(box)"),
    "output to a file": (
        "path = os.path.join(sys.argv[1], 'out'); os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), 2)",
        "os.write(2, b'x')",
    ),
    "socket closed": ("", "a, b = socket.socketpair(); a.close(); b.close()"),
    "thread joined": ("", "t = threading.Thread(target=int); t.start(); t.join()"),
    "thread that ends by itself": ("", "threading.Thread(target=int).start()"),
    "pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor; pool = ThreadPoolExecutor(4)",
        "pool.submit(int).result()",
    ),
    "child waited for": ("", "subprocess.run(['true'])"),
    "temporary file removed": ("tempfile.tempdir = sys.argv[1]", "tempfile.NamedTemporaryFile().close()"),
    "temporary file rewritten": (
        "path = os.path.join(sys.argv[1], 'same')",
        "open(path, 'w').close()",
    ),
    "cycle": ("", "box = []; box.append(box)"),
    # Was called lost, since captured stacks kept the code alive.
    "code made at each call": (
        "cache = {}; calls = itertools.count()",
        "n = next(calls); n < 100 and cache.update({n: bytearray(50)}); exec(compile('x = [0] * 50', 'made', 'exec'), {})",
    ),
}

SCRIPT = """
import itertools, json, os, select, socket, subprocess, sys, tempfile, threading, warnings
import leaktight
warnings.simplefilter("ignore", ResourceWarning)
{setup}
code = compile({statement!r}, "statement", "exec")
namespace = globals()
def call():
    exec(code, namespace)
report = leaktight.check(call{options})
print("JSON", report.to_json(), flush=True)
os._exit(0)
"""


def judge(python, tmp_path, setup: str, statement: str, options: str = "") -> dict:
    script = textwrap.dedent(SCRIPT).format(setup=setup, statement=statement, options=options)
    # A folder for temporary files that is one by its name, too.
    result = run(python, ["-c", script, str(tmp_path)], env={"TMPDIR": str(tmp_path)})
    _, marker, text = result.stdout.partition("JSON ")
    assert marker, result.stdout + result.stderr
    return json.loads(text)


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("name", LEAKS)
def test_what_is_left_behind_is_found(name: str, python, tmp_path) -> None:
    setup, statement, kind, rate, word = LEAKS[name]
    report = judge(python, tmp_path, setup, statement, ", checks=['fds', 'threads', 'children', 'files']")
    assert report["verdict"] == "leak", report
    found = [finding for finding in report["findings"] if finding["kind"] == kind]
    assert [finding["blocks_per_call"] for finding in found] == [pytest.approx(rate, rel=0.02)], report
    assert word in found[0]["message"], report
    if kind != "child":
        assert found[0]["stack"], report


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_is_given_back_is_not_reported(name: str, python, tmp_path) -> None:
    report = judge(python, tmp_path, *LOOK_ALIKES[name])
    assert (report["verdict"], report["findings"]) in [("clean", []), ("bounded", [])], report


def test_each_can_be_switched_off(tmp_path) -> None:
    setup, statement, *_ = LEAKS["file"]
    report = judge(pythons()[0], tmp_path, setup, statement, ", checks=['threads', 'files'], max_calls=100")
    assert (report["verdict"], report["findings"]) == ("clean", []), report


def test_a_call_that_uses_up_all_descriptors_is_judged_before(tmp_path) -> None:
    setup = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); keep = []"
    report = judge(pythons()[0], tmp_path, setup, "keep.append(os.open('/dev/null', os.O_RDONLY))")
    assert report["verdict"] == "leak" and report["findings"][0]["kind"] == "fd", report
    assert report["calls"] < 200


def test_a_changed_signal_handler_and_a_cycle_are_remarks(tmp_path) -> None:
    setup = "import signal"
    report = judge(pythons()[0], tmp_path, setup, "signal.signal(signal.SIGUSR1, lambda *_: None)")
    assert "the calls changed the handler of SIGUSR1, and did not put it back" in report["remarks"], report
    report = judge(pythons()[0], tmp_path, "", "box = []; box.append(box)")
    assert [remark for remark in report["remarks"] if "list[0] -> list" in remark], report
    assert report["verdict"] == "clean"


TOUCH = """
import mmap
area = mmap.mmap(-1, 64 << 20)
area.madvise(mmap.MADV_NOHUGEPAGE) if hasattr(area, "madvise") else None
pages = itertools.count()
"""


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_pages_that_are_touched_one_by_one_are_found_without_an_allocation(python, tmp_path) -> None:
    report = judge(python, tmp_path, TOUCH, "area[next(pages) * mmap.PAGESIZE] = 1", ", period=64")
    assert report["verdict"] == "leak", report
    [finding] = report["findings"]
    assert finding["bytes_per_call"] == pytest.approx(os.sysconf("SC_PAGESIZE"), rel=0.05)
    assert finding["holder"] == "64 MiB of anonymous memory"


@pytest.mark.parametrize("statement", ["area[0] = 1", "area[next(pages) % 600 * mmap.PAGESIZE] = 1"])
def test_pages_that_are_used_again_are_no_leak(statement: str, tmp_path) -> None:
    report = judge(pythons()[0], tmp_path, TOUCH, statement, ", period=64")
    assert (report["verdict"], report["findings"]) == ("clean", []), report
