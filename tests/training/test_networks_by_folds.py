"""Heads of networks by folds: no figure knows anything that a network learnt of whom it judges."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinembed.cache import EmbeddingCache
from kinembed.cache.convert import convert
from kinembed.cache.provenance import Finetuned
from kinembed.cache.writer import write_cache
from kinembed.config import HeadConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.splits import describe_fold, split_of_fold
from kinembed.errors import RunError
from kinembed.head import head as train_head
from kinembed.heads.file import load_head, read_head
from kinembed.heads.fused import FusedHead
from kinembed.recipes import KIN

FOLDS, FAMILIES, PHOTOS, WIDTH = 3, 24, 5, 16
PEOPLE = [f"F{family:04}/MID{member}" for family in range(FAMILIES) for member in (1, 2)]
NAMES = [f"train/{person}/{photo}.jpg" for person in PEOPLE for photo in range(PHOTOS)]
SHORT = HeadConfig(epochs=1, steps=1, overrides=("hidden_dim=0", "embed_dim=8", "batch_pairs=4"))


def write(path: Path, model: str, vectors: np.ndarray, **about: Any) -> Path:
    provenance = {"schema": 5, "model": model, "backbone": "x", "dtype": "float32", **about}
    digests = np.full((len(NAMES), 32), 7, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    views = {"native": [vectors.astype(np.float32)]}
    return write_cache(path, provenance, np.array(NAMES, "S"), digests, views)


class Collection:
    """Families whose kin are a little alike, and networks of them, made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lines = [f"F{family:04}/MID1,F{family:04}/MID2\n" for family in range(FAMILIES)]
        (folder / "train_relationships.csv").write_text("p1,p2\n" + "".join(lines))
        self.rng = np.random.default_rng(0)
        owners = np.repeat(np.arange(len(PEOPLE)), PHOTOS)
        self.family = self.rng.standard_normal((FAMILIES, WIDTH))[owners // 2]
        self.person = self.rng.standard_normal((len(PEOPLE), WIDTH))[owners]
        with EmbeddingCache.open(write(folder / "plain.h5", "plain", self.person)) as cache:
            self.families: Families = cached_families(cache, folder)

    def network(
        self, name: str, fold: int, knows: bool, chosen_by: str = "nobody", folds: int = FOLDS
    ) -> Path:
        """A network's cache; with `knows`, it tells the people apart from whom it learnt."""
        split = split_of_fold(self.families, folds, fold, 0)
        held_out = {self.families.people[row] for row in split.held_out.tolist()}
        seen = np.array([name[6:-6] not in held_out for name in NAMES])
        vectors = 0.5 * self.family + self.rng.standard_normal(self.family.shape)
        vectors[seen & knows] += 3 * self.person[seen & knows]
        return write(
            self.folder / name / str(fold) / "embeddings.h5",
            f"{name}{fold}",
            vectors,
            split=describe_fold(self.families, split, folds, fold, 0),
            finetuned=Finetuned(KIN, "native", chosen_by).as_json(),
        )

    def networks(self, name: str, knows: bool = False) -> list[Path]:
        return [self.network(name, fold, knows) for fold in range(1, FOLDS + 1)]

    def frozen(self) -> Path:
        vectors = 2 * self.person + self.rng.standard_normal(self.person.shape)
        return write(self.folder / "frozen" / "embeddings.h5", "frozen", vectors)

    def train(self, caches: Sequence[Path], config: HeadConfig = SHORT) -> Path:
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        return train_head(replace(config, caches=tuple(caches)), self.folder, run)


@pytest.fixture
def people(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


def test_networks_do_not_tell_the_photos_of_whom_they_learnt_from(
    people: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    """By networks that knew them, people held out were expanded: AUC .9 where new ones get .7."""
    caplog.set_level("INFO")
    found = {}
    for knows in (False, True):
        people.rng = np.random.default_rng(1)
        path = people.train(people.networks(f"knows-{knows}", knows))
        head, record = read_head(path)
        assert head.same_person is None and head.knn_view == ""
        found[knows] = record.auc
    assert "no query expansion: each network learnt from people whom another" in caplog.text
    assert found[True] == pytest.approx(found[False], abs=0.02)


def test_a_frozen_network_tells_photos_of_one_person(people: Collection) -> None:
    head = load_head(people.train([*people.networks("a", knows=True), people.frozen()]))
    assert head.knn_view == "4.native" and head.same_person is not None


def test_several_networks_of_each_fold_are_a_part_each(people: Collection) -> None:
    caches = [*people.networks("a"), *people.networks("b")]
    head = load_head(people.train(caches))
    assert isinstance(head, FusedHead) and not head.by_fold
    assert [part.view for part in head.parts] == [
        "1.native+2.native+3.native", "4.native+5.native+6.native"
    ]  # fmt: skip
    members = [member.view for _, member in head.out_of_fold()]
    assert members == ["1.native+4.native", "2.native+5.native", "3.native+6.native"]
    assert [len(fold) for fold in head.folds] == [len(PEOPLE) // FOLDS] * FOLDS


def test_networks_of_one_fold_hold_out_its_people(people: Collection) -> None:
    caches = [people.network("a", 2, True), people.network("b", 2, True), people.frozen()]
    head = load_head(people.train(caches))
    split = split_of_fold(people.families, FOLDS, 2, 0)
    assert set(head.held_out) == {people.families.people[row] for row in split.held_out.tolist()}
    assert not head.folds and set(head.held_out).isdisjoint(head.trained)


@pytest.mark.parametrize(
    ("views", "problem"),
    [
        (("1.native", "4.native"), "found 1 view of fold 1; wanted equally many .* all 3 folds"),
        (("1.native", "2.native", "4.native"), "1 view of fold 1, 1 view of fold 2; wanted"),
        (("1.native", "1.native", "2.native", "3.native"), "2 views of fold 1, 1 view of fold 2"),
        (("1.native+2.native",), "joins networks that were trained on each other's"),
        (("1.native+4.native",), "joins networks that were trained on each other's"),
    ],
)
def test_views_that_leave_nobody_who_held_people_out_are_refused(
    people: Collection, views: tuple[str, ...], problem: str
) -> None:
    """The one network would judge people whom it learnt from, or fold 1 count twice."""
    caches = [*people.networks("a", knows=True), people.frozen()]
    with pytest.raises(RunError, match=problem):
        people.train(caches, replace(SHORT, views=views))


def test_folds_of_other_numbers_are_not_mixed(people: Collection) -> None:
    caches = [*people.networks("a"), people.network("b", 1, False, folds=4)]
    with pytest.raises(RunError, match="trained with another split"):
        people.train(caches)


@pytest.mark.parametrize("chooser", ["nobody", "validation people", "held-out people"])
def test_a_head_says_who_chose_its_networks_epoch(
    people: Collection, chooser: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A metric head takes all its steps, but its network may be of the epoch best on its judges."""
    caplog.set_level("INFO")
    one = people.network("a", 1, False, chooser)
    both = [people.network("b", 1, False), one]
    for caches in ([one], both):
        _, record = read_head(people.train(caches))
        assert record.epoch_chosen_by == chooser
        assert ("a little high" in caplog.text) == (chooser == "held-out people")
    _, record = read_head(people.train(both, replace(SHORT, views=("1.native",))))
    assert record.epoch_chosen_by == "nobody"


def test_a_cache_beside_another_form_of_it_is_a_warning(
    people: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    """As int8 or float16 its vectors differ by rounding alone, and would count twice."""
    one = people.network("a", 1, False)
    small = convert(one, people.folder / "small", dtype="float16")
    people.train([one, small])
    assert "view 2.native has the same network's vectors, rounded, of view 1.native" in caplog.text
    caplog.clear()
    people.train([one, people.network("b", 1, False)])
    assert "count twice" not in caplog.text


def test_people_left_out_after_a_network_was_trained_are_named(people: Collection) -> None:
    table = people.folder / "exclude.csv"
    exclude = replace(SHORT, exclude=table)
    table.write_text(f"photo,person,other_person\n,{PEOPLE[0]},\n")
    with pytest.raises(RunError, match=r"was trained before .*exclude\.csv left out people"):
        people.train(people.networks("a"), exclude)
    table.write_text(f"photo,person,other_person\n{NAMES[0]},,\n")
    assert load_head(people.train(people.networks("a"), exclude)).folds
