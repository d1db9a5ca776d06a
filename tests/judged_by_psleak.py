"""judged_by_psleak.py SETUP STATEMENT: what psleak finds, by the name of its error; nothing when it finds nothing.

For a process of its own, with PYTHONMALLOC=malloc.
"""

import sys
import warnings

import psleak

warnings.simplefilter("ignore")


class Test(psleak.MemoryLeakTestCase):
    def runTest(self):
        pass


def main(setup, statement):
    namespace = {"__name__": "__main__"}
    exec(setup, namespace)
    code = compile(statement, "<statement>", "exec")
    Test.setUpClass()
    try:
        Test().execute(lambda: exec(code, namespace))
    except psleak.Error as error:
        print(type(error).__name__)


main(*sys.argv[1:])
