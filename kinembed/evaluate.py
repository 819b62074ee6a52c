"""The stage `evaluate`: metrics of a head on held-out people."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from kinembed.arrays import Rows
from kinembed.cache import Embeddings
from kinembed.cache.stacked import open_caches
from kinembed.config import EvaluateConfig
from kinembed.data.families import Families, cached_families
from kinembed.data.labelled_pairs import LabelledPairs
from kinembed.data.protocols import PROTOCOLS, read_labelled
from kinembed.errors import DataError
from kinembed.evaluation.calibration import Calibration
from kinembed.evaluation.curves import curves
from kinembed.evaluation.figures import figures, same_photograph, surest
from kinembed.evaluation.in_use import describe, warn_of_framing
from kinembed.evaluation.kept_calibrations import expanding, find_calibration
from kinembed.evaluation.metrics import warn_of_few
from kinembed.evaluation.out_of_fold import ScoredPairs, by_folds, out_of_fold_scores, scored_pairs
from kinembed.evaluation.published import Published, choose_head, read_any_head
from kinembed.evaluation.retrieval import galleries_of, retrieval_figures
from kinembed.evaluation.triples import TripleScore, fit_triples, parent_logits
from kinembed.heads.base import Head
from kinembed.heads.kept import caches_of
from kinembed.heads.query_expansion import Expanding
from kinembed.heads.representations import Representations
from kinembed.io import moved_together, remove, write_bytes
from kinembed.report.charts import draw_evaluation
from kinembed.seeds import Stream, generator

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig, data: Path, run: Path) -> Path:
    """Evaluates a head on labelled pairs.

    The pairs come from a CSV or a protocol, else they are of held-out people. If the calibration
    was fitted on some of the same people, threshold and map are cross-fitted on five folds of the
    families.

    Args:
        config: the settings, with the source of the pairs.
        data: the data folder: relations, and photos for the pictures.
        run: the run folder with `embeddings.h5`, `head.h5` and, if wanted, `calibration.json`.

    Returns:
        The path of `evaluation.json`; figures are in the same folder.

    Raises:
        KinembedError: files are missing, malformed or do not belong together, or people in the
            pairs trained the head.
    """
    with open_caches(caches_of(run, config.caches, choose_head(run, config.head))) as cache:
        head, record, published = read_any_head(choose_head(run, config.head))
        warn_of_framing(cache, record)
        if published is not None:
            _check_others(published, cache)
        if published is not None and config.calibration is None:
            calibration: Calibration | None = published.calibration
        else:
            calibration = _calibration(config, run, head)
        expand = expanding(config.expand, calibration, head)
        families = _families(config, data, cache)
        scored, skipped, triples = _scored_pairs(config, data, cache, head, families, expand)
        pairs, logits = scored.pairs, scored.logits
        names, people = pairs.names(cache), pairs.people(cache)
        log.info(
            "%s",
            describe(
                cache, head, record, calibration, expand=bool(expand), triples=triples,
                published=published,
            ),
        )  # fmt: skip
        calibration = None if triples else calibration
        if scored.make_up is not None:
            log.info("%s", scored.make_up.describe())
        result: dict[str, Any] = {
            "source": _source(config),
            "head": head.digest,
            "epoch_chosen_by": record.epoch_chosen_by,
            "cache": cache.digest,
            "skipped_trained": skipped,
            **figures(scored, people, calibration, config.seed, triples),
            "same_photograph": same_photograph(pairs, names, people, logits, cache.digests),
            "wrong": surest(pairs, names, people, logits, right=False),
            "right": surest(pairs, names, people, logits, right=True),
            "curves": curves(pairs.labels, logits),
        }
        if families is not None:
            three_way = None if calibration is None else calibration.three_way
            galleries = galleries_of(head, cache, families, three_way)
            rng = generator(config.seed, Stream.RETRIEVAL)
            result["retrieval"] = {
                "ranked_by": "logit" if three_way is None else "evidence",
                **retrieval_figures(galleries, rng),
            }
    _warn_of_few(result)
    path = run / "evaluation.json"
    with moved_together(run):
        if result.get("decision") is None:
            remove(run / "reliability.svg")  # of another evaluation
        draw_evaluation(pairs.labels, logits, result.get("decision"), run)
        if config.pictures:
            _draw_wrong(result["wrong"], data, run)
        write_bytes(path, (json.dumps(result, indent=1) + "\n").encode())
    what = "pairs" if triples is None else "triples"
    log.info("%s: %s %s, AUC %.4f", path, f"{len(pairs):,}", what, result["auc"])
    if config.pairs is None:
        log.info(
            "head and calibrate draw other pairs of these people, so their AUC differs a little"
        )
    return path


def _source(config: EvaluateConfig) -> str:
    if config.protocol is not None:
        return f"{config.protocol} {config.pairs}"
    return str(config.pairs) if config.pairs is not None else "held-out people"


def _families(config: EvaluateConfig, data: Path, cache: Embeddings) -> Families | None:
    """The people and relations that pairs are made of; None if a file lists the pairs.

    Raises:
        DataError: a protocol without its file, or there are no usable relations.
    """
    if config.pairs is not None:
        return None
    if config.protocol is not None:
        raise DataError(f"protocol {config.protocol}: name its folder or list")
    return cached_families(cache, data)


def _scored_pairs(
    config: EvaluateConfig,
    data: Path,
    cache: Embeddings,
    head: Head,
    families: Families | None,
    expand: Expanding,
) -> tuple[ScoredPairs, int, TripleScore | None]:
    """The pairs of the evaluation with their scores, how many were left out, and what scored them.

    The last is of triples alone. Without a file of pairs they are of the families' held-out people.
    """
    if families is not None:
        rng = generator(config.seed, Stream.EVALUATION_PAIRS)
        return out_of_fold_scores(head, cache, families, config.count, rng, expand=expand), 0, None
    path = config.pairs
    assert path is not None  # else there are families
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    read = read_labelled if config.protocol is None else PROTOCOLS[config.protocol]
    everything = read(path, cache)
    folds = _held_out_folds(everything, cache, head)
    if folds is not None:
        return by_folds(head, cache, everything, folds, expand=expand), 0, None
    pairs = _without_trained(everything, cache, head, config.skip_trained)
    skipped = len(everything) - len(pairs)
    representations = Representations(cache, head, expand=expand)
    if not pairs.are_triples:
        return scored_pairs(representations, pairs), skipped, None
    triples = fit_triples(head, cache, data, config.seed, expand=expand)
    parents = cache.finite(parent_logits(representations.score, pairs.rows), head.view)
    logits = triples.logits(parents)
    return ScoredPairs(pairs, logits, logits, np.zeros(len(pairs)), None), skipped, triples


def _held_out_folds(pairs: LabelledPairs, cache: Embeddings, head: Head) -> Rows | None:
    """(K,) the member of the head that holds out both people of each pair of a protocol by folds.

    None where the head does not hold out all of these folds.
    """
    if pairs.folds is None or not head.folds:
        return None
    member_of = {person: at for at, fold in enumerate(head.folds) for person in fold}
    members = [{member_of.get(person, -1) for person in both} for both in pairs.people(cache)]
    if any(len(each) != 1 or -1 in each for each in members):
        return None
    return np.array([each.pop() for each in members], np.intp)


def _without_trained(
    pairs: LabelledPairs, cache: Embeddings, head: Head, skip: bool
) -> LabelledPairs:
    """The pairs that say something of others than those who trained the head.

    Raises:
        DataError: some do not, and are not to be left out, or none is left.
    """
    trained = set(head.trained)
    people, photos = pairs.people(cache), pairs.names(cache)
    unknown = sum("" in on_photos for on_photos in people)
    if unknown and trained:
        log.warning(
            "%s: in %s of %s lines it is not known who is on a photo, so whether these people "
            "trained the head cannot be told, and if they did, its figures are too good; kinembed "
            "embed with --people-table says who is on them", pairs.path, f"{unknown:,}",
            f"{len(pairs):,}",
        )  # fmt: skip
    seen = np.array(
        [
            any((person or _by_path(name)) in trained for person, name in zip(*row, strict=True))
            for row in zip(people, photos, strict=True)
        ]
    )
    if not seen.any():
        return pairs
    line = int(np.flatnonzero(seen)[0])
    names = " and ".join(pairs.at(seen).names(cache)[0])
    problem = (
        f"{pairs.path}, line {pairs.lines[line]}: {names}: the head was trained on them "
        f"({seen.sum():,} such lines), so its score says nothing of others"
    )
    if skip and not seen.all():
        log.warning("%s: %s lines on people who trained the head are left out", pairs.path,
                    f"{seen.sum():,}")  # fmt: skip
        return pairs.at(~seen)
    instead = "name pairs of held-out people, or run kinembed evaluate without pairs"
    if head.folds:
        instead = (
            "its folds leave nobody out of all members: run kinembed head --folds 0 and name pairs "
            "of the people that it holds out, or run kinembed evaluate without pairs, which judges "
            "out of fold"
        )
    if not seen.all():
        instead += "; --skip-trained leaves these lines out"
    raise DataError(f"{problem}; {instead}")


def _check_others(published: Published, cache: Embeddings) -> None:
    """Refuses a published head on the very people who trained it; warns, as it names nobody.

    Raises:
        DataError: the people of the cache are they.
    """
    people = [name.decode() for name in np.unique(cache.people).tolist() if name]
    if published.origin.is_of(people):
        raise DataError(
            f"{cache.path}: its people trained the published head, so its score says nothing of "
            "others; judge the head that it was made of, out of fold, or name other photos"
        )
    log.warning(
        "a published head does not name the %s people who trained it; if these pairs show them, "
        "its figures are too good", f"{published.origin.trained:,}",
    )  # fmt: skip


def _by_path(name: str) -> str:
    """The person of a photo by its last folders, where the cache does not know: FAMILY/PERSON."""
    return "/".join(name.split("/")[-3:-1])


def _warn_of_few(result: dict[str, Any]) -> None:
    """Says where intervals rest on little, or on nothing."""
    unit = result["bootstrap"]
    warn_of_few(result["families"], unit)
    if unit != "families":
        log.warning(
            "not all families are known: intervals resample %s, and are too narrow if these are "
            "kin", unit,
        )  # fmt: skip


def _calibration(config: EvaluateConfig, run: Path, head: Head) -> Calibration | None:
    """The calibration, if there is one."""
    fitting = find_calibration(run, head, config.calibration)
    return None if fitting is None else fitting[0]


def _draw_wrong(wrong: list[dict[str, Any]], data: Path, run: Path) -> None:
    if not all((data / name).is_file() for row in wrong for name in row["photos"]):
        log.info(
            "%s: does not hold the photos, so the most wrong pairs are not drawn; name the folder "
            "that they lie below with --data, or say --no-pictures", data,
        )  # fmt: skip
        return
    from kinembed.report.strips import draw_strips  # Pillow is slow to import

    draw_strips(wrong, data, run / "errors.png")
