"""Learnable images: `nn.Module`s without input whose output is a batch of images in the model's value box."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override


@dataclass(frozen=True)
class Box:
    """The values that a model's inputs take: a range for each channel, and how channels and frequencies go together.

    Attributes:
        low: smallest value of each channel.
        high: largest value of each channel.
        color: (c, c), turns independent channels into ones correlated like those of real inputs.
        spectrum: (c, h, w // 2 + 1), how strong each frequency of the independent channels is, as `rfft2` orders them;
            None where no example was seen.
    """

    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]
    color: Float[Tensor, "c c"]
    spectrum: Float[Tensor, "c v u"] | None = None


def box(images: Float[Tensor, "n c h w"]) -> Box:
    """The value box of example inputs: nobody has to state mean and standard deviation.

    The range is that between the 0.1 and the 99.9 percentile of each channel. The color matrix is the Cholesky factor
    of the channels' correlation, divided by its largest row norm, as Olah et al. 2017 measure it for ImageNet
    (https://distill.pub/2017/feature-visualization, "Preconditioning"). The spectrum is the mean amplitude over the
    examples, of channels that the inverse of the color matrix makes independent.

    Example:
        >>> box(torch.linspace(-1, 1, 1001).reshape(1, 1, 7, 143)).low
        tensor([-0.9980])
    """
    wide = images.detach().to(torch.float64 if images.dtype == torch.float64 else torch.float32).nan_to_num(0, 0, 0)
    values = wide.transpose(0, 1).flatten(1)
    values = values[:, :: max(1, values.shape[1] // 100_000)]
    low, high = values.quantile(values.new_tensor([0.001, 0.999]), dim=1)
    color = _color(values)
    return Box(low, torch.maximum(high, low + 1e-3), color, _spectrum(wide, color))


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


def _spectrum(images: Float[Tensor, "n c h w"], color: Float[Tensor, "c c"]) -> Float[Tensor, "c v u"]:
    centered = images - images.mean((0, 2, 3), keepdim=True)
    standard = centered / centered.square().mean((0, 2, 3), keepdim=True).sqrt().clamp(min=1e-6)
    apart = torch.einsum("dc,nchw->ndhw", torch.linalg.inv(color), standard)
    amplitudes: Tensor = torch.fft.rfft2(apart, norm="ortho").abs().mean(0)
    return amplitudes


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A random stream on the CPU for each image: it draws the same whatever the device and the rest of the batch."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Canvas(nn.Module):
    """A batch of learnable images. Abstract: a new parametrization says how its parameters become unbounded values.

    Image `i` depends on parameters `[i]` and random stream `i` alone. `forward()` maps the values through a sigmoid
    into the box, so that the image shown is the image evaluated, and no pattern can leave the data's range. The sigmoid
    goes a little beyond the box and is cut off, since many real images reach its ends.
    """

    STRETCH = 1.25

    normalized = False  # whether it is raised along the normalized gradient, and not by Adam
    rate = 0.1  # the length of a step that suits it

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

    @staticmethod
    @abstractmethod
    def parameter_shape(c: int, h: int, w: int) -> tuple[int, ...]:
        """The shape of the parameters of one image."""

    @abstractmethod
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        """The parameters as values without bounds, 0 at mid-range."""

    def forward(self) -> Float[Tensor, "n c h w"]:
        """The images, in the model's input space, between `within.low` and `within.high`."""
        colored = torch.einsum("dc,nchw->ndhw", self.within.color, self.unbounded())
        return self._placed((0.5 + self.STRETCH * (colored.sigmoid() - 0.5)).clamp(0, 1))

    def blank(self) -> Float[Tensor, "1 c h w"]:
        """The image at mid-range, from which every ascent begins."""
        return self._placed(self.within.low.new_full((1, len(self.within.low), *self.size), 0.5))

    def _placed(self, shares: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        low, high = self.within.low[:, None, None], self.within.high[:, None, None]
        return low + (high - low) * shares

    @torch.no_grad()
    def resume(self, rows: Sequence[int], values: Float[Tensor, "m ..."], shrink: float) -> None:
        """Go on from earlier parameters: `shrink` of them, and `1 - shrink` of the blank start.

        Shrink and perturb, as Ash and Adams 2020 (https://arxiv.org/abs/1910.08475) do with weights: parameters that
        have grown large under an earlier network answer no gradient any more.

        Args:
            rows: which images.
            values: their parameters, as `values` was then.
            shrink: 1 goes on as if nothing had happened, 0 begins anew.
        """
        index = torch.as_tensor(list(rows), device=self.values.device)
        self.values[index] = shrink * values.to(self.values) + (1 - shrink) * self.values[index]

    def project(self) -> None:
        """After a step: bring parameters back to where they mean something."""


class PixelCanvas(Canvas):
    """Pixels as they are."""

    @staticmethod
    @override
    def parameter_shape(c: int, h: int, w: int) -> tuple[int, ...]:
        return (c, h, w)

    @override
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        return self.values


class PlainCanvas(Canvas):
    """Pixels without any parametrization, cut off at the ends of the box, raised along the normalized gradient.

    Chollet, "Deep Learning with Python", 2nd ed., 9.4.2, in a form that does not depend on the resolution: there the
    step is 10 along a gradient of norm 1 over 200 x 200 pixels, here its root mean square is 1.
    """

    normalized = True
    rate = 0.03

    @staticmethod
    @override
    def parameter_shape(c: int, h: int, w: int) -> tuple[int, ...]:
        return (c, h, w)

    @override
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        return self.values

    @override
    def forward(self) -> Float[Tensor, "n c h w"]:
        return self._placed(0.5 + self.unbounded())

    @override
    @torch.no_grad()
    def project(self) -> None:
        self.values.clamp_(-0.5, 0.5)


class FourierCanvas(Canvas):
    """Images by their spectrum, low frequencies first.

    `z = GAIN · F⁻¹(values / max(f, 1 / max(h, w)))` with the frequency `f` in cycles per pixel and the orthonormal
    inverse transform: a step of the optimizer then changes all frequencies by amounts natural images have, instead of
    high-frequency noise. Olah et al. 2017, "Preconditioning", https://distill.pub/2017/feature-visualization
    """

    # Lucid's: the spectrum comes out four times too strong for the sigmoid.
    GAIN = 0.25
    rate = 0.1  # for some dozen steps; Lucid's 0.05 is for hundreds, and 0.2 saturates the colors

    @staticmethod
    @override
    def parameter_shape(c: int, h: int, w: int) -> tuple[int, ...]:
        return (c, h, w // 2 + 1, 2)

    @override
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        spectrum = torch.view_as_complex(self.values * self._weights[..., None])
        # The size in full: without it an odd width would come back one short.
        image: Tensor = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        return image

    @cached_property
    def _weights(self) -> Float[Tensor, "v u"]:
        return self.GAIN / _frequency(self.size, self.values)


class PhaseCanvas(Canvas):
    """Images by the phase of their spectrum; how strong each frequency is, is taken from the examples and stays.

    `z = CONTRAST · F⁻¹(m e^{iφ}) / rms` with the examples' mean amplitudes `m`: a pattern can't become unlike natural
    images in its spectrum. Fel et al. 2023, "MACO", https://arxiv.org/abs/2306.06805. There the phases are divided by
    their standard deviation, which leaves a bright peak in the corner; here they are uniform at the start.
    """

    rate = 0.3
    CONTRAST = 1.0  # of z, before the sigmoid: near that of a photograph that fills its range

    def __init__(
        self, size: tuple[int, int], within: Box, streams: Sequence[torch.Generator], *, contrast: float = 1.0
    ) -> None:
        """Start from random phases, uniform over the circle: with all amplitudes given, no image is blank."""
        super().__init__(size, within, streams, contrast=contrast)
        with torch.no_grad():  # standard normal numbers as uniform ones
            self.values.copy_(math.pi * torch.erf(self.values / math.sqrt(2)))
        amplitudes = self._amplitudes()
        self.register_buffer("amplitudes", amplitudes, persistent=False)

    @staticmethod
    @override
    def parameter_shape(c: int, h: int, w: int) -> tuple[int, ...]:
        return (c, h, w // 2 + 1)

    @override
    def unbounded(self) -> Float[Tensor, "n c h w"]:
        amplitudes: Tensor = self.amplitudes  # type: ignore[assignment]
        image: Tensor = torch.fft.irfft2(torch.polar(amplitudes, self.values), s=self.size, norm="ortho")
        return image

    @override
    @torch.no_grad()
    def resume(self, rows: Sequence[int], values: Float[Tensor, "m ..."], shrink: float) -> None:
        # Phases have no size to shrink: they are turned a little, by the random ones of the start.
        index = torch.as_tensor(list(rows), device=self.values.device)
        self.values[index] = values.to(self.values) + (1 - shrink) / 2 * self.values[index]

    def _amplitudes(self) -> Float[Tensor, "c v u"]:
        """The examples' spectrum at this size, such that z has the root mean square `CONTRAST`."""
        (h, w), given = self.size, self.within.spectrum
        if given is None:
            found = (1 / _frequency(self.size, self.values)).expand(len(self.within.low), h, w // 2 + 1)
        else:
            found = _resize_spectrum(given, h, w)
        # By Parseval's theorem, on average over phases: the first column and, of an even width, the last one stand for
        # themselves, and a real image has room for half of what they hold; all others stand for two.
        share = torch.full((w // 2 + 1,), 2.0, device=found.device, dtype=found.dtype)
        share[0], share[-1] = 0.5, 0.5 if w % 2 == 0 or w == 1 else 2
        power = (found.square() * share).sum((1, 2), keepdim=True) / (h * w)
        return self.CONTRAST * found / power.mean().sqrt().clamp(min=1e-12)


# The one table of names; add a parametrization here and a row in the tests.
CANVASES: dict[str, type[Canvas]] = {
    "fourier": FourierCanvas, "pixels": PixelCanvas, "maco": PhaseCanvas, "textbook": PlainCanvas,
}  # fmt: skip


def _frequency(size: tuple[int, int], like: Tensor) -> Float[Tensor, "v u"]:
    """Cycles per pixel of each entry of a real image's spectrum; the mean counts as the lowest frequency."""
    vertical = torch.fft.fftfreq(size[0], device=like.device, dtype=like.dtype)[:, None]
    horizontal = torch.fft.rfftfreq(size[1], device=like.device, dtype=like.dtype)
    return torch.sqrt(vertical**2 + horizontal**2).clamp(min=1 / max(size))


def _resize_spectrum(spectrum: Float[Tensor, "c _ _"], h: int, w: int) -> Float[Tensor, "c h u"]:
    """A spectrum at another size: the same at the same cycles per pixel, linear in between."""
    side, columns = spectrum.shape[1:]
    width = w if w // 2 + 1 == columns else max(1, 2 * columns - 2)
    down = torch.fft.fftfreq(h, 1 / side, dtype=torch.float64) + side // 2
    right = torch.fft.rfftfreq(w, 1 / width, dtype=torch.float64)

    def weights(places: Tensor, count: int) -> Tensor:
        apart = places.clamp(0, count - 1)[:, None] - torch.arange(count)
        return (1 - apart.abs()).clamp(min=0).to(spectrum)

    resized: Tensor = weights(down, side) @ torch.fft.fftshift(spectrum, dim=1) @ weights(right, columns).T
    return resized
