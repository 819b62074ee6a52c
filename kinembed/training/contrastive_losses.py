"""Losses over the similarities of a batch: all its pairs count, not only those drawn as pairs.

A batch holds groups of kin, each of another family, so that every pair within a group is kin and
every pair across groups is not: no label is guessed. Row i of the similarities says how near photo
i is to each photo of the batch.

Written here rather than taken from pytorch-metric-learning: each is a few lines over one matrix,
where that package's miners and index tuples would take a dependency and more lines to set up.
"""

from torch import Tensor
from torch.nn import functional

NEVER = -1e9  # the similarity of a pair that does not count


def in_batch_loss(
    kind: str,
    z: Tensor,
    groups: Tensor,
    temperature: float,
    margin: float,
    smoothing: float = 0.0,
    others: Tensor | None = None,
) -> Tensor:
    """The mean loss of a batch, for vectors whose dot products are their similarities.

    Args:
        kind: `supcon` or one of `CONTRASTS`.
        z: (M, D) vectors.
        groups: (M,) the family of each; at least two rows of each and two families.
        temperature: similarities are divided by it (`supcon`, `nt-xent`).
        margin: by how much kin must be nearer than others (`triplet`), or how near kin and how
            far others must at least be from similarity 1 and `1 - margin` (`margin`); in `supcon`
            and `nt-xent` it is taken from the similarity of kin.
        others: (M, D) what `z` is held against, where that is not `z` itself.
        smoothing: share of the label of `supcon` that goes to all others alike.

    Returns:
        A scalar.
    """
    similarity = z @ (z if others is None else others).T
    same = groups[:, None] == groups[None]
    kin = same.clone().fill_diagonal_(False)
    if kind == "supcon":
        return supcon(similarity, kin, ~same, temperature, margin, smoothing)
    return CONTRASTS[kind](similarity, kin, ~same, temperature, margin)


def supcon(
    s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float, smoothing: float = 0.0
) -> Tensor:
    """Supervised contrastive loss: all kin of a photo against all that is not itself.

    Khosla et al., "Supervised Contrastive Learning", https://arxiv.org/abs/2004.11362, `out` form.
    """
    logits = (s - margin * kin) / temperature
    counted = kin | other
    chances = logits - logits.masked_fill(~counted, NEVER).logsumexp(1, keepdim=True)
    loss = -((chances * kin).sum(1) / kin.sum(1)).mean()
    if smoothing:
        even = -((chances * counted).sum(1) / counted.sum(1)).mean()
        loss = (1 - smoothing) * loss + smoothing * even
    return loss


def nt_xent(s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float) -> Tensor:
    """Each kin pair for itself against the strangers of its first photo.

    Chen et al., "A Simple Framework for Contrastive Learning", https://arxiv.org/abs/2002.05709.
    """
    logits = (s - margin * kin) / temperature
    strangers = logits.masked_fill(~other, NEVER).logsumexp(1, keepdim=True)
    return (functional.softplus(strangers - logits) * kin).sum() / kin.sum()


def triplet(s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float) -> Tensor:
    """Each kin pair against the nearest stranger in the batch, the hardest negative.

    Hermans et al., "In Defense of the Triplet Loss", https://arxiv.org/abs/1703.07737.
    """
    hardest = s.masked_fill(~other, NEVER).amax(1, keepdim=True)
    return (functional.relu(margin + hardest - s) * kin).sum() / kin.sum()


def double_margin(
    s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float
) -> Tensor:
    """Kin nearer than 1 - margin / 2 and strangers farther than 1 - margin; the rest is at peace.

    Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006, in
    similarities, each side by the mean of the pairs that are not at peace.
    """
    near = functional.relu(1 - margin / 2 - s) * kin
    far = functional.relu(s - (1 - margin)) * other
    return near.sum() / (near > 0).sum().clamp(min=1) + far.sum() / (far > 0).sum().clamp(min=1)


CONTRASTS = {
    "nt-xent": nt_xent,
    "triplet": triplet,
    "margin": double_margin,
}
