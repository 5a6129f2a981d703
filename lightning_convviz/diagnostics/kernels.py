"""Are the kernels of a first layer patterns, or noise?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SMALLEST = 5  # pixels: in 3 x 3 a pattern may be as rough as noise (an edge detector has both signs side by side)
VALUES = 400  # of fewer weights the figure of white noise has a standard deviation above 0.04


def noise(weights: "Float[Tensor, 'n c *yx']") -> float | None:
    """How much kernels are like white noise: 0 for smooth ones, 1 for white noise, up to 2 for checkerboards.

        noise = 1 − mean(wᵢ wⱼ) / mean(w²), over all pairs i, j of horizontal or vertical neighbors

    That is one minus the autocorrelation at a distance of one pixel, with no mean subtracted: a kernel of one color is
    smooth. Filters weigh by their energy. For n weights of white noise the standard deviation is about 1 / √(2n).

    Args:
        weights: of a convolution in two dimensions, (n, c, y, x).

    Returns:
        None for kernels below 5 x 5, below 400 weights, of other dimensions, and where all weights are 0.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> white = torch.randn(16, 3, 7, 7, generator=generator)
        >>> smooth = torch.nn.functional.avg_pool2d(torch.randn(16, 3, 11, 11, generator=generator), 5, 1)
        >>> round(noise(white), 2), round(noise(smooth), 2), noise(white[..., :3, :3])
        (1.0, 0.19, None)
    """
    if weights.ndim != 4 or min(weights.shape[2:]) < SMALLEST or weights.numel() < VALUES:
        return None
    w = weights.detach().double()
    beside, below = (w[..., 1:] * w[..., :-1]).flatten(), (w[..., 1:, :] * w[..., :-1, :]).flatten()
    energy = float(w.square().mean())
    alike = float(beside.sum() + below.sum()) / (len(beside) + len(below))
    return 1 - alike / energy if energy > 0 else None
