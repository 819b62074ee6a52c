"""Scoring: as the whole network does, in the order given, and what it refuses."""

import csv
import gzip
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import random_model

from kinembed.backbones import BACKBONES, Backbone, Framing
from kinembed.backbones.framing import describe_frame
from kinembed.backbones.trunk import Trunk
from kinembed.backbones.weights import digest, load_trunk
from kinembed.cache import EmbeddingCache
from kinembed.cache.provenance import frames
from kinembed.cache.writer import write_cache
from kinembed.calibrate import calibrate
from kinembed.config import CalibrateConfig, EmbedConfig, EvaluateConfig, ScoreConfig
from kinembed.data.pair_files import PairList, pair_rows
from kinembed.data.photos import read_photo
from kinembed.embed import embed
from kinembed.errors import DataError, RunError, WriteError
from kinembed.evaluate import evaluate
from kinembed.evaluation.calibration import Calibration, Scale, save_calibration
from kinembed.evaluation.in_use import describe
from kinembed.heads.file import HeadRecord, load_head, read_head, save_head
from kinembed.heads.metric import MetricHead
from kinembed.heads.pair import PairHead
from kinembed.heads.representations import Representations, score_pairs
from kinembed.recipes import RECIPES
from kinembed.score import score
from kinembed.scoring.submission import quoted
from kinembed.training.siamese import SiameseNetwork, load_model

HEADER = "img_pair,is_related\n"


