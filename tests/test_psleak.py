"""The drop-in under psleak's own tests and under psutil's leak tests, without any environment variable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import packages
import support

PYTHON = support.pythons()[0]
#: How often, and beside how many others. The first of each shows what is right, the others that it is no accident.
WORKERS = ("-p", "xdist", "-n", "4")
AGAIN = pytest.mark.thorough
BUILD = support.BUILD / "drop-in" / "{}.{}".format(*PYTHON.version)
PSLEAK_TESTS = ("test_c_leaks.py", "test_python_leaks.py", "test_interface.py")

#: psleak's tests that do not apply, by reason. docs/from-psleak.md lists them, too.
NOT_APPLICABLE = {
    "reaches for the private `_check_mem`": (
        "test_interface.py::TestMemoryLeakTestCaseConfig::test_memory_disabled",
        "test_interface.py::TestMemoryLeakTestCaseConfig::test_execute_kwargs_precedence",
    ),
    "reaches for the private `_warnings_emitted`": (
        "test_interface.py::TestMemoryLeakTestCaseConfig::test_py_threads_disabled",
    ),
    "expects a skip where `PYTHONMALLOC=malloc` is not set": (
        "test_interface.py::TestMisc::test_pythonmalloc_not_set",
    ),
    "expects a warning about psleak's own needs": (
        "test_interface.py::TestEmitWarnings::test_pythonunbuffered_not_set",
        "test_interface.py::TestEmitWarnings::test_no_heap_info",
        "test_interface.py::TestEmitWarnings::test_active_threads_warning",
        "test_interface.py::TestEmitWarnings::test_heap_used_zero",
    ),
}
EXCLUDED = {name for names in NOT_APPLICABLE.values() for name in names}


def run_tests(folder: Path, files: tuple[str, ...], *arguments: str, paths: tuple[str, ...] = ()) -> dict[str, str]:
    """The outcome of each test, by name; the text of all in ""."""
    done = support.run(
        PYTHON,
        # Neither the packages' own settings of pytest nor ours.
        ["-m", "pytest", "-p", "as_psleak", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", os.devnull, "--rootdir", str(folder), "-rA",
         *arguments, *(str(folder / "tests" / file) for file in files)],
        paths=[*paths, str(support.ROOT / "tests"), packages.wheels("psutil", [packages.PSUTIL])],
        # Nor plugins that happen to be installed, such as one that shuffles tests which leave traces for each other.
        env={"PYTHONMALLOC": "", "PYTHONUNBUFFERED": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        timeout=600,
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) \S*?(test_\w+\.py::[\w:]+)", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {**{name: outcome for outcome, name in found}, "": done.stdout}


def failed(outcomes: dict[str, str]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")}


@pytest.fixture(scope="module")
def extension() -> str:
    """The folder of the extension that psleak's tests call."""
    interpreter = support.zoo_build.probe(PYTHON.path)
    target = BUILD / f"test_ext{interpreter.extension_suffix}"
    source = packages.tests_of(packages.PSLEAK) / "tests" / "test_ext.c"
    with support.zoo_build.locked(BUILD):
        if support.zoo_build.stale(target, [source]):
            support.zoo_build.compile_shared("cc", target, [source], ["-DPSLEAK_POSIX", f"-I{interpreter.include}"])
    return str(BUILD)


@pytest.mark.parametrize("workers", [pytest.param((), id="alone"), pytest.param(WORKERS, id="4 workers", marks=AGAIN)])
def test_psleaks_own_tests_pass_but_for_those_that_do_not_apply(extension, workers):
    outcomes = run_tests(packages.tests_of(packages.PSLEAK), PSLEAK_TESTS, *workers, paths=(extension,))
    assert failed(outcomes) == EXCLUDED, outcomes[""]
    assert sum(outcome == "PASSED" for outcome in outcomes.values()) >= 51, outcomes[""]


def test_the_docs_list_what_does_not_apply():
    page = (support.ROOT / "docs" / "from-psleak.md").read_text()
    for reason, names in NOT_APPLICABLE.items():
        assert reason in page, reason
        for name in names:
            assert name.rpartition("::")[2] in page, name


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param((), id="first"),
        pytest.param((), id="second", marks=AGAIN),
        pytest.param((), id="third", marks=AGAIN),
        pytest.param(WORKERS, id="4 workers", marks=AGAIN),
    ],
)
def test_psutils_leak_tests_pass(workers):
    outcomes = run_tests(packages.tests_of(packages.PSUTIL), ("test_memleaks.py",), *workers)
    assert not failed(outcomes), outcomes[""]
    assert sum(outcome == "PASSED" for outcome in outcomes.values()) >= 80, outcomes[""]


@dataclass(frozen=True)
class Mistake:
    """A line of psutil/arch/linux/disk.c, without which `disk_partitions` leaks, and how that is told."""

    line: str
    after: str
    error: str
    told: str


MISTAKES = {
    "memory": Mistake("        Py_CLEAR(py_mountp);\n", "", "MemoryLeakError", r"disk\.c:\d+ +py_mountp = PyUnicode_"),
    "descriptor": Mistake("    endmntent(file);\n", "    return py_retlist;\n", "UnclosedFdError", r"disk\.c:\d+ +file = setmntent"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_leak_in_psutil_is_found_and_named(name):
    psutil = leaky_psutil(name, MISTAKES[name])
    outcomes = run_tests(
        packages.tests_of(packages.PSUTIL), ("test_memleaks.py",), "-k", "disk or boot_time", paths=(psutil,)
    )
    assert failed(outcomes) == {"test_memleaks.py::TestModuleFunctionsLeaks::test_disk_partitions"}, outcomes[""]
    text = outcomes[""]
    assert MISTAKES[name].error in text and re.search(MISTAKES[name].told, text), text


def leaky_psutil(name: str, mistake: Mistake) -> str:
    """psutil, built with the mistake."""
    folder = BUILD / f"psutil-leaks-{name}"
    source = packages.source(packages.PSUTIL)
    with packages.installed_once(folder, repr(mistake)) as missing:
        if missing:
            tree = folder / "source"
            shutil.copytree(source, tree)
            file = tree / "psutil" / "arch" / "linux" / "disk.c"
            text, right = file.read_text(), mistake.line + mistake.after
            assert text.count(right) == 1
            file.write_text(text.replace(right, mistake.after))
            # What builds it is in requirements.txt.
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
            environment = {**os.environ, "CFLAGS": "-g -O1"}
            subprocess.run([*pip, "--target", str(folder / "site"), str(tree)], check=True, env=environment)
    return str(folder / "site")
