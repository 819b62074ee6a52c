"""The figures of a published head's card: how good it is, for whom it errs, and what it shows.

    python benchmarks/card.py --run RUN --data DATA --kinfacew KINFACEW --figures docs/images

RUN holds the cache of RFIW, the head with its folds and its calibration, and `published.h5`, which
`kinembed head --publish RUN/published.h5` made of them. KINFACEW holds KinFaceW-I and KinFaceW-II;
they are embedded once, into RUN.

Figures on RFIW are of held-out families: each pair is scored by the member that did not train on
its people, with the arrays of the published file. Groups are k-means clusters of people by their
mean vectors, as nothing else is known of them; intervals resample families.
"""

import argparse
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from kinembed import __version__
from kinembed.cache import EmbeddingCache
from kinembed.config import EmbedConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.protocols import read_kinfacew
from kinembed.embed import embed
from kinembed.errors import DataError
from kinembed.evaluation.calibration import Scale, load_calibration
from kinembed.evaluation.metrics import RankedScores, family_bootstrap, roc_auc
from kinembed.evaluation.out_of_fold import ScoredPairs, out_of_fold_scores
from kinembed.evaluation.published import Published, read_published
from kinembed.evaluation.three_way import ThreeWay
from kinembed.heads.base import Head, head_class
from kinembed.heads.exact import unit
from kinembed.heads.file import load_head
from kinembed.heads.query_expansion import vectors_at
from kinembed.heads.representations import Representations
from kinembed.heads.same_person import SamePerson
from kinembed.io import write_bytes
from kinembed.report.charts import KIN, OTHERS, Chart
from kinembed.seeds import Stream, generator

PAIRS = 60_000  # of held-out people, half of them kin
RESAMPLES = 500
GROUPS = 8
FEWEST = 30  # pairs behind a rate
GREY = 6  # levels between the channels of a pixel, in the mean of a photo without colour
RELATIONS = {
    "fs": "father and son", "fd": "father and daughter",
    "ms": "mother and son", "md": "mother and daughter",
}  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """A share of some pairs, with its 95 % interval by families."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})".replace("0.", ".")


Rates = list[Rate | None]


def rate_of(events: np.ndarray, families: np.ndarray) -> Rate | None:
    """The share of (K,) events that are True; None of too few pairs."""
    if len(events) < FEWEST:
        return None

    def share(weights: np.ndarray) -> float:
        if not weights.sum():
            raise DataError("no pairs")
        return float(np.average(events, weights=weights))

    return _with_interval(float(events.mean()), share, families, len(events))


def auc_of(labels: np.ndarray, scores: np.ndarray, families: np.ndarray) -> Rate | None:
    """The AUC of some pairs; None of too few kin or others."""
    if min(labels.sum(), (~labels).sum()) < FEWEST:
        return None
    ranked = RankedScores(labels, scores)
    return _with_interval(ranked.auc(), ranked.auc, families, len(labels))


def _with_interval(
    value: float, statistic: Callable[[np.ndarray], float], families: np.ndarray, pairs: int
) -> Rate:
    rng = generator(0, Stream.EVALUATION_BOOTSTRAP)
    interval = family_bootstrap(statistic, families, rng, RESAMPLES)
    return Rate(value, interval.low, interval.high, pairs)


def published_folds(published: Published, origin: Head) -> Head:
    """The published arrays with the names of the run's head, to judge them out of fold."""
    return head_class(origin.kind).from_arrays(
        published.head.settings(), published.head.arrays(), model=origin.model,
        held_out=origin.held_out, trained=origin.trained, folds=origin.folds,
    )  # fmt: skip


