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
    run = project.leaks("--leaks-baseline", str(baseline), "-k", "nothing", "--leaks-update-baseline", status=5)
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
