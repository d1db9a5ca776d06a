"""pairs.py plain|tracked LIBRARY: nanoseconds of a malloc/free pair, the quickest of some calls."""

import ctypes
import sys

# Below the first look of a check, so that no stack is captured.
CALLS = 15


def main():
    how, path = sys.argv[1:]
    library = ctypes.PyDLL(path)
    pairs = library.pairs
    pairs.argtypes, pairs.restype = [], None
    if how == "tracked":
        import leaktight

        report = leaktight.check(pairs, max_calls=CALLS, period=1)
        if report.findings:
            sys.exit(f"the check found something: {report.verdict}")
    else:
        for _ in range(CALLS):
            pairs()
    calls = ctypes.c_int.in_dll(library, "pairs_calls").value
    times = (ctypes.c_double * calls).in_dll(library, "pairs_nanoseconds")
    print(f"figure: {min(times)!r}")


main()
