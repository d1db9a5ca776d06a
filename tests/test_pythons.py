"""The same wheel on every interpreter that is found here."""

import json

import packages
import pytest
import support

PYTHONS = support.everywhere()


@pytest.fixture(params=PYTHONS, ids=str)
def python(request):
    return request.param


def test_info_says_what_can_be_seen(python):
    done = support.leaktight(python, "info", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["runtime"].startswith(f"CPython {python.version[0]}.{python.version[1]}")
    assert facts["patched_slots"] >= 1 and facts["patched_functions"] >= 80
    planted = 5 if python.is_free_threaded else 6
    assert facts["control"] == {"planted": planted, "caught": planted, "missed": []}
    # Known layouts all: a version whose frames cannot be read would say so.
    assert not any("frames" in spot for spot in facts["blind_spots"])


def test_python_frames_have_the_right_functions_and_lines(python):
    setup = "import zoo\ndef inner():\n    zoo.leak_malloc()\n\n\ndef outer():\n    x = 1\n    inner()"
    done = support.leaktight(python, "check", "--json", "-s", setup, "outer()")
    frames = [frame for frame in json.loads(done.stdout)["findings"][0]["stack"] if frame["python"]]
    shown = [(frame["function"], frame["file"], frame["line"]) for frame in frames]
    assert shown == [("inner", "<setup>", 3), ("outer", "<setup>", 8), ("<module>", "<statement>", 1)]


OFTEN = """
import itertools, zoo
functions = [eval("lambda: len") for _ in range(4000)]
calls = itertools.count()
def often(more):
    function = functions[next(calls)]
    for _ in range(1100): function()
    more()
"""


def test_what_an_interpreter_keeps_for_a_function_that_is_called_often_is_no_leak(python):
    """CPython 3.9 and 3.10 keep its last frame, and from the 1,024th call on what its instructions have looked up."""
    arguments = ["check", "--json", "--max-calls", "2100", "--checks", "memory", "-s", OFTEN]
    clean = json.loads(support.leaktight(python, *arguments, "often(int)").stdout)
    assert (clean["verdict"], clean["findings"]) == ("clean", []), clean
    leak = json.loads(support.leaktight(python, *arguments, "often(zoo.leak_pymem)").stdout)
    assert leak["verdict"] == "leak" and [finding["stack"][0]["function"] for finding in leak["findings"]] == ["leak_pymem"], leak


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("keep.append({})", "dict"),
        ("keep.append([None])", "list"),
        ("keep.append((next(n),))", "tuple"),
        ("keep.append(b'%d' % next(n))", "bytes"),
        ("keep.append(float(next(n)))", "float"),
        ("keep.append(Slotted())", "__main__.Slotted"),
    ],
)
def test_what_grows_is_named_with_its_type_and_its_holder(python, statement, name):
    setup = (
        "import itertools\nn = itertools.count(10**9)\nkeep = []\n"
        "class Slotted:\n    __slots__ = ('x', '__weakref__')"
    )
    done = support.leaktight(python, "check", "--json", "-s", setup, statement)
    report = json.loads(done.stdout)
    assert report["verdict"] == "leak", done.stdout
    found = [finding for finding in report["findings"] if finding.get("type_name") == name]
    assert len(found) == 1, done.stdout
    assert (found[0]["objects_per_call"], found[0]["certainty"]) == (1.0, "growing")
    assert "list" in found[0]["holder"]


def test_the_library_returns_typed_objects(python):
    code = (
        "import leaktight, zoo\n"
        "report = leaktight.check(zoo.leak_malloc)\n"
        "finding = report.findings[0]\n"
        "assert (report.verdict, finding.kind, finding.certainty) == ('leak', 'memory', 'lost')\n"
        "assert (finding.blocks_per_call, finding.bytes_per_call) == (1.0, 100.0)\n"
        "assert finding.stack[0].function == 'leak_malloc', finding.stack\n"
        "again = leaktight.Report.from_json(report.to_json())\n"
        "assert again == report and str(again) == str(report)\n"
        "assert leaktight.check(zoo.twin_malloc).verdict == 'clean'\n"
    )
    done = support.run(python, ["-c", code], paths=support.zoo_of(python))
    assert done.returncode == 0, done.stderr


def test_the_heap_is_told_as_psutil_tells_it(python):
    if python.is_free_threaded and python.version > packages.NEWEST_FREE_THREADED:
        pytest.skip(f"psutil is not published for {python}")
    code = (
        "import leaktight, psutil, sys\n"
        "psutil.heap_info(); leaktight.heap_info()\n"
        "theirs, ours, again = psutil.heap_info(), leaktight.heap_info(), psutil.heap_info()\n"
        "assert tuple(theirs) == tuple(ours) == tuple(again), (theirs, ours, again)\n"
        "assert type(ours) is leaktight.pheap and hash(ours) == hash(tuple(ours)), ours\n"
        "assert leaktight.heap_trim() is None\n"
        "first, *rest = leaktight.allocators()\n"
        "assert (first.name, first.serves_malloc, first.note) == ('glibc', True, None), first\n"
        # From 3.13 on the interpreter has one of its own, which it does not use unless it is asked to, or has no GIL.
        "assert [(other.name, other.mapped > 0) for other in rest] in ([], [('mimalloc', 't' in sys.abiflags)]), rest\n"
        "spots = leaktight.check(len, '', max_calls=16).blind_spots\n"
        "assert not any('mimalloc' in spot for spot in spots), spots\n"
    )
    done = support.run(python, ["-c", code], paths=[packages.wheels("psutil", [packages.PSUTIL], python.version, free_threaded=python.is_free_threaded)])
    assert done.returncode == 0, done.stderr
