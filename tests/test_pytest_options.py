"""What ``pytest --leaks`` is asked for: options, ini keys and markers."""

from __future__ import annotations

import time

import os

import pytest
from pytest_project import verdicts


def test_without_the_option_nothing_happens(project):
    project.write(
        """
        import sys, zoo
        def test_it():
            zoo.leak_malloc()
            assert "leaktight._core" not in sys.modules and "leaktight._pytest" not in sys.modules
        """
    )
    done = project.plain("--strict-markers")
    assert done.returncode == 0, done.stdout
    assert "leak" not in done.stdout.split("collected")[1]



def test_marker(project):
    project.write(
        """
        import pytest, zoo
        @pytest.mark.leaktight(skip="leaks on purpose")
        def test_skipped(): zoo.leak_malloc()
        @pytest.mark.leaktight(checks=["fds"])
        def test_descriptors(): zoo.leak_malloc()
        @pytest.mark.leaktight(rounds=9)
        def test_rounds(): pass
        calls = []
        @pytest.mark.leaktight(period=16)
        def test_rare(): zoo.leak_every_10th()
        """
    )
    run = project.leaks("--strict-markers", status=1)
    assert verdicts(run) == {"test_skipped": "not judged", "test_descriptors": "clean", "test_rounds": "clean", "test_rare": "leak"}
    assert {test["test"]: test["runs"] for test in run["tests"]}["test_it.py::test_rounds"] == 9
    assert "not judged: leaks on purpose (test_it.py::test_skipped)" in run["text"]



@pytest.mark.parametrize(
    "marker, word",
    [("period=0", "period must be"), ("rounds=2", "rounds must be"), ("checks=['x']", "unknown check 'x'"), ("often=1", "unknown: often"), ("5", "keywords only")],
)
def test_wrong_marker_is_an_error(project, marker, word):
    project.write(f"import pytest\n@pytest.mark.leaktight({marker})\ndef test_it(): pass")
    done = project.plain("--leaks")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and word in done.stdout + done.stderr, done.stdout + done.stderr
    assert project.plain().returncode == 0



