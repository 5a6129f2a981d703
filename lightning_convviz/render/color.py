"""Values -> colors, on the device: color codes for maps, RGB for photographs and overlays."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# The 256 entries of a picture's palette: levels of the colormap, colors of the photographs in it, and the page itself.
LEVELS = 176
PHOTO_COLORS = 64
PAGE = LEVELS + PHOTO_COLORS  # from white to ink in TONES steps
TONES = 8
NOT_A_NUMBER = PAGE + TONES

# The heatmap covers at most this share of the photograph under it. Its colors begin where they stand out from dark
# pictures: a part of a perceptually uniform map is one too.
OPACITY = 0.8
DARKEST = 0.3


@cache
def colormap(name: str, device: torch.device | None = None) -> UInt8[Tensor, "levels 3"]:
    """A matplotlib colormap as a table of RGB values with `LEVELS` rows.

    Raises:
        ValueError: for a name that matplotlib does not have.

    Example:
        >>> colormap("viridis")[[0, -1]]
        tensor([[ 68,   1,  84],
                [253, 231,  36]], dtype=torch.uint8)
    """
    from matplotlib import colormaps

    if name not in colormaps:
        raise ValueError(f"`colormap` is {name!r}, which matplotlib does not have. 'viridis' or 'magma', for example.")
    # NumPy, since the writer's thread comes by here while training may have changed torch's default type.
    table = colormaps[name](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    return torch.from_numpy(table.copy()).to(device)


def encode_values(values: Float[Tensor, "..."], low: float, high: float) -> UInt8[Tensor, "..."]:
    """Values as levels of a colormap, 0 at `low` or less, `LEVELS - 1` at `high` or more.

    >>> encode_values(torch.tensor([-1.0, 0.5, 1.0, float("nan")]), 0.0, 1.0)
    tensor([  0,  88, 175, 248], dtype=torch.uint8)
    """
    levels = ((values.float() - low) * ((LEVELS - 1) / max(high - low, 1e-12))).round().clamp(0, LEVELS - 1)
    return levels.nan_to_num(NOT_A_NUMBER).to(torch.uint8)


def rgb(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n h w 3"]:
    """Images in [0, 1] as bytes, channels last.

    >>> rgb(torch.full((1, 3, 1, 1), 0.5)).flatten()
    tensor([128, 128, 128], dtype=torch.uint8)
    """
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def overlay(
    images: Float[Tensor, "n 3 h w"],
    heat: Float[Tensor, "n h w"],
    name: str = "inferno",
    *,
    diverging: bool = False,
) -> UInt8[Tensor, "n h w 3"]:
    """A heatmap over the gray picture; the hotter, the less of the picture shows, and without heat it is untouched.

    The opacity is `0.8 |heat|^0.7`: weak evidence has to be seen, too, and noise not.

    Args:
        images: in [0, 1].
        heat: in [0, 1]; of a diverging map in [-1, 1].
        name: a colormap.
        diverging: whether 0 is the middle of the colormap.

    Example:
        >>> overlay(torch.ones(1, 3, 1, 2), torch.tensor([[[0.0, 1.0]]])).reshape(2, 3)
        tensor([[255, 255, 255],
                [253, 254, 182]], dtype=torch.uint8)
    """
    # Luma of ITU-R BT.601, the weights that gray pictures are made with.
    gray = torch.einsum("c,nchw->nhw", images.new_tensor([0.299, 0.587, 0.114]).float(), images.float())[..., None]
    low = -1.0 if diverging else 0.0
    heat = heat.float().nan_to_num(0).clamp(low, 1)
    table = colormap(name, images.device).float() / 255
    color = table[encode_values(heat, -1.0 if diverging else DARKEST / (DARKEST - 1), 1).long()]
    opacity = OPACITY * heat.abs().pow(0.7)[..., None]
    return rgb((gray * (1 - opacity) + color * opacity).permute(0, 3, 1, 2))
