"""``pytest --leaks`` does without what a pytest does not have, and says so."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import _pytest
import pytest
from pytest_project import Project, verdicts

sys.path.insert(0, os.environ.get("LEAKTIGHT_SITE", str(Path(__file__).resolve().parent.parent / "python")))

from leaktight._pytest import inside  # noqa: E402

SUITE = """
import warnings, pytest, zoo
@pytest.fixture
def leaks_itself(): zoo.leak_strdup()
@pytest.fixture(scope="module")
def wide(): return [1]
@pytest.fixture
def narrow(wide): return [wide]
def test_clean(narrow, tmp_path): (tmp_path / "file").write_text("x")
def test_leaks(): zoo.leak_malloc()
def test_fixture(leaks_itself): pass
@pytest.mark.filterwarnings("error")
def test_warning():
    with pytest.raises(UserWarning): warnings.warn("x")
class TestIt:
    def test_method(self):
        assert not hasattr(self, "seen")
        self.seen = True
"""
VERDICTS = {"test_clean": "clean", "test_leaks": "leak", "test_fixture": "leak", "test_warning": "clean", "TestIt::test_method": "clean"}
#: What is judged otherwise without a name.
CHANGED = {
    "call_fixture_func": {"test_fixture": "clean"},
    "_tmp_path_factory": {"test_clean": "leak"},
    "catch_warnings_for_item": {"test_warning": "not judged"},
    "_obj": {"TestIt::test_method": "not judged"},
}
USED = {name: cost for _, name, cost in inside.USED}
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


class OtherPytest(Project):
    """A project, and a pytest whose insides have other names."""

    @property
    def site(self) -> Path:
        return self.folder.parent / "site"

    def without(self, *names: str) -> None:
        self.write(SUITE)
        installed = Path(_pytest.__file__).parent.parent
        names_there = re.compile(rf"\b({'|'.join(names)})\b")
        for package in ("_pytest", "pytest"):
            shutil.copytree(installed / package, self.site / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in self.site.rglob("*.py"):
            text = file.read_text()
            if names_there.search(text):
                file.write_text(names_there.sub(r"\1_moved", text))

    def command(self, *arguments: str) -> list[str]:
        start = f"import sys; sys.path.insert(0, {str(self.site)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
        return ["-c", start, "-p", "leaktight.pytest_plugin", *arguments]


@pytest.fixture
def other(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return OtherPytest(folder)


def test_all_is_there_in_this_pytest():
    assert inside.missing() == [] and inside.cannot_repeat() is None


@pytest.mark.parametrize("name", USED)
def test_what_is_missing_costs_its_part_only(other, name):
    other.without(name)
    run = other.leaks("--junitxml", str(other.folder / "junit.xml"), status=1, env=ALONE)
    assert verdicts(run) == {**VERDICTS, **CHANGED.get(name, {})}, run["text"]
    assert f"has no `{name}`: {USED[name]}" in run["text"]
    assert run["text"].count("leaks: pytest") == 1


@pytest.mark.parametrize("name", [name for _, name in inside.NEEDED])
def test_where_no_test_can_be_repeated_none_is_judged(other, name):
    other.without(name)
    done = other.plain("--leaks", env=ALONE)
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr
    assert re.search(rf"not judged here: pytest \S+ has no `{name}`", done.stdout)


def test_a_run_without_the_option_is_as_without_us(other):
    other.without(*(name for _, name in inside.NEEDED), *USED)
    outputs = []
    for plugin in (["-p", "leaktight.pytest_plugin"], []):
        start = other.command()[:2]
        environment = {**other.environment(), **ALONE}
        command = [sys.executable, *start, *plugin, "-p", "no:cacheprovider", str(other.folder / "test_it.py")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        outputs.append(re.sub(r"in [\d.]+s|(?m:^plugins: .*$)", "", done.stdout))
        assert done.returncode == 0, done.stdout + done.stderr
    assert outputs[0] == outputs[1]
