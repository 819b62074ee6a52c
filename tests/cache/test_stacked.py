"""Stacked caches: the same photos, the vectors of several networks."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinembed.cache import EmbeddingCache
from kinembed.cache.stacked import StackedCache, open_caches
from kinembed.cache.writer import write_cache
from kinembed.calibrate import calibrate
from kinembed.cli import run as command
from kinembed.config import CalibrateConfig, EvaluateConfig, ScoreConfig
from kinembed.errors import DataError, RunError
from kinembed.evaluate import evaluate
from kinembed.heads.file import save_head
from kinembed.heads.pair import PairHead
from kinembed.heads.representations import score_pairs
from kinembed.score import score

pytestmark = pytest.mark.usefixtures("fewer")
NAMES = ["test/a.jpg", "test/b.jpg", "train/F0001/MID1/a.jpg"]


def vectors(count: int, width: int, seed: int, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(kind)


def make(
    path: Path,
    model: str,
    names: list[str] = NAMES,
    sha: int = 7,
    people: list[bytes] | None = None,
    **about: Any,
) -> Path:
    """A cache with views of its own, which depend on the model."""
    seed = int(hashlib.sha256(model.encode()).hexdigest()[:6], 16)
    texts = np.array([name.encode() for name in names])
    shas = np.full((len(names), 32), sha, np.uint8)
    views = {
        "max": [vectors(len(names), 4, seed)],
        "native": [vectors(len(names), 2, seed + 1, np.float16)],
        "native-flip": [vectors(len(names), 2, seed + 2, np.float16)],
    }
    provenance = {"schema": 5, "model": model, "backbone": "x", "dtype": "float32", **about}
    who = None if people is None else np.array(people)
    return write_cache(path, provenance, texts, shas, views, people=who)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path / "a.h5", "aa"), make(tmp_path / "b.h5", "bb")


def test_one_cache_is_opened_as_it_is(two: tuple[Path, Path]) -> None:
    with open_caches(two[:1]) as cache:
        assert isinstance(cache, EmbeddingCache)
        assert cache.views == ("max", "native", "native-flip")


def test_views_are_those_of_each_cache_by_its_number(two: tuple[Path, Path]) -> None:
    with (
        open_caches(two) as both,
        EmbeddingCache.open(two[0]) as a,
        EmbeddingCache.open(two[1]) as b,
    ):
        assert isinstance(both, StackedCache)
        assert both.views == (
            *("1.max", "1.native", "1.native-flip"),
            *("2.max", "2.native", "2.native-flip"),
        )
        for place, cache in ((1, a), (2, b)):
            for view in cache.views:
                assert np.array_equal(both.vectors(f"{place}.{view}"), cache.vectors(view))
        assert isinstance(both.vectors("1.max"), np.memmap)
        result = both.vectors("2.native-flip+1.max+1.native")
        parts = [b.vectors("native-flip"), a.vectors("max"), a.vectors("native")]
        assert result.dtype == np.float32 and result.flags.c_contiguous
        assert np.array_equal(result, np.hstack(parts))
        assert not np.array_equal(both.vectors("1.max"), both.vectors("2.max"))


def test_one_cache_that_knows_who_is_on_a_photo_is_enough(tmp_path: Path) -> None:
    one = make(tmp_path / "a.h5", "aa", people=[b"F/1", b"", b"F0001/MID1"])
    other = make(tmp_path / "b.h5", "bb", people=[b"", b"F/2", b"F0001/MID1"])
    with open_caches((one, other)) as both:
        assert both.people.tolist() == [b"F/1", b"F/2", b"F0001/MID1"]
    other = make(tmp_path / "b.h5", "bb", people=[b"F/3", b"F/2", b"F0001/MID1"])
    with pytest.raises(RunError, match=r"test/a.jpg: shows F/1 in .*a.h5 and F/3 in .*b.h5"):
        open_caches((one, other))


def test_photos_are_found_as_in_one_cache(two: tuple[Path, Path]) -> None:
    with open_caches(two) as both, EmbeddingCache.open(two[0]) as one:
        assert len(both) == 3 and both.path == two[0]
        for name in ("names", "people", "digests", "stats"):
            assert np.array_equal(getattr(both, name), getattr(one, name))
        asked = ["b.jpg", "test/a.jpg", "nobody.jpg", NAMES[2]] * 3
        assert both.find(asked).tolist() == [1, 0, -1, 2] * 3
        with pytest.raises(
            DataError, match=r"photo 'test/c.jpg' is not in .*a\.h5 \(nearest: test/"
        ):
            both.rows(["test/c.jpg"])


def test_model_and_digest_are_of_all_of_them_in_order(two: tuple[Path, Path]) -> None:
    with open_caches(two) as ab, open_caches(two[::-1]) as ba, open_caches(two[:1]) as a:
        assert ab.provenance["model"] == hashlib.sha256(b"aabb").hexdigest()
        assert len({ab.provenance["model"], ba.provenance["model"], "aa", "bb"}) == 4
        assert len({ab.digest, ba.digest, a.digest}) == 3
        before = ab.digest
    make(two[1], "bb", sha=8)
    make(two[0], "aa", sha=8)
    with open_caches(two) as ab:
        assert ab.digest != before


@pytest.mark.parametrize(
    ("view", "problem"),
    [
        (
            "1.max+2.avg",
            r"b\.h5: has no view avg, only max, native, native-flip$",
        ),
        ("3.max", r"no view 3\.max in stacked caches: wanted the cache.s number .*2 is .*b\.h5\)"),
        ("max", r"no view max in stacked caches: .* as in 1\.max, 1\.native"),
        ("1.", r"no view 1\. in stacked caches"),
        ("1.max+", r"found view '1\.max\+', wanted a name"),
    ],
)
def test_views_that_are_missing_are_named(two: tuple[Path, Path], view: str, problem: str) -> None:
    with open_caches(two) as both, pytest.raises(RunError, match=problem) as error:
        both.vectors(view)
    assert "\n" not in str(error.value)


def test_no_view_is_chosen_unasked_among_several(two: tuple[Path, Path]) -> None:
    with open_caches(two) as both:
        assert both.choose_view("2.native") == "2.native"
        with pytest.raises(RunError, match=r"has views 1\.max, .*; name one with --view"):
            both.choose_view(None)


def test_the_same_file_twice_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(two[0])
    for paths in ([two[0], two[0]], [*two, tmp_path / "link.h5"]):
        with pytest.raises(RunError, match="is the same file as .*, named before"):
            open_caches(paths)
    with pytest.raises(RunError, match="no such file"):
        open_caches([tmp_path / "missing.h5", tmp_path / "missing.h5"])


def test_other_photos_are_refused(tmp_path: Path) -> None:
    a = make(tmp_path / "a.h5", "aa", ["a.jpg", "b.jpg", "c.jpg", "e.jpg"])
    b = make(tmp_path / "b.h5", "bb", ["b.jpg", "c.jpg", "d.jpg"])
    wanted = (
        r"a\.h5 lacks 1 photo that the other has, as d\.jpg; .*b\.h5 lacks 2 photos that the other "
        r"has, as a\.jpg: .*run kinembed embed --run .*, and the same of the other, which computes"
    )
    with pytest.raises(RunError, match=wanted) as error:
        open_caches([a, b])
    assert "\n" not in str(error.value)


def test_the_cache_that_is_behind_is_named_with_what_brings_it_up_to_date(tmp_path: Path) -> None:
    about: dict[str, Any] = {"command": {"photos": ["train"]}}
    a = make(tmp_path / "a" / "embeddings.h5", "aa", ["a.jpg", "b.jpg"], **about)
    b = make(tmp_path / "b" / "embeddings.h5", "bb", ["a.jpg"], **about)
    with pytest.raises(RunError) as error:
        open_caches([a, b])
    said = str(error.value)
    assert f"{b} lacks 1 photo that the other has, as b.jpg: wanted the same" in said
    assert f"run kinembed embed --run {b.parent}, which" in said and "--photos" not in said
    b = make(b, "bb", ["a.jpg"], command={"photos": ["test"]})
    with pytest.raises(RunError, match="run kinembed embed for both with the same --photos"):
        open_caches([a, b])


def test_photos_of_other_bytes_are_refused(tmp_path: Path) -> None:
    paths = [make(tmp_path / f"{sha}.h5", "aa", sha=sha) for sha in (1, 2, 0)]
    with pytest.raises(RunError, match=r"test/a\.jpg: has other bytes in .*1\.h5 than in .*2\.h5"):
        open_caches(paths[:2])
    with open_caches([paths[0], paths[2]]) as both:  # imported vectors know of no bytes
        assert len(both) == 3


def test_what_cannot_be_opened_is_named(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.h5: no such file"):
        open_caches([two[0], tmp_path / "none.h5"])
    (tmp_path / "text.h5").write_text("not a cache")
    with pytest.raises(RunError, match=r"text\.h5: not an embedding cache"):
        open_caches([two[0], tmp_path / "text.h5"])


def test_the_split_is_that_of_the_fine_tuned_networks(tmp_path: Path) -> None:
    split = {"by": "families", "seed": 1}
    plain = make(tmp_path / "plain.h5", "aa")
    tuned = make(tmp_path / "tuned.h5", "bb", split=split)
    same = make(tmp_path / "same.h5", "cc", split=split)
    other = make(tmp_path / "other.h5", "dd", split={"by": "families", "seed": 2})
    for paths in ([plain, tuned], [tuned, plain], [tuned, plain, same]):
        with open_caches(paths) as caches:
            assert caches.provenance["split"] == split
    with open_caches([plain, make(tmp_path / "p.h5", "ee")]) as caches:
        assert "split" not in caches.provenance
    with pytest.raises(RunError, match=r"tuned\.h5 and .*other\.h5: .*another split") as error:
        open_caches([plain, tuned, other])
    assert "\n" not in str(error.value)


# The stages


@pytest.fixture
def chained(run: Path, tmp_path: Path) -> tuple[Path, tuple[Path, Path]]:
    """A run folder with a head for two stacked caches: the run's, and noise beside it."""
    first = run / "embeddings.h5"
    second = tmp_path / "noise.h5"
    with EmbeddingCache.open(first) as cache:
        about = {**cache.provenance, "model": "ff" * 32}
        del about["split"]
        noise = vectors(len(cache), 5, 1)
        write_cache(second, about, cache.names, np.array(cache.digests), {"max": [noise]})
    from kinembed.heads.file import load_head

    before = load_head(run / "head.h5")
    with open_caches([first, second]) as both:
        view = "1.max+2.max"
        width = both.vectors(view).shape[1]
        head = PairHead(
            view=view,
            model=both.provenance["model"],
            kernels=(vectors(width, 1, 5),),
            biases=(np.zeros(1, np.float32),),
            held_out=(*before.held_out, *before.trained),  # as it never trained
        )
    save_head(head, run / "head.h5")
    return run, (first, second)


