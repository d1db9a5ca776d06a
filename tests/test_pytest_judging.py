"""``pytest --leaks``: which tests are judged, and how."""

from __future__ import annotations

from pytest_project import verdicts


def test_growth_at_a_known_place_is_confirmed_early(project):
    project.write("kept = []\nfull = []\ndef keep(size): kept.append(bytearray(size))\n", "helper.py")
    project.write(
        """
        import pytest, helper
        @pytest.mark.parametrize("number", range(20))
        def test_same(number): helper.keep(1000)
        own = []
        def test_other(): own.append(bytearray(1000))
        def test_cache():
            # Beside the known leak something that stops growing later.
            helper.keep(1000)
            if len(helper.full) < 200: helper.full.append(bytearray(5000))
        """
    )
    run = project.leaks(status=1)
    assert set(verdicts(run).values()) == {"leak"}
    runs = {test["test"].split("::")[1]: test["runs"] for test in run["tests"]}
    assert runs["test_same[0]"] > 2048 and all(runs[f"test_same[{number}]"] < 200 for number in range(1, 20))
    assert runs["test_other"] > 2048 and runs["test_cache"] > 1024
    assert len(run["findings"]) == 2


def test_rings_and_caches_that_are_full_are_none(project):
    project.write(
        """
        import collections
        ring, full = collections.deque(maxlen=1000), collections.deque([b""] * 1024, maxlen=1024)
        cache = {}
        def test_ring(): ring.append(bytearray(500))
        def test_full_ring(): full.append(bytearray(500))
        def test_cache():
            if len(cache) >= 1000: cache.pop(next(iter(cache)))
            cache[object()] = bytearray(500)
        """
    )
    assert "leak" not in verdicts(project.leaks()).values()


def test_what_one_of_the_first_rounds_does_not_show_is_no_less_a_leak(project):
    project.write(
        """
        import os, zoo, zoo_refs, pytest
        KEY, TEXT, BUFFER, RUNS = "time" + str(1), [b"x" * 100], bytearray(100), {}
        def run_of(name):
            RUNS[name] = RUNS.get(name, 0) + 1
            return RUNS[name]
        @pytest.mark.parametrize("rests", [2, 3, 4])
        def test_buffer(rests):
            if run_of(rests) != rests: BUFFER.extend(bytes(len(BUFFER) // 4))
            if len(BUFFER) > 1 << 20: del BUFFER[1000:]
        def test_descriptor(): os.dup(0)
        def test_reference(): zoo_refs.leak_passed(KEY)
        @pytest.mark.parametrize("from_run", [1, 2])
        def test_malloc(from_run):
            if run_of(("malloc", from_run)) >= from_run: zoo.leak_malloc()
        """
    )
    found = verdicts(project.leaks("--leaks-time-budget", "60", status=1))
    assert {found[name] for name in ("test_descriptor", "test_reference", "test_malloc[1]", "test_malloc[2]")} == {"leak"}
    # It is cut again and again, so it is no leak, but three runs do not tell.
    runs = {test["test"].split("::")[1]: test["runs"] for test in project.leaks("-k", "buffer")["tests"]}
    assert all(runs[f"test_buffer[{rests}]"] > 3 for rests in (2, 3)), runs


def test_references_lost_in_each_run_are_found_whatever_else_moves_the_count(project):
    project.write(
        """
        import itertools, zoo_refs, pytest
        class Thing: pass
        NUMBER, REAL, RING, TURNS, ONCE, HELD = 10**30, 3.75, Thing(), Thing(), Thing(), Thing()
        ring, now_and_then, count = [], [], itertools.count()
        def test_number(): zoo_refs.leak_passed(NUMBER)
        def test_float(): zoo_refs.leak_passed(REAL)
        def test_ring():
            zoo_refs.leak_passed(RING)
            ring.append(RING)
            del ring[:-5]
        def test_one_or_two():
            for _ in range(1 + next(count) % 2): zoo_refs.leak_passed(TURNS)
        def test_now_and_then():
            zoo_refs.leak_passed(ONCE)
            if now_and_then: now_and_then.clear()
            else: now_and_then.append(ONCE)
        def test_only_held(): ring.append(HELD)
        def test_only_used(): [NUMBER, REAL, HELD] * 3
        """
    )
    found = verdicts(project.leaks("--leaks-checks", "references", status=1))
    lost = ("test_number", "test_float", "test_ring", "test_one_or_two", "test_now_and_then")
    assert found == {**dict.fromkeys(lost, "leak"), "test_only_held": "clean", "test_only_used": "clean"}


