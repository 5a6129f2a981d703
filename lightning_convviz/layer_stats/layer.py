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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Num
from torch import Tensor

from lightning_convviz.layer_stats.bins import BINS, counts
from lightning_convviz.layer_stats.similarity import fingerprints
from lightning_convviz.layer_stats.sums import PICTURES, Sums, join

WHOLE, SIDE = 8, 4  # positions along y and x: as many are read whole, of more this many at most
VALUES = 512  # of an image, counted in bins
TOGETHER = 256  # images whose small results wait, to be summed by a few large operations and not by many small ones
CHANNELS = 1024  # a c x c matrix of more is above 8 MB, on the device and sent between ranks, for every layer


@dataclass(frozen=True)
class Batch:
    """What is taken of a batch's output, image by image; all is new memory.

    Attributes:
        features: (n, c), means over the positions.
        peaks: (n, c), the largest values.
        magnitudes: (n, c), the grid's mean |h|.
        sample: (n, s), values to be counted in bins.
    """

    features: Float[Tensor, "n c"]
    peaks: Float[Tensor, "n c"]
    magnitudes: Float[Tensor, "n c"]
    sample: Float[Tensor, "n s"]

    def __len__(self) -> int:
        return len(self.features)


class LayerAccumulator:
    """Running sums of one layer's output over one validation.

    Sums are in float64, where the device has it, around the mean of the first images: any split into batches gives the
    same figures but for rounding. On the device it keeps at most 256 x c features, a c x c matrix (up to 1024 channels;
    above, effective rank and saturation are those of the kept features), and of up to 256 images and a batch what waits
    to be summed, 3 c + 512 numbers each. All operations are deterministic on CUDA; the product for the matrix is
    cuBLAS's, which wants CUBLAS_WORKSPACE_CONFIG under `torch.use_deterministic_algorithms(True)`, as every linear
    layer does.

    Args:
        pictures: how many images' features are kept, the first ones that pass. Of several ranks each keeps its share.

    Example:
        >>> accumulator = LayerAccumulator()
        >>> maps = torch.tensor([[[[0.0, 2.0]]], [[[1.0, 5.0]]]])
        >>> accumulator.update(accumulator.reduce(maps), torch.zeros(2, 3, 4, 4))
        >>> sums = accumulator.compute()
        >>> sums.count, sums.peak.tolist(), sums.mean.tolist(), sums.scatter.tolist()
        (2, [5.0], [2.0], [[2.0]])
    """

    def __init__(self, pictures: int = PICTURES) -> None:
        self.pictures = pictures
        self.reset()

    def reset(self) -> None:
        """A new validation begins."""
        self._count = 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._waiting: list[Batch] = []
        self._running: _Running | None = None

    def reduce(self, output: Float[Tensor, "n c y x"]) -> Batch:
        """What to take of a batch's output; inside the forward that makes it, for the net may overwrite it later."""
        with torch.no_grad():
            wide = torch.promote_types(output.dtype, torch.float32)
            grid = _grid(output).to(wide)
            if grid.stride() != output.stride():  # a copy is cheaper than to pass twice over one with gaps
                grid = grid.clone()
            return Batch(
                features=output.mean((2, 3), dtype=wide),
                peaks=output.amax((2, 3)),
                magnitudes=grid.abs().mean((2, 3)),
                sample=_sample(grid).clone(),
            )

    def update(self, batch: Batch, images: Num[Tensor, "n ..."]) -> None:
        """Take a batch: what `reduce` made of a layer's output, and its images, once they are known."""
        room = max(0, self.pictures - self._count)
        with torch.inference_mode(False), torch.no_grad():
            if room or not self._kept:
                self._kept.append((batch.features[:room], fingerprints(images[:room]).to(batch.features.device)))
        self._waiting.append(batch)
        self._count += len(batch)
        if sum(map(len, self._waiting)) >= TOGETHER:
            self._flush()

    def compute(self) -> Sums | None:
        """The sums so far; None where nothing has passed."""
        self._flush()
        if self._running is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            features, fingerprints = (torch.cat(each) for each in zip(*self._kept, strict=True))
            return self._running.compute(self._count, features, fingerprints)

    def _flush(self) -> None:
        """Put what waits into the sums."""
        if not self._waiting:
            return
        with torch.inference_mode(False), torch.no_grad():  # what is updated later must be a normal tensor
            features, peaks, magnitudes = (
                torch.cat([getattr(batch, name) for batch in self._waiting])
                for name in ("features", "peaks", "magnitudes")
            )
            sample = torch.cat([batch.sample.flatten() for batch in self._waiting])
            if self._running is None:
                self._running = _Running(features)
            self._running.update(features, peaks.to(features), magnitudes, sample)
        self._waiting.clear()

    @staticmethod
    def merge(parts: Sequence[Sums | None]) -> Sums | None:
        """The sums of several processes, each of a part of the images, as one; in main memory, ranks in order.

        Features are those of the first rank's images, then the second's, at most 256. None where nothing passed
        anywhere.
        """
        found = [part.cpu() for part in parts if part is not None]
        found = [
            part for part in found if part.channels == found[0].channels
        ]  # a rank that is behind may have another net
        if not found:
            return None
        whole = found[0]
        for part in found[1:]:
            whole = join(whole, part)
        return (
            replace(whole, features=whole.features[:PICTURES], fingerprints=whole.fingerprints[:PICTURES])
            if found[1:]
            else whole
        )


class _Running:
    """Sums on the device, updated in place."""

    def __init__(self, features: Float[Tensor, "n c"]) -> None:
        exact, channels = _exact(features.device), features.shape[1]
        self.origin = features.mean(0, dtype=exact).nan_to_num(0.0, 0.0, 0.0)
        self.total = torch.zeros_like(self.origin)
        self.magnitude = torch.zeros_like(self.origin)
        self.scatter = self.origin.new_zeros(channels, channels) if channels <= CHANNELS else None
        self.bins = torch.zeros(BINS, dtype=torch.int64, device=features.device)
        self.peak, self.low = features.new_full((channels,), -torch.inf), features.new_full((channels,), torch.inf)

    def update(
        self,
        features: Float[Tensor, "n c"],
        peaks: Float[Tensor, "n c"],
        magnitudes: Float[Tensor, "n c"],
        sample: Float[Tensor, " _"],
    ) -> None:
        offset = features.to(self.origin.dtype) - self.origin
        self.total += offset.sum(0)
        if self.scatter is not None:
            self.scatter.addmm_(offset.T, offset)  # in place, which autocast does not touch
        self.magnitude += magnitudes.sum(0, dtype=self.magnitude.dtype)
        self.bins += counts(sample)
        torch.maximum(self.peak, peaks.amax(0), out=self.peak)
        torch.minimum(self.low, features.amin(0), out=self.low)

    def compute(self, count: int, features: Float[Tensor, "m c"], fingerprints: Float[Tensor, " m"]) -> Sums:
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
            fingerprints=fingerprints,
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
