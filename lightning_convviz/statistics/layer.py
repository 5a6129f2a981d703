"""Running sums of a layer's output while a validation passes; everything on the device, and nothing waits for it.

How a pass over the maps is spent, for the maps of a layer are what costs:

- All values are read twice: for the mean of each image and channel, and for the largest value of each channel (one
  value in the whole validation makes a channel alive).
- The mean |h| comes from a grid, the same for every image: all positions of maps of up to 8 x 8, and about 4 x 4 of
  larger ones, where an image has little more to tell.
- For sparsity and percentile at most 512 values of an image's grid are counted in bins, again a fixed stride apart. It
  has no divisor in common with the size of the grid, so that neighbor channels are read at other positions.

So maps of up to 8 x 8 with at most 512 values in all are read whole, and every figure is exact. What is read depends
on the shape alone: neither batches nor memory order change it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from lightning_convviz.statistics.bins import counts
from lightning_convviz.statistics.similarity import prints
from lightning_convviz.statistics.sums import PICTURES, Sums

WHOLE, SIDE = 8, 4  # positions along y and x: as many are read whole, of more this many at most
VALUES = 512  # of an image, counted in bins
CHANNELS = 1024  # a c x c matrix of more is above 8 MB, on the device and sent between ranks, for every layer


@dataclass(frozen=True)
class Batch:
    """What is taken of a batch's output; all is new memory.

    Attributes:
        features: (n, c), means over the positions.
        peak: (c,), the largest value.
        low: (c,), the smallest mean of an image.
        magnitude: (c,), the sum over images of the grid's mean |h|.
        bins: counts of the sampled values.
    """

    features: Float[Tensor, "n c"]
    peak: Float[Tensor, " c"]
    low: Float[Tensor, " c"]
    magnitude: Float[Tensor, " c"]
    bins: Int[Tensor, " bins"]

    def __len__(self) -> int:
        return len(self.features)


class Tally:
    """Running sums of one layer's output over one validation.

    Sums are in float64, where the device has it, around the first batch's mean: any split into batches gives the same
    figures but for rounding. On the device it keeps at most 256 x c features, a c x c matrix (up to 1024 channels;
    above, effective rank and saturation are those of the kept features), and a few numbers for each channel. All
    operations are deterministic on CUDA; the product for the matrix is cuBLAS's, which wants CUBLAS_WORKSPACE_CONFIG
    under `torch.use_deterministic_algorithms(True)`, as every linear layer does.

    Args:
        pictures: how many images' features are kept, the first ones that pass. Of several ranks each keeps its share.

    Example:
        >>> tally = Tally()
        >>> maps = torch.tensor([[[[0.0, 2.0]]], [[[1.0, 5.0]]]])
        >>> tally.add(tally.reduce(maps), torch.zeros(2, 3, 4, 4))
        >>> sums = tally.sums()
        >>> sums.count, sums.peak.tolist(), sums.mean.tolist(), sums.scatter.tolist()
        (2, [5.0], [2.0], [[2.0]])
    """

    def __init__(self, pictures: int = PICTURES) -> None:
        self.pictures = pictures
        self.clear()

    def clear(self) -> None:
        """A new validation begins."""
        self._count = 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._running: _Running | None = None

    def reduce(self, output: Float[Tensor, "n c y x"]) -> Batch:
        """What to take of a batch's output; inside the forward that makes it, for the net may overwrite it later."""
        with torch.no_grad():
            wide = torch.promote_types(output.dtype, torch.float32)
            grid = _grid(output).to(wide)
            if grid.stride() != output.stride():  # a copy is cheaper than to pass twice over one with gaps
                grid = grid.clone()
            features = output.mean((2, 3), dtype=wide)
            return Batch(
                features=features,
                peak=output.amax((2, 3)).amax(0).to(wide),  # in two steps: up to seven times as fast on a CPU
                low=features.amin(0),
                magnitude=grid.abs().mean((2, 3)).sum(0, dtype=_exact(output.device)),
                bins=counts(_sample(grid)),
            )

    def add(self, batch: Batch, images: Num[Tensor, "n ..."]) -> None:
        """Take a batch: what `reduce` made of a layer's output, and its images, once they are known."""
        device, room = batch.features.device, max(0, self.pictures - self._count)
        # Running sums must be normal tensors in inference mode too; autocast must not round float32 matrices.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            if room or not self._kept:
                self._kept.append((batch.features[:room], prints(images[:room]).to(device)))
            if self._running is None:
                self._running = _Running(batch)
            self._running.add(batch)
            self._count += len(batch)

    def sums(self) -> Sums | None:
        """The sums so far; None where nothing has passed."""
        if self._running is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            features, fingerprints = (torch.cat(each) for each in zip(*self._kept, strict=True))
            return self._running.sums(self._count, features, fingerprints)


class _Running:
    """Sums on the device, updated in place."""

    def __init__(self, first: Batch) -> None:
        exact, channels = _exact(first.features.device), first.features.shape[1]
        self.origin = first.features.mean(0, dtype=exact).nan_to_num(0.0, 0.0, 0.0)
        self.total = torch.zeros_like(self.origin)
        self.magnitude = torch.zeros_like(self.origin)
        self.scatter = self.origin.new_zeros(channels, channels) if channels <= CHANNELS else None
        self.bins = torch.zeros_like(first.bins, dtype=torch.int64)
        self.peak, self.low = first.peak.clone(), first.low.clone()

    def add(self, batch: Batch) -> None:
        offset = batch.features.to(self.origin.dtype) - self.origin
        self.total += offset.sum(0)
        if self.scatter is not None:
            self.scatter.addmm_(offset.T, offset)
        self.magnitude += batch.magnitude
        self.bins += batch.bins
        torch.maximum(self.peak, batch.peak, out=self.peak)
        torch.minimum(self.low, batch.low, out=self.low)

    def sums(self, count: int, features: Float[Tensor, "m c"], fingerprints: Float[Tensor, " m"]) -> Sums:
        apart, scatter = self.total / count, self.scatter
        return Sums(
            count=count,
            bins=self.bins.clone(),
            peak=self.peak.clone(),
            low=self.low.clone(),
            magnitude=self.magnitude.clone(),
            mean=self.origin + apart,
            scatter=None if scatter is None else scatter - torch.outer(self.total, apart),
            features=features,
            prints=fingerprints,
        )


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _grid(maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c v u"]:
    """The centers of equal cells, so that a frame, which padding makes, weighs what it is; a view."""
    steps = [1 if side <= WHOLE else -(-side // SIDE) for side in maps.shape[2:]]
    begins = [(step - 1 + side % step) // 2 for side, step in zip(maps.shape[2:], steps, strict=True)]
    return maps[:, :, begins[0] :: steps[0], begins[1] :: steps[1]]


def _sample(grid: Float[Tensor, "n c v u"]) -> Float[Tensor, "n _"]:
    """At most 512 values of each image, a fixed stride apart in (c, v, u) order."""
    positions = grid.shape[2] * grid.shape[3]
    stride = max(1, -(-grid.shape[1] * positions // VALUES))
    while stride > 1 and math.gcd(stride, positions) > 1:
        stride += 1
    return grid.flatten(1)[:, ::stride]
