"""The stage `score`: kinship probabilities of the pairs of a submission, from the cache alone."""

import logging
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache, Vectors
from kinembed.config import ScoreConfig
from kinembed.errors import DataError, RunError
from kinembed.families import Rows
from kinembed.files import write_bytes
from kinembed.heads import Head, load_head
from kinembed.pairs import PairList, read_pairs, split_names

log = logging.getLogger(__name__)


def score(config: ScoreConfig, data: Path, run: Path) -> Path:
    """Scores pairs of photos and writes them in the order in which they were given.

    Args:
        config: the pairs, and where the scores go.
        data: where the pairs are looked for if they do not lie where `config` says.
        run: the run folder with `embeddings.h5` and `head.h5`.

    Returns:
        The path of the submission: `img_pair,is_related`, probabilities with 10 decimals.

    Raises:
        KinembedError: pairs, cache or head are missing, malformed, or do not belong together.
    """
    path = config.pairs
    if not path.exists() and not path.is_absolute() and (data / path).exists():
        path = data / path
    pairs = read_pairs(path)
    with EmbeddingCache.open(run / "embeddings.h5") as cache:
        head = load_head(run / "head.h5")
        vectors = matching_vectors(cache, head)
        rows = pair_rows(pairs, cache)
        probabilities = head.probabilities(vectors, rows)
        if not np.isfinite(probabilities).all():
            raise RunError(f"{cache.path}: vectors are not finite; run kinembed embed again")
    out = config.out if config.out is not None else run / "submission.csv"
    lines = [
        f"{quoted(text)},{probability:.10f}"
        for text, probability in zip(pairs.texts, probabilities.tolist(), strict=True)
    ]
    write_bytes(out, "\n".join(["img_pair,is_related", *lines, ""]).encode())
    again = len(pairs.texts) - len(set(pairs.texts))
    repeated = f" ({again} of them repeated)" if again else ""
    log.info("%s: %s pairs scored%s", out, f"{len(lines):,}", repeated)
    return out


def matching_vectors(cache: EmbeddingCache, head: Head) -> Vectors:
    """The vectors that a head compares.

    Raises:
        RunError: the head was trained on another network's vectors, or on another view.
    """
    model = cache.provenance["model"]
    if head.model != model:
        raise RunError(
            f"{cache.path} holds embeddings of model {model[:12]}, the head is of model "
            f"{head.model[:12]}; run kinembed embed, or kinembed finetune, so that they match"
        )
    vectors = cache.vectors(head.view)
    if vectors.shape[1] != head.width:
        raise RunError(
            f"{cache.path}: view {head.view} has {vectors.shape[1]} numbers, the head wants "
            f"{head.width}; run kinembed embed"
        )
    return vectors


def pair_rows(pairs: PairList, cache: EmbeddingCache) -> Rows:
    """Rows (K, 2) in the cache of each pair's photos.

    Where a pair's text holds several `-`, the place that leaves two known photos is where it
    parts.

    Raises:
        DataError: naming the line whose photos are not known, or which can be read in two ways.
    """
    left, right, ambiguous = split_names(pairs.texts)
    rows = np.stack([cache.find(left), cache.find(right)], -1)
    for row in ambiguous:
        rows[row] = _part(pairs, row, cache)
    absent = np.argwhere(rows < 0)
    if len(absent):
        row, side = absent[0].tolist()
        name = (left, right)[side][row]
        more = len(np.unique(absent[:, 0])) - 1
        others = f" ({more} more such lines)" if more else ""
        raise DataError(f"{pairs.path}, line {pairs.lines[row]}: {cache.unknown(name)}{others}")
    return rows


def _part(pairs: PairList, row: int, cache: EmbeddingCache) -> Rows:
    text = pairs.texts[row]
    cuts = [at for at, letter in enumerate(text) if letter == "-"]
    names = [(text[:at], text[at + 1 :]) for at in cuts]
    found = cache.find([name for pair in names for name in pair]).reshape(-1, 2)
    known = np.flatnonzero((found >= 0).all(1))
    if len(known) == 1:
        pair: Rows = found[known[0]]
        return pair
    problem = "no two photos of the cache" if not len(known) else "several pairs of photos"
    raise DataError(
        f"{pairs.path}, line {pairs.lines[row]}: {text!r} names {problem}, wherever it is "
        "parted at a '-'; rename the photos or embed them with kinembed embed"
    )


def quoted(text: str) -> str:
    """A CSV field, quoted where it has to be."""
    if any(letter in text for letter in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text
