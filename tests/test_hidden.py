"""A leak of 16 bytes among a million live blocks, half a million holes, and the noise of others."""

from __future__ import annotations

import json

from support import pythons, run, zoo_paths

#: In one process: the cases one after the other, so that each finds the traces of those before it.
SCRIPT = """
import json, sys
import leaktight, zoo

# A third is freed again: half a million holes of all sizes, below and above pymalloc's limit of 512 bytes.
blocks = [bytes(i % 200 if i % 50 else 600 + i % 4000) for i in range(1_500_000)]
blocks[::3] = [None] * len(blocks[::3])
zoo.background_start()

class Plain:
    def __init__(self, function): self.function = function
    def __call__(self): self.function()

for round in range(3):
    for noise in ("lru", "fragments", "background"):
        for kind in ("leak", "twin"):
            function = getattr(zoo, f"{kind}_beside_{noise}")
            # Called by the check itself, by Python code, and by an object.
            call = (function, lambda: function(), Plain(function))[round]
            report = json.loads(leaktight.check(call).to_json())
            print(json.dumps([f"{kind}_beside_{noise}", round, report]))
zoo.background_stop()
assert len(blocks) == 1_500_000
"""


def test_a_small_leak_in_a_large_noisy_process() -> None:
    python = pythons()[0]
    done = run(python, ["-c", SCRIPT], paths=zoo_paths()[python.version])
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 18
    wrong = [complaint for name, round, report in reports if (complaint := complain(f"{name}, round {round}", name, report))]
    assert not wrong, "\n".join(wrong)


def complain(title: str, name: str, report: dict) -> str:
    if report["control"]["caught"] != 6 or report["control"]["planted"] != 6:
        return f"{title}: control {report['control']}"
    if name.startswith("twin"):
        return "" if report["verdict"] in ("clean", "bounded") else f"{title}: {report['verdict']}, {report['reason']}"
    found = [
        (finding["blocks_per_call"], finding["bytes_per_call"], finding["certainty"], finding["stack"][0]["function"])
        for finding in report["findings"]
    ]
    expected = [(1, 16, "lost", name)]
    return "" if report["verdict"] == "leak" and found == expected else f"{title}: {report['verdict']}, {found}"
