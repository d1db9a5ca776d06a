"""Both zoos again and again: python3 tests/soak.py [ROUNDS]. No verdict may differ."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import support
import test_references


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    pythons, cases = support.pythons(), [*support.CASES, *test_references.CASES]
    support.zoo_paths()
    bad = judged = 0
    started = time.monotonic()

    def judge(work):
        python, case = work
        if case in support.CASES:
            return python, case, support.complaint(python, case, support.check(python, case))
        done = support.leaktight(python, "check", "--json", "-s", case.setup, case.statement)
        return python, case, test_references.complaint(case, json.loads(done.stdout), python.version)

    with ThreadPoolExecutor(2) as pool:
        for number in range(rounds):
            # Another interpreter each round, and each as often as the others.
            python = pythons[number % len(pythons)]
            for python, case, complaint in pool.map(judge, [(python, case) for case in cases]):
                judged += 1
                if complaint:
                    bad += 1
                    print(f"round {number + 1}: {python} {case.name}: {complaint}", flush=True)
            print(f"{number + 1} of {rounds} rounds, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{judged} verdicts, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