def test_what_leaves_nothing_behind_takes_three_runs(project):
    project.write(
        """
        import pytest
        LAST, EACH = [None], {}
        def test_nothing(): pass
        def test_garbage():
            cycle = []
            cycle.append(cycle)
        def test_until_the_next_run(): LAST[0] = bytearray(1000)
        def test_once_more_each(number=[0]):
            number[0] += 1
            if number[0] <= 2: EACH[number[0]] = bytearray(1000)
        """
    )
    runs = {test["test"].split("::")[1]: (test["verdict"], test["runs"]) for test in project.leaks()["tests"]}
    at_once, later = ("clean", 3), ("clean", 5)
    assert runs == {"test_nothing": at_once, "test_garbage": at_once, "test_until_the_next_run": later, "test_once_more_each": later}



def test_own_failures_stay_own_failures(project):
    project.write(
        """
        import pytest
        def test_fails(): assert 0
        @pytest.fixture
        def broken(): raise ValueError
        def test_error(broken): pass
        @pytest.fixture
        def breaks_late():
            yield
            raise ValueError
        def test_late_error(breaks_late): pass
        @pytest.mark.xfail
        def test_xfail(): assert 0
        @pytest.mark.xfail
        def test_xpass(): pass
        def test_skip(): pytest.skip()
        """
    )
    run = project.leaks(status=1)
    assert run["tests"] == []
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 xpassed, 2 errors" in run["text"]



def test_not_repeatable_is_not_judged(project):
    project.write(
        """
        import pytest, unittest
        once = []
        def test_once():
            assert not once, "only once"
            once.append(1)
        later = []
        def test_skips_later():
            later.append(1)
            if len(later) > 2: pytest.skip("enough")
        class Case(unittest.TestCase):
            once = []
            def test_once(self):
                self.assertFalse(self.once)
                self.once.append(1)
        @pytest.fixture
        def port():
            once.append(2)
            assert len(once) < 4
            yield
        def test_fixture(port): pass
        """
    )
    run = project.leaks()
    assert set(verdicts(run).values()) == {"not judged"}
    reasons = {test["test"].split("::", 1)[1]: test["reason"] for test in run["tests"]}
    assert reasons["test_once"].startswith("it fails when it is repeated: AssertionError: only once")
    assert reasons["test_skips_later"] == "it skips when it is repeated"
    assert reasons["Case::test_once"].startswith("it fails when it is repeated")
    assert reasons["test_fixture"].startswith("it fails in its setup when it is repeated")
    assert "leaks: no test judged, 4 not judged" in run["text"]



def test_wider_fixtures_are_made_once(project):
    project.write(
        """
        import pytest
        events = []
        @pytest.fixture(scope="session")
        def session():
            events.append("session")
            yield
            events.append("session ends")
        @pytest.fixture(scope="module")
        def module(session):
            events.append("module")
            yield
            events.append("module ends")
            print("torn down")
        @pytest.fixture(scope="class")
        def klass(module):
            events.append("class")
            yield
            events.append("class ends")
        @pytest.fixture
        def function(klass):
            yield len(events)
        class TestIt:
            def test_one(self, function): pass
            def test_two(self, function): pass
        def test_after(module):
            assert events == ["session", "module", "class", "class ends"]
        """
    )
    project.write("import test_it\ndef test_end():\n    assert test_it.events[4:] == ['module ends']", "test_later.py")
    run = project.leaks("-p", "no:cacheprovider", "--import-mode=prepend")
    assert set(verdicts(run).values()) == {"clean"}
    assert "torn down" not in run["text"]



def test_what_reports_while_a_test_runs_is_told_once(project):
    """As subtests do from pytest 9 on."""
    project.write(
        """
        import pytest
        def test_it(request):
            report = pytest.TestReport(request.node.nodeid, request.node.location, {}, "passed", None, "call")
            request.node.ihook.pytest_runtest_logreport(report=report)
        """
    )
    run = project.leaks()
    assert verdicts(run) == {"test_it": "clean"}
    assert "2 passed" in run["text"]



def test_failing_teardown_of_a_wider_fixture_is_told(project):
    project.write(
        """
        import pytest
        @pytest.fixture(scope="module")
        def module():
            yield
            raise ValueError("broken teardown")
        def test_it(module): pass
        """
    )
    run = project.leaks(status=1)
    assert "1 passed, 1 error" in run["text"] and "broken teardown" in run["text"]



def test_class_gets_an_instance_per_round(project):
    project.write(
        """
        class TestIt:
            def test_it(self):
                assert not hasattr(self, "seen")
                self.seen = True
        """
    )
    assert verdicts(project.leaks()) == {"TestIt::test_it": "clean"}



