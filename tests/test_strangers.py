"""Files from strangers: a few hundred mutants of each kind, read under limits of time and memory.

`benchmarks/mutate.py`, which this runs, takes thousands of each by `--files`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

MUTATE = Path(__file__).parents[1] / "benchmarks" / "mutate.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limits")
@pytest.mark.parametrize(
    ("kinds", "files"),
    [
        ("caches,heads,calibrations,gzip", 150),
        ("parquet", 10),  # a process for each
        ("models,safetensors,onnx,photos", 40),
    ],
)
def test_mutants_are_refused_in_a_line_or_read_as_they_were_written(kinds: str, files: int) -> None:
    if "parquet" in kinds:
        pytest.importorskip("pyarrow")
    if "onnx" in kinds:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    command = [sys.executable, MUTATE, "--together", "--kinds", kinds, "--files", str(files)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-500:] + result.stderr[-2000:]
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == kinds.split(",")
    assert "Traceback" not in result.stderr
