"""What scores: network, head and calibration in one line, for people to read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kinembed.cache import Embeddings
from kinembed.cache.provenance import frames, networks_of
from kinembed.evaluation.calibration import Calibration
from kinembed.heads.base import Head
from kinembed.heads.file import HeadRecord
from kinembed.printable import counted

if TYPE_CHECKING:  # most pairs are of two
    from kinembed.evaluation.published import Published
    from kinembed.evaluation.triples import TripleScore

log = logging.getLogger(__name__)


def describe(
    cache: Embeddings,
    head: Head,
    record: HeadRecord,
    calibration: Calibration | None,
    *,
    expand: bool = True,
    triples: TripleScore | None = None,
    published: Published | None = None,
) -> str:
    """Network and weights, head, photos alone or expanded, calibration, and whom they learnt on.

    Args:
        cache: of the network's vectors.
        head: what scores.
        record: how it came about.
        calibration: None: scores are the head's own.
        expand: query expansion is asked for.
        triples: what scores fathers, mothers and children, which no calibration is of; None: pairs
            are scored.
        published: the file of the head, if it is a published one, which names nobody.
    """
    networks = [_network(about) for about in networks_of(cache.provenance)]
    name = f"{record.recipe or head.kind} {head.digest[:12]} on view {head.view}"
    auc = "unknown" if record.auc is None else f"{record.auc:.4f}"
    by = f", epoch chosen by {record.epoch_chosen_by}" if record.epoch_chosen_by else ""
    by = ", last epoch" if record.epoch_chosen_by == "nobody" else by
    origin = published and published.origin
    trained = (
        f"fitted on {counted(origin.trained if origin else len(head.trained), 'person', 'people')}"
    )
    folds = origin.folds if origin else len(head.folds)
    if folds:
        trained += f" in {folds} folds, each held out by one member"
    elif origin:
        trained += ", published"
    else:
        trained += f", {len(head.held_out):,} held out"
    expands = expand and head.same_person is not None
    how = "with others of the same person, if it has any" if expands else "alone"
    if triples is not None:
        scale = triples.describe()
        if calibration is not None:
            scale += "; the calibration is of pairs, and is not used"
    elif calibration is None:
        scale = "not calibrated"
    else:
        people = published.origin.calibrated if published else len(calibration.people)
        scale = (
            f"calibrated by {calibration.alone.map} on {people:,} held-out people "
            f"for {calibration.alone.prior:.3g} kin"
        )
        if expands and calibration.make_up is not None:
            scale += f", expanded for galleries in which {calibration.make_up.describe()}"
    return (
        f"{'network' if len(networks) == 1 else 'networks'} {' and '.join(networks)}; head {name} "
        f"(AUC {auc}{by}; {trained}); each photo {how}; {scale}"
    )


def _network(about: Mapping[str, Any]) -> str:
    """A network and its weights, as a cache tells of them."""
    if "finetuned" in about:
        weights = f"fine-tuned by {about['finetuned']['recipe']['name']}"
    elif "imported" in about:
        weights = "imported vectors"
    else:
        weights = f"weights {about.get('command', {}).get('weights', 'unknown')}"
    name = f"{about.get('backbone', 'unknown')} {about['model'][:12]}"
    framing = " and ".join(dict.fromkeys(_name(frame) for frame in frames(about)))
    return f"{name} ({weights}{f', framing {framing}' if framing else ''})"


def _name(frame: str) -> str:
    return frame.partition(":")[0]


def warn_of_framing(cache: Embeddings, record: HeadRecord) -> None:
    """Says where photos lie in a frame that the user named and the head has not learnt on.

    A frame that was found by the faces is as good as the head's.
    """
    for about in networks_of(cache.provenance):
        named = about.get("command", {}).get("framing", "auto")
        others = [frame for frame in frames(about) if frame not in record.framings]
        if named != "auto" and others and record.framings:
            log.warning(
                "%s: its photos were embedded with --framing %s (%s), and the head learnt on others"
                " (%s), so its scores may be worth less; kinembed embed with --framing auto finds "
                "the frame by the faces", cache.path, named, " and ".join(others),
                " and ".join(record.framings),
            )  # fmt: skip
