"""Runs inside the emulated machine of tests/aarch64_system.py: the jobs of /jobs.json, each answered by a line."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

#: Begins the lines that are meant for the host; the kernel may write others.
MARK = "LEAKTIGHT "


def main() -> None:
    told = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line}
    say({"kernel": os.uname().release, "features": told["Features"].split()})
    for job in json.loads(Path("/jobs.json").read_text()):
        Path("/proc/sys/kernel/perf_event_paranoid").write_text(job["paranoid"])
        begin = time.monotonic()
        more = {} if job["user"] is None else {"user": job["user"], "group": job["user"], "extra_groups": []}
        try:
            done = subprocess.run(job["command"], capture_output=True, text=True, errors="replace", timeout=job["seconds"], **more)
            answer = {"status": done.returncode, "out": done.stdout, "err": done.stderr}
        except subprocess.TimeoutExpired:
            answer = {"status": None, "out": "", "err": f"not done in {job['seconds']} s"}
        say({"name": job["name"], "seconds": time.monotonic() - begin, **answer})


def say(answer: dict[str, object]) -> None:
    print(MARK + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
