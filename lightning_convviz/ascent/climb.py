"""Gradient ascent on one batch of images, each with a layer and a channel of its own."""

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz import outputs
from lightning_convviz.ascent.objectives import Objective, own
from lightning_convviz.ascent.recipes import Recipe
from lightning_convviz.canvas import Box, Canvas, generators
from lightning_convviz.isolation import autograd_everywhere, gradients
from lightning_convviz.transforms import Transform, standard

Forward = Callable[[Tensor], Any]
Layer = str | None  # None: the class logits that the model returns
# The layer and the channel (or class) that an image is to excite, and how many images of the same stand before it.
Job = tuple[Layer, int, int]

# What cuts off: where all of a map is cut off, no gradient comes through. These layers are asked for their input.
RECTIFIERS = (nn.ReLU, nn.Hardtanh, nn.Threshold, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink)


@dataclass(frozen=True)
class Patterns:
    """What excites each of n channels most.

    Attributes:
        images: (n, c, h, w), in the model's input space, within the value box.
        activations: (n,), the channel's mean over its whole map at the named layer, for the image as it is shown.
        peaks: (n,), the largest value on that map.
        improvement: (n,), how far the objective lies above its value for the blank image.
        values: (n, ...), the parameters of the images, from which a later ascent can go on.
    """

    images: Float[Tensor, "n c h w"]
    activations: Float[Tensor, " n"]
    peaks: Float[Tensor, " n"]
    improvement: Float[Tensor, " n"]
    values: Float[Tensor, "n ..."]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        c, h, w = self.images.shape[1:]
        return f"Patterns({len(self)} images of {c} x {h} x {w}, peaks {[round(v, 3) for v in self.peaks.tolist()]})"

    def cpu(self) -> "Patterns":
        """The same in main memory."""
        return Patterns(**{name: value.cpu() for name, value in vars(self).items()})

    def take(self, rows: slice | Sequence[int]) -> "Patterns":
        """Some of them."""
        index = rows if isinstance(rows, slice) else list(rows)
        return Patterns(**{name: value[index] for name, value in vars(self).items()})


