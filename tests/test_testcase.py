"""``MemoryLeakTestCase``: what fails, with which exception, after how many calls; and what must not fail."""

from __future__ import annotations

import pytest
import support

# Memory.


def test_a_leak_is_named_with_its_line(holds):
    holds("""
        error = failure(MemoryLeakError, zoo.leak_malloc)
        lines = str(error).splitlines()
        runs = len(error.report.looks) - 1
        assert lines[0] == f"memory kept increasing after {runs} runs", lines
        # Each call adds the same.
        table = lines[1 : runs + 1]
        assert [line.split()[3] for line in table[:2]] == ["heap=+1400", "heap=+4800"], table
        assert all(line.endswith(", avg/call=+100)") for line in table), table
        text = "\\n".join(lines[runs + 1 :])
        assert "LEAK  zoo.leak_malloc()" in text and "zoo_native.c:" in text and "100 B per call" in text, text
        assert (error.report.verdict, error.report.findings[0].certainty) == ("leak", "lost")
        assert error.report.calls <= 512, error
        passes(zoo.twin_malloc)
    """)


def test_the_metrics_are_those_that_psleak_would_see_grow(holds):
    holds("""
        assert "vms=+" in str(failure(MemoryLeakError, zoo.leak_mmap))
        assert "heap=+" in str(failure(MemoryLeakError, zoo.leak_pymem))
        passes(zoo.twin_mmap)
        passes(zoo.twin_pymem)
    """)


def test_pages_that_are_touched_and_not_allocated(holds):
    holds("""
        import mmap
        pages = mmap.mmap(-1, 128 << 20)
        # A huge page would be touched once for 512 calls.
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        def touch():
            pages[touching.calls * mmap.PAGESIZE] = 1
        touching = Counted(touch)
        error = failure(MemoryLeakError, touching, retries=5)
        assert "rss=+" in str(error) and "avg/call=+4096)" in str(error), error
        # The same page again and again.
        passes(touch)
        touching.calls = 0
        pages.madvise(mmap.MADV_DONTNEED)
        passes(touching, retries=5, tolerance={"rss": 4096 * 200})
    """)


def test_a_clean_function_is_called_some_270_times(holds):
    holds("""
        clean = Counted()
        passes(clean)
        assert 256 <= clean.calls <= 272, clean.calls
        without_warm_up = Counted()
        passes(without_warm_up, warmup_times=0)
        assert without_warm_up.calls == clean.calls - Test.warmup_times
    """)


def test_few_times_do_not_make_the_period_shorter(holds):
    holds("""
        clean = Counted()
        passes(clean, times=2, retries=1, warmup_times=0)
        assert clean.calls >= 256, clean.calls
        kept = []
        for calls in (3, 50, 64):
            leak = Counted(lambda: leak.calls % calls == 0 and zoo.leak_malloc())
            failure(MemoryLeakError, leak, times=2, retries=30)
            # What is kept once is no leak.
            once = Counted(lambda: once.calls == calls and kept.append(bytearray(300)))
            passes(once, times=2, retries=30)
    """)


def test_more_times_find_rarer_leaks(holds):
    holds("""
        error = failure(MemoryLeakError, zoo.leak_every_300th, times=1200)
        assert error.report.findings[0].every == 300
        clean = Counted()
        passes(clean, times=1200)
        assert 1200 <= clean.calls <= 1216, clean.calls
    """)


def test_what_still_grows_when_the_calls_are_used_up_is_a_leak(holds):
    holds("""
        kept = []
        hoard = Counted(lambda: kept.append(bytearray(300)))
        error = failure(MemoryLeakError, hoard, times=200, retries=2, warmup_times=0)
        assert error.report.verdict == "indeterminate", error
        # As many as psleak would make, and one for garbage.
        assert hoard.calls == 200 + 300 + 1, hoard.calls
        assert "held by a list" in str(error) and "heap=+" in str(error), error
    """)