def test_references_to_what_modules_name(project):
    project.write(
        """
        import zoo_refs
        KEY, KEPT = "time" + str(1), []
        def test_leaks(): zoo_refs.leak_passed(KEY)
        def test_keeps_and_drops():
            KEPT.append(KEY)
            KEPT.clear()
        def test_type(): zoo_refs.leak_module_type()
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run)["test_leaks"] == "leak" and verdicts(run)["test_keeps_and_drops"] == "clean"
    found = {finding["kind"]: finding for finding in run["findings"] if finding["severity"] == "error"}
    assert "`KEY` of module `test_it`" in found["reference"]["message"], run["text"]
    assert "warning: every run adds 1 reference to the type `zoo_refs.Session`" in run["text"]



def test_fixtures_of_pytest_behave(project):
    project.write(
        """
        import logging, os, sys, warnings, pytest
        def test_folder(tmp_path, tmp_path_factory):
            assert not list(tmp_path.iterdir())
            (tmp_path / "file").write_text("x")
            (tmp_path_factory.mktemp("more") / "file").write_text("x")
        def test_output(capfd, record_property):
            os.write(1, b"x")
            record_property("name", "value")
            assert capfd.readouterr().out == "x"
        def test_patch(monkeypatch):
            monkeypatch.setenv("X", "1")
            monkeypatch.setattr(sys, "path", [])
        def test_log(caplog):
            logging.getLogger().warning("x" * 100)
            assert len(caplog.records) == 1
        @pytest.mark.filterwarnings("error")
        def test_warning_is_error():
            with pytest.raises(UserWarning): warnings.warn("x")
        def test_warns(recwarn):
            warnings.warn("y")
            assert len(recwarn) == 1
        def test_warning_stays(): warnings.warn("told once")
        """
    )
    run = project.leaks()
    assert set(verdicts(run).values()) == {"clean"}, run["text"]
    assert "1 warning " in run["text"]



def test_leaks_of_fixtures_are_found_and_labelled(project):
    project.write(
        """
        import pytest, zoo
        kept, wide = [], []
        @pytest.fixture
        def leaks_in_setup(): zoo.leak_malloc()
        @pytest.fixture(name="late")
        def leaks_in_teardown():
            yield
            zoo.leak_strdup()
        @pytest.fixture
        def cleans_up():
            kept.append(bytearray(1000))
            yield [object() for _ in range(100)]
            kept.clear()
        @pytest.fixture(scope="module")
        def module():
            wide.append(bytearray(1000))
            zoo.leak_malloc()
        @pytest.fixture
        def by_name(request, tmp_path, monkeypatch, caplog, capsys):
            monkeypatch.setattr(pytest, "x", 1, raising=False)
            request.addfinalizer(lambda: None)
            request.applymarker(pytest.mark.filterwarnings("default"))
            return request.getfixturevalue("module")
        class TestIt:
            @pytest.fixture
            def method(self):
                self.made = [object() for _ in range(100)]
                yield self
            def test_method(self, method): assert method is self
            def test_late(self, method, late): pass
        def test_setup(leaks_in_setup): pass
        def test_clean(cleans_up, module, by_name): assert len(kept) == 1 and len(wide) == 1
        """
    )
    run = project.leaks(status=1)
    assert verdicts(run) == {"TestIt::test_method": "clean", "TestIt::test_late": "leak", "test_setup": "leak", "test_clean": "clean"}
    found = {finding["fixture"]: finding["stack"][0]["function"] for finding in run["findings"]}
    assert found == {"leaks_in_setup": "leak_malloc", "late": "leak_strdup"}
    assert "nothing points to it any more, in fixture `late`" in " ".join(run["text"].split())



def test_tracemalloc_is_not_judged(project):
    project.write("import tracemalloc\ndef test_it():\n    tracemalloc.start()\n    list(range(1000))\n    tracemalloc.stop()")
    run = project.leaks()
    assert run["tests"][0]["reason"].startswith("it starts tracemalloc")



def test_doctests_are_not_judged(project):
    project.write('def one():\n    """\n    >>> one()\n    1\n    """\n    return 1\n', "module.py")
    run = project.leaks("--doctest-modules")
    assert "not judged: it is a doctest (module.py::module.one)" in run["text"]


def test_a_leak_in_a_fixture_and_in_a_test_are_told_apart(project):
    project.write(
        """
        import pytest, zoo
        @pytest.fixture
        def leaky(): zoo.leak_malloc()
        def test_with_it(leaky): pass
        def test_without(): zoo.leak_malloc()
        """
    )
    run = project.leaks(status=1)
    told = {"in fixture `leaky`" in finding["message"]: [test.split("::")[1] for test in finding["tests"]] for finding in run["findings"]}
    assert told == {True: ["test_with_it"], False: ["test_without"]}, run["findings"]
