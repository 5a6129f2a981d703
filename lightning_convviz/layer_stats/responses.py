"""What filters answer to real pictures: figures over all images that pass, and the image that each answers to most.

Everything stays on the device, and nothing waits for it: this runs inside a user's own validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SIDE = 224  # pixels: of larger images a smaller copy is kept
Batch = tuple[Float[Tensor, "n k 5"], tuple[int, int]]
FIGURES = ("peak", "place", "mean", "variance", "low")


def reduced(output: Float[Tensor, "n c y x"], index: Int[Tensor, " k"]) -> Float[Tensor, "n k 5"]:
    """Of each image and channel: largest value, its position `y · X + x`, mean, variance and smallest value.

    >>> reduced(torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]]]), torch.tensor([0]))
    tensor([[[3.0000, 1.0000, 1.0000, 1.5000, 0.0000]]])
    """
    flat = output.index_select(1, index).flatten(2).float()
    peak, place = flat.max(2)
    variance, mean = torch.var_mean(flat, 2, correction=0)
    return torch.stack([peak.nan_to_num(-torch.inf), place.to(peak), mean, variance, flat.amin(2)], 2)


@dataclass(frozen=True)
class ChannelResponses:
    """What k channels answered to all images.

    Attributes:
        channels: which ones.
        count: how many images there were.
        mean: (k,), over images and positions.
        deviation: (k,), the standard deviation over images and positions.
        low: (k,), the smallest value.
        peak: (k,), the largest value.
        images: (k, c, h, w), the image with the largest value.
        places: (k, 2), where that is in the image, y and x as shares of its height and width, in (0, 1).
    """

    channels: list[int]
    count: int
    mean: Float[Tensor, " k"]
    deviation: Float[Tensor, " k"]
    low: Float[Tensor, " k"]
    peak: Float[Tensor, " k"]
    images: Float[Tensor, "k c h w"]
    places: Float[Tensor, "k 2"]

    @property
    def silent(self) -> Tensor:
        """Which channels answered the same to everything, (k,)."""
        found: Tensor = self.peak <= self.low
        return found

    def sigmas(self, values: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Values as standard deviations above the mean; 0 where there is no deviation."""
        values = (values - self.mean.to(values)) / self.deviation.to(values).clamp(min=1e-12)
        return torch.where(self.silent.to(values.device), 0.0, values)

    def cpu(self) -> "ChannelResponses":
        """The same in main memory."""
        moved: dict[str, Any] = {name: each.cpu() for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **moved)


