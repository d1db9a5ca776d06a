"""A preloaded malloc is the one that is watched, whichever table of its symbols it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import support

METER = support.ZOO / "c" / "meter.c"


@pytest.mark.parametrize("style", ["gnu", "sysv"])
@pytest.mark.parametrize("binding", ["lazy", "now"])
def test_a_preloaded_malloc(style: str, binding: str, tmp_path: Path) -> None:
    library = tmp_path / "libmeter.so"
    support.zoo_build.compile_shared("cc", library, [METER], [f"-Wl,--hash-style={style}"])
    environment = {"LD_PRELOAD": str(library), **({"LD_BIND_NOW": "1"} if binding == "now" else {})}
    # Each of its blocks has a head in front, so a block that it did not serve would not survive its free.
    statement = "zoo.leak_malloc(); json.loads(text); sorted(text)"
    setup = "import json, zoo; text = json.dumps(list(range(99)))"
    done = support.leaktight(support.pythons()[0], "check", "--json", "-s", setup, statement, env=environment)
    assert done.returncode == 1, done
    report = json.loads(done.stdout)
    assert report["control"]["caught"] == 4, report
    found = [(each["blocks_per_call"], each["bytes_per_call"], each["stack"][0]["function"]) for each in report["findings"]]
    assert found == [(1.0, 100.0, "leak_malloc")], report
