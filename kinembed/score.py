"""The stage `score`: kinship probabilities of the pairs of a submission, from the cache alone."""

import logging
from pathlib import Path

import numpy as np

from kinembed.cache import EmbeddingCache
from kinembed.calibration import check_calibration, load_calibration
from kinembed.config import ScoreConfig
from kinembed.errors import RunError
from kinembed.files import write_bytes
from kinembed.heads import load_head, matching_vectors, sigmoid
from kinembed.pairs import pair_rows, read_pairs

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
        logits = head.scores(vectors, rows)
        probabilities = sigmoid(logits)
        path = run / "calibration.json"
        if path.exists() and not config.raw:
            calibration = load_calibration(path)
            check_calibration(calibration, cache, head, path)
            probabilities = calibration.probabilities(logits)
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


def quoted(text: str) -> str:
    """A CSV field, quoted where it has to be."""
    if any(letter in text for letter in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text