def test_stages_take_several_caches(
    chained: tuple[Path, tuple[Path, Path]], faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, caches = chained
    calibrate(CalibrateConfig(pairs=200, map="isotonic", caches=caches), faces, run)
    evaluate(EvaluateConfig(count=200, pictures=False, caches=caches), faces, run)
    score(ScoreConfig(caches=caches, raw=True), faces, run)
    lines = (run / "submission.csv").read_text().splitlines()[1:]
    from kinembed.heads.file import load_head

    head = load_head(run / "head.h5")
    with open_caches(caches) as both:
        names = [line.partition(",")[0].split("-") for line in lines]
        wanted = score_pairs(head, both, [(left, right) for left, right in names])
    result = [float(line.rpartition(",")[2]) for line in lines]
    assert np.allclose(result, wanted, atol=1e-9)
    options = [part for path in caches for part in ("--cache", str(path))]
    there = ["--run", str(run), "--data", str(faces)]
    assert command(["score", *there, *options]) == 0
    assert command(["calibrate", *there, *options, "--map", "isotonic"]) == 0
    folder = ["--cache", str(run), *options[2:]]  # which holds the first
    assert command(["evaluate", *there, *folder, "--no-pictures"]) == 0
    capsys.readouterr()
    assert command(["score", *there]) == 1  # the head is of two
    assert "so that they match" in capsys.readouterr().err
    assert command(["score", *there, *options[:2], "--cache", str(run / "no.h5")]) == 1
    assert "no.h5: no such file" in capsys.readouterr().err
