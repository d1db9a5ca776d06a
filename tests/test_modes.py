"""The same figures however the interpreter allocates, and whether it compiles loops or not."""

from __future__ import annotations

import json
import os

import pytest
import support
from manifest import find

PYTHONS = support.everywhere()

#: `PYTHONMALLOC` (Doc/using/cmdline), where the interpreter was built with what it takes.
ALLOCATORS = {"pymalloc": "WITH_PYMALLOC", "malloc": "", "mimalloc": "WITH_MIMALLOC"}
MODES = {name + more: {"PYTHONMALLOC": name + more} for name in ALLOCATORS for more in ("", "_debug")}
MODES |= {"jit": {"PYTHON_JIT": "1"}, "no jit": {"PYTHON_JIT": "0"}, "jit, malloc_debug": {"PYTHON_JIT": "1", "PYTHONMALLOC": "malloc_debug"}}

#: From the zoo, by the allocator that serves them.
BLOCKS = ["leak_malloc", "twin_malloc", "leak_pymem", "leak_pymem_large", "twin_pymem", "leak_pyobject_malloc", "leak_list"]
BLOCKS += ["leak_tuple", "leak_bytes", "leak_argument", "twin_objects", "twin_argument"]

REFERENCES = ("reference", "over-release")
COMPILED = "for n in range(500): ACTIVE[0] |= JIT is not None and JIT.is_active()"

#: Beside memory: what is called, and kind, rate and type of what must be found.
OTHERS = {
    "zoo_refs.leak_passed(KEY)": ("reference", 1.0, "str"),
    "zoo_refs.leak_passed_10th(KEY)": ("reference", 0.1, "str"),
    "zoo_refs.leak_passed(ROWS)": ("reference", 1.0, "list"),
    "zoo_refs.release_stolen(KEY)": ("over-release", 1.0, "str"),
    "zoo_refs.twin_containers(KEY)": None,
    "zoo_refs.twin_buffer(DATA)": None,
    "os.dup(0)": ("fd", 1.0, None),
    "os.close(os.dup(0))": None,
    # Long enough to be compiled after some calls.
    "for _ in range(500): ROWS.reverse()": None,
    "for n in range(500):\n    if n == 432: zoo_refs.leak_passed(KEY)": ("reference", 1.0, "str"),
    # No list: CPython 3.14 makes one of its own now and then, when it throws compiled code away.
    "for n in range(500):\n    if n == 432: zoo.leak_argument({})": ("memory", 1.0, "dict"),
    "total = 0.5\nfor n in range(500): total += n * 0.25": None,
    "for n in range(500):\n    len(ROWS)\n    if n == 432:\n        zoo.leak_malloc()\n    len(ROWS)": ("memory", 1.0, None),
    COMPILED: None,
}

#: Of those with a loop, the line that leaks.
LEAKING_LINE = {statement: 1 + statement[: statement.find("leak_")].count("\n") for statement in OTHERS}

SCRIPT = """
import json, os, sys, textwrap
import leaktight, zoo, zoo_refs
KEY, DATA, ROWS = "time" + str(1), bytes(range(48, 58)), [["row"], ["row"]]
JIT, ACTIVE = getattr(sys, "_jit", None), [False]
for statement in json.load(sys.stdin):
    exec("def call():\\n" + textwrap.indent(statement, "    "))
    report = leaktight.check(call)
    # One by one, so that it is known which call a crash was in.
    print(report.to_json().replace("\\n", " "), flush=True)
assert ACTIVE[0] == (os.environ.get("PYTHON_JIT") == "1")
"""


def needed(mode: str) -> list[str]:
    """What an interpreter must have been built with for a mode."""
    variables = MODES[mode]
    jit = ["jit"] if variables.get("PYTHON_JIT") == "1" else []
    return jit + [ALLOCATORS[name.removesuffix("_debug")] for name in [variables.get("PYTHONMALLOC", "malloc")]]


def knows(python: support.Python, mode: str) -> bool:
    """Whether an interpreter has what a mode asks for. Without a GIL it has no allocator but mimalloc, and does not start with another."""
    if python.is_free_threaded and not MODES[mode].get("PYTHONMALLOC", "mimalloc").startswith("mimalloc"):
        return False
    return all(support.built_with(python)[what] for what in needed(mode))


RUNS = [(python, mode) for python in PYTHONS for mode in MODES if knows(python, mode)]


@pytest.mark.parametrize("python, mode", RUNS, ids=lambda value: str(value))
def test_every_figure_is_the_same(python: support.Python, mode: str) -> None:
    cases = [find(name) for name in BLOCKS]
    # Without a GIL none are counted, and the report says so.
    counted = not python.is_free_threaded
    others = {statement: expected for statement, expected in OTHERS.items() if counted or not expected or expected[0] not in REFERENCES}
    statements = [*(case.statement for case in cases), *others]
    paths = support.module_paths(python)
    done = support.run(python, ["-c", SCRIPT], paths=paths, env=MODES[mode], input=json.dumps(statements), timeout=300)
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(reports) == len(statements), f"ended at {statements[len(reports):][:1]} with {done.returncode}: {done.stderr}"
    wrong = {case.name: problem for case, report in zip(cases, reports) if (problem := support.complaint(python, case, report))}
    for (statement, expected), report in zip(others.items(), reports[len(cases) :]):
        found = [(finding["kind"], finding["blocks_per_call"], finding.get("type_name")) for finding in report["findings"]]
        if found != ([expected] if expected else []) or report["verdict"] not in (["leak"] if expected else ["clean", "bounded"]):
            wrong[statement] = f"{report['verdict']}: {found}: {report['reason']}"
        lines = [frame["line"] for finding in report["findings"] for frame in finding["stack"] if frame["function"] == "call"]
        if expected and "500" in statement and lines[:1] != [1 + LEAKING_LINE[statement]]:
            wrong[statement] = f"in lines {lines} of the function"
        if bool(report.get("not_done")) == counted:
            wrong[statement] = report.get("not_done")
    assert not wrong
