"""The parts of an audit against slow oracles: loops, Pillow, and all pairs."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_families import Faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import people_vectors, random_directions, random_model, slow_ambient
from PIL import Image, ImageOps

from kinembed.arrays import Float
from kinembed.audit import audit
from kinembed.auditing.copies import EDGES, SIDE, correlate, correlation
from kinembed.auditing.evidence import KinEvidence
from kinembed.auditing.likeness import FLOOR, PhotoLikeness, nearest_of_others
from kinembed.auditing.relations import Kinship
from kinembed.auditing.surety import MOST_SHARE, surety
from kinembed.auditing.weak_families import auc_without_each
from kinembed.cache import EmbeddingCache
from kinembed.config import AuditConfig
from kinembed.data.families import cached_families, group_families
from kinembed.evaluation.metrics import roc_auc
from kinembed.io import read_csv
from kinembed.threads import one_blas_thread

RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products wait for each other's threads on a busy machine."""
    with one_blas_thread():
        yield


# Likeness


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_nearest_of_others_are_those_of_all_pairs(seed: int, people: int) -> None:
    rng = RNG(seed)
    owner = np.sort(rng.integers(people, size=14))
    directions, ambient = random_directions(rng, 14, 5), rng.random(14).astype(np.float32) / 3
    nearest = nearest_of_others(directions, ambient, owner)
    for row in range(14):
        likeness = sorted(
            (
                float(directions[row] @ directions[other]) - (ambient[row] + ambient[other]) / 2
                for other in range(14)
                if owner[other] != owner[row]
            ),
            reverse=True,
        )[:3]
        wanted = [max(each, FLOOR) for each in likeness] + [FLOOR] * (3 - len(likeness))
        np.testing.assert_allclose(nearest.likeness[row], wanted, atol=1e-5)
        known = nearest.rows[row][: len(likeness)]
        assert not np.isin(owner[known], owner[row]).any()