class ResponseAccumulator:
    """Running figures of some channels of a layer.

    Means and variances of batches are put together after Chan, Golub and LeVeque 1983, "Algorithms for computing the
    sample variance": no cancellation, whatever the size of the mean.

    Example:
        >>> responses = ResponseAccumulator([0])
        >>> maps = torch.tensor([[[[0.0, 2.0]]], [[[1.0, 5.0]]]])
        >>> responses.update(responses.reduce(maps), torch.zeros(2, 3, 4, 4))
        >>> seen = responses.compute()
        >>> seen.mean, seen.deviation, seen.peak, seen.places
        (tensor([2.]), tensor([1.8708]), tensor([5.]), tensor([[0.5000, 0.7500]]))
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self.channels = list(channels)
        self._index = torch.as_tensor(self.channels)
        self.reset()

    def reset(self) -> None:
        """A new validation begins."""
        self._count = 0
        self._state: dict[str, Tensor] | None = None

    def reduce(self, output: Float[Tensor, "n c y x"]) -> Batch:
        """What to take of a batch's output, of these channels: `reduced`, and the size of the maps."""
        self._index = self._index.to(output.device)  # once
        return reduced(output, self._index), (output.shape[2], output.shape[3])

    def update(self, batch: Batch, images: Float[Tensor, "n c h w"]) -> None:
        """Take a batch: what `reduce` made of a layer's output, and its images.

        Images of another shape than the first ones are kept at the first ones' size.
        """
        with torch.inference_mode(False), torch.no_grad():
            figures, size = batch
            peak, place, mean, variance, low = (figures[..., index].clone() for index in range(len(FIGURES)))
            between, middle = torch.var_mean(mean, 0, correction=0)
            best, row = peak.max(0)
            where = place.gather(0, row[None])[0]
            places = torch.stack([(where // size[1] + 0.5) / size[0], (where % size[1] + 0.5) / size[1]], 1)
            state = {
                "mean": middle, "power": variance.mean(0) + between, "low": low.amin(0), "peak": best, "places": places,
                "images": resize_to_side(images.detach()[row.to(images.device)]).to(best.device, copy=True),
            }  # fmt: skip
            count, self._count = self._count, self._count + len(images)
            self._state = state if self._state is None else _merged(self._state, state, count, len(images))

    def compute(self) -> ChannelResponses | None:
        """The figures so far; None where nothing has passed."""
        if self._state is None:
            return None
        return _seen(self.channels, self._count, self._state)

    @staticmethod
    def merge(parts: Sequence[ChannelResponses | None]) -> ChannelResponses | None:
        """What several processes saw, each of a part of the images, in main memory."""
        found = [part.cpu() for part in parts if part is not None]
        found = [part for part in found if part.channels == found[0].channels]  # a rank that is behind may have others
        if not found:
            return None
        state, count = _state(found[0]), found[0].count
        for part in found[1:]:
            state = _merged(state, _state(part), count, part.count)
            count += part.count
        return _seen(found[0].channels, count, state)


def _seen(channels: list[int], count: int, state: dict[str, Tensor]) -> ChannelResponses:
    return ChannelResponses(
        channels, count, state["mean"], state["power"].sqrt(), state["low"], state["peak"], state["images"],
        state["places"],
    )  # fmt: skip


def _state(seen: ChannelResponses) -> dict[str, Tensor]:
    return {
        "mean": seen.mean, "power": seen.deviation.square(), "low": seen.low, "peak": seen.peak,
        "places": seen.places, "images": seen.images,
    }  # fmt: skip


def _merged(old: dict[str, Tensor], new: dict[str, Tensor], before: int, more: int) -> dict[str, Tensor]:
    share, apart = more / (before + more), new["mean"] - old["mean"]
    chosen = partial(_chosen, new["peak"] > old["peak"])
    return {
        "mean": old["mean"] + share * apart,
        "power": (1 - share) * old["power"] + share * new["power"] + share * (1 - share) * apart.square(),
        "low": torch.minimum(old["low"], new["low"]),
        "peak": chosen(old["peak"], new["peak"]),
        "places": chosen(old["places"], new["places"]),
        "images": chosen(old["images"], resize_like(new["images"], old["images"])),
    }


def _chosen(better: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(better.view(-1, *[1] * (old.ndim - 1)), new, old)


def resize_like(images: Float[Tensor, "k c _ _"], like: Float[Tensor, "k c v u"]) -> Float[Tensor, "k c v u"]:
    """Images at the size of others; places in them are shares, and stay where they are."""
    if images.shape == like.shape:
        return images
    return F.interpolate(images.float(), size=like.shape[2:], mode="area").to(like)


def resize_to_side(images: Float[Tensor, "k c h w"], side: int = SIDE) -> Float[Tensor, "k c v u"]:
    """Images whose longer side is at most `side`: means of the larger ones' pixels."""
    h, w = images.shape[2:]
    if max(h, w) <= side:
        return images
    size = max(1, round(h * side / max(h, w))), max(1, round(w * side / max(h, w)))
    return F.interpolate(images.float(), size=size, mode="area")


def patches(seen: ChannelResponses, field: tuple[float, float], size: tuple[int, int]) -> Float[Tensor, "k c h w"]:
    """Of each channel's best image the part around its largest value.

    Args:
        seen: the images, and where in them the values are.
        field: height and width of the part, as shares of the image.
        size: height and width of what is returned.
    """
    h, w = seen.images.shape[2:]
    height, width = (max(1, min(side, round(side * share))) for side, share in zip((h, w), field, strict=True))
    corners: Int[Tensor, "k 2"] = torch.stack([
        (seen.places[:, 0] * h - height / 2).round().clamp(0, h - height),
        (seen.places[:, 1] * w - width / 2).round().clamp(0, w - width),
    ], 1).long()  # fmt: skip
    cut = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(seen.images, corners.tolist(), strict=True)]
    return F.interpolate(torch.stack(cut).float(), size=size, mode="nearest-exact" if height <= size[0] else "area")
