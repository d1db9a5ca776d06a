"""memleaks.py leaktight|psleak SITE TESTS: CPU seconds of psutil's own leak tests, its children's included.

SITE holds psutil and pytest, TESTS the folder `tests` of psutil. A test that fails is an error: its time
would mean nothing.
"""

import contextlib
import os
import resource
import sys


def cpu_seconds():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main():
    tool, site, tests = sys.argv[1:]
    sys.path.append(site)
    # Both under the same pytest, whatever is installed beside it.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest

    if tool == "leaktight":
        import leaktight.psleak

        sys.modules["psleak"] = leaktight.psleak
    arguments = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tests]
    start = cpu_seconds()
    # The figure alone belongs on the standard output.
    with contextlib.redirect_stdout(sys.stderr):
        status = pytest.main([*arguments, os.path.join(tests, "tests", "test_memleaks.py")])
    if status != 0:
        sys.exit(f"psutil's tests failed under {tool}")
    print(f"figure: {cpu_seconds() - start!r}")


main()
