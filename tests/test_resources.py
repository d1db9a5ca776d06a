"""What calls leave behind beside memory: each with a look-alike that must stay clean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from support import everywhere, leaktight, pythons, run, zoo_of

import left  # In the zoo's folder, which `support` has put on the path.

PYTHONS = everywhere()

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
    "file renamed": (
        "calls = itertools.count()",
        "part = os.path.join(sys.argv[1], 'part'); open(part, 'w').close(); os.rename(part, part + str(next(calls)))",
        "file",
        1,
        "/part",
    ),
    "file in the current folder": (
        "os.chdir(sys.argv[1]); calls = itertools.count()",
        "open('%d' % next(calls), 'w').close()",
        "file",
        1,
        "1 temporary file",
    ),
    "file in a folder that a link leads to": (
        "calls = itertools.count(); LINK = os.path.join(sys.argv[1], 'link'); os.mkdir(LINK + 'ed'); os.symlink(LINK + 'ed', LINK)",
        "open(os.path.join(LINK, str(next(calls))), 'w').close()",
        "file",
        1,
        "/linked/",
    ),
    "file with a very long path": (
        "calls = itertools.count(); DEEP = os.path.join(sys.argv[1], 'x' * 250, 'y' * 200); os.makedirs(DEEP)",
        "open(os.path.join(DEEP, str(next(calls))), 'w').close()",
        "file",
        1,
        "/yyy",
    ),
    "symbolic link": (
        "calls = itertools.count()",
        "os.symlink('x', os.path.join(sys.argv[1], str(next(calls))))",
        "file",
        1,
        "1 temporary file",
    ),
    "path of a socket": (
        "calls = itertools.count(); os.chdir(sys.argv[1])",
        "s = socket.socket(socket.AF_UNIX); s.bind(str(next(calls))); s.close()",
        "file",
        1,
        "1 temporary file",
    ),
    "shared memory": (
        "from multiprocessing import shared_memory",
        "shared_memory.SharedMemory(create=True, size=4096).close()",
        "ipc",
        1,
        "shared memory /dev/shm/psm_",
    ),
    "descriptor over a socket": (
        "a, b = socket.socketpair()",
        "socket.send_fds(a, [b'x'], [0]); socket.recv_fds(b, 1, 1)",
        "fd",
        1,
        "",
    ),
    "terminal": ("", "os.openpty()", "fd", 2, ""),
    "process": ("", "os.pidfd_open(os.getpid())", "fd", 1, "pidfd"),
    "spawned process": ("", "os.posix_spawn('/bin/true', ['true'], {})", "child", 1, "`true`"),
    "forked process": ("", "os.fork() or os._exit(0)", "child", 1, "python"),
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
    "file renamed and removed": (
        "calls = itertools.count()",
        "part = os.path.join(sys.argv[1], 'part'); open(part, 'w').close(); os.rename(part, part + 'ed'); os.unlink(part + 'ed')",
    ),
    "file renamed onto the same name": (
        "calls = itertools.count()",
        "part = os.path.join(sys.argv[1], str(next(calls))); open(part, 'w').close(); os.replace(part, os.path.join(sys.argv[1], 'final'))",
    ),
    "file renamed out of the temporary folder": (
        "import atexit, shutil; calls = itertools.count(); home = tempfile.mkdtemp(dir=os.path.expanduser('~')); atexit.register(shutil.rmtree, home)",
        "part = os.path.join(sys.argv[1], 'part'); open(part, 'w').close(); shutil.move(part, os.path.join(home, str(next(calls))))",
    ),
    "file made anew in each call": (
        "path = os.path.join(sys.argv[1], 'anew')",
        "os.path.exists(path) and os.unlink(path); open(path, 'w').close()",
    ),
    "temporary folder removed with all that is in it": (
        "",
        "with tempfile.TemporaryDirectory() as d: os.mkdir(d + '/a'); open(d + '/a/b', 'w').close()",
    ),
    "path of a socket removed": (
        "calls = itertools.count(); path = os.path.join(sys.argv[1], 's')",
        "s = socket.socket(socket.AF_UNIX); s.bind(path); s.close(); os.unlink(path)",
    ),
    "shared memory removed": (
        "from multiprocessing import shared_memory",
        "m = shared_memory.SharedMemory(create=True, size=4096); m.close(); m.unlink()",
    ),
    "file made and removed by a child": (
        "path = os.path.join(sys.argv[1], 'x')",
        "subprocess.run(['sh', '-c', ': > %s; rm %s' % (path, path)])",
    ),
    # One name in all, by whoever.
    "file made by a child": ("path = os.path.join(sys.argv[1], 'x')", "subprocess.run(['touch', path])"),
    "terminal closed": ("", "a, b = os.openpty(); os.close(a); os.close(b)"),
    "cycle": ("", "box = []; box.append(box)"),
    # Was called lost, since captured stacks kept the code alive.
    "code made at each call": (
        "cache = {}; calls = itertools.count()",
        "n = next(calls); n < 100 and cache.update({n: bytearray(50)}); exec(compile('x = [0] * 50', 'made', 'exec'), {})",
    ),
}

SCRIPT = """
import itertools, json, os, select, socket, subprocess, sys, tempfile, threading, time, warnings
import leaktight
warnings.simplefilter("ignore", ResourceWarning)
{setup}
code = compile({statement!r}, "statement", "exec")
namespace = globals()
def call():
    exec(code, namespace)
