"""``pytest --leaks``: what one test has shown says nothing of the next, and hides nothing in it."""

from __future__ import annotations

from pytest_project import verdicts


def kinds(run):
    return {(finding["kind"], test.split("::", 1)[1]) for finding in run["findings"] for test in finding["tests"]}


def test_a_second_leak_beside_one_that_is_known_is_found(project):
    project.write(
        """
        import zoo, zoo_refs
        KEY, OTHER = "time" + str(1), "time" + str(2)
        kept = []
        def test_first(): zoo_refs.leak_passed(KEY)
        def test_reference():
            zoo_refs.leak_passed(KEY)
            zoo_refs.leak_passed(OTHER)
        def test_memory():
            zoo_refs.leak_passed(KEY)
            zoo.parse_header(b"a: b")
        def test_growth():
            zoo_refs.leak_passed(KEY)
            kept.append(bytearray(1000))
        def test_descriptor():
            import os
            zoo_refs.leak_passed(KEY)
            os.dup(0)
        def test_clean(): pass
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run).pop("test_clean") == "clean" and list(verdicts(run).values()).count("leak") == 5
    found = kinds(run)
    assert found >= {("reference", name) for name in ("test_first", "test_reference", "test_memory", "test_growth")}
    assert {("memory", "test_memory"), ("memory", "test_growth"), ("fd", "test_descriptor")} <= found
    # Two objects, one place.
    [both] = [test["findings"] for test in run["tests"] if test["test"].endswith("test_reference")]
    assert len(both) == 2, both


#: The ordinary run and the rounds of a test whose leak is known.
FEWEST = 4


def test_what_is_lost_again_at_the_same_place_needs_few_runs(project):
    project.write(
        """
        import pytest, zoo_refs
        KEY = "time" + str(1)
        @pytest.mark.parametrize("number", range(4))
        def test_type(number): zoo_refs.leak_module_type()
        @pytest.mark.parametrize("number", range(4))
        def test_passed(number): zoo_refs.leak_passed(KEY)
        def test_both():
            zoo_refs.leak_module_type()
            zoo_refs.leak_passed(KEY)
        def test_more():
            for _ in range(2): zoo_refs.leak_passed(KEY)
        def test_elsewhere(): zoo_refs.leak_second_passed(1, KEY)
        def test_also_elsewhere():
            zoo_refs.leak_passed(KEY)
            zoo_refs.leak_second_passed(1, KEY)
        def test_clean(): pass
        """
    )
    run = project.leaks(status=1)
    runs = {test["test"].split("::", 1)[1]: test["runs"] for test in run["tests"]}
    again = [*(f"test_{name}[{number}]" for name in ("type", "passed") for number in (1, 2, 3)), "test_both", "test_more", "test_also_elsewhere"]
    assert {name for name, runs in runs.items() if runs == FEWEST} == {*again}, runs
    assert all(runs[name] > 2 * FEWEST for name in ("test_type[0]", "test_passed[0]", "test_elsewhere")), runs
    places = {finding["stack"][0]["function"]: {test.split("::", 1)[1] for test in finding["tests"]} for finding in run["findings"]}
    assert places["forgetful_dealloc"] == {*(f"test_type[{number}]" for number in range(4)), "test_both"}
    assert places["leak_passed"] == {*(f"test_passed[{number}]" for number in range(4)), "test_both", "test_more", "test_also_elsewhere"}
    assert places["leak_second_passed"] == {"test_elsewhere", "test_also_elsewhere"}
    assert verdicts(run)["test_clean"] == "clean"


def test_an_object_that_is_lost_by_another_function_is_new_beside_a_baseline(project):
    text = """
        import zoo_refs
        KEY = "time" + str(1)
        def test_first(): zoo_refs.leak_passed(KEY)
        """
    project.write(text)
    file = project.folder / "known.toml"
    baseline = str(file)
    project.leaks("--leaks-baseline", baseline, "--leaks-update-baseline")
    file.write_text(file.read_text().replace('reason = ""', 'reason = "for now"'))
    project.leaks("--leaks-baseline", baseline)
    for calls in ("zoo_refs.leak_second_passed(1, KEY)", "zoo_refs.leak_passed(KEY); zoo_refs.leak_second_passed(1, KEY)"):
        project.write(text + f"def test_second(): {calls}\n")
        for more in ([], ["-n", "2"]):
            run = project.leaks("--leaks-baseline", baseline, *more, status=1)
            assert "1 leaked" in run["text"] and "LEAKED test_it.py::test_second - leak_second_passed" in run["text"], run["text"]


def test_who_holds_an_object_that_others_lose_does_not_lose_it(project):
    project.write(
        """
        import zoo_refs
        KEY, HELD, ONCE = "time" + str(1), [], [0]
        SLOTS = [None] * 100
        def test_first(): zoo_refs.leak_passed(KEY)
        def test_list(): HELD.append(KEY)
        def test_slots():
            # No memory is taken.
            SLOTS[SLOTS.index(None)] = KEY
        def test_ring(): zoo_refs.twin_ring_64(KEY)
        def test_in_one_run_only():
            ONCE[0] += 1
            if ONCE[0] == 4:
                for _ in range(3): zoo_refs.leak_passed(KEY)
        """
    )
    run = project.leaks(status=1)
    # The list itself grows.
    assert kinds(run) == {("reference", "test_first"), ("memory", "test_list")}, run["text"]


def test_one_block_that_grows_is_not_clean(project):
    project.write(
        """
        import zoo
        TEXT, BYTES, LIST = [""], bytearray(), []
        def test_text(): TEXT[0] += "x" * 1000
        def test_bytes(): BYTES.extend(bytes(1000))
        def test_list(): LIST.extend([None] * 1000)
        def test_same():
            text = ""
            for _ in range(5): text += "x" * 1000
        """
    )
    run = project.leaks(status=1)
    found = verdicts(run)
    assert found.pop("test_same") == "clean" and set(found.values()) == {"leak"}, (found, run["text"])


def test_objects_that_the_collector_knows_are_told_with_the_line_too(project):
    project.write(
        """
        import zoo_refs
        class Plain: pass
        LIST, SET, OBJECT = [1, 2], {3}, Plain()
        def test_list(): zoo_refs.leak_passed(LIST)
        def test_set(): zoo_refs.leak_second_passed(1, SET)
        def test_object(): zoo_refs.leak_passed(OBJECT)
        """
    )
    run = project.leaks(status=1)
    places = {(finding["stack"][0]["function"], test.split("::", 1)[1]) for finding in run["findings"] for test in finding["tests"]}
    assert places == {("leak_passed", "test_list"), ("leak_second_passed", "test_set"), ("leak_passed", "test_object")}, run["text"]
