"""Leaks that ``pytest --leaks`` knows."""

from __future__ import annotations

import pytest


def test_baseline(project):
    project.write("import zoo\ndef test_one(): zoo.leak_malloc()\ndef test_two(): zoo.leak_malloc()")
    baseline = project.folder / "known.toml"
    with_baseline = ["--leaks-baseline", str(baseline)]
    run = project.leaks(*with_baseline, "--leaks-update-baseline")
    assert "1 place written" in run["text"] and "still need a reason" in run["text"]
    done = project.plain("--leaks", *with_baseline)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and "(leak_malloc (zoo_native.c)): reason is missing" in done.stderr

    reason = 'a "quoted" \\\\ reason'
    baseline.write_text(baseline.read_text().replace('reason = ""', f'reason = "{reason}"'.replace('"quoted"', '\\"quoted\\"')))
    # Lines move; what is known stays known, and what is new fails.
    project.write("import zoo\n\n\ndef test_one(): zoo.leak_malloc()\n\ndef test_two(): zoo.leak_malloc()\ndef test_new(): zoo.leak_strdup()")
    run = project.leaks(*with_baseline, "-n", "2", status=1)
    assert "1 leaked" in run["text"] and "baseline: 1 place known, in 2 tests" in run["text"]
    assert "3 leak, 2 of them known" in run["text"] and (run["summary"]["known"], run["summary"]["new"]) == (1, 1)
    assert [(finding["known"], len(finding["tests"])) for finding in run["findings"]] == [(True, 2), (False, 1)]

    project.leaks(*with_baseline, "--leaks-update-baseline")
    assert 'a \\"quoted\\" \\\\ reason' in baseline.read_text(), "reasons are kept"
    baseline.write_text(baseline.read_text().replace('reason = ""', 'reason = "x"'))
    assert "leaks: 3 tests judged, 3 leak, all known; " in project.leaks(*with_baseline)["text"]
    before = baseline.read_text()
    run = project.leaks("--leaks-baseline", str(baseline), "-k", "nothing", "--leaks-update-baseline", status=5)
    assert "was left as it is" in run["text"] and baseline.read_text() == before
    baseline.write_text('[[leak]]\nkind = "memory"\nstack = ["gone (gone.c)"]\nreason = "old"\n')
    run = project.leaks(*with_baseline, status=1)
    assert "baseline entry that no leak needed: memory gone (gone.c)" in run["text"]



@pytest.mark.parametrize(
    "text, word",
    [
        ("[[leak]\n", "known.toml"),
        ("leak = 5", "[[leak]]"),
        ('[[leak]]\nkind = "memory"\nreason = "x"', "stack must be"),
        ('[[leak]]\nkind = "memory"\nstack = ["a"]\nreason = " "', "reason is missing"),
        ('[[leak]]\nkinds = "memory"', "unknown key 'kinds'"),
        ('[[leaks]]\nkind = "memory"\nstack = ["a"]\nreason = "x"', "unknown table 'leaks'"),
        ('[[leak]]\nkind = "memroy"\nstack = ["a"]\nreason = "x"', "unknown kind 'memroy'"),
        ('[[leak]]\nkind = "memory"\nstack = ["a"]\nreason = "x"\nplaces = 0', "places must be"),
    ],
)
def test_wrong_baseline_is_an_error(project, text, word):
    project.write("def test_it(): pass")
    (project.folder / "known.toml").write_text(text)
    done = project.plain("--leaks", "--leaks-baseline", str(project.folder / "known.toml"))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and word in done.stderr, done.stderr


def test_an_entry_is_ready_to_commit(project):
    project.write("import zoo\ndef test_it(): zoo.leak_malloc()")
    run = project.leaks("-v", status=1)
    (finding,) = run["findings"]
    known = project.folder / "known.toml"
    known.write_text(finding["baseline"].replace('reason = ""', 'reason = "upstream"'))
    assert all(line in run["text"] for line in finding["baseline"].splitlines())
    assert "1 leak, all known" in project.leaks("--leaks-baseline", str(known))["text"]


KNOWN = """
import zoo
def test_kept(): zoo.leak_malloc()
def test_gone(): zoo.leak_strdup()
"""


def known(project):
    """A baseline of two leaks, with reasons."""
    project.write(KNOWN)
    baseline = project.folder / "known.toml"
    project.leaks("--leaks-baseline", str(baseline), "--leaks-update-baseline")
    baseline.write_text(baseline.read_text().replace('reason = ""', 'reason = "by hand"'))
    assert baseline.read_text().count("by hand") == 2
    return baseline


@pytest.mark.parametrize(
    "change, arguments, status",
    [
        # Collecting has failed; nothing is written at all.
        (KNOWN + "\nimport nowhere", [], 2),
        # A test was not chosen, fails, is not judged.
        (KNOWN, ["-k", "kept"], 0),
        (KNOWN.replace("test_gone(): ", "test_gone(): assert False; "), [], 1),
        (KNOWN.replace("def test_gone", "import pytest\n@pytest.mark.leaktight(skip='later')\ndef test_gone"), [], 0),
    ],
)
def test_an_entry_stays_that_this_run_cannot_speak_of(project, change, arguments, status):
    baseline = known(project)
    project.write(change)
    project.leaks("--leaks-baseline", str(baseline), "--leaks-update-baseline", *arguments, status=status)
    assert baseline.read_text().count("by hand") == 2, baseline.read_text()


def test_an_entry_goes_that_a_whole_run_did_not_need(project):
    baseline = known(project)
    project.write(KNOWN.replace("zoo.leak_strdup()", "pass"))
    project.leaks("--leaks-baseline", str(baseline), "--leaks-update-baseline")
    assert baseline.read_text().count("by hand") == 1 and "leak_malloc" in baseline.read_text()


def test_another_line_of_the_same_function_is_another_place(project):
    one, both = "zoo_refs.leak_at_line(1)", "zoo_refs.leak_at_line(2)"
    project.write(f"import zoo_refs\ndef test_one(): {one}")
    baseline = project.folder / "known.toml"
    with_baseline = ["--leaks-baseline", str(baseline)]
    project.leaks(*with_baseline, "--leaks-update-baseline")
    baseline.write_text(baseline.read_text().replace('reason = ""', 'reason = "known"'))
    assert "1 leak, all known" in project.leaks(*with_baseline)["text"]
    for text in (f"def test_one(): {one}; {both}", f"def test_one(): {one}\ndef test_two(): {both}"):
        project.write(f"import zoo_refs\n{text}")
        run = project.leaks(*with_baseline, status=1)
        assert [finding["known"] for finding in run["findings"]].count(False) == 1 and len(run["findings"]) == 2, run["text"]
        assert len({finding["stack"][0]["line"] for finding in run["findings"]}) == 2
    # Both are known once the entry says so.
    project.leaks(*with_baseline, "--leaks-update-baseline")
    assert "places = 2" in baseline.read_text() and "all known" in project.leaks(*with_baseline)["text"]
