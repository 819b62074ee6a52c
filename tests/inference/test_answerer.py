"""What answers: network, head and calibration of a run folder, opened together."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinembed.cache import EmbeddingCache
from kinembed.cache.own import is_own
from kinembed.cache.writer import write_cache
from kinembed.config import ExportConfig, ScoreConfig
from kinembed.errors import RunError
from kinembed.evaluation.calibration import load_calibration, save_calibration, seal
from kinembed.evaluation.published import choose_head, read_any_head
from kinembed.evaluation.three_way import KIN
from kinembed.export import export
from kinembed.heads.file import load_head, read_head, save_head
from kinembed.heads.pair import PairHead
from kinembed.inference.answerer import Answerer, shortcomings
from kinembed.score import score


@pytest.fixture
def own(answering: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(answering, tmp_path / "own"))


def crops_of(data: Path, count: int) -> tuple[list[str], list[np.ndarray]]:
    paths = sorted((data / "train").rglob("*.jpg"))[:count]
    names = [path.relative_to(data).as_posix() for path in paths]
    return names, [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def test_crops_and_the_cache_have_the_same_answers(answering: Path, faces: Path) -> None:
    answerer = Answerer.open(answering, device="cpu", precision="fp32")
    names, crops = crops_of(faces, 8)
    photos = answerer.photos(crops)
    with EmbeddingCache.open(answering / "embeddings.h5") as cache:
        cached = answerer.cache_photos(cache, cache.rows(names))
    assert photos.representations == pytest.approx(cached.representations, abs=1e-4)
    assert photos.directions == pytest.approx(cached.directions, abs=1e-4)
    groups = [np.array([0, 1]), np.array([2]), np.array([3, 4, 5]), np.array([6]), np.array([0])]
    pairs = np.array([(a, b) for a in range(5) for b in range(a)])
    scores = answerer.scores(answerer.people(photos, groups), pairs)
    told = answerer.probabilities(scores)
    assert told.shape == (10, 3) and told.sum(1) == pytest.approx(np.ones(10))
    assert (answerer.probabilities(scores, (0.01, 0.9))[:, KIN] > told[:, KIN]).all()
    assert ((answerer.far(scores) > 0) & (answerer.far(scores) <= 1)).all()
    likeness = scores.likeness[pairs.tolist().index([4, 0])]  # whose photo is one of both
    assert likeness > np.median(scores.likeness)


def test_a_crop_has_the_same_vectors_whatever_others_there_are(
    answering: Path, faces: Path
) -> None:
    answerer = Answerer.open(answering, device="cpu", precision="fp32")
    _, crops = crops_of(faces, 5)
    together = answerer.vectors(crops)
    alone = answerer.vectors(crops[3:4])
    assert set(together) == {"avg"}
    assert (together["avg"][3] == alone["avg"][0]).all()
    assert answerer.vectors([])["avg"].shape == (0, together["avg"].shape[1])


def test_a_named_head_is_taken_with_its_own_folder(answering: Path, tmp_path: Path) -> None:
    answerer = Answerer.open(tmp_path, answering / "head.h5")
    assert answerer.head.digest == load_head(answering / "head.h5").digest
    assert str(answering) in answerer.source


def test_what_is_missing_or_does_not_fit_is_said_in_a_line(own: Path, faces: Path) -> None:
    kept = (own / "calibration.json").read_bytes()
    for path in (own / "calibration.json", own / "calibrations"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(RunError, match="has no calibration; run kinembed calibrate"):
        Answerer.open(own)
    (own / "calibration.json").write_bytes(kept)
    found = load_calibration(own / "calibration.json")
    assert found.three_way is not None
    save_calibration(replace(found, three_way=None), own / "calibration.json")
    with pytest.raises(RunError, match="does not tell the same person from kin"):
        Answerer.open(own)
    (own / "calibration.json").write_bytes(kept)
    (own / "embeddings.h5").unlink()
    with pytest.raises(RunError, match="no such file; run kinembed embed"):
        Answerer.open(own)


def test_a_head_of_another_network_is_refused(own: Path, faces: Path) -> None:
    head = load_head(own / "head.h5")
    assert not isinstance(head, PairHead)
    save_head(replace(head, model="0" * 64), own / "head.h5")  # type: ignore[type-var]
    about = json.loads((own / "calibration.json").read_bytes())
    about["head"] = load_head(own / "head.h5").digest
    about.pop("sha256")
    (own / "calibration.json").write_text(json.dumps({**about, "sha256": seal(about)}))
    with pytest.raises(RunError, match="is of network .* and the head of 000000000000"):
        Answerer.open(own)


@pytest.mark.parametrize("bare", [False, True], ids=["whole-path", "bare-name"])
def test_a_network_elsewhere_that_a_foreign_cache_names_is_not_opened(
    own: Path, faces: Path, bare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = own / "elsewhere.pt"
    weights.write_bytes(b"no weights")
    if bare:  # found in the folder in which the command runs
        monkeypatch.chdir(own)
        weights = Path(weights.name)
    with EmbeddingCache.open(own / "embeddings.h5") as cache:
        provenance = json.loads(json.dumps(cache.provenance))
        names, digests = np.array(cache.names), np.array(cache.digests)
        vectors = {view: [np.array(cache.vectors(view))] for view in cache.views}
        people = np.array(cache.people)
    provenance["command"]["weights"] = str(weights)
    write_cache(own / "embeddings.h5", provenance, names, digests, vectors, people=people)
    assert not is_own(own / "embeddings.h5")
    with pytest.raises(RunError, match="names a network elsewhere"):
        Answerer.open(own)
    with pytest.raises(RunError, match="names a network elsewhere"):
        export(ExportConfig(own / "net.onnx"), faces, own)


def test_a_run_folders_head_of_few_families_or_poor_auc_says_so(own: Path) -> None:
    head, record = read_head(own / "head.h5")
    assert not isinstance(head, PairHead)
    assert "packaged" not in Answerer.open(own).source  # this head names nobody, and no AUC
    save_head(head, own / "head.h5", replace(record, auc=0.64))
    source = Answerer.open(own).source
    assert source.endswith(
        " (its AUC on held-out people is .64, the packaged head's on its own .84: --head packaged "
        "may answer better)"
    )
    for trained, auc, said in (
        (("F1/A", "F1/B", "F2/A"), 0.9, " (it learnt from 2 families alone: --head packaged may"),
        (("F1/A",), 0.64, " (it learnt from 1 family alone; its AUC on held-out people is .64, "),
        (tuple(f"F{number:04}/A" for number in range(150)), 0.84, ""),
    ):
        taught = replace(head, trained=trained)  # type: ignore[type-var]
        found = shortcomings(taught, replace(record, auc=auc))
        assert found.startswith(said) and bool(found) == bool(said)


def test_the_packaged_head_is_named_by_a_word_and_a_mistyped_one_is_a_line(
    answering: Path, tmp_path: Path
) -> None:
    assert Answerer.open(answering, Path("packaged")).source.startswith("the packaged head: ")
    with pytest.raises(RunError, match=r"nix\.h5: no such head; wanted .* packaged, the one that"):
        Answerer.open(answering, Path("nix.h5"))
    config = ScoreConfig(pairs=tmp_path / "pairs.csv", head=Path("nix.h5"))
    with pytest.raises(RunError, match=r"nix\.h5: no such head"):
        score(config, tmp_path, answering)
    with pytest.raises(RunError, match=r"head\.h5: no such file; run kinembed head.*packaged"):
        read_any_head(choose_head(tmp_path, None))
