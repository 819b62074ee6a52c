"""A dataset of synthetic families in Kaggle's layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kinembed.errors import DataError
from kinembed.io import write_csv
from kinembed.synthetic.face import Shot, photograph
from kinembed.synthetic.people import Family, Person, Rng, sample_family

JPEG_QUALITY = 90
PHOTO_PAIRS_PER_RELATION = 6


def generate_dataset(
    out: Path,
    *,
    families: int = 40,
    test_families: int = 12,
    photos: tuple[int, int] = (3, 6),
    side: int = 224,
    seed: int = 0,
) -> Path:
    """Generates a dataset in the layout of Kaggle's "Recognizing Faces in the Wild".

    Besides Kaggle's files, `test_labels.csv` holds the true labels of `sample_submission.csv`.

    Args:
        out: folder to write, created if needed.
        families: number of training families.
        test_families: number of test families; at least two.
        photos: minimum and maximum number of photos per person.
        side: pixels along each side of a photo.
        seed: equal seeds generate equal datasets.

    Returns:
        The folder.

    Raises:
        DataError: a setting is out of range.
    """
    if families < 1 or test_families < 2:
        raise DataError(
            f"families: found {families} and {test_families} for the test, wanted 1 and 2 or more"
        )
    if not 1 <= photos[0] <= photos[1]:
        raise DataError(f"photos of a person: found {photos}, wanted 1 or more, least first")
    if side < 16:
        raise DataError(f"side: found {side}, wanted 16 or more")
    # Freeing one large block makes glibc keep smaller ones. Without it, a third of the time goes
    # to the operating system, which takes back and returns the memory of every array.
    np.empty(1 << 24, np.uint8)
    relations: list[tuple[str, str]] = []
    for number in range(families):
        rng = np.random.default_rng((seed, 0, number))
        family = sample_family(rng)
        folders = [f"F{number + 1:04}/MID{i + 1}" for i in range(len(family.people))]
        for person, folder in zip(family.people, folders, strict=True):
            for i in range(_photo_count(photos, rng)):
                _save(person, out / "train" / folder / f"P{i + 1:05}_face1.jpg", side, rng)
        relations += [(folders[first], folders[second]) for first, second in family.kin]
    write_csv(out / "train_relationships.csv", [{"p1": a, "p2": b} for a, b in relations])

    rng = np.random.default_rng((seed, 1))
    strangers = [sample_family(rng) for _ in range(test_families)]
    counts = [[_photo_count(photos, rng) for _ in family.people] for family in strangers]
    numbers = iter(rng.permutation(sum(map(sum, counts))).tolist())
    album = [[[next(numbers) for _ in range(n)] for n in family] for family in counts]
    for family, faces in zip(strangers, album, strict=True):
        for person, own in zip(family.people, faces, strict=True):
            for number in own:
                _save(person, out / "test" / _test_name(number), side, rng)
    pairs = _test_pairs(strangers, album, rng)
    rows = [
        {"img_pair": f"{_test_name(a)}-{_test_name(b)}", "is_related": kin}
        for (a, b), kin in pairs.items()
    ]
    write_csv(out / "sample_submission.csv", [{**row, "is_related": 0} for row in rows])
    write_csv(out / "test_labels.csv", rows)
    return out


def _photo_count(photos: tuple[int, int], rng: Rng) -> int:
    return int(rng.integers(photos[0], photos[1] + 1))


def _test_name(number: int) -> str:
    return f"face{number:05}.jpg"


def _save(person: Person, path: Path, side: int, rng: Rng) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(person, Shot(rng), side, rng).save(path, quality=JPEG_QUALITY)


def _test_pairs(
    families: Sequence[Family], album: Sequence[Sequence[Sequence[int]]], rng: Rng
) -> dict[tuple[int, int], int]:
    """Samples pairs of test photos, half of them kin, in random order.

    Every kin pair has a non-kin twin: a person of another family with the same role and about the
    same age replaces one of the two, so that roles and ages do not predict kinship.
    """
    pairs: dict[tuple[int, int], int] = {}
    for f, family in enumerate(families):
        for kin in family.kin * PHOTO_PAIRS_PER_RELATION:
            first, second = rng.permutation(kin).tolist()
            left = family.people[second]
            alike = sorted(
                (who.parent != left.parent, who.male != left.male, abs(who.age - left.age), g, p)
                for g, other in enumerate(families)
                for p, who in enumerate(other.people)
                if g != f
            )
            *_, g, p = alike[int(rng.integers(3))]
            photo = int(rng.choice(album[f][first]))
            kin_pair, twin = (
                tuple(rng.permutation([photo, rng.choice(other)]).tolist())
                for other in (album[f][second], album[g][p])
            )
            if not pairs.keys() & {kin_pair, kin_pair[::-1], twin, twin[::-1]}:
                pairs |= {kin_pair: 1, twin: 0}
    order = rng.permutation(len(pairs))
    rows = list(pairs.items())
    return dict(rows[i] for i in order)
