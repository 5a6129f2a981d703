"""Maps of several layers as one: where deep layers know what they see, shallow ones know where.

Fusions by others normalize the maps first, and all that is left is a shape. These keep the scale:
`fuse(s · maps) = s · fuse(maps)` for `s > 0`, so that fused maps of several images or epochs can be compared.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Fusion = Callable[[Sequence[Float[Tensor, "n ..."]]], Float[Tensor, "n *yx"]]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_maps(maps: Float[Tensor, "n *yx"], size: tuple[int, ...]) -> Float[Tensor, "n *hw"]:
    """Maps at another resolution, (bi-, tri-)linear with half-pixel centers, as all CAM papers draw them.

    >>> resize_maps(torch.tensor([[0.0, 4.0]]), (4,))
    tensor([[0., 1., 3., 4.]])
    """
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode=_LINEAR[len(size)], align_corners=False)[:, 0]


def geometric(maps: Sequence[Float[Tensor, "n ..."]]) -> Float[Tensor, "n *yx"]:
    """Keep what all layers agree on: the geometric mean of the evidence for (RefineCAM).

    `F[p] = (Π_l max(0, M_l[p]))^(1/L)`, where `M_l` are the maps of `L` layers, clamped first and then enlarged to the
    finest resolution. After Domeniconi et al. 2026, https://arxiv.org/abs/2605.14641, with two differences. They scale
    each map to [0, 1] before they multiply; here only the root is taken, so that the scale stays. Where the smallest
    clamped values are 0, as they mostly are, positions come in the same order. And the maps in `FUSIONS` are those of
    HiResCAM instead of Grad-CAM++, which has one weight for a whole channel, also in shallow layers, and does not scale
    with the score. Layers may differ in scale: a factor on one of them is a factor on the whole.

    Args:
        maps: signed maps of each layer, in any order.

    Returns:
        Maps at the finest resolution, not negative, in units of the method; 0 where any layer has no evidence for.

    Example:
        >>> geometric([torch.tensor([[4.0, 9.0, -1.0]]), torch.tensor([[1.0, 4.0, 7.0]])])
        tensor([[2., 6., 0.]])
    """
    factors = [each.pow(1 / len(maps)) for each in _positive(maps)]  # roots first: a product of small values underflows
    return torch.stack(factors).prod(0)


def maximal(maps: Sequence[Float[Tensor, "n ..."]], *, gamma: float = 2.0) -> Float[Tensor, "n *yx"]:
    """Keep what any layer found, with shallow layers lifted (LayerCAM's fusion).

    `F[p] = m max(max(0, M_deep[p]) / m, max_l tanh(γ max(0, M_l[p]) / max M_l))`, where `M_deep` is the map of the
    deepest layer, `m` its largest value, and `M_l` are those of the others; all enlarged to the finest resolution.
    Jiang et al. 2021, eq. 9, https://doi.org/10.1109/TIP.2021.3089943. In the paper the fused map lies in [0, 1];
    here it is multiplied back with `m`, so that it has the scale of the deepest map.

    Args:
        maps: signed maps of each layer; the one with the lowest resolution is the deepest, of several the last.
        gamma: `γ`, how much shallow layers are lifted; the paper takes 2.

    Returns:
        Maps at the finest resolution, within [0, m], in units of the method; 0 where the deepest has no evidence for.

    Example:
        >>> maximal([torch.tensor([[0.5, 1.0, -1.0]]), torch.tensor([[8.0, 2.0, 4.0]])])  # tanh(2) 8 = 7.71
        tensor([[8.0000, 7.7122, 4.0000]])
    """
    deepest = min(range(len(maps)), key=lambda i: (maps[i][0].numel(), -i))
    peaks = [each.clamp(min=0).flatten(1).amax(1).reshape(-1, *[1] * (each.ndim - 1)) for each in maps]
    divisors = [torch.where(peak > 0, peak, 1) for peak in peaks]  # an empty map stays empty
    relative = [each / divisor for each, divisor in zip(_positive(maps), divisors, strict=True)]
    lifted = [each if i == deepest else (gamma * each).tanh() for i, each in enumerate(relative)]
    return peaks[deepest] * torch.stack(lifted).amax(0)


def _positive(maps: Sequence[Tensor]) -> list[Tensor]:
    """The evidence for, at the finest resolution."""
    size = max((tuple(each.shape[1:]) for each in maps), key=lambda size: torch.Size(size).numel())
    return [resize_maps(each.clamp(min=0), size) for each in maps]


# The one table of names, each with the method whose maps are fused; add a fusion here and a row in the tests.
FUSIONS: dict[str, tuple[str, Fusion]] = {"refinecam": ("hirescam", geometric), "layercam-fused": ("layercam", maximal)}
