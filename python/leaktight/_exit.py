"""What the command line's exit status means, for programs that run it."""

import enum


class ExitStatus(enum.IntEnum):
    """Exit status of ``leaktight`` and ``python -m leaktight``."""

    CLEAN = 0
    """Clean or bounded."""
    LEAK = 1
    """A leak."""
    USAGE = 2
    """The command line, the setup or the statement is wrong: nothing was judged."""
    INDETERMINATE = 3
    """It could not be decided."""
    CANNOT_SEE = 100
    """Allocations cannot be seen in this process."""
    NOT_WRITTEN = 101
    """The report could not be written."""
    INTERRUPTED = 130
    """Interrupted by Ctrl-C, as shells count it."""
