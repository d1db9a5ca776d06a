"""`make demo`: real leaks, found. First in a bundled extension, then in a published package."""

import os
import shlex
import subprocess
import sys

import support

#: A release of ujson that forgets to free a scratch copy of long integers, mended in 5.12.0
#: (ultrajson commit 4baeb95).
LEAKING = "ujson==5.11.0"
STATEMENT = """ujson.loads('{"n": ' + "7" * 60 + "}")"""


def main() -> int:
    zoo = support.zoo_paths()[support.pythons()[0].version]
    show(sys.executable, zoo, "import zoo", 'zoo.parse_header(b"Content-Type: text/plain; format=flowed; x=1234")')
    folder = support.BUILD / "demo"
    if not (folder / ".done").exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder, LEAKING],
            check=True,
        )
        (folder / ".done").touch()
    show(sys.executable, [str(folder)], "import ujson", STATEMENT)
    return 0


def show(python: str, paths: list, setup: str, statement: str) -> None:
    print(f"\n$ leaktight check -s {shlex.quote(setup)} {shlex.quote(statement)}\n", flush=True)
    path = os.pathsep.join([os.environ.get("LEAKTIGHT_SITE", str(support.BUILD / "site")), *paths])
    command = [python, "-m", "leaktight", "check", "-s", setup, statement]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=support.ROOT, check=False)
    if done.returncode != 1:
        sys.exit(f"expected a leak (exit status 1), got {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
