"""Filter patterns: gradient ascent in input space, from a blank image to one that a filter responds to most."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_convviz import layers as layers_
from lightning_convviz.canvas import Box, Canvas, FourierCanvas, box, generators
from lightning_convviz.isolation import autograd_everywhere, devices, gradients, in_chunks, isolated
from lightning_convviz.transforms import Transform, jitter

Objective = Callable[[Float[Tensor, "n c y x"]], Float[Tensor, " n"]]
Forward = Callable[[Tensor], Any]

# Positions next to the edge see padding instead of picture; they are left out of the objective (Chollet, "Deep Learning
# with Python", 2nd ed., 9.4.2), where the map is large enough to do without.
BORDER = 2


@dataclass(frozen=True)
class Patterns:
    """What excites each of n channels most.

    Attributes:
        images: (n, c, h, w), in the model's input space, within the value box.
        activations: (n,), the channel's mean over its whole map at the named layer, for the image as it is shown.
    """

    images: Float[Tensor, "n c h w"]
    activations: Float[Tensor, " n"]

    def cpu(self) -> "Patterns":
        """The same in main memory."""
        return Patterns(self.images.cpu(), self.activations.cpu())


def mean(channels: Sequence[int]) -> Objective:
    """Image `i` is to raise channel `channels[i]`: the mean of its map without the border.

    >>> mean([1])(torch.tensor([[[[0.0]], [[3.0]]]]))
    tensor([3.])
    """
    return lambda activations: _interior(_own(activations, channels)).mean((1, 2))


def rise(channels: Sequence[int]) -> Objective:
    """Image `i` is to raise channel `channels[i]` above its response to the blank image, wherever it can.

    `mean_yx φ(A[y, x] - A_blank)` with `φ(a) = a` for `a > 0`, else `a / 10`: places that rise count ten times those
    that fall. A convolution at the input is linear, and the plain mean of its map shows nothing but its flat color;
    this shows its edges too. The first call sees the blank image.

    >>> objective = rise([0])
    >>> objective(torch.zeros(1, 1, 1, 2)), objective(torch.tensor([[[[1.0, -1.0]]]]))
    (tensor([0.]), tensor([0.4500]))
    """
    blank: list[Tensor] = []

    def objective(activations: Float[Tensor, "n c y x"]) -> Float[Tensor, " n"]:
        maps = _interior(_own(activations, channels))
        if not blank:
            blank.append(maps.detach().mean((1, 2), keepdim=True))
        return F.leaky_relu(maps - blank[0], 0.1).mean((1, 2))

    return objective


# The one table of names; add an objective here and a row in the tests.
OBJECTIVES: dict[str, Callable[[Sequence[int]], Objective]] = {"mean": mean, "rise": rise}


def _interior(maps: Float[Tensor, "n y x"]) -> Float[Tensor, "n b a"]:
    y, x = maps.shape[-2:]
    border = BORDER if min(y, x) >= 4 * BORDER else 0
    return maps[:, border : y - border, border : x - border]


def _own(activations: Float[Tensor, "n c y x"], channels: Sequence[int]) -> Float[Tensor, "n y x"]:
    each = torch.arange(len(channels), device=activations.device)
    return activations[each, torch.as_tensor(channels, device=activations.device)]


def ascend(
    value: Callable[[Float[Tensor, "n c h w"]], Float[Tensor, " n"]],
    canvas: Canvas,
    *,
    steps: int,
    rate: float = 0.1,
    transforms: Sequence[Transform] = (),
) -> None:
    """Change the canvas by `steps` steps of Adam so that `value` of its images rises.

    The gradient is taken to the canvas alone: the weights behind `value` and their `.grad` are not touched.

    Args:
        value: images -> one number for each, to be maximized.
        canvas: the learnable images.
        steps: how many steps.
        rate: Adam's learning rate.
        transforms: applied to the images in every step, drawn anew.
    """
    parameters = list(canvas.parameters())
    optimizer = torch.optim.Adam(parameters, lr=rate, maximize=True)
    for _ in range(steps):
        images = canvas()
        for transform in transforms:
            images = transform(images)
        for parameter, gradient in zip(parameters, gradients(value(images).sum(), parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()


def patterns(
    model: nn.Module,
    layer: str,
    channels: Sequence[int],
    *,
    like: Float[Tensor, "n c h w"] | None = None,
    shape: tuple[int, int, int] | None = None,
    steps: int = 64,
    rate: float = 0.1,
    seed: int = 0,
    objective: str | Callable[[Sequence[int]], Objective] = "mean",
    forward: Forward | None = None,
) -> Patterns:
    """Images that excite channels of a layer, all in one batch; the model is left as it was.

    `x* = argmax_x mean_yx A[c, y, x](x)` over images within the value box, from a blank start, by Adam on the Fourier
    spectrum under random shifts of up to 1/24 of the side. Each forward stops at the layer. Olah et al. 2017, "Feature
    Visualization", https://distill.pub/2017/feature-visualization

    Args:
        model: any module.
        layer: the name of a layer that returns maps (n, c, y, x).
        channels: which of its channels, one image each.
        like: example inputs: they give the size, the range of values and the correlation of colors.
        shape: (c, h, w) of the images, where it is to differ from `like`'s; without `like` values lie in [-2, 2].
        steps: steps of ascent; more give stronger patterns.
        rate: Adam's learning rate; few steps want a larger one.
        seed: another seed, other patterns. The random stream of a pattern depends on seed, layer and channel only.
        objective: what is raised: `"mean"`, `"rise"`, or a function from the channels to an objective.
        forward: images -> output of the model; default the model itself.

    Raises:
        ValueError: for an unknown layer, objective, channel or size, or a layer without maps.

    Example:
        >>> edge = torch.tensor([[[[-1.0, 1.0], [-1.0, 1.0]]]])
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False))
        >>> _ = net[0].weight.data.copy_(edge)
        >>> found = patterns(net, "0", [0], shape=(1, 6, 6), steps=20)
        >>> found.images.shape, bool(found.activations > 0)
        (torch.Size([1, 1, 6, 6]), True)
    """
    if steps < 0:
        raise ValueError(f"`steps` is {steps}. It must be at least 0.")
    if not channels:
        raise ValueError("`channels` is empty. Name at least one.")
    layer = layers_.find_one(model, layer)
    aim = resolve(objective)
    with isolated(model):
        within, size = _frame(model, like, shape)
        climb = partial(_climb, model, forward or model, layer, list(channels), within, size, steps, rate, seed, aim)
        parts = in_chunks(climb, len(channels), whole=layers_.in_pieces(model))
    return Patterns(torch.cat([part.images for part in parts]), torch.cat([part.activations for part in parts]))


def _climb(
    model: nn.Module,
    forward: Forward,
    layer: str,
    channels: Sequence[int],
    within: Box,
    size: tuple[int, int],
    steps: int,
    rate: float,
    seed: int,
    aim: Callable[[Sequence[int]], Objective],
    rows: slice,
) -> Patterns:
    channels = channels[rows]
    streams = generators([zlib.crc32(f"{seed}/{layer}/{channel}".encode()) for channel in channels])
    canvas = FourierCanvas(size, within, streams)
    value = partial(_value, model, forward, layer, channels)
    objective = aim(channels)
    with autograd_everywhere(model):
        ascend(
            lambda images: objective(value(images)),
            canvas,
            steps=steps,
            transforms=[jitter(max(1, max(size) // 24), streams)],
        )
    with torch.no_grad():
        images = canvas()
        return Patterns(images, _own(value(images), channels).mean((1, 2)))


def resolve(objective: str | Callable[[Sequence[int]], Objective]) -> Callable[[Sequence[int]], Objective]:
    """The function behind an objective's name; a function passes through.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something that can't be called.
    """
    if callable(objective):
        return objective
    if not isinstance(objective, str):
        raise TypeError(f"`objective` is a {type(objective).__name__}. It can be {sorted(OBJECTIVES)} or a function.")
    if objective not in OBJECTIVES:
        raise ValueError(f"`objective` is {objective!r}. It can be {sorted(OBJECTIVES)} or a function.")
    return OBJECTIVES[objective]


def _value(
    model: nn.Module, forward: Forward, layer: str, channels: Sequence[int], images: Tensor
) -> Float[Tensor, "n c y x"]:
    """The layer's output, checked, by a forward that stops there."""
    with layers_.record(model, [layer], stop=True) as recorded:
        forward(images.to(_dtype(model), copy=True))  # the forward may write to them
    layers_.require(recorded, [layer])
    output = recorded[layer]
    if output.ndim != 4:
        raise ValueError(f"`layer` is {layer!r}, whose output has shape {tuple(output.shape)}. Choose one with maps.")
    wrong = [channel for channel in channels if not 0 <= channel < output.shape[1]]
    if wrong:
        raise ValueError(f"`channels` holds {wrong[0]}; layer {layer!r} has channels 0 to {output.shape[1] - 1}.")
    if images.requires_grad and not output.requires_grad:
        raise ValueError(f"`layer` is {layer!r}, whose output is detached from the images. Choose one before it.")
    return output if output.dtype == torch.float64 else output.float()


def _frame(model: nn.Module, like: Tensor | None, shape: tuple[int, int, int] | None) -> tuple[Box, tuple[int, int]]:
    """The value box and the size of the images, from what the caller gave."""
    if like is not None:
        within = box(like.clone())
        if shape is not None and shape[0] != like.shape[1]:
            raise ValueError(f"`shape` is {shape}, but `like` has {like.shape[1]} channels. Make them agree.")
    elif shape is not None:
        where = next(iter(devices(model)), torch.device("cpu"))
        dtype = torch.float64 if _dtype(model) == torch.float64 else torch.float32
        bound = torch.full((shape[0],), 2.0, dtype=dtype, device=where)
        within = Box(-bound, bound, torch.eye(shape[0], dtype=dtype, device=where))
    else:
        raise ValueError("`like` and `shape` are both missing. Give example inputs, or (channels, height, width).")
    h, w = (shape or like.shape)[-2:]  # type: ignore[union-attr]
    return within, (h, w)


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
