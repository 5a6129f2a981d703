"""What the sums of a layer say: the figures, on the CPU."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_convviz.layer_stats.bins import percentile
from lightning_convviz.layer_stats.sums import Sums

HIGH = 0.995  # the percentile that is reported
TAU = 0.025  # of a dormant channel, the stricter one of Sokar et al.
CONSTANT = 2e-6  # of the largest value: the rounding of a mean of 10⁴ values is a fourth of it
SHARE = 0.99  # of the variance, for saturation


@dataclass(frozen=True)
class Figures:
    """How a layer answered to a whole validation.

    Values are those of the layer's output as it comes: a "dead" channel tells of a ReLU, where the layer ends with one.
    What a network computes for n images is deterministic; the figures depend on the order and the batches by rounding
    only. Where an output is not finite, `mean`, `effective_rank` and `saturation` are NaN (`mean` may be infinite), its
    channel is neither dead nor dormant, and `high` is NaN or infinite if such values are more than 0.5 %.

    Attributes:
        count: how many images passed.
        channels: how many channels, c.
        sparsity: the share of values that are not above zero, in [0, 1]; of a sample (see `LayerAccumulator`).
        dead: (c,), the channels that were never above zero, at any position of any image, or are constant: no image's
            mean is below the largest value by more than 2e-6 of it.
        dormant: (c,), the channels with E|hᵢ| ≤ 0.025 · meanₖ E|hₖ|: the score of Sokar et al. 2023, "The Dormant
            Neuron Phenomenon in Deep Reinforcement Learning" (https://arxiv.org/abs/2302.12902), Definition 3.1.
        mean: over all values.
        high: the 99.5th percentile of the values, within a bin of 3 to 6 %; of a sample. 0.0 where it is not above
            zero.
        effective_rank: exp H(p), p = σ / Σσ, the singular values σ of the centered mean-pooled features (images x
            channels) and their entropy H: Roy & Vetterli 2007, "The effective rank", section 2. In [1, c], and below
            the number of images too: with fewer images than channels it tells of the images. 1.0 where nothing varies.
        saturation: how many eigen-directions of the covariance of these features hold 99 % of their variance, as a
            share of the channels, in [1 / c, 1]; 1 / c where nothing varies. Shenk et al. 2019, "Feature Space
            Saturation during Training" (https://arxiv.org/abs/2006.08679). Limited by the number of images too.
        features: (m, c), mean-pooled features of the first m images, for `cka`; at most 256.
        fingerprints: (m,), a fingerprint of each of these images, for `same`.
    """

    count: int
    channels: int
    sparsity: float
    dead: Bool[Tensor, " c"]
    dormant: Bool[Tensor, " c"]
    mean: float
    high: float
    effective_rank: float
    saturation: float
    features: Float[Tensor, "m c"]
    fingerprints: Float[Tensor, " m"]

    def scalars(self) -> dict[str, float]:
        """Numbers to plot; dead and dormant channels and the effective rank are shares of the channels."""
        return {
            "sparsity": self.sparsity,
            "dead": float(self.dead.double().mean()),
            "dormant": float(self.dormant.double().mean()),
            "mean": self.mean,
            "high": self.high,
            "effective_rank": self.effective_rank / self.channels,
            "saturation": self.saturation,
        }


def figures(sums: Sums) -> Figures:
    """What sums say. The only place that waits for the device, and that takes more than a moment.

    >>> from lightning_convviz.layer_stats import LayerAccumulator
    >>> accumulator = LayerAccumulator()
    >>> maps = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]], [[[1.0, 5.0]], [[0.0, -1.0]]]])
    >>> accumulator.update(accumulator.reduce(maps), torch.zeros(2, 3, 4, 4))
    >>> found = figures(accumulator.compute())
    >>> found.sparsity, found.dead.tolist(), found.mean
    (0.625, [False, True], 0.875)
    """
    sums = sums.cpu()
    magnitude = sums.magnitude / sums.count
    eigenvalues = spectrum(sums)
    return Figures(
        count=sums.count,
        channels=sums.channels,
        sparsity=float(sums.bins[0]) / float(sums.bins.sum()),
        dead=(sums.peak <= 0) | (sums.low >= sums.peak - CONSTANT * sums.peak.abs()),
        dormant=magnitude <= TAU * magnitude.mean(),
        mean=float(sums.mean.mean()),
        high=percentile(sums.bins, HIGH, float(sums.peak.max())),
        effective_rank=effective_rank(eigenvalues),
        saturation=saturation(eigenvalues, sums.channels),
        features=sums.features,
        fingerprints=sums.fingerprints,
    )


def spectrum(sums: Sums) -> Float[Tensor, " k"]:
    """Eigenvalues of the scatter matrix of the mean-pooled features, falling; what is rounding is 0.

    Of the first images' features alone where there are too many channels for a matrix. Without an element where they
    are not finite.
    """
    scatter, precision = sums.scatter, sums.mean.dtype
    if scatter is None:  # the nonzero eigenvalues of XXᵀ are those of XᵀX
        centered = sums.features.double() - sums.features.double().mean(0)
        scatter, precision = centered @ centered.T, sums.features.dtype
    if not scatter.isfinite().all():
        return scatter.new_empty(0)
    found = torch.linalg.eigvalsh(scatter.double()).flip(0)
    # Features are float32 at best, their scatter is so around the mean: below that there is no variance to speak of.
    rounding = torch.finfo(precision).eps * len(scatter) * found[0]
    return torch.where(found > rounding.clamp(min=_noise(sums)), found, 0.0)


def _noise(sums: Sums) -> float:
    """How much scatter the rounding of features alone may make."""
    size = torch.finfo(sums.features.dtype).eps * float(sums.mean.abs().max())
    return sums.count * size**2


def effective_rank(eigenvalues: Float[Tensor, " k"]) -> float:
    """The exponential of the entropy of the normalized square roots; NaN of none.

    >>> round(effective_rank(torch.tensor([4.0, 4.0, 0.0])), 6)
    2.0
    """
    singular = eigenvalues.sqrt()
    if not len(singular):
        return math.nan
    if not singular[0] > 0:
        return 1.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def saturation(eigenvalues: Float[Tensor, " k"], channels: int) -> float:
    """How many of them, the largest first, hold 99 % of their sum, as a share of the channels; NaN of none.

    >>> saturation(torch.tensor([98.0, 1.0, 1.0, 0.0]), channels=4)
    0.5
    """
    if not len(eigenvalues):
        return math.nan
    up_to = eigenvalues.cumsum(0)
    return (int((up_to < SHARE * up_to[-1] * (1 - 1e-12)).sum()) + 1) / channels
