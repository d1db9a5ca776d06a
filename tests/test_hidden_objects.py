"""Objects to which only native memory refers: variables of a library, and fields of its instances."""

import json

import pytest
from support import leaktight
from test_places import PYTHONS, _bare

#: Each is a fresh object.
KEPT = {
    "str": "''.join(['time', 'out'])",
    "bytes": "bytes(range(40))",
}
NAMED = "import zoo_cy; named = zoo_cy.Named(''.join(['time', 'out']))"
DICT = """
import zoo_refs
class User: pass
user = User()
user.rows = [1]
"""


def check(python, setup, statement):
    done = leaktight(python, "check", "--json", "-s", setup, statement)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_references_to_what_only_a_variable_of_a_library_holds(python, kept):
    report = check(python, f"import zoo_refs; zoo_refs.keep({kept})", "zoo_refs.leak_kept()")
    [found] = report["findings"]
    assert (found["kind"], found["blocks_per_call"]) == ("reference", 1), report
    assert found["stack"][0]["function"] == "leak_kept", found


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
@pytest.mark.parametrize(
    "before, statement",
    [
        ("", "zoo_refs.keep({})"),
        # The memory goes on to others, who use it as they like.
        ("zoo_refs.drop_kept()", "some = [{} for number in range(40)]; others = [float(number) for number in range(9)]"),
    ],
)
def test_what_takes_its_place_is_no_leak(python, kept, before, statement):
    setup = f"import zoo_refs; zoo_refs.keep({kept}); {before}"
    report = check(python, setup, statement.format(kept))
    assert report["verdict"] in ("clean", "bounded"), report


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_references_to_what_only_a_field_of_an_instance_holds(python):
    report = check(python, NAMED, "named.leak_name()")
    [found] = report["findings"]
    assert (found["kind"], found["blocks_per_call"]) == ("reference", 1) and "'timeout'" in found["message"], report
    # The function itself, or what Cython has put around it.
    assert any("leak_name" in (frame["function"] or "") for frame in found["stack"]) and _bare(found["stack"][0]["function"]), found
    assert check(python, NAMED, "named.twin_name()")["verdict"] == "clean"


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_references_to_a_dict_that_the_first_call_makes_of_a_free_list(python):
    report = check(python, DICT, "zoo_refs.leak_passed(vars(user))")
    [found] = report["findings"]
    assert (found["kind"], found["type_name"], found["blocks_per_call"]) == ("reference", "dict", 1), report
    assert check(python, DICT, "zoo_refs.twin_buffer(b'x'); vars(user)")["verdict"] == "clean"


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_memory_that_only_begins_like_an_object_is_not_followed(python):
    report = check(python, "import zoo_refs; zoo_refs.keep_look_alike(); KEY = ''.join(['time', 'out'])", "zoo_refs.leak_passed(KEY)")
    assert [found["stack"][0]["function"] for found in report["findings"]] == ["leak_passed"], report
