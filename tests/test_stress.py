"""Short checks in a row, in a process where everything else happens at the same time."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Callable

from support import pythons, run, zoo_paths

SECONDS = 10

#: So many verdicts there must be, however long they take.
VERDICTS = 5

#: A library of its own: threads that allocate without Python, and something to load and unload.
LIBRARY = """
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int stopping;
static pthread_t threads[8];
static int started;

/* Returns the number of bytes that it has written. */
size_t touch(size_t count)
{
    size_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = 1 + i * 37 % 3000;
        char *block = realloc(malloc(size), 2 * size);
        if (block == NULL)
            abort();
        memset(block, 1, 2 * size);
        sum += 2 * size;
        free(block);
    }
    return sum;
}

static void *body(void *unused)
{
    (void)unused;
    while (!stopping) {
        touch(50);
        usleep(200);
    }
    return NULL;
}

void busy_start(int count)
{
    for (started = 0; started < count; started++)
        if (pthread_create(&threads[started], NULL, body, NULL) != 0)
            abort();
}

void busy_stop(void)
{
    stopping = 1;
    while (started > 0)
        pthread_join(threads[--started], NULL);
}
"""

SCRIPT = """
import _ctypes, collections, ctypes, faulthandler, importlib, itertools, json, os, shutil, signal, sys, threading, time
import leaktight, zoo

faulthandler.enable()
library, seconds, verdicts = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
counts, wrong = collections.Counter(), []
over = threading.Event()

# Each lets go for a moment after a round, or two processors would do nothing else.
PAUSE = 0.0005

def allocate():
    while not over.wait(PAUSE):
        kept = [bytes(n) for n in range(0, 3000, 7)]
        tables = [{str(n): [n]} for n in range(50)]
        counts["allocation rounds"] += 1

def start_and_end_threads():
    while not over.wait(PAUSE):
        threads = [threading.Thread(target=bytes, args=(1000,)) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        counts["threads"] += len(threads)

def import_modules():
    while not over.wait(PAUSE):
        for name in ("colorsys", "stringprep", "keyword", "bisect"):
            sys.modules.pop(name, None)
            importlib.import_module(name)
            counts["imports"] += 1

def load_and_unload():
    for number in itertools.count():
        if over.wait(PAUSE):
            return
        copy = f"{library}.{number}.so"
        shutil.copy(library, copy)
        loaded = ctypes.CDLL(copy)
        assert loaded.touch(10) == 2 * sum(1 + i * 37 % 3000 for i in range(10))
        _ctypes.dlclose(loaded._handle)
        os.unlink(copy)
        counts["loaded and unloaded"] += 1

def fork_children():
    while not over.wait(PAUSE):
        child = os.fork()
        if child == 0:
            kept = [bytes(n) for n in range(600)]
            os._exit(len(kept) % 256)
        if os.waitpid(child, 0)[1] != (600 % 256) << 8:
            wrong.append("a forked child did not get to its end")
        counts["forks"] += 1

def tick(number, frame):
    counts["ticks"] += 1

failures = []
threading.excepthook = lambda arguments: failures.append(repr(arguments.exc_value))
work = [allocate, allocate, start_and_end_threads, import_modules, load_and_unload, fork_children]
work = [task for task in work if task.__name__ not in sys.argv[4:]]
threads = [threading.Thread(target=task) for task in work]
busy = ctypes.CDLL(library)
busy.busy_start(2)
for thread in threads: thread.start()
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

# (None of them comes from a free list: there another thread may have put what a call takes.)
LEAKS = [("leak_malloc", 1, 100), ("leak_pymem", 1, 80), ("leak_nested", 1, 256), ("leak_bytes", 1, 133), ("leak_strdup", 1, 5)]
TWINS = ["twin_malloc", "twin_strdup", "twin_pymem", "twin_fragmenting"]
end = time.monotonic() + seconds
for number in itertools.count():
    decided = min(counts["leaking calls judged"], counts["clean calls judged"])
    if time.monotonic() > end and (decided >= verdicts or counts["undecided"] > 2 * verdicts):
        break
    name, blocks, size = LEAKS[number % len(LEAKS)]
    report = leaktight.check(getattr(zoo, name), period=8)
    found = [(each.blocks_per_call, each.bytes_per_call) for each in report.findings]
    if report.verdict != "leak" or found != [(blocks, size)] or report.control.caught != 6:
        wrong.append(f"{name}: {report}")
    counts["leaking calls judged"] += 1
    twin = TWINS[number % len(TWINS)]
    report = leaktight.check(getattr(zoo, twin), period=8)
    # What other threads do to the counts of shared objects may leave no time to find out.
    is_undecided = report.verdict == "indeterminate" and "reference counts of some objects moved" in report.reason
    if report.verdict not in ("clean", "bounded") and not is_undecided or report.control.caught != 6:
        wrong.append(f"{twin}: {report}")
    counts["undecided" if is_undecided else "clean calls judged"] += 1

signal.setitimer(signal.ITIMER_REAL, 0)
over.set()
for thread in threads: thread.join()
busy.busy_stop()
print(json.dumps({"counts": counts, "wrong": wrong + failures}))
"""


def test_checks_while_everything_else_happens(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    python = pythons()[0]
    library = build(tmp_path)
    seconds = os.environ.get("LEAKTIGHT_STRESS_SECONDS", str(SECONDS))
    # Tasks that are left out, where a tool around this does not stand them.
    without = os.environ.get("LEAKTIGHT_STRESS_WITHOUT", "").split()
    # Since 3.12 os.fork warns where there are threads.
    arguments = ["-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(library), seconds, str(VERDICTS), *without]
    done = run(python, arguments, paths=zoo_paths()[python.version], timeout=240 + 3 * float(seconds))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name, count in result["counts"].items():
        record_property(name, count)
    print(result["counts"])
    assert not result["wrong"], f"{len(result['wrong'])} wrong of {result['counts']}\n" + "\n".join(result["wrong"])
    undecided = result["counts"].pop("undecided", 0)
    assert len(result["counts"]) == 8 - len(without) and min(result["counts"].values()) >= VERDICTS, (result["counts"], undecided)


def build(folder: Path) -> Path:
    source, library = folder / "busy.c", folder / "busy.so"
    source.write_text(LIBRARY)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-g", "-O1", "-fPIC", "-shared", "-pthread", str(source), "-o", str(library)], check=True)
    return library
