"""Publishes a head: without names and real vectors, rounded as far as its scores stay."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.cache.footer import sealed_bytes
from kinembed.evaluation.calibration import Calibration
from kinembed.evaluation.published import ATTRIBUTE, Fidelity, Network, Origin, Published, Stored
from kinembed.evaluation.three_way import PERSON_PAIRS, held_out_three_way
from kinembed.heads.base import Head, head_class, sigmoid
from kinembed.heads.exact import unit
from kinembed.heads.file import HeadRecord
from kinembed.heads.query_expansion import vectors_at
from kinembed.heads.representations import Representations
from kinembed.io import moved_together, write_bytes
from kinembed.seeds import Stream, generator

if TYPE_CHECKING:
    from kinembed.data.families import Families
    from kinembed.evaluation.triples import TripleScore

log = logging.getLogger(__name__)

COHORT = "same_person/cohort"  # among the arrays of a head
ROUNDED = 0.001  # by how much a score may change for float16
PAIRS = 20_000  # by which that is measured
PHOTOS = 5_000  # to which the made-up cohort is fitted


def publish(
    head: Head,
    record: HeadRecord,
    calibration: Calibration,
    cache: Embeddings,
    path: Path,
    *,
    families: Families | None = None,
    triples: TripleScore | None = None,
    card: str = "",
    seed: int = 0,
) -> Published:
    """Writes a head with its calibration as one file, which holds no names and no real vectors.

    Args:
        head: what to publish.
        record: how it came about.
        calibration: of this head.
        cache: of the network's vectors: photos to which the made-up cohort is fitted, and by which
            the rounding to float16 is judged.
        path: of the file; its card is written beside it, as `.md`.
        families: of the cache, by whose held-out people the three answers are fitted again, as the
            made-up cohort changes the likeness of photos; None: they stay.
        triples: the weights of both parents, if known.
        card: Markdown in front of what is known of any head.
        seed: draws the cohort, and the photos and pairs by which it is judged.

    Raises:
        RunError: the cache is of several networks, a fine-tuned one, or none that is known.
    """
    network = Network.of(cache)
    rng = generator(seed, Stream.COHORT)
    pairs = rng.integers(0, len(cache), (PAIRS, 2))
    pairs[::2, 1] = np.minimum(pairs[::2, 0] + 1, len(cache) - 1)  # neighbours are often kin
    photos = np.sort(rng.permutation(len(cache))[:PHOTOS])
    nameless, ambient = _without_real_vectors(head, cache, photos, seed)
    arrays: dict[str, NDArray[Any]] = {
        name: array.astype(np.float16) for name, array in nameless.arrays().items()
    }
    before = _probabilities(head, calibration, cache, pairs)

    def difference() -> float:
        rebuilt = _rebuilt(nameless, arrays)
        if not all(np.isfinite(array).all() for array in rebuilt.arrays().values()):
            return 1.0  # larger than any float16
        after = _probabilities(rebuilt, calibration, cache, pairs)
        return float(np.abs(after - before).max())

    dtype: Stored = "float16"
    if (largest := difference()) > ROUNDED:
        log.info(
            "%s: float16 would change a score by %.4f, so its numbers are float32", path, largest
        )
        dtype, arrays = "float32", dict(nameless.arrays())
        largest = difference()
    rebuilt = _rebuilt(nameless, arrays)
    three_way = calibration.three_way
    if three_way is not None and families is not None and head.same_person is not None:
        named = _rebuilt(nameless, arrays, head)
        again = generator(seed, Stream.COHORT, 1)
        three_way = held_out_three_way(named, cache, families, PERSON_PAIRS, again)
    published = Published(
        head=rebuilt,
        record=record,
        calibration=replace(
            calibration,
            head=rebuilt.digest,
            people=(),
            expanded=None,
            make_up=None,
            three_way=three_way,
        ),
        triples=triples,
        network=network,
        origin=Origin.of(head, calibration),
        fidelity=Fidelity(dtype, largest, len(pairs), *ambient),
        card=card,
    )
    with moved_together(path.parent):
        write_bytes(path.with_suffix(".md"), published.card_text().encode())
        write_bytes(path, sealed_bytes(ATTRIBUTE, published.about(), arrays))
    return published


def _without_real_vectors(
    head: Head, cache: Embeddings, photos: Rows, seed: int
) -> tuple[Head, tuple[float, float]]:
    """The head without names and with a made-up cohort; how far ambient similarities moved.

    Returns:
        The head, and median and standard deviation of the differences of the photos' ambient
        similarities; 0 without a cohort.
    """
    from kinembed.heads.made_up_cohort import with_made_up_cohort

    nameless = _rebuilt(head, head.arrays())
    real = nameless.same_person
    if real is None:
        return nameless, (0.0, 0.0)
    directions = unit(vectors_at(cache, head.knn_view, photos))  # (P, D)
    made_up = with_made_up_cohort(real, directions, seed)
    moved = made_up.ambient(directions, in_gallery=False) - real.ambient(
        directions, in_gallery=False
    )
    arrays = {**nameless.arrays(), COHORT: made_up.cohort}
    return _rebuilt(nameless, arrays), (float(np.median(moved)), float(np.std(moved)))


def _rebuilt(head: Head, arrays: Mapping[str, NDArray[Any]], people: Head | None = None) -> Head:
    """The head of other arrays, as a file gives it back, with the names of another, or none."""
    return head_class(head.kind).from_arrays(
        head.settings(),
        {name: array.astype(np.float32) for name, array in arrays.items()},
        model=head.model,
        held_out=people.held_out if people else (),
        trained=people.trained if people else (),
        folds=people.folds if people else (),
    )


def _probabilities(
    head: Head, calibration: Calibration, cache: Embeddings, pairs: Rows
) -> NDArray[np.float64]:
    """(K,) of photos alone: calibrated, but for an isotonic map, whose steps magnify a rounding."""
    logits = Representations(cache, head, expand=False).score(pairs)
    scale = calibration.alone
    return sigmoid(logits) if scale.map == "isotonic" else scale.probabilities(logits)
