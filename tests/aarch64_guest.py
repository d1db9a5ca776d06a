"""Runs inside the emulated machine of tests/aarch64_system.py: the jobs of /jobs.json, each answered by a line."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

#: Begins the lines that are meant for the host; the kernel may write others.
MARK = "LEAKTIGHT "


def main() -> None:
    told = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    [features, *_] = [value for name, _, value in told if name.strip() == "Features"]
    say({"kernel": os.uname().release, "features": features.split()})
    for job in json.loads(Path("/jobs.json").read_text()):
        Path("/proc/sys/kernel/perf_event_paranoid").write_text(job["paranoid"])
        begin = time.monotonic()
        more: dict[str, Any] = {} if job["user"] is None else {"user": job["user"], "group": job["user"], "extra_groups": []}
        try:
            more |= {"timeout": job["seconds"], "capture_output": True, "text": True, "errors": "replace"}
            done = subprocess.run(job["command"], **more)
            answer = {"status": done.returncode, "out": done.stdout, "err": done.stderr}
        except subprocess.TimeoutExpired:
            answer = {"status": None, "out": "", "err": f"not done in {job['seconds']} s"}
        say({"name": job["name"], "seconds": time.monotonic() - begin, **answer})


def say(answer: dict[str, object]) -> None:
    print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
