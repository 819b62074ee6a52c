"""Losses over the similarities of a batch: all its pairs count, not only those drawn as pairs.

A batch holds groups of kin, each of another family, so that every pair within a group is kin and
every pair across groups is not: no label is guessed. Row i of the similarities says how near photo
i is to each photo of the batch.

Written here rather than taken from pytorch-metric-learning: each is a few lines over one matrix,
where that package's miners and index tuples would take a dependency and more lines to set up.
"""

from collections.abc import Callable

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
        kind: one of `LOSSES`.
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
    s = z @ (z if others is None else others).T  # (M, M)
    same = groups[:, None] == groups[None]  # (M, M)
    kin = same.clone().fill_diagonal_(False)
    return LOSSES[kind](s, kin, ~same, temperature, margin, smoothing)


def supcon(
    s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float, smoothing: float = 0.0
) -> Tensor:
    """Supervised contrastive loss: all kin of a photo against all that is not itself.

    Khosla et al., "Supervised Contrastive Learning", https://arxiv.org/abs/2004.11362, `out` form.
    """
    logits = (s - margin * kin) / temperature
    counted = kin | other
    log_shares = logits - logits.masked_fill(~counted, NEVER).logsumexp(1, keepdim=True)
    loss = -((log_shares * kin).sum(1) / kin.sum(1)).mean()
    if smoothing:
        even = -((log_shares * counted).sum(1) / counted.sum(1)).mean()
        loss = (1 - smoothing) * loss + smoothing * even
    return loss


def nt_xent(
    s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float, smoothing: float = 0.0
) -> Tensor:
    """Each kin pair for itself against the strangers of its first photo.

    Chen et al., "A Simple Framework for Contrastive Learning", https://arxiv.org/abs/2002.05709.
    """
    logits = (s - margin * kin) / temperature
    strangers = logits.masked_fill(~other, NEVER).logsumexp(1, keepdim=True)
    return (functional.softplus(strangers - logits) * kin).sum() / kin.sum()


def triplet(
    s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float, smoothing: float = 0.0
) -> Tensor:
    """Each kin pair against the nearest stranger in the batch, the hardest negative.

    Hermans et al., "In Defense of the Triplet Loss", https://arxiv.org/abs/1703.07737.
    """
    hardest = s.masked_fill(~other, NEVER).amax(1, keepdim=True)
    return (functional.relu(margin + hardest - s) * kin).sum() / kin.sum()


def double_margin(
    s: Tensor, kin: Tensor, other: Tensor, temperature: float, margin: float, smoothing: float = 0.0
) -> Tensor:
    """Kin nearer than 1 - margin / 2, strangers farther than 1 - margin; others are inactive.

    Hadsell et al., "Dimensionality Reduction by Learning an Invariant Mapping", 2006, in
    similarities, each side by the mean of its active pairs.
    """
    near = functional.relu(1 - margin / 2 - s) * kin
    far = functional.relu(s - (1 - margin)) * other
    return near.sum() / (near > 0).sum().clamp(min=1) + far.sum() / (far > 0).sum().clamp(min=1)


# A loss takes similarities (M, M), which of them are of kin and which of others (M, M),
# temperature, margin and smoothing, and uses what it needs of the last three. To add one: a
# function, an entry here and its name in `recipes.ContrastiveLoss`.
Loss = Callable[[Tensor, Tensor, Tensor, float, float, float], Tensor]
LOSSES: dict[str, Loss] = {
    "supcon": supcon,
    "nt-xent": nt_xent,
    "triplet": triplet,
    "margin": double_margin,
}
