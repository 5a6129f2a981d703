"""What is kept of one layer over one validation; parts of several ranks are put together."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

PICTURES = 256  # images whose features are kept


@dataclass(frozen=True)
class Sums:
    """Sums over n images that passed; those in float64 are so in float32 on a device without it (MPS).

    Attributes:
        count: n.
        bins: how many sampled values are in each bin.
        peak: (c,), the largest value.
        low: (c,), the smallest mean of an image: below the peak, but for rounding, where anything varies.
        magnitude: (c,), the sum over images of the mean |h| of the sampled positions, float64.
        mean: (c,), of the mean-pooled features, float64.
        scatter: (c, c), Σ (f - mean) (f - mean)ᵀ of these features, float64; None where there are too many channels.
        features: (m, c), those of the first m images.
        fingerprints: (m,), their fingerprints.
    """

    count: int
    bins: Int[Tensor, " bins"]
    peak: Float[Tensor, " c"]
    low: Float[Tensor, " c"]
    magnitude: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    scatter: Float[Tensor, "c c"] | None
    features: Float[Tensor, "m c"]
    fingerprints: Float[Tensor, " m"]

    @property
    def channels(self) -> int:
        """How many channels, c."""
        return len(self.peak)

    def cpu(self) -> "Sums":
        """The same in main memory; waits for the device."""
        moved: dict[str, Any] = {name: each.cpu() for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **moved)


def join(one: Sums, two: Sums) -> Sums:
    """The sums of two parts of the images as one; features are those of the first part, then the second's."""
    count = one.count + two.count
    share, apart = two.count / count, two.mean - one.mean
    scatter = None
    if one.scatter is not None and two.scatter is not None:  # after Chan, Golub and LeVeque 1983
        scatter = one.scatter + two.scatter + one.count * share * torch.outer(apart, apart)
    return Sums(
        count=count,
        bins=one.bins + two.bins,
        peak=torch.maximum(one.peak, two.peak),
        low=torch.minimum(one.low, two.low),
        magnitude=one.magnitude + two.magnitude,
        mean=one.mean + share * apart,
        scatter=scatter,
        features=torch.cat([one.features, two.features]),
        fingerprints=torch.cat([one.fingerprints, two.fingerprints]),
    )
