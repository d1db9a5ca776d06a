"""More than a hundred calls that leak nothing, and are not called a leak."""

import json

import clean_calls
import packages
import pytest
import support

PYTHONS = support.everywhere()
SCRIPT = clean_calls.__file__


@pytest.mark.parametrize("python", PYTHONS, ids=str)
@pytest.mark.parametrize("requirement", [clean_calls.STANDARD, *clean_calls.WHEELS], ids=lambda name: name or "standard-library")
def test_calls(python, requirement):
    if requirement and python.is_free_threaded and (requirement in clean_calls.WITH_A_GIL or python.version > packages.NEWEST_FREE_THREADED):
        pytest.skip(f"{requirement} is not published for {python}")
    expected = [call for call in clean_calls.CALLS if call[2] == requirement]
    paths = []
    if requirement:
        pins = clean_calls.wheels(requirement, python.version)
        paths = [packages.wheels(f"clean-{requirement}", pins, python.version, free_threaded=python.is_free_threaded)]
    done = support.run(python, ["-B", SCRIPT, requirement], paths=paths, timeout=300)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    judged = [(answer["setup"], answer["statement"], requirement) for answer in answers]
    assert done.returncode == 0 and judged == expected, f"ended at {expected[len(judged):][:1]} with {done.returncode}: {done.stderr}"
    for answer in answers:
        for finding in answer["report"]["findings"]:
            print(f"{finding['severity']}: {answer['statement']!r}: {finding['message']}")
    assert [(answer["statement"], problem) for answer in answers if (problem := complaint(answer["report"]))] == []


def complaint(report):
    """What is wrong with a report on a call that leaks nothing; empty when nothing is."""
    # Some published packages do lose references to their own types, which is true, harmless and a warning.
    warnings = [finding for finding in report["findings"] if finding["severity"] == "warning"]
    if warnings and warnings == report["findings"]:
        return ""
    return "" if report["verdict"] in ("clean", "bounded") and not report["findings"] else f"{report['verdict']}: {report['reason']}"
