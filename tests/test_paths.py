"""The whole path by which something is held: from a root to the block, each step named."""

import json

import pytest
from support import leaktight, run, with_gil

EVERYWHERE = with_gil()
pytestmark = pytest.mark.parametrize("python", EVERYWHERE, ids=str)

APP = """
import json
class App:
    def __init__(self): self.registry = {'users': [0, []]}
json.app = App()
"""
WEAK = """
import json, weakref
class Thing: pass
json.things = []
def f():
    global near
    thing = Thing(); near = weakref.ref(thing); json.things.append(thing)
"""
#: Nobody refers to the list but a variable in C, nor knows the collector of anybody.
STATIC = """
import zoo, ctypes
def made():
    rows = []
    zoo.twin_argument(rows)
    return id(rows)
at = made()
def f(): ctypes.cast(at, ctypes.py_object).value.append(object())
"""
COUNTER = "import itertools, json; n = itertools.count(); json.memo = {}\ndef f(): json.memo.setdefault(next(n) % 50, str(next(n)) * 5)"


def report(python, setup, statement, *arguments):
    done = leaktight(python, "check", "--json", "--max-calls", "9000", *arguments, "-s", setup, statement)
    assert done.returncode in (0, 1, 3), done
    return json.loads(done.stdout)


def steps(part):
    """Each step on one line."""
    return [" = ".join(step[key] for key in ("name", "what") if key in step) for step in part.get("path", [])]


@pytest.mark.parametrize(
    "setup, statement, path",
    [
        ("k = []", "k.append(object())", ["variable `k` = a list of 9,000 items"]),
        ("k = []\ndef f(rows): rows.append(object())", "f(k)", ["argument 1, `k` = a list of 9,000 items"]),
        (
            APP,
            "json.app.registry['users'][1].append(object())",
            [
                "module `json`",
                "`app` = a `__main__.App` object",
                "attribute `registry` = a dict of 1 item",
                "the value of 'users' = a list of 2 items",
                "item 1 = a list of 9,000 items",
            ],
        ),
        (
            "import json\nclass A: rows = []\njson.A = A; del A",
            "json.A.rows.append(object())",
            ["module `json`", "`A` = the type `__main__.A`", "attribute `rows` = a list of 9,000 items"],
        ),
        (
            "import json\ndef f():\n    rows = []\n    return lambda: rows.append(object())\njson.f = f()",
            "json.f()",
            ["module `json`", "`f` = the function `f.<locals>.<lambda>`", "variable `rows` = a list of 9,000 items"],
        ),
        (WEAK, "f()", ["module `json`", "`things` = a list of 9,000 items"]),
    ],
    ids=["variable", "argument", "attributes", "type", "closure", "not by a weak reference"],
)
def test_from_a_module_or_what_the_call_is_given(python, setup, statement, path):
    [found] = report(python, setup, statement)["findings"]
    *outer, last = steps(found)
    assert outer == path, found
    assert last.startswith("item 8,999 = ") and last.endswith(" object"), found


def test_from_static_data_into_the_interpreter(python):
    [found] = report(python, STATIC, "f()")["findings"]
    root, rows, item = steps(found)
    assert root.startswith("static data of zoo") and rows == "a list of 9,000 items" and item.startswith("item 8,999 = "), found


def test_from_static_data_through_blocks(python):
    [found] = report(python, "import zoo", "zoo.leak_registry()")["findings"]
    root, table, block = steps(found)
    assert root.startswith("static data of zoo") and table.startswith("a block of ") and block == "a block of 32 bytes", found


def test_what_is_lost_has_no_path(python):
    [found] = report(python, "import zoo", "zoo.leak_malloc()", "--holders")["findings"]
    assert found["certainty"] == "lost" and "path" not in found and "holder" not in found, found


def test_what_a_clean_call_keeps_is_told_when_it_is_asked_for(python):
    assert "kept" not in report(python, COUNTER, "f()")
    clean = report(python, COUNTER, "f()", "--holders")
    assert clean["verdict"] in ("clean", "bounded") and clean["findings"] == [], clean
    memo = max(clean["kept"], key=lambda kept: kept["blocks"])
    root, table, *_ = steps(memo)
    assert (root, table) == ("module `json`", "`memo` = a dict of 25 items"), clean
    assert memo["type_name"] == "str" and memo["stack"][0]["function"] == "f" and memo["blocks"] >= 20, clean


def test_a_cache_in_c_is_told_with_its_static_data(python):
    bounded = report(python, "import zoo", "zoo.twin_cache_512()", "--holders")
    assert bounded["verdict"] == "bounded", bounded
    [cache] = bounded["kept"]
    root, block = steps(cache)
    assert root.startswith("static data of zoo") and block == "a block of 48 bytes", cache
    assert cache["stack"][0]["function"] == "cache_insert", cache


def test_a_chain_in_c_is_followed_to_its_head_and_cut_in_the_text(python):
    free_list = report(python, "import zoo", "zoo.twin_free_list()", "--holders")
    [nodes] = free_list["kept"]
    root, *blocks = steps(nodes)
    assert root.startswith("static data of zoo") and len(blocks) > 6 and set(blocks) == {"a block of 64 bytes"}, nodes
    text = leaktight(python, "check", "--holders", "-s", "import zoo", "zoo.twin_free_list()").stdout
    assert " more … → a block of 64 bytes" in text.replace("\n     ", ""), text


def test_a_leak_and_what_is_kept_beside_it_are_told_apart(python):
    both = report(python, "import zoo, json; json.first = []", "json.first or json.first.append(object()); zoo.leak_malloc()", "--holders")
    assert both["verdict"] == "leak" and len(both["findings"]) == 1, both
    assert all(kept["stack"][:1] != both["findings"][0]["stack"][:1] for kept in both.get("kept", [])), both


def test_typed(python):
    code = (
        "import json, leaktight\njson.k = {}\nn = iter(range(10**9))\n"
        "def f(): json.k.setdefault(next(n) % 40, object())\n"
        "report = leaktight.check(f, holders=True)\n"
        "again = leaktight.Report.from_json(report.to_json())\n"
        "assert again == report and report.kept, report\n"
        "assert report.kept[0].path[0] == leaktight.Step('module `json`'), report.kept\n"
        "assert isinstance(report.kept[0], leaktight.Kept) and 'held by: module `json`' in str(report), str(report)"
    )
    done = run(python, ["-c", code])
    assert done.returncode == 0, done.stderr


def test_from_a_variable_of_a_function_that_runs(python):
    if python.version in ((3, 11), (3, 12)):
        pytest.skip("frames that run do not tell of their variables, and asking would change them")
    code = (
        "import ctypes, threading, leaktight\n"
        "def main():\n"
        "    rows = []\n"
        "    made = 'lambda: ctypes.cast(%d, ctypes.py_object).value.append(object())' % id(rows)\n"
        "    report = leaktight.check(eval(made, {'ctypes': ctypes}), max_calls=9000)\n"
        "    print(report.findings[0].path)\n"
        "main()"
    )
    told = run(python, ["-c", code]).stdout
    assert "'the stack of thread `MainThread`'" in told and "a list of 9,000 items" in told, told
    assert ("variable `rows` of `main`" if python.version >= (3, 13) else "a variable of `main`") in told, told
