"""Which filters to look at, and how much of a picture each of them sees."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz import outputs
from lightning_convviz.ascent.climb import LayerReader
from lightning_convviz.isolation import autograd_everywhere, gradients, isolated


def most_active(
    model: nn.Module, layers: Sequence[str], images: Tensor, *, forward: Callable[[Tensor], Any] | None = None
) -> dict[str, list[int]]:
    """For each layer its channels, those first that answer most to the images: by the mean of their positive part.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
    >>> most_active(net, ["0"], torch.ones(1, 1, 2, 2))
    {'0': [1, 0]}
    """
    with isolated(model), torch.no_grad():
        with layers_.record(model, list(layers), stop=True) as recorded:
            (forward or model)(images.clone())
        layers_.require(recorded, list(layers))
        return {name: _ordered(recorded[name].float().clamp(min=0).mean((0, 2, 3))) for name in layers}


def most_important(
    model: nn.Module,
    layers: Sequence[str],
    images: Tensor,
    target: int,
    *,
    forward: Callable[[Tensor], Any] | None = None,
    output: Callable[[Any], Any] | None = None,
) -> dict[str, list[int]]:
    """For each layer its channels, those first that speak most for a class: by `Σ_yx A · ∂S/∂A`, mean over the images.

    Under pooling and a linear head this is what a channel adds to the class's logit (Draelos and Carin 2020,
    https://arxiv.org/abs/2011.08891).

    Raises:
        ValueError: for a class that the model does not have, or a layer that does not lead to its logits.
    """
    names = list(layers)
    with isolated(model), autograd_everywhere(model):
        with layers_.record(model, names, differentiable=names) as recorded:
            logits = outputs.logits((forward or model)(images.clone()), output)
        layers_.require(recorded, names)
        if not 0 <= target < logits.shape[1]:
            raise ValueError(f"`important_for` is {target}; the model has classes 0 to {logits.shape[1] - 1}.")
        found = gradients(logits[:, target].sum(), [recorded[name] for name in names], allow_unused=True)
    ranked = {}
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            raise ValueError(f"`layers` holds {name!r}, which does not lead to the logits. Choose another.")
        ranked[name] = _ordered((recorded[name].detach() * gradient).float().sum((2, 3)).mean(0))
    return ranked


def _ordered(values: Float[Tensor, " c"]) -> list[int]:
    found: list[int] = values.sort(descending=True, stable=True).indices.tolist()
    return found


def receptive_fields(
    model: nn.Module,
    layers: Sequence[str],
    images: Float[Tensor, "n c h w"],
    *,
    forward: Callable[[Tensor], Any] | None = None,
) -> Mapping[str, tuple[float, float]]:
    """How much of a picture a position in the middle of a layer's map depends on: height and width, as shares.

    Measured: the extent of the gradient of all channels there to the picture. Luo et al. 2016
    (https://arxiv.org/abs/1701.04128) call this the theoretical field; most of the effect lies within less.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
        >>> receptive_fields(net, ["0", "1"], torch.randn(1, 1, 10, 20))
        {'0': (0.3, 0.15), '1': (0.5, 0.25)}
    """
    fields, reader = {}, LayerReader(model, forward or model)
    with isolated(model), autograd_everywhere(model):
        for name in layers:
            picture = images[:1].clone().requires_grad_()
            maps = reader.maps([name], picture)[name]
            # Channels in random proportions: those of equal and opposite weights would cancel each other.
            shares = torch.randn(maps.shape[1], generator=torch.Generator().manual_seed(0)).to(maps)
            middle = maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2] @ shares
            (gradient,) = gradients(middle, [picture], allow_unused=True)
            seen = torch.zeros_like(picture) if gradient is None else gradient
            fields[name] = _extent(seen.abs().sum((0, 1)) > 0)
    return fields


def _extent(seen: Tensor) -> tuple[float, float]:
    """Height and width of the part that is True, as shares; all where there is none."""
    shares = []
    for axis in (1, 0):
        places = seen.any(axis).nonzero().flatten().tolist()
        shares.append((places[-1] - places[0] + 1) / seen.shape[1 - axis] if places else 1.0)
    return shares[0], shares[1]