def rows_of(path: Path) -> list[tuple[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["img_pair", "is_related"]
    return [(text, float(value)) for text, value in rows]


def asked(run: Path, content: str | bytes, data: Path = Path("no data")) -> Path:
    """Scores the pairs of a CSV."""
    pairs = run / "pairs.csv"
    pairs.write_bytes(content if isinstance(content, bytes) else content.encode())
    return score(ScoreConfig(pairs), data, run)


def problem_of(run: Path, content: str | bytes) -> str:
    with pytest.raises(DataError) as error:
        asked(run, content)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def tests_photos(faces: Path) -> list[str]:
    return sorted(path.name for path in (faces / "test").iterdir())


# Fidelity


@dataclass
class Embedded:
    """A backbone, its trunk, and a run folder with a float32 cache of all its views."""

    backbone: Backbone
    trunk: Trunk
    run: Path
    views: tuple[str, ...]


def stacked(photos: list[Path], backbone: Backbone) -> torch.Tensor:
    return torch.from_numpy(np.stack([read_photo(path, backbone.framing)[1] for path in photos]))


@pytest.fixture(
    scope="module",
    params=[
        ("mtcnn-onet", "auto"),
        ("mobilefacenet", "none"),
        pytest.param(("mobilefacenet", "weights/mobilefacenet.pt"), marks=pytest.mark.shared),
    ],
    ids="-".join,
)
def embedded(
    request: pytest.FixtureRequest,
    faces: Path,
    on_cpu: EmbedConfig,
    shared: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Embedded:
    run = tmp_path_factory.mktemp("embedded")
    name, weights = request.param
    backbone = BACKBONES[name]
    torch.manual_seed(0)
    trunk = load_trunk(backbone, str(shared(weights)) if "/" in weights else weights)
    if weights == "none":
        set_statistics(trunk, backbone, faces)
    trunk.eval()
    torch.save(trunk.state_dict(), run / "weights.pt")
    views = tuple(backbone.views)
    config = replace(
        on_cpu,
        photos=("test",),
        backbone=name,
        weights=str(run / "weights.pt"),
        views=views,
    )
    embed(config, faces, run)
    return Embedded(backbone, trunk, run, views)


def set_statistics(trunk: Trunk, backbone: Backbone, faces: Path) -> None:
    """Gives BatchNorms statistics of the photos: random weights alone make all vectors alike."""
    norms = [m for m in trunk.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network = SiameseNetwork(backbone, trunk, "native", RECIPES["base"]).train()
    with torch.inference_mode():
        network.embed(stacked(sorted((faces / "test").iterdir()), backbone))
    for norm in norms:  # channels that are all but dead would magnify rounding
        norm.running_var.clamp_(min=float(norm.running_var.mean()))


def randomise_head(network: SiameseNetwork, a: torch.Tensor, b: torch.Tensor) -> None:
    """Gives the head weights as after much training: its logits spread where an error shows."""
    for layer in network.head.layers():
        torch.nn.init.normal_(layer.weight, 0, layer.in_features**-0.5)
    logits = network.head(a, b)
    output = network.head.output
    # Not wider: random weights lose more digits than trained ones, folded BatchNorm or not.
    spread = 2 * logits.std()
    output.weight /= spread
    output.bias.copy_((output.bias - logits.mean()) / spread)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_score_is_that_of_the_whole_network(
    embedded: Embedded, faces: Path, recipe: str
) -> None:
    pairs = [text for text, _ in rows_of(faces / "sample_submission.csv")][:8]
    left, right = (
        stacked([faces / "test" / name for name in names], embedded.backbone)
        for names in zip(*(pair.split("-") for pair in pairs), strict=True)
    )
    for view in embedded.views:
        torch.manual_seed(1)
        network = SiameseNetwork(embedded.backbone, embedded.trunk, view, RECIPES[recipe]).eval()
        with EmbeddingCache.open(embedded.run / "embeddings.h5") as cache:
            vectors = torch.from_numpy(np.array(cache.vectors(view)))
        with torch.inference_mode():
            randomise_head(network, vectors, vectors.roll(1, 0))
            wanted = network(left, right).double().sigmoid().numpy()
        save_head(network.head.to_head(view, digest(embedded.trunk)), embedded.run / "head.h5")
        rows = rows_of(asked(embedded.run, HEADER + "".join(f"{pair},0\n" for pair in pairs)))
        assert [text for text, _ in rows] == pairs
        assert wanted.std() > 0.05
        assert np.abs(np.array([value for _, value in rows]) - wanted).max() < 1e-5


def test_the_score_is_that_of_the_fine_tuned_network(run: Path, faces: Path) -> None:
    network = load_model(run / "model.pt").eval()
    result = rows_of(score(ScoreConfig(), faces, run))
    for text, value in result[:20]:
        left, right = (
            stacked([faces / "test" / name], network.backbone) for name in text.split("-")
        )
        with torch.inference_mode():
            assert value == pytest.approx(float(network(left, right).sigmoid()), abs=1e-5)


# The submission


def test_rows_keep_their_order(run: Path, faces: Path) -> None:
    sample = faces / "sample_submission.csv"
    wanted = [text for text, _ in rows_of(sample)]
    result = rows_of(score(ScoreConfig(), faces, run))
    assert [text for text, _ in result] == wanted
    backwards = [text for text, _ in rows_of(asked(run, "img_pair\n" + "\n".join(wanted[::-1])))]
    assert backwards == wanted[::-1]
    assert dict(rows_of(run / "submission.csv")) == dict(result)


def test_probabilities_are_the_very_numbers_and_are_in_0_to_1(run: Path, faces: Path) -> None:
    lines = score(ScoreConfig(), faces, run).read_text().splitlines()[1:]
    values = [line.split(",")[1] for line in lines]
    assert len(set(values)) > len(values) // 2
    head = load_head(run / "head.h5")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        pairs = [tuple(line.split(",")[0].split("-")) for line in lines]
        wanted = score_pairs(head, cache, pairs)
    assert [float(value) for value in values] == wanted.tolist()
    assert all(0 <= float(value) <= 1 for value in values)


@pytest.mark.parametrize("bias", [-300.0, 0.0, 60.0])
def test_a_submission_has_the_order_of_the_logits(run: Path, faces: Path, bias: float) -> None:
    head = load_head(run / "head.h5")
    biases = (*head.biases[:-1], np.full(1, bias, np.float32))
    kernels = (*head.kernels[:-1], head.kernels[-1] * 1e4)
    head = replace(head, kernels=kernels, biases=biases)
    save_head(head, run / "head.h5")
    rows = rows_of(score(ScoreConfig(), faces, run))
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        pairs = pair_rows(
            PairList(Path("p"), [2] * len(rows), ([text for text, _ in rows],)), cache
        )
        logits = Representations(cache, head).score(pairs)
    by_score = np.unique([value for _, value in rows], return_inverse=True)[1]
    assert np.array_equal(by_score, np.unique(logits, return_inverse=True)[1])
    assert len(set(by_score.tolist())) == len(set(logits.tolist())) > len(rows) // 2


def test_a_line_says_what_scores(run: Path, faces: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = load_head(run / "head.h5")
    record = HeadRecord("finetune", "dense", "", 0.625, 2, "held-out people")
    save_head(head, run / "head.h5", record)
    caplog.set_level("INFO")
    score(ScoreConfig(), faces, run)
    assert caplog.messages[0] == (
        f"network mtcnn-onet {head.model[:12]} (fine-tuned by dense, framing loose); head dense "
        f"{head.digest[:12]} on view max (AUC 0.6250, epoch chosen by held-out people; fitted on "
        f"{len(head.trained)} people, {len(head.held_out)} held out); each photo alone; not "
        "calibrated"
    )
    scale = Scale(0.0, "youden", "platt", ((2.0,), (0.0,)), 0.5, 0.1)
    fitted = Calibration(head.digest, ("F1/A",), "", scale)
    model = random_model(np.random.default_rng(0), 4)
    expands = replace(MetricHead("max", "m", ()), same_person=model)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        line = describe(cache, expands, HeadRecord(), None)
        off = describe(cache, expands, HeadRecord(), None, expand=False)
    assert "head metric" in line and "(AUC unknown; " in line
    assert "each photo with others of the same person, if it has any; not calibrated" in line
    assert "each photo alone; not calibrated" in off
    save_calibration(fitted, run / "calibration.json")
    score(ScoreConfig(), faces, run)
    assert "; calibrated by platt on 1 held-out people for 0.1 kin" in caplog.text


def test_a_frame_that_the_user_named_and_the_head_does_not_know_is_said(
    run: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    head, record = read_head(run / "head.h5")
    assert record.framings == ("loose: 48 of 48 px from 0, 0",)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        assert frames(cache.provenance) == record.framings
        command = cache.provenance["command"]
    other = ("fitted: 40 of 48 px from 4, 4",)
    for named, framings, is_said in (
        ("loose", record.framings, False),
        ("loose", (*other, *record.framings), False),
        ("loose", other, True),
        ("loose", (), False),  # a head of before
        ("auto", other, False),  # the frame that suits the faces
    ):
        remade(run / "embeddings.h5", command={**command, "framing": named})
        save_head(head, run / "head.h5", replace(record, framings=framings))
        for stage in (
            lambda: score(ScoreConfig(), faces, run),
            lambda: evaluate(EvaluateConfig(count=50, pictures=False), faces, run),
            lambda: calibrate(CalibrateConfig(pairs=10), faces, run),
        ):
            caplog.clear()
            with suppress(DataError):  # too few pairs for a calibration
                stage()
            assert ("and the head learnt on others (fitted: 40 of 48" in caplog.text) == is_said
            assert ("--framing loose (loose: 48 of 48 px from 0, 0)" in caplog.text) == is_said


def test_frames_have_names() -> None:
    frame = BACKBONES["mobilefacenet"].framing
    for network, framing, name in (
        ("mobilefacenet", frame, "loose"),
        ("unknown.onnx", frame, "loose"),
        ("mobilefacenet", Framing(112, 112), "whole"),
        ("sface", BACKBONES["sface"].framing, "loose"),
        ("mobilefacenet", replace(frame, left=frame.left + 1), "fitted"),
    ):
        assert describe_frame(network, framing).startswith(f"{name}: {framing.inner} of 112 px")


def test_a_calibration_that_is_a_link_to_nothing_is_a_problem_and_not_none(
    run: Path, faces: Path, tmp_path: Path
) -> None:
    (run / "calibration.json").symlink_to(tmp_path / "not-mounted.json")
    with pytest.raises(RunError, match=r"calibration\.json: is a link to .*not-mounted"):
        score(ScoreConfig(), faces, run)
    assert not (run / "submission.csv").exists()


def test_a_pair_scores_the_same_both_ways_and_when_repeated(
    run: Path, tests_photos: list[str]
) -> None:
    a, b, c = tests_photos[:3]
    result = rows_of(asked(run, f"{HEADER}{a}-{b},0\n{b}-{a},0\n{a}-{c},0\n{a}-{b},0\n{a}-{b},1\n"))
    values = [value for _, value in result]
    assert [text for text, _ in result] == [f"{a}-{b}", f"{b}-{a}", f"{a}-{c}", *[f"{a}-{b}"] * 2]
    assert values[0] == values[1] == values[3] == values[4] != values[2]


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 23), min_size=1, max_size=40))
def test_any_list_of_pairs_is_scored_row_by_row(
    tuned: Path,
    tests_photos: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    texts = [f"{tests_photos[i]}-{tests_photos[-1 - i // 2]}" for i in order]
    path.write_text(HEADER + "".join(f"{text},0\n" for text in texts))
    out = path.with_name("scored.csv")
    result = rows_of(score(ScoreConfig(path, out), Path("no data"), tuned))
    head = load_head(tuned / "head.h5")
    with EmbeddingCache.open(tuned / "embeddings.h5") as cache:
        vectors = cache.vectors("max")
        for (text, value), wanted in zip(result, texts, strict=True):
            assert text == wanted
            a, b = vectors[cache.find(text.split("-"))]
            logit = head.score(np.stack([a, b]), np.array([[0, 1]]))[0]
            assert value == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_a_bom_crlf_and_blank_lines_are_accepted(run: Path, tests_photos: list[str]) -> None:
    a, b = tests_photos[:2]
    wanted = asked(run, f"{HEADER}{a}-{b},0\n{b}-{b},0\n").read_bytes()
    content = f"img_pair,is_related\r\n\r\n{a}-{b},0\r\n{b}-{b},0\r\n".encode()
    assert asked(run, b"\xef\xbb\xbf" + content).read_bytes() == wanted


def test_pairs_are_searched_in_their_path_then_in_data(
    run: Path, data: Path, tests_photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    config = ScoreConfig(Path("sample_submission.csv"))
    assert len(rows_of(score(config, data, run))) > 5
    (here / "sample_submission.csv").write_text(f"{HEADER}{tests_photos[0]}-{tests_photos[1]},0\n")
    assert len(rows_of(score(config, data, run))) == 1
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        score(ScoreConfig(Path("absent.csv")), data, run)


def test_the_submission_goes_where_asked(run: Path, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "mine.csv"
    assert score(replace(ScoreConfig(), out=out), faces, run) == out
    assert not (run / "submission.csv").exists()
    assert score(ScoreConfig(), faces, run) == run / "submission.csv"
    assert out.read_bytes() == (run / "submission.csv").read_bytes()


@pytest.mark.parametrize("text", ["a.jpg-b.jpg", 'a,"b".jpg-c.jpg', "a\nb-c", "a'b-c", '"-"'])
def test_fields_are_quoted_as_csv_wants_them(text: str) -> None:
    assert next(csv.reader([f"{quoted(text)},0.5"], strict=True)) == [text, "0.5"] or "\n" in text
    assert list(csv.reader(f"{quoted(text)},0.5\n".splitlines(True)))[-1][-1] == "0.5"
    assert (quoted(text) == text) == (not set(text) & set(',"\n'))


def test_a_photo_with_itself_is_counted_over_all_blocks(
    run: Path, faces: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = rows_of(faces / "sample_submission.csv")[0][0].split("-")
    asked_for = f"{first}-{first}\n{first}-{second}\n{first}-./{first}\n"
    (run / "pairs.csv").write_text(f"img_pair\n{asked_for}")
    score(ScoreConfig(run / "pairs.csv", chunk=1), faces, run)
    assert "pairs.csv: 2 of them have a photo with itself" in caplog.text
    (run / "pairs.csv").write_text(f"img_pair\n{first}-test/{first}\n")
    with pytest.raises(DataError, match="line 2: .* are both found to be test/"):
        score(ScoreConfig(run / "pairs.csv"), faces, run)


# Names with a dash


@pytest.fixture
def dashed(tuned: Path, faces: Path, tmp_path: Path, on_cpu: EmbedConfig) -> Path:
    """A run folder whose cache holds names with dashes."""
    album = tmp_path / "album"
    album.mkdir()
    photos = sorted((faces / "test").iterdir())
    for number, name in enumerate(["a.jpg", "b-c.jpg", "a.jpg-b.jpg", "c.jpg", "b.jpg-c.jpg"]):
        shutil.copy(photos[number], album / name)
    run = Path(shutil.copytree(tuned, tmp_path / "dashed"))
    embed(replace(on_cpu, photos=(str(album),)), faces, run)
    return run


def test_names_with_dashes_are_split_where_both_are_known(dashed: Path) -> None:
    texts = ["a.jpg-b-c.jpg", "b-c.jpg-a.jpg", "b-c.jpg-b-c.jpg", "a.jpg-c.jpg", "c.jpg-b-c.jpg"]
    rows = rows_of(asked(dashed, HEADER + "".join(f"{text},0\n" for text in texts)))
    assert [text for text, _ in rows] == texts
    with EmbeddingCache.open(dashed / "embeddings.h5") as cache:
        known = [name.decode() for name in cache.names.tolist()]
        result = pair_rows(PairList(Path("p"), [2, 3, 4, 5, 6], (texts,)), cache)
    assert [[known[a], known[b]] for a, b in result.tolist()] == [
        ["a.jpg", "b-c.jpg"],
        ["b-c.jpg", "a.jpg"],
        ["b-c.jpg", "b-c.jpg"],
        ["a.jpg", "c.jpg"],
        ["c.jpg", "b-c.jpg"],
    ]


def test_an_ambiguous_text_is_refused_with_its_line(dashed: Path) -> None:
    problem = problem_of(dashed, f"{HEADER}a.jpg-c.jpg,0\n\na.jpg-b.jpg-c.jpg,0\n")
    assert "pairs.csv, line 4: 'a.jpg-b.jpg-c.jpg' names several pairs of photos" in problem


def test_a_text_without_known_photos_is_refused_with_its_line(dashed: Path) -> None:
    problem = problem_of(dashed, f"{HEADER}a.jpg-c.jpg,0\na.jpg-x-c.jpg,0\n")
    assert "pairs.csv, line 3: 'a.jpg-x-c.jpg' names no two photos of the cache" in problem


# Refusals


def test_photos_not_in_the_cache_are_named_with_their_line(
    run: Path, tests_photos: list[str]
) -> None:
    a, b = tests_photos[:2]
    problem = problem_of(run, f"{HEADER}{a}-{b},0\n{a}-gone.jpg,0\n{a}-{b},0\nlost.jpg-{b},0\n")
    assert "pairs.csv, line 3: photo 'gone.jpg' is not in" in problem
    assert "(1 more such lines)" in problem
    problem = problem_of(run, f"{HEADER}{a}-{b},0\n{a[:-1]}-{a[:-1]},0\n")
    assert f"line 3: photo {a[:-1]!r} is not in" in problem and f"(nearest: {a})" in problem
    assert "more such lines" not in problem
    assert "line 2: photo '' is not in" in problem_of(run, f"{HEADER}-{b},0\n")


def test_malformed_pairs_are_named_with_their_line(run: Path, tests_photos: list[str]) -> None:
    a, b = tests_photos[:2]
    assert "line 3: found" in problem_of(run, f"{HEADER}{a}-{b},0\n{a} {b},0\n")
    assert "line 3: found" in problem_of(run, f"{HEADER}{a}-{b},0\n{a}-{b},0,0\n")
    assert "pairs.csv: empty" in problem_of(run, "")
    assert not (run / "submission.csv").exists()


def test_a_cache_of_another_model_is_refused(run: Path, faces: Path, on_cpu: EmbedConfig) -> None:
    embed(replace(on_cpu, backbone="mtcnn-onet", photos=("test",)), faces, run)
    with pytest.raises(RunError, match="holds embeddings of model .* the head is of model") as e:
        score(ScoreConfig(), faces, run)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        assert cache.provenance["model"][:12] in str(e.value)
    assert load_head(run / "head.h5").model[:12] in str(e.value)
    assert "run kinembed head" in str(e.value)


def test_a_head_of_another_view_or_width_is_refused(run: Path, faces: Path) -> None:
    head = load_head(run / "head.h5")
    save_head(replace(head, view="native"), run / "head.h5")
    with pytest.raises(RunError, match="has no view native, only avg, max$"):
        score(ScoreConfig(), faces, run)
    kernels = np.zeros((9, 1), np.float32), np.zeros(1, np.float32)
    save_head(PairHead("max", head.model, kernels[:1], kernels[1:]), run / "head.h5")
    with pytest.raises(RunError, match="view max has 128 numbers, the head wants 9"):
        score(ScoreConfig(), faces, run)


def test_a_run_without_head_or_cache_says_what_to_run(run: Path, faces: Path) -> None:
    (run / "head.h5").unlink()
    with pytest.raises(RunError, match=r"head\.h5: no such file; run kinembed head"):
        score(ScoreConfig(), faces, run)
    (run / "embeddings.h5").unlink()
    with pytest.raises(RunError, match=r"embeddings\.h5: no such file; run kinembed embed"):
        score(ScoreConfig(), faces, run)


def remade(path: Path, vectors: float | None = None, **provenance: object) -> None:
    """Writes a cache again, with other vectors or provenance."""
    with EmbeddingCache.open(path) as cache:
        views = {view: [np.array(cache.vectors(view))] for view in cache.views}
        if vectors is not None:
            views = {view: [np.full_like(blocks[0], vectors)] for view, blocks in views.items()}
        about = cache.provenance | provenance
        write_cache(path, about, cache.names, np.array(cache.digests), views)


def test_vectors_that_are_not_finite_are_no_scores(
    run: Path, faces: Path, tests_photos: list[str]
) -> None:
    remade(run / "embeddings.h5", vectors=np.nan)
    with pytest.raises(RunError, match="not finite"):
        asked(run, f"{HEADER}{tests_photos[0]}-{tests_photos[1]},0\n")


def test_a_failure_leaves_the_old_submission(
    run: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = score(ScoreConfig(), faces, run).read_bytes()
    files = sorted(p.name for p in run.iterdir())
    problem_of(run, "img_pair\nlost.jpg-found.jpg\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kinembed.io.os.fsync", full)
    with pytest.raises(WriteError, match=r"submission\.csv: cannot be written \(No space left"):
        score(ScoreConfig(), faces, run)
    assert (run / "submission.csv").read_bytes() == before
    assert sorted(p.name for p in run.iterdir() if p.name != "pairs.csv") == files


def test_the_cache_s_provenance_counts_not_its_name(run: Path, faces: Path) -> None:
    remade(run / "embeddings.h5", model="f" * 64)
    with pytest.raises(RunError, match="of model ffffffffffff, the head is of model"):
        score(ScoreConfig(), faces, run)


# In blocks, compressed, by people


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_blocks_and_threads_change_nothing(run: Path, tests_photos: list[str], chunk: int) -> None:
    pairs = [f"{a}-{b}" for a in tests_photos[:5] for b in tests_photos[:3]]
    (run / "pairs.csv").write_text(HEADER + "".join(f"{pair},0\n" for pair in pairs))
    whole = rows_of(score(ScoreConfig(run / "pairs.csv"), run, run))
    config = ScoreConfig(run / "pairs.csv", chunk=chunk, threads=3)
    result = rows_of(score(config, run, run))
    assert [text for text, _ in result] == pairs
    assert result == whole  # to the last of the decimals


def test_compressed_and_columnar_files_hold_the_same(run: Path, tests_photos: list[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pairs = [f"{a}-{tests_photos[0]}" for a in tests_photos]
    table = pyarrow.table({"img_pair": pairs})
    parquet.write_table(table, run / "pairs.parquet")
    (run / "pairs.csv.gz").write_bytes(gzip.compress(("img_pair\n" + "\n".join(pairs)).encode()))
    result = {}
    for source in ("pairs.parquet", "pairs.csv.gz"):
        for target in ("out.parquet", "out.csv.gz", "out.csv"):
            out = score(ScoreConfig(run / source, run / target, chunk=2), run, run)
            if target == "out.parquet":
                columns = parquet.read_table(out).to_pydict()
                rows = list(zip(columns["img_pair"], columns["is_related"]))
            else:
                content = out.read_bytes()
                text = gzip.decompress(content) if target.endswith("gz") else content
                rows = [
                    (row["img_pair"], float(row["is_related"]))
                    for row in csv.DictReader(text.decode().splitlines())
                ]
            assert [name for name, _ in rows] == pairs
            result[source, target] = [value for _, value in rows]
    for target in ("out.parquet", "out.csv"):
        assert result["pairs.parquet", target] == result["pairs.csv.gz", target]
    assert np.allclose(list(result.values()), next(iter(result.values())), atol=1e-9)


def test_a_bad_line_in_a_late_block_leaves_the_old_submission(
    run: Path, tests_photos: list[str]
) -> None:
    good = f"{tests_photos[0]}-{tests_photos[1]}"
    asked(run, f"{HEADER}{good},0\n")
    before = (run / "submission.csv").read_bytes()
    (run / "pairs.csv").write_text(f"{HEADER}{good},0\n{good},0\n{good},0\nnobody-{good[:13]},0\n")
    with pytest.raises(DataError, match="line 5"):
        score(ScoreConfig(run / "pairs.csv", chunk=1), run, run)
    assert (run / "submission.csv").read_bytes() == before
    assert not list(run.glob(".*.tmp"))


def test_people_are_scored_as_a_slow_loop_scores_them(run: Path, faces: Path) -> None:
    head = load_head(run / "head.h5")
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        vectors = np.array(cache.vectors(head.view))
        names = [name.decode() for name in cache.names]
    photos: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name.startswith("train/"):
            photos.setdefault("/".join(name.split("/")[1:3]), []).append(row)
    people = list(photos)
    pairs = [(people[i], people[-i - 2]) for i in range(6)] + [(people[3], people[0])]
    (run / "pairs.csv").write_text("img_pair\n" + "".join(f"{a}-{b}\n" for a, b in pairs))
    for pooling in ("mean", "max", "pooled"):
        result = rows_of(score(ScoreConfig(run / "pairs.csv", people=pooling, chunk=3), faces, run))
        for (text, probability), (a, b) in zip(result, pairs):
            each = [
                head.score(vectors, np.array([[i, j]]))[0] for i in photos[a] for j in photos[b]
            ]
            means = np.stack([vectors[photos[p]].mean(0) for p in (a, b)])
            pooled = head.score(means, np.array([[0, 1]]))[0]
            logit = {"mean": np.mean(each), "max": max(each), "pooled": pooled}
            assert text == f"{a}-{b}"
            assert probability == pytest.approx(1 / (1 + np.exp(-logit[pooling])), abs=1e-5)
    swapped = "img_pair\n" + "".join(f"{b}-{a}\n" for a, b in pairs)
    (run / "swapped.csv").write_text(swapped)
    again = rows_of(score(ScoreConfig(run / "swapped.csv", people="pooled"), faces, run))
    assert np.allclose([p for _, p in again], [p for _, p in result], atol=1e-7)
    for table in (
        [f"{a.casefold()}-{b}" for a, b in pairs],
        [f"train\\{a.casefold()},./{b.upper()}".replace("/", "\\") for a, b in pairs],
    ):
        columns = "img_pair" if "," not in table[0] else "p1,p2"
        (run / "cased.csv").write_text("\n".join([columns, *table]))
        out = score(ScoreConfig(run / "cased.csv", people="pooled"), faces, run)
        probabilities = [float(line.split(",")[-1]) for line in out.read_text().split()[1:]]
        assert probabilities == [probability for _, probability in result]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("img_pair\nF9/MID1-F8/MID1\n", "'F9/MID1' has no photos in .*nearest: F"),
        ("img_pair\nF9-1/MID1-F0001/MID1\n", "'F9-1/MID1-F0001/MID1' does not name two people"),
        ("p1,p2\nF0001/MID1,F9/MID1\n", "'F9/MID1' has no photos in .*nearest: F"),
    ],
)
def test_people_who_are_not_there_are_named(
    run: Path, faces: Path, table: str, problem: str
) -> None:
    (run / "pairs.csv").write_text(table)
    with pytest.raises(DataError, match=rf"pairs\.csv, line 2: {problem}"):
        score(ScoreConfig(run / "pairs.csv", people="mean"), faces, run)
