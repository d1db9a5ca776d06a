"""Exit statuses have one meaning each, wherever they are told."""

from __future__ import annotations

import ast
import re

from support import ROOT, leaktight, pythons, run

#: Number, name and meaning of each: what the command line itself is compiled with.
STATUSES = [
    (int(number), name, meaning)
    for meaning, name, number in re.findall(
        r"^/// (.*)\npub const (\w+): i32 = (\d+);$", (ROOT / "crates/python/src/exit.rs").read_text(), re.MULTILINE
    )
]


def test_python_code_knows_them_by_name() -> None:
    done = run(pythons()[0], ["-c", "import leaktight; print([(int(s), s.name) for s in leaktight.ExitStatus])"])
    assert ast.literal_eval(done.stdout) == [(number, name) for number, name, _ in STATUSES]
    described = re.findall(r'^    (\w+) = (\d+)\n    """(.*)"""$', (ROOT / "python/leaktight/_exit.py").read_text(), re.MULTILINE)
    assert [(int(number), name, meaning) for name, number, meaning in described] == STATUSES


def test_the_help_explains_them() -> None:
    text = leaktight(pythons()[0], "check", "--help").stdout.partition("Exit status:\n")[2]
    shown = [line.split(maxsplit=1) for line in text.splitlines()]
    expected = [[str(number), meaning[0].lower() + meaning[1:].rstrip(".")] for number, _, meaning in STATUSES]
    assert shown == expected


def test_the_guide_lists_them() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \|$", (ROOT / "docs/guide.md").read_text(), re.MULTILINE)
    assert [(int(number), name, meaning) for number, name, meaning in rows] == STATUSES


def test_there_is_no_status_without_a_name() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "crates/python/src").glob("*.rs") if path.name != "exit.rs")
    used = set(re.findall(r"\bexit::([A-Z_]+)", sources))
    assert used == {name for _, name, _ in STATUSES}