def test_growth_that_is_confirmed_is_a_leak(holds):
    holds("""
        kept = []
        assert failure(MemoryLeakError, lambda: kept.append(bytearray(300))).report.verdict == "leak"
    """)


def test_a_cache_that_fills_up_is_no_leak(holds):
    holds("""
        passes(zoo.twin_cache_512)
        passes(zoo.twin_lru_256)
    """)


def test_growth_up_to_the_tolerance_passes(holds):
    holds("""
        # 100 bytes a call, and 200 calls.
        passes(zoo.leak_malloc, tolerance=20_000)
        failure(MemoryLeakError, zoo.leak_malloc, tolerance=19_999)
        passes(zoo.leak_malloc, tolerance=1_000, times=10)
        passes(zoo.leak_malloc, tolerance={"heap": 20_000})
        failure(MemoryLeakError, zoo.leak_malloc, tolerance={"heap": 19_999, "rss": 10**9, "vms": 10**9})
        failure(MemoryLeakError, zoo.leak_malloc, tolerance={})
        passes(zoo.leak_mmap, tolerance={"vms": 4096 * 200})
        failure(MemoryLeakError, zoo.leak_mmap, tolerance={"heap": 10**9})
        Test.tolerance = 20_000
        passes(zoo.leak_malloc)
        failure(MemoryLeakError, zoo.leak_malloc, tolerance=0)
    """)


def test_what_the_trim_callback_frees_is_no_leak(holds):
    holds("""
        cache, trimmed = [], []
        failure(MemoryLeakError, lambda: cache.append(bytearray(300)), retries=1)
        def trim():
            cache.clear()
            trimmed.append(bytes(1000))  # Its own growth is no growth of the function.
        passes(lambda: cache.append(bytearray(300)), retries=1, trim_callback=trim)
        assert len(trimmed) > 3
        # Not all is freed.
        failure(MemoryLeakError, lambda: (cache.append(None), zoo.leak_malloc()), trim_callback=trim)
    """)


def test_what_the_trim_callback_raises_comes_out(holds):
    holds("""
        trims = Counted(lambda: 1 / (trims.calls - 20))
        failure(ZeroDivisionError, lambda: None, trim_callback=trims)
        first = Counted(lambda: {}["key"])
        failure(KeyError, lambda: None, trim_callback=first)
    """)


# How the test case is used.


def test_an_override_of_call_is_used(holds):
    holds("""
        class Swallowing(Test):
            def call(self, fun):
                try:
                    return fun()
                except LookupError:
                    pass
        Swallowing().execute(lambda: {}["key"])
        failure(KeyError, lambda: {}["key"])
        def leaking():
            zoo.leak_malloc()
            raise LookupError
        try:
            Swallowing().execute(leaking)
        except MemoryLeakError as error:
            assert "leaking" in str(error)
        else:
            raise SystemExit("no leak")
    """)


def test_leaks_on_error_paths(holds):
    holds("""
        w_exc = dict(execute="execute_w_exc")
        failure(MemoryLeakError, ValueError, zoo.leak_error_path, **w_exc)
        failure(MemoryLeakError, (OSError, ValueError), zoo.leak_error_path, **w_exc)
        passes(ValueError, zoo.twin_error_path, **w_exc)
        passes(ValueError, int, "x", **w_exc)
        error = failure(AssertionError, ValueError, int, "1", **w_exc)
        assert str(error).startswith("'int' did not raise <class 'ValueError'>"), error
        failure(ValueError, OSError, int, "x", **w_exc)
        late = Counted(lambda: int("x") if late.calls < 100 else None)
        failure(AssertionError, ValueError, late, **w_exc)
    """)


def test_arguments_are_passed_and_shown(holds):
    holds("""
        got = set()
        passes(lambda *args: got.add(args), 1, "two")
        assert got == {(1, "two")}
        kept = []
        error = failure(MemoryLeakError, kept.append, b"x", retries=2)
        assert "list.append(b'x')" in str(error), error
    """)