report = leaktight.check(call{options})
print("JSON", report.to_json(), flush=True)
sys.stdout.flush(); atexit._run_exitfuncs() if "atexit" in globals() else None
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
    assert found[0]["stack"], report


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_is_given_back_is_not_reported(name: str, python, tmp_path) -> None:
    report = judge(python, tmp_path, *LOOK_ALIKES[name])
    assert (report["verdict"], report["findings"]) in [("clean", []), ("bounded", [])], report


#: Measures a case first, then has it judged; nothing that it leaves outlives this.
ZOO_SCRIPT = """
import json, os, sys
sys.path.insert(0, {zoo!r})
import left, leaktight
{setup}
def call():
    {statement}
try:
    call()
    before = left.count(FOLDER)
    for _ in range(4):
        call()
    measured = {{kind: (now - before[kind]) / 4 for kind, now in left.count(FOLDER).items()}}
    report = leaktight.check(call, checks=["fds", "children", "files"], period=16)
    print("JSON", json.dumps([measured, json.loads(report.to_json())]), flush=True)
finally:
    zoo_left.remove_all()
"""


def judge_zoo(python, tmp_path, case: left.Left) -> tuple[dict, dict]:
    """What was measured, and the report."""
    script = ZOO_SCRIPT.format(zoo=os.path.dirname(left.__file__), setup=left.SETUP, statement=case.statement)
    result = run(python, ["-c", script], paths=zoo_of(python), env={"TMPDIR": str(tmp_path)})
    _, marker, text = result.stdout.partition("JSON ")
    assert marker, result.stdout + result.stderr
    return json.loads(text)


@pytest.mark.parametrize("function, arguments", [("open", "b'/dev/null', 0"), ("dup", "0"), ("pipe", "pair"), ("posix_openpt", "2")])
def test_what_is_opened_through_a_pointer_has_its_line(function, arguments, tmp_path):
    setup = f"import ctypes; pair = (ctypes.c_int * 2)(); take = ctypes.CDLL(None).{function}"
    report = judge(PYTHONS[0], tmp_path, setup, f"take({arguments})")
    [finding] = report["findings"]
    assert finding["kind"] == "fd" and finding["stack"] and finding["stack"][-1]["python"], report


#: Makes names in a folder until it is ended.
NEIGHBOUR = "import itertools, os, sys, time\nfor n in itertools.count(): os.mkdir(f'{sys.argv[1]}/{n}'); time.sleep(0.005)"