def joined(parts: Sequence[Patterns]) -> Patterns:
    """Patterns of one size, one after the other."""
    return Patterns(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


@dataclass(frozen=True)
class LayerReader:
    """Reads the maps of layers for images."""

    model: nn.Module
    forward: Forward
    read: Callable[[Any], Any] | None = None

    @cached_property
    def rectifiers(self) -> Mapping[Layer, nn.Module]:
        """The layers that cut off, so that they are asked for their input."""
        return {name: each for name, each in layers_.named_layers(self.model).items() if isinstance(each, RECTIFIERS)}

    def maps(self, wanted: Collection[Layer], images: Float[Tensor, "n c h w"]) -> dict[Layer, Tensor]:
        """What the layers answer, (n, c, y, x), by one forward up to the last of them; of a rectifier its input.

        Of a layer that runs several times it is the first answer, whatever other layers are asked.
        """
        names = [layer for layer in wanted if layer is not None]
        before = [name for name in names if name in self.rectifiers]
        with layers_.record(self.model, names, before=before, first=True, stop=None not in wanted) as recorded:
            returned = self.forward(images.to(dtype_of(self.model), copy=True))  # the forward may write to them
        layers_.require(recorded, names)
        found: dict[Layer, Tensor] = {name: _as_maps(name, recorded[name], images) for name in names}
        if None in wanted:
            found[None] = _as_maps(None, outputs.logits(returned, self.read), images)
        return found

    def answers(self, layer: Layer, maps: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
        """The layer's output; of a rectifier, from its input."""
        module = self.rectifiers.get(layer)
        found: Tensor = maps if module is None else type(module).forward(module, maps.clone())
        return found


def _as_maps(layer: Layer, output: Tensor, images: Tensor) -> Float[Tensor, "n c y x"]:
    if output.ndim == 2:
        output = output[:, :, None, None]
    if output.ndim != 4:
        raise ValueError(f"`layer` is {layer!r}, whose output has shape {tuple(output.shape)}. Choose one with maps.")
    if images.requires_grad and torch.is_grad_enabled() and not output.requires_grad:
        raise ValueError(f"`layer` is {layer!r}, whose output is detached from the images. Choose one before it.")
    return output if output.dtype == torch.float64 else output.float()


def ascend(
    value: Callable[[Float[Tensor, "n c h w"]], Float[Tensor, " n"]],
    canvas: Canvas,
    *,
    steps: int,
    rate: float | None = None,
    transforms: Sequence[Transform] = (),
    rounds: Callable[[int], Iterator[int]] | None = None,
) -> None:
    """Change the canvas by some steps so that `value` of its images rises: by Adam, or along the normalized gradient.

    The gradient is taken to the canvas alone: the weights behind `value` and their `.grad` are not touched.

    Args:
        value: images -> one number for each, to be maximized.
        canvas: the learnable images; it says which of the two ways is its own.
        steps: how many steps.
        rate: the length of a step, by default what suits the canvas.
        transforms: applied to the images in every step, drawn anew.
        rounds: number of steps -> the steps, one by one: a progress bar.
    """
    rate = canvas.rate if rate is None else rate
    parameters = list(canvas.parameters())
    optimizer = torch.optim.Adam(parameters, lr=rate, maximize=True)
    for _ in (rounds or range)(steps):
        images = canvas()
        for transform in transforms:
            images = transform(images)
        found = gradients(value(images).sum(), parameters)
        if canvas.normalized:
            _follow(parameters, found, rate)
        else:
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimizer.step()
        canvas.project()


@torch.no_grad()
def _follow(parameters: Sequence[Tensor], found: Sequence[Tensor | None], rate: float) -> None:
    """A step along the gradient, of which each image's root mean square is made 1."""
    for parameter, gradient in zip(parameters, found, strict=True):
        assert gradient is not None  # every parameter of a canvas is in its images
        size = gradient.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
        parameter.add_(rate * gradient / size.view(-1, *[1] * (gradient.ndim - 1)))


def climb(
    reader: LayerReader,
    jobs: Sequence[Job],
    recipe: Recipe,
    within: Box,
    size: tuple[int, int],
    start: Mapping[Job, Tensor],
    rounds: Callable[[int], Iterator[int]] | None,
    rows: slice,
) -> Patterns:
    """Patterns of some of the jobs, which name each layer in one piece; inside `isolated(model)`."""
    jobs = list(jobs[rows])
    streams = generators([_number(recipe.seed, job) for job in jobs])
    canvas = _canvas(jobs, recipe, within, size, start, streams)
    layers, parts = _groups(jobs)
    with torch.no_grad():
        blank = reader.maps(layers, canvas.blank())
    _require_channels(jobs, blank)
    channels = [[job[1] for job in jobs[part]] for part in parts]
    objectives = [recipe.factory(named, blank[each]) for each, named in zip(layers, channels, strict=True)]

    def value(images: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        maps = reader.maps(layers, images)
        if len(layers) == 1:  # a slice would copy the gradient
            return objectives[0](maps[layers[0]])
        return torch.cat(
            [objective(maps[each][part]) for each, part, objective in zip(layers, parts, objectives, strict=True)]
        )

    with autograd_everywhere(reader.model):
        transforms = standard(size, streams) if recipe.augment else []
        ascend(value, canvas, steps=recipe.steps, rate=recipe.rate, transforms=transforms, rounds=rounds)
    with torch.no_grad():
        images = canvas()
        maps = reader.maps(layers, images)
        seen = [
            _seen(reader, each, named, maps[each][part], blank[each], objective)
            for each, part, named, objective in zip(layers, parts, channels, objectives, strict=True)
        ]
    activations, peaks, improvement = (torch.cat(values) for values in zip(*seen, strict=True))
    return Patterns(images, activations, peaks, improvement, canvas.values.detach())


def _number(seed: int, job: Job) -> int:
    """The seed of an image's random stream: images of one channel differ from the start, or they never would."""
    layer, channel, before = job
    return zlib.crc32(f"{seed}/{layer}/{channel}{f'/{before}' if before else ''}".encode())


def _canvas(
    jobs: Sequence[Job],
    recipe: Recipe,
    within: Box,
    size: tuple[int, int],
    start: Mapping[Job, Tensor],
    streams: Sequence[torch.Generator],
) -> Canvas:
    """Blank images, or those that there are parameters for to go on from."""
    contrast = {} if recipe.contrast is None else {"contrast": recipe.contrast}
    canvas = recipe.canvas(size, within, streams, **contrast)
    again = [row for row, job in enumerate(jobs) if job in start]
    if again:
        canvas.resume(again, torch.stack([start[jobs[row]] for row in again]), recipe.shrink)
    return canvas


def _groups(jobs: Sequence[Job]) -> tuple[list[Layer], list[slice]]:
    """The layers of the jobs, and where each one's images are."""
    layers, parts, first = [], [], 0
    for layer, group in groupby(jobs, key=lambda job: job[0]):
        count = sum(1 for _ in group)
        layers.append(layer)
        parts.append(slice(first, first + count))
        first += count
    return layers, parts


def _seen(
    reader: LayerReader, layer: Layer, channels: Sequence[int], maps: Tensor, blank: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and largest activation of each image's channel, and its objective above that of the blank image."""
    index = torch.as_tensor(list(channels), device=maps.device)
    answers = own(reader.answers(layer, maps), index)
    improvement = objective(maps) - objective(blank.expand(len(maps), *blank.shape[1:]))
    return answers.mean((1, 2)), answers.amax((1, 2)), improvement


def _require_channels(jobs: Sequence[Job], blank: Mapping[Layer, Tensor]) -> None:
    for layer, channel, _ in jobs:
        count = blank[layer].shape[1]
        if not 0 <= channel < count:
            what = (
                "(of a callback `classes`) the model has classes" if layer is None else f"layer {layer!r} has channels"
            )
            raise ValueError(f"`channels` holds {channel}; {what} 0 to {count - 1}.")


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the model's parameters."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
