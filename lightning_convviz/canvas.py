"""Learnable images: `nn.Module`s without input whose output is a batch of images in the model's value box."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override


@dataclass(frozen=True)
class Box:
    """The values that a model's inputs take: a range for each channel, and how the channels go together.

    Attributes:
        low: smallest value of each channel.
        high: largest value of each channel.
        color: (c, c), turns independent channels into ones correlated like those of real inputs.
    """

    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]
    color: Float[Tensor, "c c"]


def box(images: Float[Tensor, "n c h w"]) -> Box:
    """The value box of example inputs: nobody has to state mean and standard deviation.

    The range is that between the 0.1 and the 99.9 percentile of each channel. The color matrix is the Cholesky factor
    of the channels' correlation, divided by its largest row norm, as Olah et al. 2017 measure it for ImageNet
    (https://distill.pub/2017/feature-visualization, "Preconditioning").

    Example:
        >>> box(torch.linspace(-1, 1, 1001).reshape(1, 1, 7, 143)).low
        tensor([-0.9980])
    """
    values = images.detach().transpose(0, 1).flatten(1)
    values = values.to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    values = values.nan_to_num(0, 0, 0)[:, :: max(1, values.shape[1] // 100_000)]
    low, high = values.quantile(values.new_tensor([0.001, 0.999]), dim=1)
    return Box(low, torch.maximum(high, low + 1e-3), _color(values))


def _color(values: Float[Tensor, "c m"]) -> Float[Tensor, "c c"]:
    centered = values - values.mean(1, keepdim=True)
    deviation = centered.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    standard = centered / deviation
    eye = torch.eye(len(values), dtype=values.dtype, device=values.device)
    # A little of the identity: two equal channels would leave no positive definite matrix.
    correlation = 0.99 * (standard @ standard.T) / values.shape[1] + 0.01 * eye
    factor = torch.linalg.cholesky(correlation)
    scaled: Tensor = factor / factor.norm(dim=1).max()
    return scaled


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A random stream on the CPU for each image: it draws the same whatever the device and the rest of the batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Canvas(nn.Module):
    """A batch of learnable images. Abstract: a new parametrization says how its parameters become unbounded values.

    Image `i` depends on parameters `[i]` and random stream `i` alone. `forward()` maps the values through a sigmoid
    into the box, so that the image shown is the image evaluated, and no pattern can leave the data's range.
    """

    def __init__(
        self, size: tuple[int, int], within: Box, streams: Sequence[torch.Generator], *, contrast: float = 0.01
    ) -> None:
        """Start from blank images.

        Args:
            size: height and width of the images.
            within: the value box.
            streams: one random stream for each image.
            contrast: standard deviation of the parameters at the start; 0.01 is a blank image to the eye.
        """
        super().__init__()
        self.size = size
        self.within = within
        shape = self.parameter_shape(len(within.low), *size)
        noise = [torch.randn(shape, generator=stream, dtype=torch.float64) for stream in streams]
        self.values = nn.Parameter((contrast * torch.stack(noise)).to(within.low))

    @abstractmethod
    def parameter_shape(self, c: int, h: int, w: int) -> tuple[int, ...]:
        """The shape of the parameters of one image."""

    @abstractmethod
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        """The parameters as values without bounds, 0 at mid-range."""

    def forward(self) -> Float[Tensor, "n c h w"]:
        """The images, in the model's input space, between `within.low` and `within.high`."""
        low, high = self.within.low[:, None, None], self.within.high[:, None, None]
        colored = torch.einsum("dc,nchw->ndhw", self.within.color, self.unbounded())
        return low + (high - low) * colored.sigmoid()


class PixelCanvas(Canvas):
    """Pixels as they are."""

    @override
    def parameter_shape(self, c: int, h: int, w: int) -> tuple[int, ...]:
        return (c, h, w)

    @override
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        return self.values


class FourierCanvas(Canvas):
    """Images by their spectrum, low frequencies first.

    `z = GAIN · F⁻¹(values / max(f, 1 / max(h, w)))` with the frequency `f` in cycles per pixel and the orthonormal
    inverse transform: a step of the optimizer then changes all frequencies by amounts natural images have, instead of
    high-frequency noise. Olah et al. 2017, "Preconditioning", https://distill.pub/2017/feature-visualization
    """

    # Lucid's: the spectrum comes out four times too strong for the sigmoid.
    GAIN = 0.25

    @override
    def parameter_shape(self, c: int, h: int, w: int) -> tuple[int, ...]:
        return (c, h, w // 2 + 1, 2)

    @override
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        h, w = self.size
        vertical = torch.fft.fftfreq(h, device=self.values.device, dtype=self.values.dtype)[:, None]
        horizontal = torch.fft.rfftfreq(w, device=self.values.device, dtype=self.values.dtype)
        frequency = torch.sqrt(vertical**2 + horizontal**2).clamp(min=1 / max(h, w))
        spectrum = torch.view_as_complex(self.values) / frequency
        # The size in full: without it an odd width would come back one short.
        image: Tensor = torch.fft.irfft2(spectrum, s=(h, w), norm="ortho")
        return self.GAIN * image