def groups_of(cache: EmbeddingCache, view: str, families: Families) -> np.ndarray:
    """(P,) the group of each person, the largest first: k-means of the people's mean vectors."""
    directions = unit(vectors_at(cache, view, families.rows))
    order = np.argsort(families.owner_of(families.rows), kind="stable")
    owners = families.owner_of(families.rows)[order]
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    people = unit(np.add.reduceat(directions[order], starts))  # (P, D)
    people = unit(people - people.mean(0))  # what all faces share tells nothing
    rng = np.random.default_rng(0)
    best, least = np.zeros(len(people), np.intp), -np.inf
    for _ in range(10):
        centres = people[rng.permutation(len(people))[:GROUPS]]
        for _ in range(50):
            group = (people @ centres.T).argmax(1)
            kept = [n for n in range(len(centres)) if (group == n).any()]
            centres = unit(np.stack([people[group == n].mean(0) for n in kept]))
        nearness = float((people @ centres.T).max(1).sum())
        if nearness > least:
            best, least = (people @ centres.T).argmax(1), nearness
    sizes = np.bincount(best)
    return np.argsort(np.argsort(-sizes))[best]


def print_overall(
    alone: ScoredPairs, expanded: ScoredPairs, scale: Scale, three_way: ThreeWay
) -> None:
    labels, families = alone.pairs.labels, alone.pairs.families
    accepted = scale.accepts(alone.logits)
    print("| on families it never saw | |\n|---|---|")
    print(f"| AUC, photos alone | {auc_of(labels, alone.logits, families)} |")
    print(
        "| AUC, expanded by other photos of the same person | "
        f"{auc_of(expanded.pairs.labels, expanded.logits, expanded.pairs.families)} |"
    )
    print(
        f"| unrelated pairs accepted at probability {scale.threshold_probability:.2f} | "
        f"{rate_of(accepted[~labels], families[~labels])} |"
    )
    print(f"| kin missed there | {rate_of(~accepted[labels], families[labels])} |")
    for name, key in (("accuracy", "accuracy"), ("log loss", "log_loss"), ("ECE", "ece")):
        print(f"| three answers, equal shares: {name} | {(three_way.estimates or {})[key]:.3f} |")
    print(f"\n{len(labels):,} pairs, half of them kin, of {len(np.unique(families))} families.\n")


def are_grey(cache: EmbeddingCache, data: Path, rows: np.ndarray) -> np.ndarray:
    """(R,) True for photos without colour: the channels of their pixels hardly differ."""
    names = np.array(cache.names)
    result = np.zeros(len(rows), np.bool_)
    for place, row in enumerate(rows.tolist()):
        with Image.open(data / names[row].decode()) as photo:
            photo.draft("RGB", (56, 56))
            pixels = np.asarray(photo.convert("RGB"), np.float32)
        result[place] = np.ptp(pixels, axis=2).mean() < GREY
    return result


def print_colours(alone: ScoredPairs, scale: Scale, grey: np.ndarray) -> None:
    """Error rates by (K, 2) photos without colour."""
    print("| photographs | unrelated accepted | kin missed | AUC |\n|---|---|---|---|")
    for name, chosen in (
        ("both in colour", ~grey.any(1)),
        ("both black and white", grey.all(1)),
        ("one of each", grey[:, 0] != grey[:, 1]),
    ):
        print_rates(name, alone, scale, chosen)
    print()


def print_rates(
    name: str, alone: ScoredPairs, scale: Scale, chosen: np.ndarray
) -> tuple[Rate | None, Rate | None]:
    """A row of error rates of the pairs for which (K,) `chosen` is True; returns both rates."""
    labels, families = alone.pairs.labels, alone.pairs.families
    accepted = scale.accepts(alone.logits)
    far = rate_of(accepted[chosen & ~labels], families[chosen & ~labels])
    miss = rate_of(~accepted[chosen & labels], families[chosen & labels])
    auc = auc_of(labels[chosen], alone.logits[chosen], families[chosen])
    print(f"| {name} | {far or 'too few'} | {miss or 'too few'} | {auc or 'too few'} |")
    return far, miss


