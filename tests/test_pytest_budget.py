"""``pytest --leaks-time-budget``: what each test needs at least is kept for it, and who got nothing comes first in the next
run."""

from __future__ import annotations

from pytest_project import verdicts

MANY = """
    import pytest, time
    @pytest.mark.parametrize("number", range(16))
    def test_it(number): time.sleep(0.1)
"""


def judged(run):
    return {test for test, verdict in verdicts(run).items() if verdict == "clean"}


def test_one_that_grows_does_not_take_the_time_of_others(project):
    project.write(
        """
        import pytest, time
        kept = []
        def test_grows():
            time.sleep(0.02)
            kept.append(bytearray(1000))
        @pytest.mark.parametrize("number", range(8))
        def test_it(number): time.sleep(0.1)
        """
    )
    run = project.leaks("--leaks-time-budget", "12")
    assert verdicts(run) == {"test_grows": "indeterminate", **{f"test_it[{number}]": "clean" for number in range(8)}}
    assert "no time was left for some tests: the next run judges them first" in run["text"]


def test_one_that_needs_nearly_all_leaves_the_others_theirs(project):
    project.write(
        """
        import pytest, time
        kept = []
        def test_slow():
            kept.append(bytes(100))
            time.sleep(0.5)
        @pytest.mark.parametrize("number", range(40))
        def test_quick(number): pass
        """
    )
    run = project.leaks("--leaks-time-budget", "12")
    assert list(verdicts(run).values()).count("clean") >= 20, run["text"]


def test_a_slow_one_at_the_start_says_nothing_of_those_that_follow(project):
    project.write(
        """
        import pytest, time
        kept, runs = [], 0
        def test_slow(): time.sleep(0.5)
        def test_settles():
            global runs
            runs += 1
            if runs < 40: kept.append(bytes(1000))
        @pytest.mark.skip
        @pytest.mark.parametrize("number", range(200))
        def test_skipped(number): pass
        """
    )
    run = project.leaks("--leaks-time-budget", "100")
    assert verdicts(run)["test_settles"] in ("clean", "bounded"), run["text"]


def test_one_that_grows_at_a_place_of_its_own_when_its_time_is_over_is_undecided(project):
    project.write(
        """
        from leaktight._pytest import judge
        check = judge.Judge._check
        def slow(self, *arguments):
            result = check(self, *arguments)
            if arguments[-1] == judge.CONFIRMED_AGAIN_AFTER:
                result.seconds += 100
            return result
        judge.Judge._check = slow
        """,
        "conftest.py",
    )
    project.write(
        """
        first, second = [], []
        def test_grows(): first.append(bytearray(1000))
        def test_grows_elsewhere(): second.append(bytearray(1000))
        def test_clean(): pass
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run) == {"test_grows": "leak", "test_grows_elsewhere": "indeterminate", "test_clean": "clean"}


def test_what_had_no_time_comes_first_in_the_next_run(project):
    project.write(MANY)
    arguments = ("--leaks-time-budget", "5")
    run = project.leaks(*arguments)
    done = judged(run)
    assert done and done != {*verdicts(run)}
    for _ in range(8):
        run = project.leaks(*arguments)
        assert judged(run) - done, run["text"]
        if not done & judged(run):
            assert "not judged: the time budget of the run was kept for tests that the run before had no time for" in run["text"]
        done |= judged(run)
        if done == {*verdicts(run)}:
            break
    assert done == {*verdicts(run)}


def test_without_a_cache_it_is_said_that_the_next_run_does_not_know(project):
    project.write(MANY)
    run = project.leaks("--leaks-time-budget", "1", "-p", "no:cacheprovider")
    assert "no time was left for some tests: pytest's cache is off, so the next run does not know them" in run["text"]
