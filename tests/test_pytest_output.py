"""What ``pytest --leaks`` writes."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import support
from pytest_project import verdicts


def test_report_stays_short(project):
    project.write(
        """
        import ctypes, pytest, zoo
        @pytest.mark.parametrize("number", range(120))
        def test_same(number): zoo.leak_malloc()
        """
        + "".join(f"\n        def test_{number}(): zoo.leak_strdup(); list(range({number}))" for number in range(20))
    )
    run = project.leaks(status=1, timeout=400)
    # However wide the terminal is.
    said = " ".join(run["text"].split())
    assert "in 120 tests: test_it.py::test_same[0], test_it.py::test_same[1], test_it.py::test_same[2] … and 117 more" in said
    section = run["text"].split("= leaks =")[1]
    assert len(section.splitlines()) < 60



def test_junit_and_annotations(project):
    project.write("import zoo\ndef test_leaks():\n    zoo.leak_malloc()\ndef test_clean(): pass")
    xml = project.folder / "junit.xml"
    run = project.leaks("--junitxml", str(xml), status=1, env={"GITHUB_ACTIONS": "true"})
    suite = ElementTree.parse(xml).getroot()[0]
    properties = {entry.get("name"): entry.get("value") for entry in suite.find("properties")}
    assert properties["leaktight.judged"] == "2" and properties["leaktight.leaking"] == "1"
    assert all(case.find("properties") is None for case in suite.iter("testcase")), "not valid in xunit2"
    assert [case.get("name") for case in suite.iter("testcase")] == ["test_leaks", "test_leaks (leaks)", "test_clean"]
    assert {entry["what"] for entry in run["not_seen"]} == {value for name, value in properties.items() if name.startswith("leaktight.not_seen.")}
    (failure,) = suite.iter("failure")
    assert "leak_malloc" in failure.text
    assert re.search(r"^::error file=test_it.py,line=3,title=memory leak::every run loses 1 block of 100 bytes", run["text"], re.M)



def test_crash_loses_one_test(project):
    project.write(
        """
        import ctypes, zoo
        def test_leaks(): zoo.leak_malloc()
        def test_clean(): pass
        def test_crashes(): ctypes.string_at(0)
        def test_after(): pass
        """
    )
    assert project.plain("--leaks").returncode < 0
    done = project.plain("--leaks", "-k", "after")
    assert "its last test was test_it.py::test_crashes, 2 were judged until then" in done.stdout
    assert "found then: test_it.py::test_leaks - every run loses 1 block of 100 bytes" in done.stdout
    assert "did not end" not in project.plain("--leaks", "-k", "after").stdout

    run = project.leaks("-n", "1", status=1)
    assert verdicts(run) == {"test_leaks": "leak", "test_clean": "clean", "test_after": "clean"}



def test_interrupted_run_tells_what_it_knows(project):
    project.write(
        """
        import pathlib, time, zoo
        def test_leaks(): zoo.leak_malloc()
        def test_slow():
            with open(pathlib.Path(__file__).parent / "runs", "a") as file: file.write("x")
            time.sleep(3)
        """
    )
    command = [sys.executable, *project.command("--leaks", str(project.folder))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=project.environment())
    runs = project.folder / "runs"
    while process.poll() is None and (not runs.exists() or len(runs.read_text()) < 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert len(runs.read_text()) == 2, "another round began"
    assert "LEAKED test_it.py::test_leaks" in output and "KeyboardInterrupt" in output



def test_long_judging_shows_on_a_terminal(project):
    project.write(
        """
        import time, zoo
        def test_clean(): pass
        def test_long():
            time.sleep(0.1)
            zoo.leak_malloc()
        """
    )
    ours, its = pty.openpty()
    process = subprocess.Popen([sys.executable, *project.command("--leaks", str(project.folder))], stdout=its, env=project.environment())
    os.close(its)
    output = b""
    with contextlib.suppress(OSError):  # How a terminal says that nobody writes to it any more.
        while part := os.read(ours, 4096):
            output += part
    assert process.wait(60) == 1
    notes = re.findall(rb"\x1b7  judging: (\d+) rounds, (\d+) s\x1b\[K\x1b8", output)
    assert notes and int(notes[0][0]) >= 10 and int(notes[0][1]) >= 2, output
    assert len(notes) <= 2 * int(notes[-1][1]), output
    assert b"1 leaked" in output


def test_summary_as_a_person_reads_it(project):
    project.write(
        """
        import zoo
        def test_one(): zoo.leak_malloc()
        def test_two(): zoo.leak_strdup()
        """
    )
    run = project.leaks(status=1)
    section, short = run["text"].split("= leaks =")[1].split("= short test summary info =")
    assert section.count("\n\n") == 2, "one after each finding"
    assert [line.split()[0] for line in short.splitlines()[1:-1]] == ["LEAKED", "LEAKED"]
    assert "times a plain run" not in section, "of a plain run of milliseconds"
    assert "\x1b[" not in run["text"]
    colourful = project.plain("--leaks", "--color=yes").stdout
    assert "\x1b[31mmemory: every run loses 1 block" in colourful and "\x1b[31mLEAKED\x1b[0m test_it.py" in colourful


def test_what_was_not_looked_at_is_told(project):
    project.write("def test_it(): pass")
    run = project.leaks()
    told = re.findall(r"^not seen here: (.*)$", run["text"], re.M)
    assert told == [entry["what"] for entry in run["not_seen"]] and run["summary"]["not_seen"] == len(told)
    immortal = sys.version_info >= (3, 12)
    assert any("references to objects that this interpreter never frees" in what for what in told) == immortal
    assert "no function of libc" in run["text"]


def test_a_command_shows_each_leak_alone(project):
    project.write("import zoo\nfrom zoo import leak_strdup\ndef test_call(): zoo.leak_malloc()\ndef test_name(): leak_strdup()\ndef test_more():\n    x = 1\n    zoo.leak_nested()")
    run = project.leaks(status=1)
    commands = {finding["tests"][0].split("::")[1]: finding["command"] for finding in run["findings"]}
    assert commands == {
        "test_call": "leaktight check -s 'import zoo' 'zoo.leak_malloc()'",
        "test_name": "leaktight check -s 'from zoo import leak_strdup' 'leak_strdup()'",
        "test_more": "pytest test_it.py::test_more --leaks",
    }
    assert all(f"    alone: {command}" in run["text"] for command in commands.values())
    for name, command in commands.items():
        program, *words = shlex.split(command)
        start = ["-m", "leaktight", *words] if program == "leaktight" else project.command(*words)
        done = subprocess.run([sys.executable, *start], capture_output=True, text=True, env=project.environment(), cwd=project.folder, check=False)
        assert done.returncode == 1 and "leak" in done.stdout, (name, done.stdout, done.stderr)


def test_json_makes_its_folder_and_a_failure_to_write_loses_nothing_else(project):
    project.write("import zoo\ndef test_leaks(): zoo.leak_malloc()")
    made = project.folder / "new" / "folder" / "leaks.json"
    project.plain("--leaks", "--leaks-json", str(made))
    assert made.exists()
    xml = project.folder / "junit.xml"
    done = project.plain("--leaks", "--leaks-json", str(project.folder / "test_it.py" / "x.json"), "--junitxml", str(xml))
    assert done.returncode == 1 and "x.json could not be written: " in done.stdout and "LEAKED test_it.py::test_leaks" in done.stdout
    assert xml.exists() and "INTERNALERROR" not in done.stdout


def test_where_nothing_can_be_judged_tests_run_as_always(project, tmp_path):
    """A platform without the engine: a package without its extension module."""
    site = tmp_path / "pure"
    package = Path(os.environ.get("LEAKTIGHT_SITE", support.ROOT / "python")).resolve() / "leaktight"
    shutil.copytree(package, site / "leaktight", ignore=shutil.ignore_patterns("_core*", "__pycache__"))
    project.write("import zoo\ndef test_leaks(): zoo.leak_malloc()")
    paths = os.pathsep.join([str(site), *support.zoo_paths()[support.pythons()[0].version]])
    for arguments, status in (([], 0), (["--leaks-strict"], 1), (["-n", "1"], 0)):
        command = [sys.executable, "-m", "pytest", "-p", "leaktight.pytest_plugin", "--leaks", *arguments, str(project.folder)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
        assert done.returncode == status and "1 passed" in done.stdout, done.stdout + done.stderr
        assert done.stdout.count("not judged here: leaktight's engine cannot be loaded") == 1


def test_where_the_time_goes(project):
    project.write("import time\ndef test_slow(): time.sleep(0.1)\ndef test_quick(): pass")
    run = project.leaks("--leaks-durations", "1")
    slow, both = re.findall(r"^ +([\d.]+) +([\d.]+) +([\d.]+) +([\d,]+) runs  (.*)$", run["text"], re.M)
    assert slow[4] == "test_it.py::test_slow" and slow[3] == "3" and float(slow[0]) >= 0.1 and float(slow[1]) >= 0.2 > float(slow[2])
    assert both[4] == "all 2 tests" and float(both[1]) >= float(slow[1])
