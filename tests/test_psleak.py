"""The drop-in under psleak's own tests and under psutil's leak tests, without any environment variable."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sources
import support

PYTHON = support.pythons()[0]
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
    "touches more pages of one mapping, and allocates nothing": (
        "test_python_leaks.py::TestRssOnlyGrowth::test_touch_pages",
    ),
}
EXCLUDED = {name for names in NOT_APPLICABLE.values() for name in names}


def run_tests(folder: Path, files: tuple[str, ...], *arguments: str, paths: tuple[str, ...] = ()) -> dict[str, str]:
    """The outcome of each test, by name; the text of all in ""."""
    done = support.run(
        PYTHON,
        # Neither the packages' own settings of pytest nor ours.
        ["-m", "pytest", "-p", "as_psleak", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), "-rA",
         *arguments, *(str(folder / "tests" / file) for file in files)],
        paths=[*paths, str(support.ROOT / "tests"), *support.zoo_paths()[PYTHON.version]],
        env={"PYTHONMALLOC": "", "PYTHONUNBUFFERED": ""},
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
    source = sources.tests_of(sources.PSLEAK) / "tests" / "test_ext.c"
    with support.zoo_build.locked(BUILD):
        if support.zoo_build.stale(target, [source]):
            support.zoo_build.compile_shared("cc", target, [source], ["-DPSLEAK_POSIX", f"-I{interpreter.include}"])
    return str(BUILD)


@pytest.mark.parametrize("workers", [(), ("-n", "4")], ids=["alone", "4 workers"])
def test_psleaks_own_tests_pass_but_for_those_that_do_not_apply(extension, workers):
    outcomes = run_tests(sources.tests_of(sources.PSLEAK), PSLEAK_TESTS, *workers, paths=(extension,))
    assert failed(outcomes) == EXCLUDED, outcomes[""]
    assert sum(outcome == "PASSED" for outcome in outcomes.values()) >= 51, outcomes[""]


def test_the_docs_list_what_does_not_apply():
    page = (support.ROOT / "docs" / "from-psleak.md").read_text()
    for reason, names in NOT_APPLICABLE.items():
        assert reason in page, reason
        for name in names:
            assert name.rpartition("::")[2] in page, name


@pytest.mark.parametrize("workers", [(), (), (), ("-n", "4")], ids=["first", "second", "third", "4 workers"])
def test_psutils_leak_tests_pass(workers):
    outcomes = run_tests(sources.tests_of(sources.PSUTIL), ("test_memleaks.py",), *workers)
    assert not failed(outcomes), outcomes[""]
    assert sum(outcome == "PASSED" for outcome in outcomes.values()) >= 80, outcomes[""]


#: One line of psutil/arch/linux/disk.c, without which `disk_partitions` leaks.
FORGOTTEN = {"memory": "        Py_CLEAR(py_mountp);\n", "descriptor": "    endmntent(file);\n    return py_retlist;\n"}


def leaky_psutil(forgotten: str) -> str:
    """psutil, built without that line."""
    folder = BUILD / f"psutil-leaks-{forgotten}"
    site = folder / "site"
    with support.zoo_build.locked(folder):
        if not site.is_dir():
            tree = folder / "source"
            shutil.copytree(sources.source(sources.PSUTIL), tree, dirs_exist_ok=True)
            file = tree / "psutil" / "arch" / "linux" / "disk.c"
            text, line = file.read_text(), FORGOTTEN[forgotten]
            assert text.count(line) == 1
            file.write_text(text.replace(line, "return py_retlist;\n" * line.count("return")))
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command = [*pip, "--target", str(folder / "partial"), str(tree)]
            subprocess.run(command, check=True, env={**os.environ, "CFLAGS": "-g -O1"})
            (folder / "partial").rename(site)
    return str(site)


def test_a_leak_in_psutil_is_found_and_named():
    outcomes = run_tests(
        sources.tests_of(sources.PSUTIL), ("test_memleaks.py",), "-k", "disk or boot_time", paths=(leaky_psutil("memory"),)
    )
    assert failed(outcomes) == {"test_memleaks.py::TestModuleFunctionsLeaks::test_disk_partitions"}, outcomes[""]
    text = outcomes[""]
    assert "psutil_disk_partitions" in text and re.search(r"arch/linux/disk\.c:\d+  py_mountp = ", text), text
    assert "`str` objects" in text and "lost" in text, text
