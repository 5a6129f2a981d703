"""Model input <-> [0, 1] for display; the only place that knows mean and standard deviation."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Denormalization:
    """How model input becomes a picture: `display = input * scale + offset`, channel by channel.

    Attributes:
        scale: one number for each channel, or one for all.
        offset: likewise.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def display(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
        """Images as RGB in [0, 1], clamped. One channel becomes gray; of more than three, the first three are shown.

        >>> Denormalization((0.5,), (0.5,)).display(torch.tensor([[[[-1.0, 0.0, 1.0]]]]))[0, :, 0, 1]
        tensor([0.5000, 0.5000, 0.5000])
        """
        images = images.float()
        scale, offset = (images.new_tensor(values)[:, None, None] for values in (self.scale, self.offset))
        shown = (images * scale + offset).clamp(0, 1)
        if shown.shape[1] == 1:
            return shown.expand(-1, 3, -1, -1)
        if shown.shape[1] == 2:
            return torch.cat([shown, torch.zeros_like(shown[:, :1])], dim=1)
        return shown[:, :3]


def normalized(mean: Sequence[float], std: Sequence[float]) -> Denormalization:
    """The space of images in [0, 1] to which `(image - mean) / std` was applied.

    Raises:
        ValueError: where the lengths differ or a standard deviation is not positive.
    """
    mean, std = [float(value) for value in mean], [float(value) for value in std]
    if len(mean) != len(std):
        raise ValueError(f"`mean` has {len(mean)} numbers and `std` has {len(std)}. Give one of each for each channel.")
    if min(std) <= 0:
        raise ValueError(f"`std` is {std}. Each must be greater than 0.")
    return Denormalization(tuple(std), tuple(mean))


def estimate(images: Float[Tensor, "n c h w"]) -> Denormalization:
    """A space for display where nobody gave mean and standard deviation.

    Images within [0, 1], or from 0 to well over 16 and at most 255, are taken as they are. Of others, the range between
    the 0.1 and the 99.9 percentile over all channels becomes [0, 1]: colors keep their balance.
    """
    values = images.detach().float().flatten()
    low, high = float(values.min()), float(values.max())
    if low >= 0 and (high <= 1.05 or 16 < high <= 255):  # a little over 1 comes from resampling
        return Denormalization((1.0,) if high <= 1.05 else (1 / 255,), (0.0,))
    values = values[:: max(1, len(values) // 100_000)]
    low, high = values.quantile(values.new_tensor([0.001, 0.999])).tolist()
    scale = 1 / max(high - low, 1e-6)
    return Denormalization((scale,), (-low * scale,))


def find_normalization(dataset: Any) -> Denormalization | None:
    """The normalization among a data set's transforms, if there is one; looks through subsets and concatenations."""
    for part in datasets(dataset):
        for transform in _flattened([getattr(part, name, None) for name in ("transform", "transforms")]):
            mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
            if isinstance(mean, Sequence | Tensor) and isinstance(std, Sequence | Tensor):
                with suppress(ValueError, TypeError):  # something else that has these names
                    return normalized([float(value) for value in mean], [float(value) for value in std])
    return None


def for_channels(space: Denormalization | None, channels: int) -> Denormalization | None:
    """The space, if it is one for images of so many channels."""
    return space if space is not None and len(space.scale) in (1, channels) else None


def datasets(dataset: Any) -> Iterator[Any]:
    """A data set and those it wraps, outermost first."""
    for _ in range(8):  # deep enough for any honest nesting, and no endless loop for a dishonest one
        if dataset is None:
            return
        yield dataset
        inner = getattr(dataset, "dataset", None)
        parts = getattr(dataset, "datasets", None)
        dataset = inner if inner is not None else (parts[0] if isinstance(parts, Sequence) and parts else None)


def _flattened(transforms: Sequence[Any]) -> Iterator[Any]:
    for transform in transforms:
        yield transform
        for name in ("transforms", "transform"):
            inner = getattr(transform, name, None)
            if isinstance(inner, Sequence):
                yield from _flattened(list(inner))
            elif inner is not None and inner is not transform:
                yield from _flattened([inner])
