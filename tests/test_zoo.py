"""Every leak of the zoo is found at its exact size and line, and no twin is called one."""

import json

import pytest
import support

PYTHONS = support.everywhere()


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("case", support.CASES, ids=lambda case: case.name)
def test_case(python, case):
    report = support.check(python, case)
    assert support.complaint(python, case, report) == ""


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_an_error_path_is_reached_with_raises(python):
    for case in support.CASES:
        if case.raises is not None and case.verdict == "leak":
            done = support.leaktight(
                python, "check", "-s", case.setup, "--raises", case.raises, case.bare_statement
            )
            assert done.returncode == 1, done.stdout + done.stderr
            assert case.function.rsplit("::", 1)[-1] in done.stdout


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_beside_another_thread_every_object_counts(python):
    """What is lost is looked for twice there, and the first search must not leave a list behind for a call to take."""
    beside = "import zoo, threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start()"
    done = support.leaktight(python, "check", "--json", "-s", beside, "zoo.leak_list()")
    assert [finding["blocks_per_call"] for finding in json.loads(done.stdout)["findings"]] == [1.0], done.stdout
