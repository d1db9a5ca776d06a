"""verdict.py leaktight|psleak noop|malloc: CPU seconds of the first check in a process.

Imports are not counted. A wrong verdict is an error: its time would mean nothing.
"""

import sys
import time
import warnings


def noop():
    pass


def leaktight_check(function):
    import leaktight

    start = time.process_time()
    verdict = leaktight.check(function).verdict
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
    if subject == "noop":
        function, expected = noop, "clean"
    else:
        import zoo

        function, expected = zoo.leak_malloc, "leak"
    verdict, seconds = {"leaktight": leaktight_check, "psleak": psleak_check}[tool](function)
    if verdict != expected:
        sys.exit(f"{tool} says {verdict} of {subject}, not {expected}")
    print(f"figure: {seconds!r}")


main()
