"""What ``pytest --leaks`` does; loaded only when it is given.

``options``   what was asked for, on the command line, in the ini file and by markers
``inside``    all that touches pytest's insides
``rounds``    runs one test again and again, each time from set-up to teardown
``counting``  what counts of a round, and where the free lists are cleared
``fixtures``  counts what fixtures of function scope allocate
``elsewhere`` where no test can be judged
``progress``  says on a terminal that a test takes long
``budget``    shares the time of the run between the tests
``judge``     runs each test once as always, then judges it
``results``   what was found, grouped by the place that leaks
``baseline``  leaks that are known
``alone``     the command that shows a leak without the rest of the suite
``summary``   the text at the end
``files``     JSON, junit XML, annotations, and the journal that survives a crash
``workers``   pytest-xdist

Results flow in one direction: judge, then (from worker processes) workers, then results, then summary
and files.
"""

from __future__ import annotations

import pytest


def install(config: pytest.Config) -> None:
    """Registers what this process has to do."""
    option = config.option
    if any(getattr(option, name, False) for name in ("collectonly", "setuponly", "setupplan")):
        return  # No test runs.
    from leaktight._pytest import elsewhere, inside

    manager = config.pluginmanager
    why_not = inside.cannot_repeat() or elsewhere.why_not()
    if why_not:
        manager.register(elsewhere.NotJudged(config, why_not), "leaktight-not-judged")
        return

    from leaktight._pytest.judge import Judge
    from leaktight._pytest.options import Options
    from leaktight._pytest.results import Results
    from leaktight._pytest.summary import ShortLines, Summary
    from leaktight._pytest.workers import Receiver, Sender

    options = Options.of(config)
    if hasattr(config, "workerinput"):
        sender = Sender(config)
        manager.register(sender, "leaktight-sender")
        manager.register(Judge(config, options, sender.pending.append), "leaktight-judge")
        return
    results = Results()
    summary = Summary(config, options, results)
    manager.register(summary, "leaktight-summary")
    manager.register(ShortLines(summary), "leaktight-short-lines")
    if getattr(option, "dist", "no") != "no" and manager.hasplugin("xdist"):
        manager.register(Receiver(summary.add), "leaktight-receiver")
    else:
        manager.register(Judge(config, options, summary.add), "leaktight-judge")
