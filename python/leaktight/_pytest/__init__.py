"""What ``pytest --leaks`` does; loaded only when it is given.

``options``   what was asked for, on the command line, in the ini file and by markers
``rounds``    runs one test again and again, each time from set-up to teardown
``fixtures``  counts what fixtures of function scope allocate
``progress``  says on a terminal that a test takes long
``judge``     runs each test once as always, then judges it
``results``   what was found, grouped by the place that leaks
``baseline``  leaks that are known
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
    version = tuple(int(part) for part in pytest.__version__.split(".")[:2])
    if version < (7, 4):
        raise pytest.UsageError(f"--leaks needs pytest 7.4 or later; this is {pytest.__version__}")
    option = config.option
    if option.collectonly or getattr(option, "setuponly", False) or getattr(option, "setupplan", False):
        return  # No test runs.

    from leaktight._pytest.judge import Judge
    from leaktight._pytest.options import Options
    from leaktight._pytest.results import Results
    from leaktight._pytest.summary import ShortLines, Summary
    from leaktight._pytest.workers import Receiver, Sender

    options = Options.of(config)
    manager = config.pluginmanager
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
