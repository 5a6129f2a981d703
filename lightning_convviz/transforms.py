"""Random changes that a pattern has to survive: images -> images, another draw for each image and each call.

All of them go around the edges, and none scatters: the gradient of each is a sum in a fixed order, so that results are
the same again on every device, also under `torch.use_deterministic_algorithms`.
"""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Transform = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]

# Below this side an image is neither scaled nor turned: interpolation alone would take its fine detail away.
SMALLEST = 64
ZOOM = 0.05  # the largest change of size, as a share
ANGLE = 5.0  # the largest angle, in degrees, that of Olah et al. 2017 (https://distill.pub/2017/feature-visualization)
BLOCK = 32  # calls whose random numbers are drawn at once: a copy to the device may wait for it


def standard(size: tuple[int, int], streams: Sequence[torch.Generator]) -> list[Transform]:
    """What patterns of a size have to survive: shifts by 1/32 of the side, from 64 pixels on also scale and rotation.

    Scale and rotation take turns, step by step: both in each would cost as much again.

    >>> len(standard((32, 32), [])), len(standard((96, 96), []))
    (1, 2)
    """
    shifted = jitter(max(size) // 32, streams)
    turning = alternate([scale(ZOOM, streams), rotate(ANGLE, streams)])
    return [turning, shifted] if min(size) >= SMALLEST else [shifted]


def alternate(transforms: Sequence[Transform]) -> Transform:
    """One of the transforms at each call, the first one first."""
    order = cycle(transforms)

    def turned(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return next(order)(images)

    return turned


def jitter(pixels: int, streams: Sequence[torch.Generator]) -> Transform:
    """Shift each image by up to `pixels` in both directions, around the edges.

    Args:
        pixels: the largest shift.
        streams: one random stream for each image, so that its draws do not depend on the others.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> jitter(1, [stream])(torch.eye(3)[None, None]).sum()
        tensor(3.)
    """
    draws = _Draws(streams, 2)

    def shifted(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        offsets = ((draws(images) + 1) / 2 * (2 * pixels + 1)).floor().long() - pixels
        moved: Tensor = _Shift.apply(images, offsets)
        return moved

    return shifted


def scale(most: float, streams: Sequence[torch.Generator]) -> Transform:
    """Enlarge or shrink each image about its middle by up to the share `most`, around the edges.

    Linear interpolation, as a product with one matrix for the rows and one for the columns.

    Args:
        most: the largest change, 0.05 for 5 %.
        streams: one random stream for each image.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> scale(0.1, [stream])(torch.ones(1, 1, 4, 4)).round(decimals=4).unique()
        tensor([1.])
    """
    draws = _Draws(streams, 1)

    def scaled(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        factors = (1 + most * draws(images))[:, :, None]
        rows, columns = (_interpolation(side, factors) for side in images.shape[2:])
        return rows[:, None] @ images @ columns[:, None].transpose(2, 3)

    return scaled


def rotate(degrees: float, streams: Sequence[torch.Generator]) -> Transform:
    """Turn each image about its middle by up to `degrees` either way, around the edges.

    Two shears, each a shift of rows or columns with linear interpolation: for small angles a rotation, which at 5
    degrees is off by 0.4 % of the distance from the middle.

    Args:
        degrees: the largest angle.
        streams: one random stream for each image.

    Example:
        >>> stream = torch.Generator().manual_seed(0)
        >>> rotate(10, [stream])(torch.ones(1, 1, 4, 4)).unique()
        tensor([1.])
    """
    draws = _Draws(streams, 1)

    def turned(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        angle = torch.deg2rad(degrees * draws(images))
        down, right = (torch.arange(side, device=images.device) - (side - 1) / 2 for side in images.shape[2:])
        leaned = _Shear.apply(images, -angle.tan() * down, 3)
        upright: Tensor = _Shear.apply(leaned, angle.sin() * right, 2)
        return upright

    return turned


class _Draws:
    """Numbers in [-1, 1) for each image and call, `width` of them, from each image's own stream."""

    def __init__(self, streams: Sequence[torch.Generator], width: int) -> None:
        self._streams, self._width = streams, width
        self._block: Tensor | None = None
        self._next = 0

    def __call__(self, images: Tensor) -> Float[Tensor, "n width"]:
        if self._block is None or self._next == BLOCK:
            drawn = [torch.rand(BLOCK, self._width, generator=stream, dtype=torch.float64) for stream in self._streams]
            self._block, self._next = (2 * torch.stack(drawn, 1) - 1).to(images), 0
        self._next += 1
        return self._block[self._next - 1]


class _Shift(torch.autograd.Function):
    """A circular shift of each image. Its adjoint is the shift back: no scatter, so it is fast and deterministic."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(offsets)
        return _shift(images, offsets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (offsets,) = ctx.saved_tensors
        return _shift(gradients[0], -offsets), None


def _shift(images: Float[Tensor, "n c h w"], offsets: Int[Tensor, "n 2"]) -> Float[Tensor, "n c h w"]:
    n, _, h, w = images.shape
    rows = (torch.arange(h, device=images.device) - offsets[:, :1]) % h
    columns = (torch.arange(w, device=images.device) - offsets[:, 1:]) % w
    each = torch.arange(n, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class _Shear(torch.autograd.Function):
    """A circular shift of each row (`dim` 3) or column (2) by its own distance, interpolated linearly.

    Its adjoint is the shift back.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, distances: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(distances)
        ctx.dim = dim
        return _sheared(images, distances, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (distances,) = ctx.saved_tensors
        return _sheared(gradients[0], -distances, ctx.dim), None, None


def _sheared(images: Float[Tensor, "n c h w"], distances: Float[Tensor, "n m"], dim: int) -> Float[Tensor, "n c h w"]:
    side, whole = images.shape[dim], distances.floor()
    part = (distances - whole).to(images)[:, None].unsqueeze(dim)
    # From one place before: each pixel is a mean of two neighbors.
    places = (torch.arange(-1, side, device=images.device) - whole.long()[:, :, None]) % side
    places = (places if dim == 3 else places.transpose(1, 2))[:, None]
    taken = images.gather(dim, places.expand(-1, images.shape[1], -1, -1))
    return torch.lerp(taken.narrow(dim, 1, side), taken.narrow(dim, 0, side), part)


def _interpolation(side: int, factors: Float[Tensor, "n 1 1"]) -> Float[Tensor, "n side side"]:
    """For each image the matrix that enlarges a row of pixels about its middle."""
    places = torch.arange(side, device=factors.device, dtype=factors.dtype)
    middle = (side - 1) / 2
    apart = (places[:, None] - middle) / factors + middle - places
    apart = (apart + side / 2) % side - side / 2
    return (1 - apart.abs()).clamp(min=0)
