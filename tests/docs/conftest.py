"""What tests of pages share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def program(forks: Path) -> Path:
    """A folder with the program `kinembed`, for this session."""
    return forks / "kinembed"