def test_a_neighbours_names_do_not_blur_those_of_the_calls(tmp_path) -> None:
    case = next(case for case in left.LEAKS if case.name == "leave_by_system_call")
    (tmp_path / "neighbour").mkdir()
    with subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(tmp_path / "neighbour")]) as neighbour:
        try:
            _, report = judge_zoo(PYTHONS[0], tmp_path, case)
        finally:
            neighbour.kill()
    found = [(finding["blocks_per_call"], finding.get("every")) for finding in report["findings"]]
    assert found == [(1, 1)], report


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("case", left.LEAKS, ids=lambda case: case.name)
def test_what_is_left_behind_is_found_at_its_line(case: left.Left, python, tmp_path) -> None:
    measured, report = judge_zoo(python, tmp_path, case)
    assert {kind: count for kind, count in measured.items() if count} == dict(case.things), "the manifest is wrong"
    assert report["verdict"] == "leak", report
    found = {finding["kind"]: (finding["blocks_per_call"], finding.get("every")) for finding in report["findings"]}
    assert found == {kind: (count, 1) for kind, count in case.things}, report
    for finding in report["findings"]:
        # A descriptor may be of anything, such as what this test's own output goes to.
        assert finding["examples"] and case.example in finding["examples"][0] or finding["kind"] == "child", report
        if case.marker is None:
            assert not finding["stack"] and "were not seen to make" in "".join(report["remarks"]), report
        else:
            lines = [frame["line"] for frame in finding["stack"] if (frame["file"] or "").endswith("zoo_left.c")]
            assert lines and lines[0] == case.line(), report


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("case", left.TWINS, ids=lambda case: case.name)
def test_its_twin_is_not_reported(case: left.Left, python, tmp_path) -> None:
    measured, report = judge_zoo(python, tmp_path, case)
    assert not any(measured.values()), measured
    assert (report["verdict"], report["findings"]) in [("clean", []), ("bounded", [])], report


#: Makes a file about every 3 ms, whatever the calls do.
OTHER = """
import subprocess
code = "import itertools, sys, time\\nfor n in itertools.count(): open(sys.argv[1] + '/other-%d' % n, 'w').close(); time.sleep(.003)"
other = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]])
import atexit; atexit.register(other.kill)
"""
OTHER_THREAD = """
def work():
    for n in itertools.count():
        open(sys.argv[1] + '/other-%d' % n, 'w').close(); time.sleep(.003)
threading.Thread(target=work, daemon=True).start()
"""


@pytest.mark.parametrize("setup", [OTHER, OTHER_THREAD], ids=["process", "thread"])
def test_names_that_others_make_are_not_blamed_on_the_calls(setup: str, tmp_path) -> None:
    report = judge(pythons()[0], tmp_path, setup, "time.sleep(.0005)", ", checks=['files']")
    assert any(name.startswith("other-") for name in os.listdir(tmp_path)), "nobody made any"
    assert (report["verdict"], report["findings"]) in [("clean", []), ("bounded", [])], report


def test_files_that_children_make_are_found_without_a_place(tmp_path) -> None:
    setup = "calls = itertools.count()"
    report = judge(pythons()[0], tmp_path, setup, "subprocess.run(['touch', sys.argv[1] + '/%d' % next(calls)])", ", period=16")
    assert report["verdict"] == "leak", report
    [finding] = report["findings"]
    assert (finding["kind"], finding["blocks_per_call"], finding["stack"]) == ("file", 1, []), report
    [remark] = [remark for remark in report["remarks"] if "were not seen to make" in remark]
    assert str(tmp_path) in remark


def test_what_cannot_be_told_from_the_work_of_others_is_a_remark(tmp_path) -> None:
    # So few come that none in a second says nothing.
    statement = "time.sleep(.35); subprocess.run(['touch', sys.argv[1] + '/%d' % next(calls)])"
    said = []
    # Where the machine is busy they may not come evenly, and then they are others' for sure.
    for attempt in "abc":
        folder = tmp_path / attempt
        folder.mkdir()
        report = judge(pythons()[0], folder, "calls = itertools.count()", statement, ", max_calls=18, checks=['files']")
        assert (report["verdict"], report["findings"]) in [("clean", []), ("bounded", [])], report
        said = [remark for remark in report["remarks"] if "were not seen to make" in remark]
        if said:
            assert len(said) == 1 and str(folder) in said[0] and "other processes may have made them" in said[0], report
            return
    pytest.fail("nothing was said of them")


#: In a folder that is one of many in the folder for temporary files, and was there before the calls.
OWN_FOLDER = "calls = itertools.count(); own = tempfile.mkdtemp()"
UNSEEN = {
    "shell": "os.system('touch %s/%d' % (own, next(calls)))",
    # mknod(2), a regular file.
    "system call": "libc.syscall(133, ('%s/%d' % (own, next(calls))).encode(), 0o100600, 0)",
}


