"""Every command that takes a cache gives the same from one that stays in shards, or refuses it."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from kinembed.cache.convert import convert
from kinembed.cli import run as command

# Each command, and the files that it writes into the run folder.
WORKS = {
    "cache info": (),
    "cache views": (),
    "cache verify": (),
    "cache export": ("embeddings.npy", "embeddings.txt"),
    "cache export --parquet": ("embeddings.parquet",),
    "cache convert CACHE --run OUT/converted --dtype float16": ("OUT/converted/embeddings.h5",),
    "cache merge CACHE CACHE --run OUT/merged": ("OUT/merged/embeddings.h5",),
    "score --pairs sample_submission.csv": ("submission.csv",),
    "score --pairs PEOPLE --people pooled --out OUT/people.csv": ("OUT/people.csv",),
    "evaluate --count 400 --no-pictures": ("evaluation.json",),
    "calibrate --pairs 400": ("calibration.json",),
    "compare ONE OTHER --crops --json": (),
    "search ONE --crops --out OUT/found.csv": ("OUT/found.csv",),
    "search ONE --crops --by photo --json": (),
    "relate ONE --crops": ("relate.csv",),
    "map --method pca": ("map.csv",),
    "audit": ("audit.csv",),
    "head --publish OUT/published.h5": (),
    "doctor": (),
    "head --recipe dense --epochs 1 --steps 2 --ensemble 1": ("head.h5",),
}


@pytest.fixture
def runs(answering: Path, tmp_path: Path) -> dict[str, Path]:
    """The same run with its cache in one file, in shards, and in shards of other numbers."""
    found = {}
    for name, dtype, size in (
        ("whole", "float32", None), ("shards", "float32", 16), ("bytes", "int8", 16),
    ):  # fmt: skip
        found[name] = tmp_path / name / "run"
        convert(answering / "embeddings.h5", found[name], dtype=dtype, shard_photos=size)
        for each in ("head.h5", "calibration.json"):
            shutil.copy(answering / each, found[name] / each)
    return found


def _plain(content: bytes, run: Path) -> bytes:
    """What a command wrote, without place, size and digest of its cache, memory and times."""
    content = content.replace(str(run.parent).encode(), b"").replace(b"s.json", b"s.h5")
    return re.sub(rb'[0-9.]+ ([MG]B|s\b)|"bytes": [0-9]+|"cache": "[0-9a-f]{64}"', b"", content)


def test_every_command_gives_the_same(
    runs: dict[str, Path], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = sorted((faces / "train").glob("*/MID*"))[:2]
    people = tmp_path / "people.csv"
    names = [f"{path.parent.name}/{path.name}" for path in (one, other)]
    people.write_text(f"p1,p2\n{names[0]},{names[1]}\n")

    def result(run: Path, line: str) -> list[bytes]:
        out = run.parent / "out"
        out.mkdir(exist_ok=True)
        cache = next(path for path in run.glob("embeddings.*") if path.suffix in (".h5", ".json"))
        words = {"ONE": str(one), "OTHER": str(other), "PEOPLE": str(people), "CACHE": str(cache)}
        given = [words.get(word, word.replace("OUT", str(out))) for word in line.split()]
        if "--run" not in given:
            given += ["--run", str(run)]
        code = command([*given, "--data", str(faces)])
        said = capsys.readouterr()
        assert code == 0, (line, said.err)
        files = [run / name.replace("OUT", str(out)) for name in WORKS[line]]
        return [_plain(text, run) for text in (said.out.encode(), *map(Path.read_bytes, files))]

    differ = []
    for line in WORKS:
        if "parquet" in line:
            pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        found = {
            name: result(run, line)
            for name, run in runs.items()
            if name != "bytes" or line.split()[0] in ("score", "evaluate", "search", "head")
        }
        if found["whole"] != found["shards"]:
            differ.append(line)
    assert not differ, differ
    probabilities = []
    for name in ("whole", "bytes"):
        with (runs[name] / "submission.csv").open() as file:
            probabilities.append([float(row["is_related"]) for row in csv.DictReader(file)])
    assert np.abs(np.subtract(*probabilities)).max() < 0.02
