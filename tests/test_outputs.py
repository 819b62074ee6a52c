"""An output replaces nothing that its command reads, and no other artefact."""

import os
import shutil
from pathlib import Path

import pytest

from kinembed.cache import EmbeddingCache
from kinembed.cache.convert import export_vectors, merge
from kinembed.cli import run as command
from kinembed.config import ScoreConfig
from kinembed.errors import KinembedError
from kinembed.outputs import ARTEFACTS, check_output
from kinembed.score import score
from kinembed.weights import convert


@pytest.fixture
def pairs(run: Path, tmp_path: Path) -> Path:
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        one, two = (cache.names[row].decode() for row in (0, 1))
    path = tmp_path / "pairs.csv"
    path.write_text(f"a,b\n{one},{two}\n")
    return path


def contents(*folders: Path) -> dict[Path, bytes]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files}


def test_scores_replace_nothing_but_scores(run: Path, pairs: Path, tmp_path: Path) -> None:
    (run / "calibration.json").write_text("not read with raw")
    own = [path for path in run.rglob("*") if path.is_file() and path.name != "submission.csv"]
    assert {"embeddings.h5", "head.h5", "model.pt", "history.csv"} <= {path.name for path in own}
    head = Path(shutil.copy(run / "head.h5", tmp_path / "other.h5"))
    (tmp_path / "link.csv").symlink_to(pairs)
    (tmp_path / "artefact.csv").symlink_to(run / "model.pt")
    os.link(pairs, tmp_path / "hard.csv")
    links = [tmp_path / name for name in ("link.csv", "artefact.csv", "hard.csv")]
    missing = [run / name for name in ("representations.h5", "evaluation.json", "heads/new.h5")]
    for out in [*own, pairs, head, *links, *missing]:
        before = contents(run, tmp_path)
        with pytest.raises(KinembedError, match="name another file for the output"):
            score(ScoreConfig(pairs, out=out, head=head, raw=True), tmp_path, run)
        assert contents(run, tmp_path) == before
    for out in (run / "submission.csv", run / "scores.csv", tmp_path / "new.csv"):
        assert score(ScoreConfig(pairs, out=out, raw=True), tmp_path, run) == out


def test_caches_and_weights_are_not_written_over_what_they_are_made_of(
    run: Path, tmp_path: Path
) -> None:
    cache = run / "embeddings.h5"
    copy = Path(shutil.copy(cache, tmp_path / "copy.h5"))
    (tmp_path / "link.h5").symlink_to(cache)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    before = contents(run, tmp_path)
    for out in (cache, copy, tmp_path / "link.h5", run / "head.h5"):
        with pytest.raises(KinembedError, match="name another file for the output"):
            merge(cache, copy, out, force=True)
    with pytest.raises(KinembedError, match="name another file for the output"):
        convert(weights, weights, "sface")
    (tmp_path / "x.csv").symlink_to(run / "history.csv")
    for out in (run / "history.csv", tmp_path / "x.csv"):
        with pytest.raises(KinembedError, match="name another file for the output"):
            export_vectors(cache, out)
    assert contents(run, tmp_path) == before | {tmp_path / "x.csv": before[run / "history.csv"]}
    assert export_vectors(cache, run / "embeddings.csv").is_file()


def test_a_drawing_is_an_svg_and_no_artefact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    for name, code in (("model.pt", 2), ("scores.svg", 1)):
        drawn = ["finetune", "--run", str(run), "--architecture", str(run / name)]
        assert command(drawn) == code
        assert capsys.readouterr().err
    assert contents(run) == before


def test_every_file_of_a_run_folder_is_known_as_an_artefact(run: Path) -> None:
    files = [path.name for path in run.iterdir() if path.is_file()]
    assert [name for name in files if not ARTEFACTS.fullmatch(name)] == []


def test_a_device_is_no_input() -> None:
    check_output(Path("/dev/null"), [Path("/dev/null")])
