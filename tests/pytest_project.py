"""Projects of users in which tests run ``pytest --leaks``."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import support

PYTHON = support.pythons()[0]


class Project:
    """Runs ``pytest --leaks`` on files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Shuffles the tests, wherever it is there.
        self.blocked = ["-p", "no:randomly"]
        (folder / "pytest.ini").write_text("[pytest]\n")
        #: For the folders of its tests, which come and go: so deep that no other check looks there for names.
        self.temporary = folder.with_name(f"{folder.name}-temporary")
        self.temporary.mkdir()

    def write(self, text: str, name: str = "test_it.py") -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def command(self, *arguments: str) -> list[str]:
        site = Path(os.environ.get("LEAKTIGHT_SITE", support.ROOT / "python"))
        # A wheel says itself that it has a plugin.
        plugin = [] if list(site.glob("leaktight-*.dist-info")) else ["-p", "leaktight.pytest_plugin"]
        return ["-m", "pytest", *plugin, *self.blocked, *arguments]

    def environment(self) -> dict[str, str]:
        site = str(Path(os.environ.get("LEAKTIGHT_SITE", support.ROOT / "python")).resolve())
        return {**os.environ, "PYTHONPATH": os.pathsep.join([site, *support.zoo_paths()[PYTHON.version]])}

    def plain(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        paths = support.zoo_paths()[PYTHON.version]
        env = {"PYTEST_DEBUG_TEMPROOT": str(self.temporary), **more.pop("env", {})}
        return support.run(PYTHON, self.command(*arguments, str(self.folder)), paths=paths, env=env, **more)

    def leaks(self, *arguments: str, status: int = 0, **more: Any) -> dict[str, Any]:
        """The JSON file, with the text of the run as ``text``."""
        file = self.folder / "leaks.json"
        file.unlink(missing_ok=True)
        done = self.plain("--leaks", "--leaks-json", str(file), *arguments, **more)
        assert done.returncode == status, done.stdout + done.stderr
        return {**json.loads(file.read_text()), "text": done.stdout}


def verdicts(run: dict[str, Any]) -> dict[str, str]:
    return {test["test"].split("::", 1)[1]: test["verdict"] for test in run["tests"]}
