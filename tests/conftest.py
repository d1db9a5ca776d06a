"""Fixtures for all tests."""

import signal

import pytest
import support

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so would every process
# that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def zoo():
    """Folders with the zoo's modules for the running interpreter."""
    return support.zoo_paths()[support.pythons()[0].version]