def test_generated_tests(holds):
    holds("""
        class Generated(MemoryLeakTestCase):
            @classmethod
            def auto_generate(cls):
                return {
                    "leak": LeakTest(zoo.leak_malloc),
                    "tolerated": LeakTest(zoo.leak_malloc, tolerance=20_000),
                    "with_arguments": LeakTest(sorted, [2, 1], times=20),
                }
        class Inherits(Generated):
            pass
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Inherits).run(result)
        failed = [(str(test), "zoo_native.c" in text) for test, text in result.failures]
        assert result.testsRun == 3 and not result.errors, result.errors
        assert len(failed) == 1 and "test_leak_leak" in failed[0][0] and failed[0][1], failed

        def defines(error, tests, **more):
            try:
                type("Wrong", (MemoryLeakTestCase,), {"auto_generate": classmethod(lambda cls: tests), **more})
            except error:
                return
            raise SystemExit(f"no {error}")
        defines(TypeError, [LeakTest(len)])
        defines(TypeError, {"len": len})
        defines(RuntimeError, {"len": LeakTest(len)}, test_leak_len=None)
        try:
            LeakTest(1)
        except TypeError as error:
            assert "'fun' must be instance of Callable" in str(error), error
    """)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"warmup_times": "10"}, "TypeError", "'warmup_times' must be instance of int (got '10')"),
        ({"times": 2.0}, "TypeError", "'times' must be instance of int"),
        ({"retries": ()}, "TypeError", "'retries' must be instance of int"),
        ({"tolerance": "bad"}, "TypeError", "'tolerance' must be instance of int or dict"),
        ({"trim_callback": 123}, "TypeError", "'trim_callback' must be instance of Callable"),
        ({"checkers": {"memory"}}, "TypeError", "'checkers' must be instance of Checkers"),
        ({"warmup_times": -1}, "ValueError", "warmup_times must be >= 0 (got -1)"),
        ({"times": 1}, "ValueError", "times must be >= 2 (got 1)"),
        ({"retries": 0}, "ValueError", "retries must be >= 1 (got 0)"),
        ({"tolerance": -1}, "ValueError", "tolerance must be >= 0 (got -1"),
        ({"tolerance": {"rss": -1}}, "ValueError", "tolerance must be >= 0 (got -1 for 'rss')"),
        ({"tolerance": {"nonexistent": 1}}, "ValueError", "invalid tolerance key 'nonexistent'"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_called(holds, options, error, text):
    holds(f"""
        calls = Counted()
        error = failure({error}, calls, **{options!r})
        assert {text!r} in str(error), error
        assert calls.calls == 0
    """)


def test_checkers_are_chosen_by_name(holds):
    holds("""
        names = ["memory", "fds", "handles", "c_threads", "py_threads", "gcgarbage", "refcounts", "children", "files"]
        assert [name for name in names if getattr(Checkers(), name)] == names
        assert [name for name in names if getattr(Checkers.only("fds", "memory"), name)] == ["memory", "fds"]
        assert [name for name in names if not getattr(Checkers.exclude("fds"), name)] == ["fds"]
        for choose in (Checkers.only, Checkers.exclude):
            try:
                choose("fds", "file_descriptors")
            except ValueError as error:
                assert "invalid checker names: file_descriptors; there are memory, fds" in str(error), error
            else:
                raise SystemExit("no ValueError")
        passes(zoo.leak_malloc, checkers=Checkers.exclude("memory"))
        failure(MemoryLeakError, zoo.leak_malloc, checkers=Checkers.only("memory"))
    """)


def test_the_report_is_printed_where_asked_for(holds):
    printed = holds("""
        Test.verbosity = 1
        passes(lambda: None)
        passes(zoo.leak_malloc, tolerance=20_000)
    """)
    assert printed.count("zoo.leak_malloc()") == 1 and "CLEAN" not in printed, printed


def test_nothing_is_green_that_could_not_be_judged(holds):
    holds("""
        import dataclasses
        from leaktight import _check
        judge = _check.judge
        def changed(**changes):
            def judged(*args, **options):
                return dataclasses.replace(judge(*args, **options), **changes)
            return judged
        _check.judge = changed(control=Control(planted=3, caught=2, missed=["a block"]))
        failure(CheckError, lambda: None)
        failure(CheckError, zoo.leak_malloc, tolerance=20_000)
        failure(MemoryLeakError, zoo.leak_malloc)
        _check.judge = changed(control=Control(planted=0, caught=0, missed=[]))
        failure(CheckError, lambda: None)
        _check.judge = changed(verdict="indeterminate", findings=[])
        failure(CheckError, lambda: None)
        _check.judge = judge
        # One check at a time.
        error = failure(CheckError, lambda: Test().execute(len, ""), warmup_times=0, checkers=Checkers.only("memory"))
        assert "leak check itself" in str(error), error
    """)


def test_failures_can_go_to_another_process(holds):
    holds("""
        def again(error):
            copy = pickle.loads(pickle.dumps(error))
            assert type(copy) is type(error) and str(copy) == str(error), (str(copy), str(error))
            return copy
        assert again(failure(MemoryLeakError, zoo.leak_malloc)).report.verdict == "leak"
        def cycle():
            made = []
            made.append(lambda: made)
        assert again(failure(UncollectableGarbageError, cycle)).count >= 2
        for kind in (UnclosedFdError, UnclosedHandleError, UnclosedHeapCreateError, UnclosedNativeThreadError,
                     UnclosedPythonThreadError):
            copy = again(kind(2, "fun", {("extra", 1)}, calls=3))
            assert (copy.count, copy.fun_name, copy.extras, copy.calls) == (2, "fun", {("extra", 1)}, 3)
            again(kind(1, "fun", [threading.Lock()]))
    """)


def test_the_words_of_resource_errors_are_those_of_psleak(holds):
    holds("""
        assert str(UnclosedFdError(1, "fun")) == "detected 1 unclosed file descriptor after calling 'fun' 1 time"
        words = "detected 2 unclosed Python threads after calling 'fun' 3 times:\\n* 'a thread'"
        assert str(UnclosedPythonThreadError(2, "fun", ["a thread"], calls=3)) == words
        class Unprintable:
            def __repr__(self): raise RuntimeError
        assert "Unprintable object at" in str(UncollectableGarbageError(1, "fun", [Unprintable()]))
        assert issubclass(UnclosedFdError, UnclosedResourceError) and issubclass(UnclosedResourceError, AssertionError)
    """)


def test_importing_leaktight_does_not_import_unittest(holds):
    holds("""
        import subprocess
        code = "import leaktight, sys; assert 'unittest' not in sys.modules; leaktight.MemoryLeakTestCase; leaktight.x"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "AttributeError: module 'leaktight' has no attribute 'x'" in done.stderr, done.stderr
        assert set(leaktight.__all__) <= set(dir(leaktight))
    """)


# The zoo.

ZOO = """
sys.path.insert(0, {folder!r})
import manifest

#: Their cycles are freed by the collector; psleak's garbage checker fails all the same.
CYCLES = {{"twin_self_cycle", "py_class_cycle"}}
#: At psleak's default of 200 times only leaks with a period up to 64 calls are ruled out.
OPTIONS = {{"leak_every_300th": {{"times": 1200}}}}
wrong = []
for case in manifest.CASES:
    namespace = {{}}
    exec(case.setup, namespace)
    code = compile(case.statement, "<statement>", "exec")
    expected = "UncollectableGarbageError" if case.name in CYCLES else {{"leak": "MemoryLeakError"}}.get(case.verdict)
    found = None
    try:
        passes(lambda: exec(code, namespace), **OPTIONS.get(case.name, {{}}))
    except AssertionError as error:
        found = type(error).__name__
    exec(case.quiesce, namespace)
    if found != expected:
        wrong.append((case.name, found))
assert not wrong, wrong
"""


def test_the_zoo_is_judged_right_at_a_period_of_64(holds):
    holds(ZOO.format(folder=str(support.ZOO)))
