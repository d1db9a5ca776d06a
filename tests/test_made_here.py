"""Where an object was made that calls leave behind, and how sure that is."""

from __future__ import annotations

import pytest
from reports import INCREF, findings, one, text
from support import with_gil

pytestmark = pytest.mark.parametrize("python", with_gil(), ids=str)


def test_of_an_object_the_place_is_where_it_was_made(python):
    found = one(python, INCREF, "incref(object())")
    assert found["message"].endswith("nothing points to it any more; a Py_DECREF is missing in what received it")
    assert "earlier_owner" not in found and "in_cycle" not in found
    assert "made here:" in text(python, INCREF, "incref(object())")


@pytest.mark.parametrize("made", ["[]", "(N[0], N[1])", "{}", "N[0] * 7.125"])
def test_where_memory_comes_through_a_free_list_the_line_is_as_sure_as_counts_can_be_watched(python, made):
    setup = INCREF + "N = [1.5, 2.5]"
    assert all("earlier_owner" not in finding for finding in findings(python, setup, f"incref({made})"))
    # A handler of somebody else's: the counts cannot be watched.
    setup += "; import signal; signal.signal(signal.SIGTRAP, print)"
    assert all(finding["earlier_owner"] for finding in findings(python, setup, f"incref({made})"))
    assert "perhaps made here" in text(python, setup, f"incref({made})")


def test_a_lost_object_of_many_is_told_where_it_was_made_and_nowhere_else(python):
    """Free lists hand memory on from one to the other, in an order that changes."""
    setup = (
        INCREF
        + "import random\ndef lists(): return [[] for _ in range(60)]\ndef tuples(): return [(number, 0) for number in range(200)]"
        + "\ndef floats(): return [number * 1.5 for number in range(200)]\ndef lose(): incref([])\nORDER = [lists, tuples, floats]"
        + "\ndef mixed():\n    random.shuffle(ORDER)\n    for make in ORDER: make()\n    lose()\n    for make in ORDER: make()"
    )
    for _ in range(3):
        found = findings(python, setup, "mixed()")
        assert found and "earlier_owner" not in found[0] and found[0]["stack"][0]["function"] == "lose", found
        assert all(finding["type_name"] == "list" and finding["stack"][0]["function"] == "lose" for finding in found), found


def test_a_cycle_that_the_collector_cannot_see(python):
    found = one(python, "import zoo", "zoo.leak_self_cycle()")
    assert found["in_cycle"] and "Py_DECREF" not in found["message"]


def test_memory_that_is_no_object_is_not_made(python):
    output = text(python, "import zoo", "zoo.leak_malloc()")
    assert "made here" not in output and "Py_DECREF" not in output
