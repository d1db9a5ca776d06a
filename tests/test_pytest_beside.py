"""``pytest --leaks`` beside other plugins. One that is missing fails its test."""

from __future__ import annotations

import re

from pytest_project import verdicts


def test_asyncio(project):
    project.write(
        """
        import asyncio, pytest, zoo
        @pytest.mark.asyncio
        async def test_clean(): await asyncio.gather(*[asyncio.sleep(0) for _ in range(3)])
        @pytest.mark.asyncio
        async def test_leaks():
            await asyncio.sleep(0)
            zoo.leak_malloc()
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}
    assert {finding["stack"][0]["function"] for finding in run["findings"]} == {"leak_malloc"}


def test_anyio(project):
    project.write(
        """
        import asyncio, pytest, zoo
        @pytest.fixture
        def anyio_backend(): return "asyncio"
        @pytest.mark.anyio
        async def test_clean(): await asyncio.sleep(0)
        @pytest.mark.anyio
        async def test_leaks():
            await asyncio.sleep(0)
            zoo.leak_strdup()
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}
    assert {finding["stack"][0]["function"] for finding in run["findings"]} == {"leak_strdup"}


def test_hypothesis(project):
    project.write(
        """
        import zoo
        from hypothesis import given, settings, strategies as st
        @settings(max_examples=10, deadline=10_000)
        @given(st.lists(st.integers()), st.text())
        def test_clean(numbers, text): sorted(numbers); text.upper()
        @settings(max_examples=10, deadline=10_000)
        @given(st.integers())
        def test_leaks(number): zoo.leak_malloc()
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}



def test_reruns(project):
    project.write(
        """
        import zoo
        runs = []
        def test_flaky():
            runs.append(1)
            assert len(runs) > 1
        def test_leaks(): zoo.leak_malloc()
        def test_fails(): assert 0
        """
    )
    run = project.leaks("--reruns", "1", status=1)
    assert verdicts(run) == {"test_flaky": "clean", "test_leaks": "leak"}
    assert all(count in run["text"] for count in ("1 failed", "2 passed", "1 leaked", "2 rerun"))


LEAKY = """
import zoo
def test_clean(): pass
def test_leaks(): zoo.leak_malloc()
"""


def test_xdist(project):
    project.write(LEAKY)
    run = project.leaks("-n", "2", status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}
    assert "2 passed, 1 leaked" in run["text"]


def test_timeout_limits_the_ordinary_run_only(project):
    project.write("import time\ndef test_slow(): time.sleep(0.3)\ndef test_hangs(): time.sleep(5)")
    run = project.leaks("--timeout", "1", status=1)
    assert verdicts(run) == {"test_slow": "clean"}
    assert "1 failed, 1 passed" in run["text"] and "Timeout" in run["text"]


def test_coverage_counts_as_always(project):
    project.write("def used(x):\n    return [x]\n", "covered.py")
    project.write("import covered, zoo\ndef test_clean(): covered.used(1)\ndef test_leaks(): zoo.leak_malloc()")
    run = project.leaks("--cov", "covered", "--cov-report", "term", status=1, env={"COVERAGE_FILE": str(project.folder / ".coverage")})
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}
    assert re.search(r"covered\.py\s+2\s+0\s+100%", run["text"]), run["text"]


def test_randomly(project):
    project.write("import random, zoo\ndef test_clean(): random.random()\ndef test_leaks(): zoo.leak_malloc()")
    project.blocked = []
    run = project.leaks("-p", "no:cacheprovider", status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}
    assert "--randomly-seed=" in run["text"]


def test_subtests(project):
    project.write(
        """
        import unittest, zoo
        def test_clean(subtests):
            for number in range(3):
                with subtests.test(number=number): pass
        def test_leaks(subtests):
            with subtests.test("one"): zoo.leak_malloc()
        class Case(unittest.TestCase):
            def test_clean(self):
                for number in range(3):
                    with self.subTest(number=number): pass
            def test_leaks(self):
                with self.subTest(): zoo.leak_strdup()
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak", "Case::test_clean": "clean", "Case::test_leaks": "leak"}
    assert {finding["stack"][0]["function"] for finding in run["findings"]} == {"leak_malloc", "leak_strdup"}


def test_unittest(project):
    project.write(
        """
        import unittest, zoo
        class Case(unittest.TestCase):
            def setUp(self): self.items = [str(number) for number in range(10)]
            def tearDown(self): self.items.clear()
            def test_clean(self): self.assertEqual(len(self.items), 10)
            def test_leaks(self): zoo.leak_malloc()
        class Late(unittest.TestCase):
            def tearDown(self): zoo.leak_strdup()
            def test_it(self): pass
        class Waits(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self): self.item = [1]
            async def test_clean(self): self.assertEqual(self.item, [1])
            async def test_leaks(self): zoo.leak_malloc()
        """
    )
    run = project.leaks(status=1)
    leaking = {test for test, verdict in verdicts(run).items() if verdict == "leak"}
    assert leaking == {"Case::test_leaks", "Late::test_it", "Waits::test_leaks"} and set(verdicts(run).values()) == {"leak", "clean"}


def test_instafail(project):
    project.write(LEAKY + "def test_fails(): assert 0, 'own failure'\n")
    run = project.leaks("--instafail", status=1)
    assert verdicts(run) == {"test_clean": "clean", "test_leaks": "leak"}
    assert "1 failed, 2 passed, 1 leaked" in run["text"] and "own failure" in run["text"]
