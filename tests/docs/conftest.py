"""What tests of pages share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import forked_kinembed


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the program `kinembed`, for this session."""
    folder = tmp_path_factory.mktemp("bin")
    with forked_kinembed(folder):
        yield folder
