"""Says on a terminal that a test goes on for long, between its rounds and never in one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import pytest

from leaktight._pytest import inside

#: Nothing is said before, and then so often.
QUIET_SECONDS, EVERY_SECONDS = 2.0, 0.5
#: Save the cursor, go back to it, and clear the rest of the line.
SAVE, BACK, CLEAR = "\0337", "\0338", "\033[K"


@contextmanager
def shown(config: pytest.Config, run: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """The function that runs a round, with a note behind what pytest has written on this line."""
    terminal = inside.raw_output(config)
    if terminal is None or config.option.capture == "no":
        yield run
        return
    writer = config.get_terminal_writer()
    rounds, started = 0, time.monotonic()
    last = started + QUIET_SECONDS - EVERY_SECONDS

    def write(text: str) -> None:
        terminal.write(text)
        terminal.flush()

    def noted() -> None:
        nonlocal rounds, last
        now = time.monotonic()
        if now - last >= EVERY_SECONDS:
            last = now
            note = f"  judging: {rounds:,} rounds, {now - started:.0f} s"
            write(f"{SAVE}{note[: max(0, writer.fullwidth - writer.width_of_current_line - 1)]}{CLEAR}{BACK}")
        rounds += 1
        run()

    try:
        yield noted
    finally:
        if last > started + QUIET_SECONDS - EVERY_SECONDS:
            write(CLEAR)
