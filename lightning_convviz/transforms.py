"""Random changes that a pattern has to survive: images -> images, another draw for each image and each call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Transform = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]


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

    def shifted(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        draws = [torch.randint(-pixels, pixels + 1, (2,), generator=stream) for stream in streams]
        moved: Tensor = _Shift.apply(images, torch.stack(draws).to(images.device))
        return moved

    return shifted


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
