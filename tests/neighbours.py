"""Made-up people with several photos, and the same-person probability by slow loops.

The loops are float64 and go pair by pair; they share no code with `heads/same_person.py`.
"""

import math
import statistics
from dataclasses import replace

import numpy as np

from kinembed.heads.same_person import LARGE, SAMPLE, SamePerson
from kinembed.heads.tail import Tail

Vector = np.ndarray


def random_directions(rng: np.random.Generator, count: int, width: int) -> Vector:
    """(count, width) float32 unit vectors, evenly spread."""
    drawn = rng.standard_normal((count, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def people_vectors(
    rng: np.random.Generator, owners: Vector, width: int, noise: float = 0.3
) -> Vector:
    """(N, width) vectors of photos of people: those of one lie near each other.

    Args:
        rng: draws each person's direction, then each photo's own.
        owners: (N,) the number of the person on each photo.
        width: of a vector.
        noise: how long a photo's own part is beside its person's, of length 1.
    """
    of_people = random_directions(rng, int(owners.max()) + 1, width)
    vectors = of_people[owners] + noise * random_directions(rng, len(owners), width)
    return vectors.astype(np.float32)


def random_model(rng: np.random.Generator, width: int, **numbers: float) -> SamePerson:
    """A model for vectors of that width: photos of one person have a likeness of half or more."""
    cohort = random_directions(rng, 60, width)
    model = SamePerson(
        cohort, spread=3.0, slope=20.0, offset=-5.0, prior=0.1, found=0.9, mistaken=1e-3
    )
    return replace(model, **numbers)


def _cosine(a: Vector, b: Vector) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    lengths = math.hypot(*map(float, a)) * math.hypot(*map(float, b))
    return dot / lengths if lengths > 0 else 0.0


def slow_ambient(model: SamePerson, vectors: Vector, in_gallery: bool = True) -> list[float]:
    """The ambient similarity of each photo of a gallery."""
    result = []
    count = len(model.cohort)
    rank = min(count, 1 + max(1, round(0.01 * count)))
    step = (len(vectors) - 1) / max(1, min(SAMPLE, len(vectors)) - 1)
    sample = [int(step * n) for n in range(min(SAMPLE, len(vectors)))]
    for vector in vectors:
        nearest = sorted((_cosine(vector, each) for each in model.cohort), reverse=True)[rank - 1]
        if in_gallery and len(vectors) >= LARGE:
            cosines = [_cosine(vector, vectors[other]) for other in sample]
            _, median, upper = statistics.quantiles(cosines, n=4, method="inclusive")
            nearest = max(nearest, median + model.spread * (upper - median))
        result.append(nearest)
    return result


def slow_likenesses(model: SamePerson, vectors: Vector) -> dict[tuple[int, int], float]:
    """The likeness of each pair of a gallery's photos."""
    ambient = slow_ambient(model, vectors)
    return {
        (i, j): _cosine(vectors[i], vectors[j]) - (ambient[i] + ambient[j]) / 2
        for j in range(len(vectors))
        for i in range(j)
    }


def slow_cut(
    model: SamePerson, likenesses: dict[tuple[int, int], float], large: bool = False
) -> float:
    """The likeness from which on two photos of a gallery are expanded.

    Args:
        model: of training.
        likenesses: of all pairs.
        large: it counts as a large gallery.
    """
    cut = max(0.0, -model.offset / model.slope)
    of_training = model.prior / (1 - model.prior)
    by_all = math.inf
    count = sum(likeness > cut for likeness in likenesses.values())
    power = slow_power(model.tail, [*likenesses.values()]) if model.tail and large else 1.0
    surplus = count - 2 * len(likenesses) * model.mistaken**power - count**0.5
    if surplus > 0:
        prior = min(model.prior, surplus / model.found / len(likenesses))
        by_all = cut + math.log(of_training / (prior / (1 - prior))) / model.slope
    if model.tail is None or (by_all < math.inf and not large):
        return by_all
    return min(by_all, slow_tail_cut(model, model.tail, cut, [*likenesses.values()]))


def slow_tail_cut(model: SamePerson, tail: Tail, cut: float, likenesses: list[float]) -> float:
    """The same by the levels above the cut."""
    of_training = model.prior / (1 - model.prior)
    prior = min(model.prior, slow_tail_prior(tail, likenesses))
    if prior == 0:
        return math.inf
    odds = prior / (1 - prior) / of_training
    half = (math.log(2) - math.log(odds) - tail.offset) / tail.slope
    last = tail.levels[-1]
    if half <= last:
        return max(cut, half)
    count = sum(likeness > last for likeness in likenesses)
    explained = len(likenesses) * slow_most_strangers(tail, likenesses)[-1]
    return last if count - 3 * math.sqrt(count) >= 4 * explained else math.inf


def slow_power(tail: Tail, likenesses: list[float]) -> float:
    """Of the shares of strangers, as the gallery shows it."""
    body = sum(likeness > tail.levels[0] for likeness in likenesses) / len(likenesses)
    return math.log(min(body, 0.5), tail.strangers[0]) if body > tail.strangers[0] else 1.0


def slow_most_strangers(tail: Tail, likenesses: list[float]) -> list[float]:
    """The largest shares of strangers above each level from the cut on."""
    power = slow_power(tail, likenesses) * math.log(2 * tail.strangers[1], tail.strangers[1])
    return [share**power for share in tail.strangers[1:]]


def slow_tail_prior(tail: Tail, likenesses: list[float]) -> float:
    """The share of a gallery's pairs that are of one person, by its tail."""
    least = 0.0
    most = slow_most_strangers(tail, likenesses)
    for level, found, strangers in zip(tail.levels[1:], tail.found[1:], most, strict=True):
        count = sum(likeness > level for likeness in likenesses)
        surplus = count - len(likenesses) * strangers - 3 * math.sqrt(count)
        least = max(least, surplus / found / len(likenesses))
    return least


def random_tail(rng: np.random.Generator, cut: float, levels: int = 4) -> Tail:
    """A tail above a cut."""
    found = np.sort(rng.uniform(0.1, 1, levels))[::-1]
    strangers = np.sort(10 ** rng.uniform(-6, -2, levels))[::-1]
    return Tail(
        (cut - 0.2, cut, *(cut + np.cumsum(rng.uniform(0.001, 0.1, levels - 2))).tolist()),
        tuple(found.tolist()), tuple(strangers.tolist()), 15.0, -2.0,
    )  # fmt: skip


def slow_neighbours(model: SamePerson, vectors: Vector, large: bool = False) -> list[list[int]]:
    """The neighbours of each photo of a gallery, which may count as a large one."""
    likenesses = slow_likenesses(model, vectors)
    cut = slow_cut(model, likenesses, large) if likenesses else math.inf
    neighbours: list[list[int]] = [[] for _ in vectors]
    groups = [sum(np.array_equal(each, other) for other in vectors) for each in vectors]
    for (i, j), likeness in likenesses.items():
        is_odd = len(vectors) >= LARGE and groups[i] > len(vectors) // 4
        is_equal = np.array_equal(vectors[i], vectors[j]) and any(vectors[i]) and not is_odd
        if likeness > cut or is_equal:
            neighbours[i].append(j)
            neighbours[j].append(i)
    return [sorted(others) for others in neighbours]
