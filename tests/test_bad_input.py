"""What the command line is given wrongly, and what goes wrong in the statement: a clear word and the right status."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from support import ROOT, leaktight, pythons, zoo_paths

PYTHON = pythons()[0]
NEVER_RETURNS_SECONDS = 15  # "A few", on a machine that is busy with other things.


def judged(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return leaktight(PYTHON, "check", *arguments, **more)


def assert_says(done: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    assert done.returncode == status, done
    assert done.stdout == "", done
    for text in texts:
        assert text in done.stderr, done
    assert "panicked" not in done.stderr, done


@pytest.mark.parametrize("setup, statement", [("", "x ="), ("if", "pass")], ids=["statement", "setup"])
def test_a_syntax_error_is_shown_where_it_is(setup: str, statement: str) -> None:
    where = '"<setup>", line 1' if setup else '"<statement>", line 1'
    assert_says(judged("-s", setup, statement), 2, "SyntaxError", where, "nothing was judged")


def test_the_setup_does_not_run_when_the_statement_is_no_python() -> None:
    assert_says(judged("-s", "print('ran')", "x ="), 2, "SyntaxError")


def test_text_that_is_no_utf8() -> None:
    done = judged(os.fsdecode(b"x = '\xff'"))
    assert done.returncode in (0, 2) and "__main__.py" not in done.stderr, done


def test_a_setup_that_raises() -> None:
    done = judged("-s", "import zoo", "-s", "{}['key']", "zoo.leak_malloc()")
    assert_says(done, 2, "KeyError: 'key'", '"<setup>", line 2', "setup", "nothing was judged")


@pytest.mark.parametrize("call", [1, 2, 3, 100, 1000])
def test_a_statement_that_raises(call: int) -> None:
    statement = f"calls.append(0)\nif len(calls) == {call}:\n    raise LookupError('the call', len(calls))"
    done = judged("-s", "calls = []", statement)
    assert_says(done, 2, f"LookupError: ('the call', {call})", '"<statement>", line 3', "the statement failed")


def test_an_exception_that_cannot_be_shown() -> None:
    setup = "class Bad(Exception):\n    def __str__(self): raise SystemError('no text')"
    assert_says(judged("-s", setup, "raise Bad"), 2, "Bad", "the statement failed")


@pytest.mark.parametrize("status, shown", [("0", "0"), ("4", "4"), ("", ""), ("'why'", "why")])
def test_sys_exit_is_no_verdict(status: str, shown: str) -> None:
    assert_says(judged("-s", "import sys", f"sys.exit({status})"), 2, "the statement called sys.exit(" + shown)
    assert_says(judged("-s", f"import sys; sys.exit({status})", "pass"), 2, "setup", "called sys.exit(" + shown)


def test_sys_exit_can_be_what_a_call_must_raise() -> None:
    done = judged("-s", "import sys", "--raises", "SystemExit", "sys.exit(3)")
    assert (done.returncode, done.stdout.split()[0]) == (0, "CLEAN"), done


@pytest.mark.parametrize(
    "statement, text",
    [("while True: pass", "had not returned"), ("time.sleep(1000)", "has not returned")],
    ids=["python", "native"],
)
def test_a_statement_that_never_returns(statement: str, text: str) -> None:
    started = time.monotonic()
    assert_says(judged("--time-budget", "1", "-s", "import time", statement), 3, text)
    assert time.monotonic() - started < NEVER_RETURNS_SECONDS


def test_a_statement_that_stops_returning() -> None:
    setup = "import zoo\ncalls = []"
    statement = "calls.append(0)\nzoo.leak_malloc()\nwhile len(calls) > 20: pass"
    assert_says(judged("--time-budget", "0.2", "-s", setup, statement), 3, "had not returned")


@pytest.mark.parametrize(
    "setup, statement",
    [
        ("calls = []", "calls.append(0)\nif len(calls) == 10: print('now', flush=True)"),
        ("import time", "print('now', flush=True); time.sleep(1000)"),
        ("import itertools, os; calls = itertools.count()", "next(calls) == 9 and os.write(1, b'now\\n')"),
        ("import time; print('now', flush=True); time.sleep(1000)", "pass"),
    ],
    ids=["python", "sleep", "between calls", "setup"],
)
def test_ctrl_c(setup: str, statement: str) -> None:
    # A period that takes long.
    arguments = ["-m", "leaktight", "check", "--period", "10000000", "-s", setup, statement]
    with started(arguments, stdout=subprocess.PIPE) as process:
        # What the statement prints goes to standard error.
        assert process.stderr is not None and process.stderr.readline() == "now\n"
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=30)
    assert (process.returncode, rest) == (130, "")
    assert complaints.splitlines() == ["leaktight: interrupted; nothing was judged"]


def started(arguments: list[str], **more: object) -> subprocess.Popen[str]:
    package = os.environ.get("LEAKTIGHT_SITE", str(ROOT / "python"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, *zoo_paths()[PYTHON.version]])}
    return subprocess.Popen([PYTHON.path, *arguments], stderr=subprocess.PIPE, text=True, env=environment, **more)


@pytest.mark.parametrize(
    "arguments, status",
    [
        (["check", "-s", "import zoo", "zoo.leak_malloc()"], 1),
        (["check", "--json", "pass"], 0),
        (["info"], 0),
        (["info", "--json"], 0),
        (["--help"], 0),
    ],
    ids=["text", "json", "info", "info json", "help"],
)
@pytest.mark.parametrize("closed", ["reader", "stdout"])
def test_nobody_reads_the_report(arguments: list[str], status: int, closed: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    # What the child's own `>&-` would do.
    more = {"stdout": writer} if closed == "reader" else {"preexec_fn": lambda: os.close(1)}
    try:
        with started(["-m", "leaktight", *arguments], **more) as process:
            _, complaints = process.communicate(timeout=30)
    finally:
        os.close(writer)
    assert (process.returncode, complaints) == (status, "")


def test_a_statement_that_forks_is_judged_once() -> None:
    for child in ("pass", "os._exit(7)", "raise SystemExit(7)"):
        statement = f"zoo.leak_malloc()\nchild = os.fork()\nif child == 0: {child}\nelse: os.waitpid(child, 0)"
        done = judged("-s", "import os, zoo", "--period", "16", statement)
        assert done.returncode == 1, done
        verdicts = [line for line in done.stdout.splitlines() if line.startswith("LEAK ")]
        assert len(verdicts) == 1 and "every call loses 1 block of 100 bytes" in done.stdout, done
        assert "Traceback" not in done.stderr, done


def test_a_nested_check() -> None:
    assert_says(judged("-s", "import leaktight", "leaktight.check(len, '')"), 100, "started a leak check itself")


@pytest.mark.parametrize(
    "name, statement, texts",
    [
        ("Missing", "pass", ["NameError", "Missing", "--raises"]),
        ("x =", "pass", ["SyntaxError", "--raises"]),
        ("int", "int('x')", ["`int` is not an exception class", "--raises"]),
        ("ValueError('x')", "int('x')", ["is not an exception class", "--raises"]),
        ("ValueError", "pass", ["did not raise ValueError"]),
        ("ValueError", "{}[1]", ["KeyError: 1", "the statement failed"]),
    ],
)
def test_raises(name: str, statement: str, texts: list[str]) -> None:
    assert_says(judged("--raises", name, statement), 2, *texts)


def test_raises_that_is_right() -> None:
    setup = "import zoo\nclass Mine(ValueError): pass"
    done = judged("-s", setup, "--raises", "ValueError", "zoo.leak_error_path()")
    assert done.returncode == 1 and "112 bytes" in done.stdout, done
    done = judged("-s", setup, "--raises", "Mine", "raise Mine")
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    "arguments, texts",
    [
        (["check", "--max-calls", "0", "pass"], ["--max-calls"]),
        (["check", "--max-calls", "-1", "pass"], ["--max-calls"]),
        (["check", "--max-calls", "many", "pass"], ["--max-calls", "many"]),
        (["check", "--max-calls", "99999999999", "pass"], ["--max-calls"]),
        (["check", "--period", "0", "pass"], ["--period"]),
        (["check", "--time-budget", "-1", "pass"], ["--time-budget"]),
        (["check", "--time-budget=-1", "pass"], ["--time-budget", "more than 0"]),
        (["check", "--time-budget", "0", "pass"], ["--time-budget", "more than 0"]),
        (["check", "--time-budget", "nan", "pass"], ["--time-budget"]),
        (["check", "--time-budget", "inf", "pass"], ["--time-budget"]),
        (["check", "--time-budget", "soon", "pass"], ["--time-budget", "not a number"]),
        (["check", "--time-budget"], ["--time-budget"]),
        (["check", "--frobnicate", "pass"], ["--frobnicate"]),
        (["check", "--color", "pink", "pass"], ["--color", "pink"]),
        (["check", "pass", "pass"], ["unexpected argument"]),
        (["check"], ["STATEMENT"]),
        (["frobnicate"], ["frobnicate"]),
        ([], ["Usage", "check"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_wrong_command_line(arguments: list[str], texts: list[str]) -> None:
    assert_says(leaktight(PYTHON, *arguments), 2, *texts)
