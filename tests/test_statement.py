"""The statement of the command line: what it prints, what is refused because it calls nothing, and hints."""

from __future__ import annotations

import json
import os

import pytest
from support import leaktight, pythons, run, with_gil

PYTHON = pythons()[0]
EVERYWHERE = with_gil()

LOUD = "import ctypes, os, subprocess; native = ctypes.CDLL(None)"
PRINTS = "print('python'); native.puts(b'C'); os.write(1, b'system\\n')"


@pytest.mark.parametrize("python", EVERYWHERE, ids=str)
def test_what_a_statement_prints_goes_to_standard_error(python):
    setup = f"{LOUD}\n{PRINTS}; subprocess.run(['echo', 'child'])"
    done = leaktight(python, "check", "--json", "--period", "16", "-s", setup, PRINTS)
    assert done.returncode == 0, done
    calls = json.loads(done.stdout)["calls"]
    lines = done.stderr.splitlines()
    counts = [lines.count(word) for word in ("python", "C", "system", "child")]
    assert counts == [calls + 1, calls + 1, calls + 1, 1], done.stderr


@pytest.mark.parametrize("last, status", [("raise LookupError", 2), ("raise KeyboardInterrupt", 130), ("raise SystemExit", 2)])
def test_standard_output_is_back_however_the_check_ends(last, status):
    script = f"""
import os
from leaktight import _core
assert _core.main(["leaktight", "check", "-s", "print('setup')", "print('statement'); {last}"]) == {status}
print("python", flush=True)
os.write(1, b"system\\n")
"""
    done = run(PYTHON, ["-c", script])
    assert (done.returncode, done.stdout) == (0, "python\nsystem\n"), done
    assert done.stderr.splitlines()[:2] == ["setup", "statement"], done.stderr


def test_what_the_setup_of_info_prints_is_no_json():
    done = leaktight(PYTHON, "info", "--json", "-s", "print('setup')")
    assert json.loads(done.stdout)["control"] and done.stderr == "setup\n", done


SETUP = """
import json
class Point:
    size = property(lambda self: [])
    def move(self): pass
    @staticmethod
    def make(): pass
class Proxy:
    def __getattr__(self, name): return len
point, proxy, number = Point(), Proxy(), 5
"""


@pytest.mark.parametrize(
    "statement, text",
    [
        ("", "the statement is empty"),
        (" \n# a comment\n", "the statement is empty"),
        ("json.loads", "`json.loads` is not called: write `json.loads()`"),
        ("json.loads; number", "`json.loads` is not called"),
        ("point.move", "`point.move` is not called"),
        ("Point.make", "`Point.make` is not called"),
        ("Point", "`Point` is not called"),
        ("number", "`number` calls nothing"),
        ("'text'", "`'text'` calls nothing"),
        ("lambda: json.loads('[]')", "write `json.loads('[]')`"),
        ("def f(): json.loads('[]')", "put that into --setup, and write `f()`"),
    ],
)
@pytest.mark.parametrize("python", EVERYWHERE, ids=str)
def test_a_statement_that_calls_nothing_is_refused(python, statement, text):
    done = leaktight(python, "check", "-s", SETUP, statement)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert text in done.stderr and "nothing was judged" in done.stderr, done


@pytest.mark.parametrize("statement", ["pass", "point.size", "proxy.anything", "json.loads; point.size", "point.move()", "number + 1", "x = json.loads"])
@pytest.mark.parametrize("python", EVERYWHERE, ids=str)
def test_a_statement_that_may_run_code_is_judged(python, statement):
    done = leaktight(python, "check", "--period", "16", "-s", SETUP, statement)
    assert (done.returncode, done.stdout.split()[0]) == (0, "CLEAN"), done