def test_likeness_to_one_s_own_person_is_that_of_loops() -> None:
    rng = RNG(2)
    owner = np.array([0, 0, 0, 0, 0, 1, 2, 2])
    vectors, model = people_vectors(rng, owner, 12), random_model(rng, 12)
    photos = [f"F0/MID{person}/{number}.jpg" for number, person in enumerate(owner.tolist())]
    likeness = PhotoLikeness(vectors, group_families(photos, []), model)
    ambient = slow_ambient(model, vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, person in enumerate(owner.tolist()):
        own = sorted(
            (
                float(unit[row] @ unit[other]) - (ambient[row] + ambient[other]) / 2
                for other in np.flatnonzero(owner == person)
                if other != row
            ),
            reverse=True,
        )[:3]
        assert likeness.own[row] == pytest.approx(np.mean(own) if own else 0, abs=1e-5)


# Pictures


def picture(seed: int, side: int = 96) -> Image.Image:
    """A smooth picture, as photos are."""
    coarse = RNG(seed).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def grey(image: Image.Image) -> Float:
    resized = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("L")
    return np.asarray(resized, np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_copies_correlate_whatever_is_done_to_them_and_others_do_not(seed: int) -> None:
    rng, original = RNG(seed), picture(seed)
    jpeg = io.BytesIO()
    original.save(jpeg, "JPEG", quality=40)
    left, top, right, bottom = (96 * rng.uniform(0, 0.12, 4)).astype(int).tolist()
    changed = {
        "re-encoded": Image.open(jpeg),
        "resized": original.resize((40, 40)),
        "mirrored": ImageOps.mirror(original),
        "cropped": original.crop((left, top, 96 - right, 96 - bottom)),
        "cropped and mirrored": ImageOps.mirror(original).crop((0, 8, 90, 96)),
        "brighter": original.point(lambda value: 40 + value * 0.7),
    }
    for how, copy in changed.items():
        assert correlation(grey(original), grey(copy)) > 0.96, how
    assert correlation(grey(original), grey(picture(seed + 100))) < 0.8


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_correlation_is_symmetric_and_at_most_one(one: int, other: int) -> None:
    a, b = grey(picture(one, 40)), grey(picture(other, 40))
    forth, back = correlation(a, b), correlation(b, a)
    assert forth == pytest.approx(back, abs=1e-5) and -1 <= forth <= 1 + 1e-5
    assert correlation(a, b[:, ::-1]) == pytest.approx(forth, abs=1e-4)
    assert correlation(a, a) == pytest.approx(1, abs=1e-5)


def test_correlation_of_cuts_is_as_good_as_pillow_s_best_cut() -> None:
    original = picture(7)
    copy = grey(original.crop((6, 11, 96, 85)))
    best = max(
        np.corrcoef(
            grey(original.crop((int(96 * a), int(96 * b), int(96 * (1 - c)), int(96 * (1 - d)))))
            .ravel(), copy.ravel(),
        )[0, 1]
        for a in EDGES for b in EDGES for c in EDGES for d in EDGES
    )  # fmt: skip
    assert correlation(grey(original), copy) > best - 0.01


def test_flat_pictures_are_like_nothing() -> None:
    flat = np.full((SIDE, SIDE), 90, np.float32)
    assert correlation(flat, flat) == 0 and correlation(flat, grey(picture(1))) == 0


def test_photos_that_cannot_be_read_are_not_compared(tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no photo")
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"]
    assert correlate(paths, [(0, 1), (0, 2)]) == {(0, 2): pytest.approx(1)}


def test_a_changed_copy_under_another_person_is_found_by_its_picture(tmp_path: Path) -> None:
    faulty = Faulty(families=6)
    run = faulty.write(tmp_path)
    for number, photo in enumerate(faulty.people):
        path = tmp_path / photo
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path, "JPEG")
    original, copy, other = (f"train/F00{n}/MID2/1.jpg" for n in (1, 2, 3))
    picture(500).save(tmp_path / original, "JPEG")
    ImageOps.mirror(picture(500)).crop((4, 6, 96, 90)).save(tmp_path / copy, "JPEG", quality=60)
    for photo in (copy, other):  # a look-alike has such a vector, but another picture
        noise = 0.1 * faulty.rng.standard_normal(len(faulty.vectors[photo]))
        faulty.vectors[photo] = faulty.vectors[original] + noise
    for photo in faulty.people:
        faulty.digests[photo] = hashlib.sha256((tmp_path / photo).read_bytes()).digest()
    faulty.write(run)
    config = AuditConfig(kinds=("copy",), least=0.5)
    (row,) = read_csv(audit(config, run, run))[1]
    assert {row["photo"], row["other_photo"]} == {original, copy}
    assert "perhaps resized, cut or mirrored" in row["reason"]
    with Image.open(run / "audit" / "copy.png") as sheet:
        assert sheet.size[0] > 400
    audit(AuditConfig(kinds=("copy",), pictures=False), run, run)
    assert (run / "audit" / "copy.png").exists()  # of the audit before


# Surety


def test_surety_is_the_share_of_faults_among_those_as_sure() -> None:
    rng = RNG(1)
    faults, right = rng.normal(2.5, 1, (60, 1)), rng.normal(0, 1, (2940, 1))
    sure = surety(np.concatenate([faults, right]), rng.normal(2.5, 1, (1000, 1)))
    is_fault = np.arange(3000) < 60
    for low, high in ((0.0, 0.2), (0.2, 0.6), (0.6, 1.0)):
        some = (sure >= low) & (sure <= high)
        assert sure[some].mean() == pytest.approx(is_fault[some].mean(), abs=0.15)
    assert sure.mean() == pytest.approx(0.02, abs=0.008)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_surety_depends_on_no_order_and_rises_with_what_faults_have(seed: int) -> None:
    rng = RNG(seed)
    observed, faulty = rng.normal(0, 1, (60, 1)), rng.normal(2, 1, (40, 1))
    order = rng.permutation(60)
    sure, again = surety(observed, faulty), surety(observed[order], faulty[::-1])
    np.testing.assert_allclose(again, sure[order], atol=1e-3)
    assert (np.diff(sure[np.argsort(observed[:, 0])]) >= -1e-12).all()
    assert ((sure >= 0) & (sure <= 1)).all() and MOST_SHARE < 1


def test_too_few_say_nothing() -> None:
    few, many = np.zeros((5, 2)), RNG(0).normal(0, 1, (50, 2))
    assert not surety(few, many).any() and not surety(many, few).any()
    assert len(surety(np.empty((0, 2)), many)) == 0


# Kinship


def test_evidence_of_a_pair_is_of_the_members_that_hold_out_one_of_them(tmp_path: Path) -> None:
    faulty = Faulty(families=9, photos=2)
    run, head = faulty.write(tmp_path), faulty.head()
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        families = cached_families(cache, run)
        evidence = KinEvidence(head, cache, families, RNG(0))
        pairs = np.array([[0, 1], [0, 5], [7, 20]])
        found = evidence.of_pairs(pairs)
        pooled = {}
        for person in families.people:
            units = [
                v / np.linalg.norm(v) for v in map(faulty.vectors.get, faulty.photos_of(person))
            ]
            mean = np.mean(units, 0)
            pooled[person] = mean / np.linalg.norm(mean)
        for (one, other), value in zip(pairs.tolist(), found.tolist(), strict=True):
            names = families.people[one], families.people[other]
            logit = head.scale * (float(pooled[names[0]] @ pooled[names[1]]) - head.centre)
            members = {int(name[1:4]) % 3 for name in names}
            wanted = [(logit - evidence._scale[m][0]) / evidence._scale[m][1] for m in members]
            assert value == pytest.approx(np.mean(wanted), abs=1e-4)
        kinship = Kinship(families, evidence, RNG(0))
        everybody = {
            (a, b) for a in range(45) for b in range(a + 1, 45) if a // 5 == b // 5
        }  # fmt: skip
        listed = {tuple(pair) for pair in kinship.listed.tolist()}
        assert len(listed) == 81 and {*listed, *map(tuple, kinship.unlisted.tolist())} == everybody
        # Children of a couple share two parents, who are no kin, and a sibling.
        assert kinship.relatives(np.array([[2, 3], [0, 1], [0, 2]])).tolist() == [
            [3, 3, 1], [3, 3, 0], [2, 3, 0],
        ]  # fmt: skip
        assert [kinship.parents(*pair) for pair in ((2, 3), (0, 1), (0, 2))] == [(0, 1), (), ()]


def test_of_two_couples_the_less_alike_are_the_parents(tmp_path: Path) -> None:
    faulty = Faulty(families=9, photos=2)
    faulty.relations = {(f"F000/MID{a}", f"F000/MID{b}") for a in (0, 1) for b in (2, 3)}
    run, head = faulty.write(tmp_path), faulty.head()
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        families = cached_families(cache, run)
        kinship = Kinship(families, KinEvidence(head, cache, families, RNG(0)), RNG(0))
    parents, children = kinship.evidence.of_pairs(np.array([[0, 1], [2, 3]])).tolist()
    assert parents < children
    assert kinship.parents(2, 3) == (0, 1) and kinship.parents(0, 1) == ()


@given(st.integers(0, 2**32 - 1))
def test_the_auc_without_a_family_is_that_of_the_other_pairs(seed: int) -> None:
    rng = RNG(seed)
    kin, others = rng.integers(0, 6, 12).astype(float), rng.integers(0, 5, 15).astype(float)
    of_kin = np.repeat(rng.integers(4, size=(12, 1)), 2, axis=1)
    of_others = rng.integers(4, size=(15, 2))
    found = auc_without_each(kin, others, of_kin, of_others, 5)
    for family in range(5):
        a, b = (~(each == family).any(1) for each in (of_kin, of_others))
        if a.any() and b.any():
            labels = np.concatenate([np.ones(a.sum()), np.zeros(b.sum())])
            wanted = roc_auc(labels, np.concatenate([kin[a], others[b]]))
            assert found[family] == pytest.approx(wanted)
        else:
            assert np.isnan(found[family])