def print_groups(
    alone: ScoredPairs, scale: Scale, groups: np.ndarray, owners: np.ndarray, figures: Path
) -> None:
    both = groups[owners]  # (K, 2)
    within = both[:, 0] == both[:, 1]
    rates: dict[str, tuple[Rates, Rates]] = {"far": ([], []), "miss": ([], [])}
    print("| pairs | unrelated accepted | kin missed | AUC |\n|---|---|---|---|")
    print_rates("all", alone, scale, np.ones(len(both), np.bool_))
    print_rates("both of one group", alone, scale, within)
    print_rates("of two groups", alone, scale, ~within)
    for group in range(groups.max() + 1):
        size = int((groups == group).sum())
        for side, (where, chosen) in enumerate(
            (
                ("within", within & (both[:, 0] == group)),
                ("with others", ~within & (both == group).any(1)),
            )
        ):
            name = f"group {group + 1} ({size} people), {where}"
            far, miss = print_rates(name, alone, scale, chosen)
            rates["far"][side].append(far)
            rates["miss"][side].append(miss)
    print()
    for key, title, y_name in (
        ("far", "Unrelated pairs accepted, by group", "false accept rate"),
        ("miss", "Kin missed, by group", "miss rate"),
    ):
        draw(*rates[key], title, y_name, figures / f"card-{key}.svg")


def draw(inside: Rates, across: Rates, title: str, y_name: str, path: Path) -> None:
    """Dots with intervals for each group: within it, and with people of other groups."""
    highest = max(rate.high for rate in (*inside, *across) if rate)
    top = min(1.0, np.ceil(highest * 10) / 10 + 0.2)  # room for the legend
    x_ticks = [(0.0, ""), *((n + 1.0, str(n + 1)) for n in range(len(inside)))]
    y_ticks = [(tick, f"{tick:.1f}") for tick in np.arange(0, top + 0.05, 0.1).round(1).tolist()]
    chart = Chart(title, "group", y_name, [*x_ticks, (len(inside) + 1.0, "")], y_ticks)
    for rates, colour, shift, name in (
        (inside, KIN, -0.15, "within it"), (across, OTHERS, 0.15, "with others"),
    ):  # fmt: skip
        for number, rate in enumerate(rates):
            if rate is not None:
                x = number + 1 + shift
                chart.line([x, x], [rate.low, rate.high], colour, name=None if number else name)
                chart.dot(x, rate.value, 5, colour)
    write_bytes(path, chart.svg().encode())


def print_kinfacew(run: Path, kinfacew: Path, published: Published, config: EmbedConfig) -> None:
    print("| KinFaceW | relation | pairs | AUC | right at the threshold |\n|---|---|---|---|---|")
    scale = published.calibration.alone
    for part in ("KinFaceW-I", "KinFaceW-II"):
        place = run / part
        if not (place / "embeddings.h5").exists():
            embed(replace(config, photos=(str(kinfacew / part),)), kinfacew, place)
        with EmbeddingCache.open(place / "embeddings.h5") as cache:
            pairs = read_kinfacew(kinfacew / part, cache)
            logits = Representations(cache, published.head, expand=False).score(pairs.rows)
        relations = np.array(pairs.relations)
        for key in (*RELATIONS, None):
            chosen = np.ones(len(pairs), np.bool_) if key is None else relations == key
            if not chosen.any():
                continue
            auc = auc_of(pairs.labels[chosen], logits[chosen], pairs.families[chosen])
            right = scale.accepts(logits[chosen]) == pairs.labels[chosen]
            accuracy = rate_of(right, pairs.families[chosen])
            name = "all" if key is None else RELATIONS[key]
            print(f"| {part} | {name} | {chosen.sum():,} | {auc} | {accuracy} |")
    print()


