"""Pictures with a part taken away, and the order in which a heatmap takes it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Baseline = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]

GOLDEN = 2654435769  # 2^32 by the golden ratio: multiples of it, modulo 2^32, are spread evenly however many there are


def mean_color(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Each image's mean color, everywhere.

    >>> mean_color(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([[[[0.5000, 0.5000]]]])
    """
    return images.mean((-2, -1), keepdim=True).expand_as(images)


def blurred(images: Float[Tensor, "n c h w"], *, cells: int = 4) -> Float[Tensor, "n c h w"]:
    """Each image as the means over a grid of `cells` x `cells`, smoothly enlarged: colors stay, shapes go.

    >>> blurred(torch.tensor([[[[0.0, 1.0, 0.0, 1.0]]]]), cells=2)
    tensor([[[[0.5000, 0.5000, 0.5000, 0.5000]]]])
    """
    means = F.adaptive_avg_pool2d(images, cells)
    return F.interpolate(means, size=images.shape[2:], mode="bilinear", align_corners=False)


def masked(
    images: Float[Tensor, "n c h w"], kept: Float[Tensor, "n h w"], *, baseline: Baseline = blurred
) -> Float[Tensor, "n c h w"]:
    """Blend images into a baseline: `m x + (1 - m) b`, with `m` in [0, 1] what is kept.

    >>> masked(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[1.0, 0.0]]]), baseline=mean_color)
    tensor([[[[1., 2.]]]])
    """
    return torch.lerp(baseline(images), images, kept[:, None].to(images))


def relative(heat: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Each map by its own maximum: `L / max L`, in [0, 1]; NaN for a map of zeros.

    >>> relative(torch.tensor([[[1.0, 4.0]]]))
    tensor([[[0.2500, 1.0000]]])
    """
    return heat / heat.amax((1, 2), keepdim=True)


def rank_pixels(heat: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """The place of each pixel from hottest, 0, to coldest, just under 1.

    Equally hot pixels come in an order that is scattered over the image, the same for all, so that the zeros of a map
    do not go row by row.

    >>> rank_pixels(torch.tensor([[[1.0, 4.0], [3.0, 2.0]]]))
    tensor([[[0.7500, 0.0000],
             [0.2500, 0.5000]]])
    """
    n, h, w = heat.shape
    scattered = (torch.arange(h * w, device=heat.device) * GOLDEN % 2**32).argsort()
    ranked = heat.flatten(1)[:, scattered].argsort(dim=1, descending=True, stable=True)
    return scattered[ranked].argsort(dim=1).view(n, h, w).to(heat) / (h * w)
