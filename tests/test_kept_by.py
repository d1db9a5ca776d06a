"""An object that is left behind is told with who keeps it, where that is not who made it."""

import json

import pytest
from support import leaktight
from test_places import PYTHONS, _bare

USER = """
class User:
    def __init__(self):
        self.session = bytearray(300)
"""

#: Objects that the statement makes, and the function that takes a reference too many.
KEPT = {
    "argument": ("", "zoo_refs.leak_passed(bytearray(300))", "leak_passed"),
    "second argument": ("", "zoo_refs.leak_second_passed([], bytearray(300))", "leak_second_passed"),
    "list": ("", "zoo_refs.leak_passed([1, 'x'])", "leak_passed"),
    "tuple of another": ("", "zoo_refs.leak_passed((object(),))", "leak_passed"),
    "value": ("", "zoo_refs.leak_dict_value({'k': bytearray(300)}, 'k')", "leak_dict_value"),
    "attribute": (USER, "zoo_refs.leak_attribute(User())", "leak_attribute"),
    "item": ("", "zoo_refs.leak_iterated([bytearray(300)])", "leak_iterated"),
    "result": ("", "zoo_refs.leak_callback_result(lambda: bytearray(300))", "leak_callback_result"),
    "cycle": ("", "rows = [3]; rows.append(rows); zoo_refs.leak_passed(rows)", "leak_passed"),
    "instance of a type of the library": ("", "zoo_refs.leak_passed(zoo_refs.Session())", "leak_passed"),
    "cython": ("import zoo_cy", "zoo_cy.leak_reference(bytearray(300))", "leak_reference"),
    "rust": ("import zoo_rs", "zoo_rs.leak_reference(bytearray(300))", "leak_reference"),
}


def check(python, setup, statement):
    done = leaktight(python, "check", "--json", "-s", f"import zoo_refs\n{setup}", statement)
    assert done.returncode == 1, done.stdout + done.stderr
    [found] = [each for each in json.loads(done.stdout)["findings"] if each["kind"] == "memory"]
    return found, json.loads(done.stdout)


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("setup, statement, function", KEPT.values(), ids=KEPT)
def test_who_keeps_an_object_is_told_beside_who_made_it(python, setup, statement, function):
    found, _ = check(python, setup, statement)
    [keeper] = found["kept_by"]
    assert _bare(keeper[0]["function"]) in (function, f"__pyfunction_{function}"), found
    assert setup or "LEAK" in keeper[0]["source"], keeper
    assert "buffer_export" not in found and "a Py_DECREF is missing" in found["message"], found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_buffer_that_keeps_an_object_is_told_as_that(python):
    found, report = check(python, "", "zoo_refs.leak_buffer(bytearray(300))")
    assert found["buffer_export"] and "PyBuffer_Release is missing" in report["reason"] == found["message"], report
    assert [keeper[0]["function"] for keeper in found["kept_by"]] == ["leak_buffer"], found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize(
    "setup, statement",
    [
        # Who made it has lost it.
        ("import zoo", "zoo.leak_bytes()"),
        ("import zoo", "zoo.leak_list()"),
        # What others do with it while it lives is right.
        ("import zoo\nmade = []", "made[:] = [zoo.leak_list()]; zoo_refs.twin_buffer(b'x'); sorted(made, key=id)"),
        # The interpreter keeps it, for Python code.
        ("rows = []", "rows.append(bytearray(300))"),
    ],
)
def test_nobody_is_told_beside_who_made_and_lost_it(python, setup, statement):
    found, _ = check(python, setup, statement)
    assert "kept_by" not in found, found


def test_it_is_told_in_text():
    text = leaktight(PYTHONS[0], "check", "-s", "import zoo_refs", "zoo_refs.leak_passed(bytearray(300))").stdout
    assert "made here:\n    <module>  <statement>:1" in text, text
    assert "kept by a reference that is taken and never given back here:\n    leak_passed  tests/zoo/c/" in text, text
