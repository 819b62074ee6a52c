"""What a file is by its bytes."""

import json
import pickle
from pathlib import Path

import pytest

from kinembed.file_kinds import describe_file


@pytest.mark.parametrize("length", [0x80, 0x280, 0x580])
def test_a_safetensors_header_whose_length_begins_as_a_pickle_is_none(
    tmp_path: Path, length: int
) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode().ljust(length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert describe_file(path) == "a safetensors file"
    path.write_bytes((1 << 40 | length).to_bytes(8, "little") + header)  # longer than the file
    assert describe_file(path) != "a pickle"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_told_by_its_version(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}, protocol))
    assert describe_file(path) == "a pickle"