@pytest.mark.parametrize("python", EVERYWHERE, ids=str)
def test_a_call_that_returns_what_it_should_have_called(python):
    script = """
import json, leaktight
from leaktight import MemoryLeakTestCase
class Point:
    size = property(lambda self: len)
    def move(self): pass
point = Point()
def getter(): return json.loads
def maker():
    def inner(): return 1
    return inner
def around(function): return lambda: function
def identity(function): return function
def twice(a, b): return b
class Silent(MemoryLeakTestCase): times = 2
for function, *arguments in [(lambda: len,), (lambda: json.loads,), (lambda: point.move,), (getter,), (around(len),), (lambda: lambda: len(""),), (identity, len), (twice, 1, len)]:
    for check in (leaktight.check, Silent().execute):
        try:
            check(function, *arguments)
        except TypeError as why:
            assert "does not call it" in str(why), why
        else:
            raise AssertionError(f"{function} was not refused")
for function, *arguments in [(lambda: None,), (lambda: point.size,), (maker,), (lambda: len(""),), (around(5),), (identity, 5), (len, "")]:
    assert leaktight.check(function, *arguments, period=16).verdict == "clean", function
"""
    done = run(python, ["-c", script])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "setup, statement, hint",
    [
        ("", "int('x')", "ValueError"),
        ("import json", "json.loads('{')", "json.decoder.JSONDecodeError"),
        ("from json import loads", "loads('{')", "ValueError"),
        ("class Mine(KeyError): pass", "raise Mine", "Mine"),
        ("class Mine(KeyError): pass\ndef f():\n    class Inner(Mine): pass\n    raise Inner", "f()", "Mine"),
    ],
)
def test_a_statement_that_raises_gets_a_hint_that_works(setup, statement, hint):
    done = leaktight(PYTHON, "check", "-s", setup, statement)
    assert done.returncode == 2 and done.stderr.endswith(f"say so: --raises {hint}\n"), done
    done = leaktight(PYTHON, "check", "--period", "16", "--raises", hint, "-s", setup, statement)
    assert "nothing was judged" not in done.stderr, done


def test_where_the_hint_would_be_wrong_there_is_none():
    for arguments in (["-s", "int('x')", "pass"], ["--raises", "KeyError", "int('x')"], ["x ="], ["raise SystemExit"]):
        done = leaktight(PYTHON, "check", *arguments)
        assert done.returncode == 2 and "say so" not in done.stderr, done


def test_columns_are_respected_in_a_pipe():
    def widest(columns):
        done = leaktight(PYTHON, "check", "--period", "16", "len('')", env={"COLUMNS": columns})
        return max(map(len, done.stdout.splitlines()))

    assert widest("50") <= 50 < widest("80") <= 80 < widest("") <= 100
    assert all(80 < widest(nonsense) <= 100 for nonsense in ("many", "0"))


USED = {
    "variable": ("o = object()", "zoo_refs.release_stolen(o)"),
    "module": ("zoo_refs.SPOT = object()", "zoo_refs.release_stolen(zoo_refs.SPOT)"),
    "comprehension": ("class Plain: pass\no = Plain()", "[zoo_refs.release_stolen(o) for _ in range(1)]"),
}


@pytest.mark.parametrize("python", EVERYWHERE, ids=str)
@pytest.mark.parametrize("setup, statement", USED.values(), ids=USED)
def test_what_a_statement_uses_may_be_released_too_often(python, setup, statement):
    done = leaktight(python, "check", "--json", "-s", f"import zoo_refs\n{setup}", statement)
    [finding] = json.loads(done.stdout)["findings"]
    assert (done.returncode, finding["kind"], finding["blocks_per_call"]) == (1, "over-release", 1), done


@pytest.mark.parametrize("python", EVERYWHERE, ids=str)
def test_what_a_statement_replaces_dies_when_it_should(python):
    script = """
import os.path
from leaktight._inert import used
names = {"o": 1, "p": 2, "os": os}
for statement, found in {
    "o = o.next(p)": [2], "del o; p": [2], "o += p": [2], "import o; p": [2], "import os as o; p": [2], "from p import o": [],
    "for o in p: pass": [2], "with p as o: pass": [2], "def o(): p": [2], "class o(p): pass": [2], "[o := p]": [2],
    "try: p\\nexcept p as o: pass": [2, 2], "lambda: o.p": [1], "os.sep": [os, os.sep], "os.sep = p": [os, 2],
    "os.path.sep": [os, os.path, os.path.sep], "os.no.name": [os], "o.sep.p()": [1], "'o'": [], "q": [],
}.items():
    got = used(statement, names)
    assert sorted(map(str, got)) == sorted(map(str, found)), (statement, got)
"""
    done = run(python, ["-c", script])
    assert done.returncode == 0, done


def test_the_death_of_a_variable_that_a_function_replaces_is_noticed_in_time():
    setup = """
import weakref
class Plain: pass
class Closing:
    def __del__(self): dead.append(1)
dead, made, closing = [], Plain(), Closing()
noted = weakref.ref(made, lambda gone: dead.append(1))
def replace():
    global made, closing, noted
    del dead[:]
    made, closing = Plain(), Closing()
    noted = weakref.ref(made, lambda gone: dead.append(1))
"""
    statement = "replace(); assert len(dead) == 2, dead; made, closing"
    done = leaktight(PYTHON, "check", "-s", setup, statement)
    assert done.returncode == 0, done
