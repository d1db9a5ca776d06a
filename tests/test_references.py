"""Every miscounted reference of the zoo is found at its exact rate and named, and no twin is called one."""

import json

import clean_calls
import packages
import pytest
import support
from references import CASES

PYTHONS = support.with_gil()
KINDS = ("reference", "over-release")


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_the_manifest_is_true(python):
    """So that the tests below compare with facts."""
    script = str(support.ZOO / "smoke_references.py")
    done = support.run(python, ["-B", script], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(python, case):
    done = support.leaktight(python, "check", "--json", "-s", case.setup, case.statement)
    # A negative status is the signal that ended the process.
    assert done.returncode in (0, 1, 3), f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    report = json.loads(done.stdout)
    problem = complaint(case, report, python.version)
    assert not problem, f"{problem}\n{done.stdout}"
    assert (done.returncode == 1) == (report["verdict"] == "leak")


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_published_packages(python):
    """Leaks that nobody looked for: sys.getrefcount tells the same. The object lives on, so memory shows nothing."""
    leaks = [("numpy", "import numpy", "numpy.ones(4)", "numpy.dtypes.Float64DType", python.version < (3, 13))]
    leaks += [("orjson", "import orjson", "orjson.dumps({1}, default=list)", "dict", python.version >= (3, 12))]
    for requirement, setup, statement, type_name, there in leaks:
        paths = [packages.wheels(f"clean-{requirement}", clean_calls.wheels(requirement, python.version), python.version)]
        done = support.run(python, ["-m", "leaktight", "check", "--json", "-s", setup, statement], paths=paths)
        findings = json.loads(done.stdout)["findings"]
        assert done.returncode == (1 if there else 0), done.stdout
        found = [(finding["kind"], finding["type_name"], finding["blocks_per_call"]) for finding in findings]
        assert found == ([("reference", type_name, 1.0)] if there else []), done.stdout


def test_what_the_exit_status_fails_on():
    def status(statement, *options):
        return support.leaktight(support.pythons()[0], "check", *options, "-s", "import zoo_refs; KEY = 'time' + str(1)", statement).returncode

    assert status("zoo_refs.leak_module_type()") == 1
    assert status("zoo_refs.leak_module_type()", "--fail-on=error") == 0
    assert status("zoo_refs.leak_passed(KEY)", "--fail-on=error") == 1


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_call_that_looks_at_counts_is_told_the_true_ones(python):
    setup = "import sys, zoo, zoo_refs; from sys import getrefcount; KEY = 'time' + str(1); true = sys.getrefcount(KEY)"
    statement = "assert sys.getrefcount(KEY) == getrefcount(KEY) == true; zoo.leak_malloc()"
    report = json.loads(support.leaktight(python, "check", "--json", "-s", setup, statement).stdout)
    assert [finding["kind"] for finding in report["findings"]] == ["memory"] and report["objects"] > 10_000, report
    after = "leaktight.check(len, KEY); assert sys.getrefcount(KEY) == getrefcount(KEY) == true"
    done = support.run(python, ["-c", f"import leaktight; {setup}; {after}"], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_second_check_finds_the_same(python):
    script = """
import leaktight, zoo_refs
key, rows = "time" + str(1), [["row"]]
for function, argument in ((zoo_refs.leak_passed, key), (zoo_refs.release_stolen, rows[0])):
    first, second = (leaktight.check(function, argument) for _ in range(2))
    assert first.reason == second.reason and first.verdict == "leak", (first.reason, second.reason)
assert rows == [["row"]]
"""
    done = support.run(python, ["-c", script], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0, done.stderr


BORROWED = """
import dis, sys, leaktight, zoo_refs

def by_hand(function):
    mine = "time" + str(2)
    function(mine)
    return sys.getrefcount(mine) == 2  # The variable, and the argument.

borrows = any("LOAD_FAST_BORROW" in line.opname for line in dis.get_instructions(by_hand))
assert borrows == (sys.version_info >= (3, 14))
told = [by_hand(zoo_refs.twin_containers), by_hand(zoo_refs.leak_passed)]
assert told == ([False, True] if borrows else [True, False]), told

KEY = "time" + str(1)
def count():
    mine = KEY
    return sys.getrefcount(mine)
def call(function):
    mine = KEY
    function(mine)
    assert function is not zoo_refs.twin_containers or sys.getrefcount(mine) == before, sys.getrefcount(mine)

before = count()
for function, kinds in (
    (zoo_refs.twin_containers, []),
    (zoo_refs.leak_passed, [("reference", "str", 1.0)]),
    (zoo_refs.release_stolen, [("over-release", "str", 1.0)]),
):
    report = leaktight.check(call, function)
    found = [(finding.kind, finding.type_name, finding.blocks_per_call) for finding in report.findings]
    assert found == kinds and report.verdict == ("leak" if kinds else "clean"), report
    assert report.control.caught == report.control.planted > 5 and not report.not_done, report
"""


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_references_that_a_frame_only_borrows_do_not_count(python):
    """A test by `sys.getrefcount` is wrong twice from 3.14 on: it calls correct code a leak, and a leak correct."""
    done = support.run(python, ["-c", BORROWED], paths=support.zoo_paths()[python.version])
    assert done.returncode == 0, done.stderr


def complaint(case, report, version):
    """What is wrong with a report on a case; empty when nothing is."""
    control, verdict = report["control"], report["verdict"]
    if not control["planted"] == control["caught"] > 0:
        return f"control: {control}"
    found = {kind: [finding for finding in report["findings"] if finding["kind"] == kind] for kind in (*KINDS, "memory")}
    miscounted = [finding for kind in KINDS for finding in found[kind]]
    if case.verdict == "clean" or case.immortal(version):
        return "" if verdict in ("clean", "bounded") and not report["findings"] else f"{verdict}: {report['reason']}"
    if case.verdict == "stored":
        if miscounted:
            return f"called a miscounted reference: {miscounted[0]['message']}"
        return "" if verdict in ("leak", "indeterminate") else f"{verdict}: {report['reason']}"
    if verdict != "leak":
        return f"{verdict}: {report['reason']}"
    if case.kind == "memory":
        # Lost instances of a class drag references to the class along.
        errors = [finding["message"] for finding in miscounted if finding["severity"] != "warning"]
        return f"called a miscounted reference: {errors[0]}" if errors else memory_complaint(case, found["memory"])
    others = [finding["message"] for finding in report["findings"] if finding["kind"] != case.kind]
    if others or len(found[case.kind]) != 1:
        return f"{len(found[case.kind])} findings of kind {case.kind}; others: {others}"
    return finding_complaint(case, found[case.kind][0])


def memory_complaint(case, findings):
    if [finding["blocks_per_call"] for finding in findings] != [case.references_per_call]:
        return f"memory: {[finding['message'] for finding in findings]}"
    return ""


def finding_complaint(case, finding):
    rate = case.references_per_call
    expected = {
        "certainty": "lost",
        "severity": case.severity,
        "blocks_per_call": float(rate),
        "bytes_per_call": 0.0,
        "every": rate.denominator,
        "type_name": case.type_name,
    }
    wrong = {name: (finding.get(name), value) for name, value in expected.items() if finding.get(name) != value}
    if wrong:
        return f"(found, expected): {wrong}"
    example, message = finding["examples"][0], finding["message"]
    if case.text not in example:
        return f"described as {example!r}, without {case.text!r}"
    return "" if example in message else f"the message {message!r} does not describe it"
