"""verdict.py TOOL noop|malloc|busy|busy-malloc: CPU seconds of the first check in a process.

TOOL is psleak, leaktight, which looks at memory only, or leaktight-all, which looks at everything. Imports are not
counted.
A wrong verdict is an error: its time would mean nothing.
"""

import functools
import sys
import time
import warnings


#: Some 20 microseconds, as an ordinary short call takes.
BUSY_ROUNDS = 1000


def noop():
    pass


def busy(function=noop):
    function()
    for _ in range(BUSY_ROUNDS):
        pass


def leaktight_check(function, checks=("memory",)):
    from leaktight import CHECKS, check

    checks = checks or CHECKS
    start = time.process_time()
    verdict = check(function, checks=checks).verdict
    return verdict, time.process_time() - start


def psleak_check(function):
    import psleak

    class Test(psleak.MemoryLeakTestCase):
        def runTest(self):
            pass

    warnings.simplefilter("ignore")
    test = Test()
    Test.setUpClass()
    start = time.process_time()
    try:
        test.execute(function)
        verdict = "clean"
    except psleak.MemoryLeakError:
        verdict = "leak"
    return verdict, time.process_time() - start


def main():
    tool, subject = sys.argv[1:]
    function, expected = {"noop": noop, "busy": busy}.get(subject), "clean"
    if function is None:
        import zoo

        leak, expected = zoo.leak_malloc, "leak"
        function = functools.partial(busy, leak) if subject == "busy-malloc" else leak
    tools = {
        "leaktight": leaktight_check,
        "leaktight-all": functools.partial(leaktight_check, checks=None),
        "psleak": psleak_check,
    }
    verdict, seconds = tools[tool](function)
    if verdict != expected:
        sys.exit(f"{tool} says {verdict} of {subject}, not {expected}")
    print(f"figure: {seconds!r}")


main()