@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--leaks", "--leaks-rounds", "2"], "at least 3"),
        (["--leaks", "--leaks-checks", "memory,ram"], "unknown check 'ram'"),
        (["--leaks", "--leaks-update-baseline"], "needs --leaks-baseline"),
        (["--leaks-update-baseline"], "--leaks-update-baseline needs --leaks"),
        (["--leaktight-rounds=7"], "--leaks-rounds needs --leaks"),
        (["--leaks-json", "x.json"], "--leaks-json needs --leaks"),
        (["--leaks", "--leaks-baseline", "gone.toml"], "gone.toml: there is no such file; --leaks-update-baseline writes it"),
    ],
)
def test_wrong_option_is_an_error(project, arguments, word):
    project.write("def test_it(): pass")
    done = project.plain(*arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and word in done.stderr, done.stdout + done.stderr



def test_ini_keys(project):
    project.write("import zoo\ndef test_it(): zoo.leak_malloc()")
    (project.folder / "pytest.ini").write_text("[pytest]\nleaktight_rounds = 7\nleaktight_checks = fds threads\nleaktight_fail_on = warning\n")
    assert project.leaks()["tests"][0]["runs"] == 7
    assert verdicts(project.leaks("--leaks-checks", "memory", status=1)) == {"test_it": "leak"}



def test_fixture_judges_one_call(project):
    project.write(
        """
        import zoo
        def test_clean(leaktight):
            assert leaktight(sorted, [1], max_calls=512, period=64).verdict == "clean"
        def test_leaks(leaktight): leaktight(zoo.leak_malloc)
        """
    )
    done = project.plain("--strict-markers")
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout and "leak_malloc" in done.stdout
    run = project.leaks("-k", "clean")
    assert run["tests"][0]["reason"] == "it makes checks of its own"


def test_tests_of_the_test_case_judge_themselves(project):
    project.write(
        """
        import os
        from leaktight.testcase import MemoryLeakTestCase
        class TestIt(MemoryLeakTestCase):
            def test_it(self): self.execute(sorted, [1])
        def test_far_away():
            os.chdir("/")
            KEPT.append(bytearray(1000))
        KEPT = []
        """
    )
    run = project.leaks(status=1)
    assert [test["reason"] for test in run["tests"] if "TestIt" in test["test"]] == ["it makes checks of its own"]
    [finding] = run["findings"]
    assert finding["stack"][0]["file"].startswith("/"), finding



def test_time_budget(project):
    project.write("import pytest, time\n@pytest.mark.parametrize('i', range(20))\ndef test_it(i): time.sleep(0.1)")
    run = project.leaks("--leaks-time-budget", "2")
    found = list(verdicts(run).values())
    assert found[0] == "clean" and found[-1] == "not judged" and len(found) == 20
    assert "not judged: the time budget of the run was used up" in run["text"]


def test_too_little_time_is_not_none(project):
    project.write("import time\ndef test_it(): time.sleep(0.5)")
    run = project.leaks("--leaks-time-budget", "1.5")
    assert "not judged: less of the time budget of the run was left than it needs" in run["text"], run["text"]



def test_nothing_runs_where_nothing_is_asked_to_run(project):
    project.write("def test_it(): raise SystemExit('ran')")
    done = project.plain("--leaks", "--collect-only")
    assert done.returncode == 0 and "= leaks =" not in done.stdout


TAKING = """
def pytest_addoption(parser):
    parser.addoption("--leaks", action="store", help="something else")
"""


@pytest.mark.parametrize("early", [True, False], ids=["before ours", "after ours"])
def test_an_option_of_the_same_name_is_the_other_plugins(project, early):
    """As dask.distributed's."""
    if early:
        project.write(TAKING, "taking.py")
        plugin = ["-p", "taking"]
    else:
        project.write(TAKING, "conftest.py")
        plugin = []
    project.write("import zoo\ndef test_leaks(pytestconfig):\n    assert pytestconfig.option.leaks in (None, 'fds')\n    zoo.leak_malloc()")
    paths = {"PYTHONPATH": os.pathsep.join([project.environment()["PYTHONPATH"], str(project.folder)])}
    alone = project.plain(*plugin, env=paths)
    assert alone.returncode == 0 and "leak" not in alone.stdout.split("collected")[1], alone.stdout + alone.stderr
    theirs = project.plain(*plugin, "--leaks", "fds", env=paths)
    assert theirs.returncode == 0 and "leaks: another plugin has --leaks; ours: --leaktight" in theirs.stdout, theirs.stdout + theirs.stderr
    quiet = project.plain(*plugin, "-q", "--leaks", "fds", env=paths)
    assert quiet.stdout.count("leaks: another plugin has --leaks; ours: --leaktight") == 1, quiet.stdout + quiet.stderr
    file = project.folder / "found.json"
    ours = project.plain(*plugin, "--leaktight", "--leaks-json", str(file), "--leaks=fds", env=paths)
    assert ours.returncode == 1 and "1 passed, 1 leaked" in ours.stdout, ours.stdout + ours.stderr
    assert file.exists()
    refused = project.plain(*plugin, "--leaks-json", str(file), env=paths)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR and "--leaks-json needs --leaktight" in refused.stderr


def test_both_spellings(project):
    project.write("import zoo\ndef test_leaks(): zoo.leak_malloc()")
    done = project.plain("--leaktight", "--leaktight-rounds", "6", "--leaks-fail-on=warning")
    assert done.returncode == 1 and "1 leaked" in done.stdout
    told = project.plain("--help").stdout
    assert "--leaks-rounds" in told and "--leaktight-rounds" in told


def test_only_tests_with_a_marker_are_judged(project):
    """For suites that have marked what is worth it."""
    (project.folder / "pytest.ini").write_text("[pytest]\nleaktight_markers = leaks refcount\nmarkers =\n  leaks\n  refcount\n  slow\n")
    project.write(
        """
        import pytest, zoo
        @pytest.mark.leaks
        def test_one(): zoo.leak_malloc()
        @pytest.mark.refcount
        class TestIt:
            def test_two(self): pass
        @pytest.mark.slow
        def test_other(): zoo.leak_malloc()
        """
    )
    run = project.leaks("--leaks-strict", status=1)
    assert verdicts(run) == {"test_one": "leak", "TestIt::test_two": "clean", "test_other": "not judged"}
    assert "leaks: 2 tests, about" in run["text"] and "1 leaked" in run["text"] and " open" not in run["text"]
    assert "not judged: it is marked neither leaks nor refcount (test_it.py::test_other)" in run["text"]


@pytest.mark.parametrize("how", ["option", "ini", "off"])
def test_strict_fails_what_is_not_known(project, how):
    project.write(
        """
        import pytest
        once = []
        def test_once():
            assert not once
            once.append(1)
        def test_clean(): pass
        @pytest.mark.leaktight(skip="known to leak")
        def test_excused(): pass
        def test_checks(leaktight): leaktight(sorted, [1], max_calls=512, period=64)
        """
    )
    if how == "ini":
        (project.folder / "pytest.ini").write_text("[pytest]\nleaktight_strict = true\n")
    run = project.leaks(*(["--leaks-strict"] if how == "option" else []), status=int(how != "off"))
    assert ("1 open" in run["text"]) == (how != "off")
    assert "4 passed" in run["text"] and "leaks: 1 test judged, none leaks, 3 not judged" in run["text"]
