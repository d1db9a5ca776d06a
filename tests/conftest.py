"""Fixtures for all tests."""

import pytest
import support


@pytest.fixture(scope="session")
def zoo():
    """Folders with the zoo's modules for the running interpreter."""
    return support.zoo_paths()[support.pythons()[0].version]
