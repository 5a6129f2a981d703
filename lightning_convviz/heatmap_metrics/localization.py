"""Numbers of the maps themselves: how they are spread, what they resemble, whether they lie on the object."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def correlation(heat: Float[Tensor, "n h w"], other: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """How alike two maps of the same image rank its pixels: Spearman's correlation, in [-1, 1].

    `Σ r s / sqrt(Σ r² Σ s²)` with the centered ranks `r` and `s` of both maps, equal values sharing their mean rank.
    Against the map of the initial net it is a sanity check: a map that looks the same before training does not tell
    what was learned (Adebayo et al. 2018, section 3, https://arxiv.org/abs/1810.03292; they take it, too). From drawing
    to drawing it tells whether the evidence has settled. By rank, as maps differ in scale and skew.

    Limits: it weighs cold pixels as much as hot ones, and any two smooth maps of one picture are somewhat alike.

    Returns:
        A correlation for each image; NaN where one of the maps is constant.

    Example:
        >>> correlation(torch.tensor([[[1.0, 2.0, 9.0]]]), torch.tensor([[[1.0, 3.0, 2.0]]]))
        tensor([0.5000])
    """
    r, s = _ranks(heat), _ranks(other.to(heat))
    found = (r * s).sum(1) / ((r * r).sum(1) * (s * s).sum(1)).sqrt()
    return defined(defined(found.clamp(-1, 1), heat), other)


def entropy(heat: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """How widely the heat is spread: 0 for a single hot pixel, 1 for the same heat everywhere.

    `-Σ q ln q / ln(h w)` with the share `q = L / Σ L` of each pixel. The "complexity" of Bhatt et al. 2020,
    https://arxiv.org/abs/2005.00631, by its largest value.

    Limits: neither end is good in itself; an object may fill the picture.

    Example:
        >>> entropy(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]))  # ln 2 / ln 4
        tensor([0.5000])
    """
    share = (heat / heat.sum((1, 2), keepdim=True)).flatten(1)
    spread: Tensor = torch.special.entr(share).sum(1)
    return spread / math.log(max(share.shape[1], 2))


def pointing(heat: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], *, tolerance: int = 0) -> Float[Tensor, " n"]:
    """Whether the hottest pixel lies on the object: 0 or 1, in between where several are hottest (the share of them).

    Zhang et al. 2018, the "pointing game", https://arxiv.org/abs/1608.00507. They allow 15 pixels in about 224.

    Limits: one pixel decides, and objects are mostly in the middle: read it beside the center's and the initial net's.

    Args:
        heat: heatmaps, not negative.
        masks: True on the object.
        tolerance: so many pixels beside the object count as the object, in any direction.

    Returns:
        A hit for each image; NaN for maps of zeros and for images without an object.

    Example:
        >>> pointing(torch.tensor([[[0.0, 3.0, 1.0]]]), torch.tensor([[[False, False, True]]]), tolerance=1)
        tensor([1.])
    """
    masks = masks.to(heat.device)
    target = masks.to(heat)
    if tolerance:
        target = F.max_pool2d(target[:, None], 2 * tolerance + 1, 1, tolerance)[:, 0]
    hottest = (heat == heat.amax((1, 2), keepdim=True)).to(heat)
    hits = (hottest * target).sum((1, 2)) / hottest.sum((1, 2))
    return defined(hits, heat, masks.any(2).any(1))


def energy_inside(heat: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    """The share of the heat that lies on the object, in [0, 1]; as much as the object's share of the image by chance.

    `Σ_{mask} L / Σ L`. Wang et al. 2020 (Score-CAM), "energy-based pointing game", https://arxiv.org/abs/1910.01279

    Limits: a map that shows only a part of the object (its ears) is as good as one that shows all of it.

    Returns:
        A share for each image; NaN for maps of zeros and for images without an object.

    Example:
        >>> energy_inside(torch.tensor([[[1.0, 2.0, 1.0]]]), torch.tensor([[[False, True, True]]]))
        tensor([0.7500])
    """
    masks = masks.to(heat.device)
    return defined((heat * masks).sum((1, 2)) / heat.sum((1, 2)), heat, masks.any(2).any(1))


def _ranks(heat: Tensor) -> Float[Tensor, "n hw"]:
    """Centered ranks in [-0.5, 0.5]; equal values share the mean of theirs."""
    values = heat.flatten(1).contiguous()
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    through = torch.searchsorted(ordered, values, right=True)
    return ((below + through) / (2 * values.shape[1]) - 0.5).to(heat)


def defined(numbers: Tensor, heat: Tensor, also: Tensor | None = None) -> Float[Tensor, " n"]:
    """NaN for maps without heat, or with heat that is not finite."""
    most = heat.amax((1, 2))
    fine = (most > 0) & most.isfinite()
    return numbers.where(fine if also is None else fine & also, torch.nan)