@pytest.mark.parametrize("name", UNSEEN)
def test_names_made_unseen_in_an_own_folder_are_found(name: str, tmp_path) -> None:
    setup = OWN_FOLDER + "; import ctypes; libc = ctypes.CDLL(None)"
    if name == "system call" and os.uname().machine != "x86_64":
        setup, UNSEEN[name] = OWN_FOLDER, UNSEEN["shell"]
    report = judge(pythons()[0], tmp_path, setup, UNSEEN[name], ", period=16")
    assert report["verdict"] == "leak", report
    [finding] = report["findings"]
    assert (finding["kind"], finding["blocks_per_call"], finding["stack"]) == ("file", 1, []), report


def test_a_row_of_names_at_once_is_not_blamed_on_the_calls(tmp_path) -> None:
    # Another program makes them all during one call, and between two close looks.
    code = """
import os, sys, time
while not os.path.exists(sys.argv[1] + '/go'):
    time.sleep(.001)
for number in range(40):
    open(sys.argv[1] + '/other-%d' % number, 'w').close()
"""
    setup = f'import subprocess; other = subprocess.Popen([sys.executable, "-S", "-c", {code!r}, sys.argv[1]]); calls = itertools.count()'
    statement = "next(calls) == 5 and open(sys.argv[1] + '/go', 'w').close(); time.sleep(.04)"
    report = judge(pythons()[0], tmp_path, setup, statement, ", checks=['files'], period=4")
    assert len(os.listdir(tmp_path)) == 41, "nobody made any"
    # Other programs may be at work in other folders.
    remarks = [remark for remark in report["remarks"] if str(tmp_path) in remark]
    assert report["verdict"] in ("clean", "bounded") and not report["findings"] and not remarks, report


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
def test_pages_that_are_touched_one_by_one_are_told_without_an_allocation(python, tmp_path) -> None:
    report = judge(python, tmp_path, TOUCH, "area[next(pages) * mmap.PAGESIZE] = 1", ", period=64, max_calls=12_000")
    # An arena of a library's own, or a buffer that is being filled.
    assert report["verdict"] == "indeterminate" and "a buffer that is being filled looks the same" in report["reason"], report
    [finding] = report["findings"]
    assert finding["bytes_per_call"] == pytest.approx(os.sysconf("SC_PAGESIZE"), rel=0.05)
    assert finding["holder"] == "a region of 64 MiB of anonymous memory"


def test_a_buffer_that_is_full_in_the_end_is_no_leak(tmp_path) -> None:
    setup = TOUCH.replace("64 << 20", "16 << 20")
    report = judge(pythons()[0], tmp_path, setup, "area[next(pages) % 4096 * mmap.PAGESIZE] = 1", ", period=64")
    assert report["verdict"] in ("clean", "bounded"), report


@pytest.mark.parametrize("statement", ["area[0] = 1", "area[next(pages) % 600 * mmap.PAGESIZE] = 1"])
def test_pages_that_are_used_again_are_no_leak(statement: str, tmp_path) -> None:
    report = judge(pythons()[0], tmp_path, TOUCH, statement, ", period=64")
    assert (report["verdict"], report["findings"]) == ("clean", []), report


RINGS = """
import os
held, calls = [None] * 64, [0]
def ring(size):
    at = calls[0] % size
    calls[0] += 1
    if held[at] is not None: os.close(held[at])
    held[at] = os.open("/dev/null", os.O_RDONLY)
def pool(size):
    if len(held) < 64 + size: held.append(os.open("/dev/null", os.O_RDONLY))
"""


@pytest.mark.parametrize("arguments", [("--period", "1"), ("--period", "16"), ("--max-calls", "64"), ("--max-calls", "100")], ids=" ".join)
def test_a_ring_or_a_pool_of_64_is_no_leak_in_a_few_calls(arguments):
    for size in (8, 33, 40, 48, 64):
        for statement in (f"ring({size})", f"pool({size})"):
            report = json.loads(leaktight(pythons()[0], "check", "--json", *arguments, "-s", RINGS, statement).stdout)
            assert report["verdict"] != "leak", (statement, report)
