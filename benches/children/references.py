"""references.py counted|uncounted|leak|clean OBJECTS: CPU seconds of the first check in a process with so many objects.

"counted" and "uncounted" check a function that does nothing, with and without references. "leak" and "clean" check a
C function that keeps a reference to its argument, and one that gives it back. Another verdict, or a number of objects
that is far off, is an error: the time would mean nothing.
"""

import sys
import time

import leaktight

#: In a process that has imported leaktight and nothing else.
AT_LEAST = 35_000
#: A record, its list and tuple, three texts and two or three numbers.
OBJECTS_IN_A_RECORD = 8
#: The number differs by so much from one CPython to the next.
CLOSE = 0.2


def noop():
    pass


def records(count):
    return [
        {"id": n, "name": f"person {n}", "tags": [f"tag {n}", n * 7.5], "at": (n, n + 0.5)}
        for n in range(count // OBJECTS_IN_A_RECORD)
    ]


def main():
    what, count = sys.argv[1], int(sys.argv[2])
    kept = records(count - AT_LEAST)
    checks = set(leaktight.CHECKS)
    function, arguments, expected = noop, (), "clean"
    if what == "uncounted":
        checks.remove("references")
    elif what != "counted":
        import zoo_refs

        function = {"leak": zoo_refs.leak_passed, "clean": zoo_refs.twin_keeper}[what]
        arguments, expected = ("".join(["time", "out"]),), what
    start = time.process_time()
    report = leaktight.check(function, *arguments, checks=checks)
    seconds = time.process_time() - start
    if report.verdict != expected:
        sys.exit(f"{report.verdict} of {what}, not {expected}")
    wanted = 0 if what == "uncounted" else count
    if abs(report.objects - wanted) > wanted * CLOSE:
        sys.exit(f"{report.objects} objects, not {wanted}, beside {len(kept)} records")
    print(f"figure: {seconds!r}")


main()
