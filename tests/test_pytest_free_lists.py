"""Objects that the interpreter would take from its free lists are the test's, not those of pytest that freed them."""

from __future__ import annotations

import pytest
from pytest_project import verdicts

HELPER = """
import contextvars, sys, zoo_refs

class Held:
    def method(self): pass

def generator(): yield

MAKE = {
    "tuple1": lambda: ("x" + str(1),),
    "tuple2": lambda: ("x" + str(1), 2),
    "list": lambda: ["x" + str(1)],
    "dict": lambda: {"when": str(1)},
    "float": lambda: 1.5 + len(MAKE),
    "method": lambda: Held().method,
    "generator": lambda: generator(),
    "context": lambda: contextvars.copy_context(),
    "frame": lambda: sys._getframe(),
}
KEPT = []

def lose(kind): zoo_refs.leak_passed(MAKE[kind]())
def keep(kind): KEPT.append(MAKE[kind]())
def drop(kind): MAKE[kind]()
def swap(kind):
    KEPT.append(MAKE[kind]())
    KEPT.pop()
"""
KINDS = ("tuple1", "tuple2", "list", "dict", "float", "method", "generator", "context", "frame")
FORMS = {
    "function": "def test_{name}(): {how}({kind!r})",
    "argument": "def test_{name}(one): {how}({kind!r})",
    "two": "@pytest.mark.parametrize('x', [5])\ndef test_{name}(one, x): {how}({kind!r})",
    "method": "class Test_{name}:\n    def test_{name}(self): {how}({kind!r})",
    "unittest": "class Case_{name}(unittest.TestCase):\n    def test_{name}(self): {how}({kind!r})",
    "async": "@pytest.mark.asyncio\nasync def test_{name}(): {how}({kind!r})",
    "later": "@pytest.mark.asyncio\nasync def test_{name}():\n    await asyncio.sleep(0)\n    {how}({kind!r})",
}
HEAD = "import asyncio, unittest, pytest\nfrom helper import lose, keep, drop, swap\n@pytest.fixture\ndef one(): return 1\n"


def judge(project, cases):
    """The verdict of each case, a form, a way and a kind."""
    project.write(HELPER, "helper.py")
    names = {f"{form}_{how}_{kind}": (form, how, kind) for form, how, kind in cases}
    tests = [FORMS[form].format(name=name, how=how, kind=kind) for name, (form, how, kind) in names.items()]
    (project.folder / "test_it.py").write_text(HEAD + "\n".join(tests) + "\n")
    run = project.leaks(status=1, timeout=400)
    found = {test.split("::")[-1].split("[")[0][len("test_") :]: verdict for test, verdict in verdicts(run).items()}
    return {case: found.get(name) for name, case in names.items()}


def wrong(found):
    return {case: verdict for case, verdict in found.items() if (verdict == "leak") != (case[1] in ("lose", "keep"))}


def test_each_kind_is_found_when_it_is_lost(project):
    found = judge(project, [("function", how, kind) for kind in KINDS for how in ("lose", "drop", "swap")])
    assert not wrong(found)


@pytest.mark.parametrize("kind", ["tuple1", "dict"])
def test_each_form_of_test_shows_it(project, kind):
    found = judge(project, [(form, how, kind) for form in FORMS for how in ("lose", "keep", "drop")])
    assert not wrong(found)


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
def test_each_kind_in_each_form(project, form):
    found = judge(project, [(form, how, kind) for kind in KINDS for how in ("lose", "keep", "drop", "swap")])
    assert not wrong(found)


def test_three_are_told_as_three(project):
    project.write("import zoo_refs\ndef test_it():\n    for x in 'abc': zoo_refs.leak_passed((x + str(1),))")
    (finding,) = [finding for finding in project.leaks(status=1)["findings"] if finding["type_name"] == "tuple"]
    assert finding["objects_per_call"] == 3


def test_what_is_kept_is_found_without_a_helper(project):
    project.write("CALLS = []\ndef test_when(): CALLS.append({'when': len(CALLS)})\ndef test_tuple(): CALLS.append(('x' + str(1),))")
    assert verdicts(project.leaks(status=1)) == {"test_when": "leak", "test_tuple": "leak"}