def print_cohort(
    cache: EmbeddingCache, view: str, families: Families, real: SamePerson, made_up: SamePerson
) -> None:
    """What the made-up cohort changes, and whether it tells who was in the real one."""
    rng = np.random.default_rng(0)
    rows = families.rows
    directions = unit(vectors_at(cache, view, rows))
    owners = families.owner_of(rows)
    before, after = (model.ambient(directions, in_gallery=False) for model in (real, made_up))
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    same = []
    for one in np.split(np.arange(len(owners)), starts[1:]):
        left, right = np.triu_indices(len(one), 1)
        few = rng.permutation(len(left))[:20]
        same.append(np.stack([one[left[few]], one[right[few]]], 1))
    of_one = np.concatenate(same)
    others = rng.integers(0, len(owners), (200_000, 2))
    others = others[owners[others[:, 0]] != owners[others[:, 1]]]
    pairs = np.concatenate([of_one, others])
    labels = np.arange(len(pairs)) < len(of_one)
    cosines = np.einsum("kd,kd->k", directions[pairs[:, 0]], directions[pairs[:, 1]])
    print("| the same person by | AUC | true accept rate | false accept rate |")
    print("|---|---|---|---|")
    for name, model, ambient in (("real", real, before), ("made-up", made_up, after)):
        likeness = cosines - ambient[pairs].mean(1)
        taken = likeness > model.cut
        print(
            f"| {name} cohort | {roc_auc(labels, likeness):.4f} | {taken[labels].mean():.3f} | "
            f"{taken[~labels].mean():.6f} |"
        )
    in_cohort = (directions @ real.cohort.T).max(1) > 0.9999
    strangers = starts[~np.isin(owners[starts], owners[in_cohort])]
    others_of = rng.permutation(strangers)[: len(real.cohort)]
    second = replace(real, cohort=directions[others_of]).ambient(directions, in_gallery=False)
    # One photo of each person: were those of the cohort nearer to the made-up vectors?
    nearest = (directions @ made_up.cohort.T).max(1)
    single = starts if not in_cohort[starts].all() else np.arange(len(owners))
    members = np.unique(np.concatenate([np.flatnonzero(in_cohort), single]))
    told = roc_auc(in_cohort[members], nearest[members])
    print(
        f"\nOf {len(made_up.cohort):,} made-up vectors, the nearest to any photo has a cosine of "
        f"{nearest.max():.3f}; the {in_cohort.sum():,} photos of the real cohort are told from "
        f"others by their nearest made-up vector with an AUC of {told:.3f} (chance: .5). Ambient "
        f"similarities change by {np.median(after - before):+.4f} in the median, with a standard "
        f"deviation of {np.std(after - before):.4f}; with real photos of {len(others_of):,} others "
        f"in the cohort's place by {np.median(second - before):+.4f} and "
        f"{np.std(second - before):.4f}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kinfacew", type=Path)
    parser.add_argument("--figures", type=Path, default=Path("docs/images"))
    asked = parser.parse_args()
    published = read_published(asked.run / "published.h5")
    origin = load_head(asked.run / "head.h5")
    assert published.origin.head == origin.digest, "published.h5 is of another head"
    assert load_calibration(asked.run / "calibration.json").head == origin.digest
    scale, three_way = published.calibration.alone, published.calibration.three_way
    assert three_way is not None and origin.same_person and published.head.same_person
    size = (asked.run / "published.h5").stat().st_size
    print(
        f"Head {published.head.digest[:12]}, {size:,} bytes, {published.fidelity.dtype}; kinembed "
        f"{__version__}, numpy {np.__version__}, {platform.processor() or platform.machine()}\n"
    )
    head = published_folds(published, origin)
    with EmbeddingCache.open(asked.run / "embeddings.h5") as cache:
        families = cached_families(cache, asked.data)

        def scored(expand: bool) -> ScoredPairs:
            rng = generator(0, Stream.EVALUATION_PAIRS)
            return out_of_fold_scores(head, cache, families, PAIRS, rng, expand=expand)

        alone, expanded = scored(False), scored(True)
        print_overall(alone, expanded, scale, three_way)
        rows, places = np.unique(alone.pairs.rows, return_inverse=True)
        grey = are_grey(cache, asked.data, rows)[places.reshape(-1, 2)]
        print_colours(alone, scale, grey)
        groups = groups_of(cache, published.head.knn_view, families)
        owners = families.owner_of(alone.pairs.rows)
        print_groups(alone, scale, groups, owners, asked.figures)
        print_cohort(
            cache, published.head.knn_view, families, origin.same_person, published.head.same_person
        )
    if asked.kinfacew is not None:
        config = EmbedConfig(backbone="sface", weights=published.network.weights)
        print_kinfacew(asked.run, asked.kinfacew, published, config)


if __name__ == "__main__":
    main()
