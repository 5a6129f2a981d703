"""Run a model once over a few images and take what activations and heatmaps need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_convviz import layers as layers_
from lightning_convviz import outputs as outputs_
from lightning_convviz import targets as targets_
from lightning_convviz.cams.methods import Cam, resolve
from lightning_convviz.isolation import gradients, in_chunks, isolated

Images = Float[Tensor, "n *chw"]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Explanation:
    """One heatmap wanted of a forward: of which layer, for which target, by which method."""

    layer: str
    target: str | int | Tensor | targets_.Target = "predicted"
    method: str | Cam = "gradcam"


@dataclass(frozen=True)
class Look:
    """What one forward gave, detached.

    Attributes:
        logits: (n, k); None where no explanation was asked for.
        outputs: what the recorded layers returned, by name.
        maps: a signed map (n, y, x) for each explanation, at its layer's resolution, in units of its score.
    """

    logits: Tensor | None
    outputs: dict[str, Tensor]
    maps: list[Tensor]


def look(
    model: nn.Module,
    images: Images,
    *,
    forward: Forward | None = None,
    output: Callable[[Any], Any] | None = None,
    others: Mapping[str, Tensor] = MappingProxyType({}),
    layers: Sequence[str] = (),
    explanations: Sequence[Explanation] = (),
) -> Look:
    """One forward, and one short backward for each explanation, from the score to the layer and no further.

    Call it inside `isolated(model)`. Out of CUDA memory, it goes on in smaller chunks.

    Args:
        model: where the layers are.
        images: (n, c, h, w) model input.
        forward: images, and others by name -> what the model returns; default the model itself.
        output: what the model returns -> logits, see `outputs.logits`.
        others: further inputs, a row for each image.
        layers: names of layers to record.
        explanations: heatmaps to compute.

    Raises:
        ValueError: where a layer does not run, does not lead to the logits, or no logits can be read.
    """
    if not layers and not explanations:
        return Look(None, {}, [])
    scores = [targets_.resolve(explanation.target, len(images)) for explanation in explanations]
    chunk = partial(_look, model, images, forward or model, output, others, layers, explanations, scores)
    parts = in_chunks(chunk, len(images), whole=layers_.in_pieces(model))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _look(
    model: nn.Module,
    images: Tensor,
    forward: Forward,
    output: Callable[[Any], Any] | None,
    others: Mapping[str, Tensor],
    layers: Sequence[str],
    explanations: Sequence[Explanation],
    scores: Sequence[Callable[[slice], targets_.Target]],
    rows: slice,
) -> Look:
    explained = list(dict.fromkeys(explanation.layer for explanation in explanations))
    names = list(dict.fromkeys([*layers, *explained]))
    call = partial(forward, **{name: other[rows] for name, other in others.items()})
    logits, recorded = _forward(model, images[rows], call, output, names, explained)
    layers_.require(recorded, names)
    maps = [
        _map(logits, recorded[explanation.layer], explanation, score(rows), keep=i + 1 < len(explanations))
        for i, (explanation, score) in enumerate(zip(explanations, scores, strict=True))
    ]
    return Look(None if logits is None else logits.detach(), {name: recorded[name].detach() for name in layers}, maps)


def _forward(
    model: nn.Module,
    images: Tensor,
    forward: Forward,
    read: Callable[[Any], Any] | None,
    names: Sequence[str],
    explained: Sequence[str],
) -> tuple[Tensor | None, dict[str, Tensor]]:
    # Under no_grad up to the first explained layer, so that nothing before it is kept. A model that puts its backbone
    # under no_grad itself restores our no_grad after the layer: then once more, recording from the start.
    for grad in (torch.no_grad, torch.enable_grad):
        with grad(), layers_.record(model, names, differentiable=explained) as recorded:
            output = forward(images.clone())  # a clone made here is not an inference tensor
            logits = outputs_.logits(output, read) if explained else None
        if logits is None or logits.requires_grad:
            break
    if logits is not None and len(logits) != len(images):
        raise ValueError(
            f"the model returned {len(logits)} rows of logits for {len(images)} images. Give `forward=` a function "
            "(model, images) -> logits (n, k)."
        )
    return logits, recorded


def _map(
    logits: Tensor | None, activations: Tensor, explanation: Explanation, target: targets_.Target, keep: bool
) -> Tensor:
    if activations.ndim != 4:
        raise ValueError(
            f"`layer` is {explanation.layer!r}, whose output has shape {tuple(activations.shape)}. "
            "Choose a layer that returns maps (n, c, y, x)."
        )
    assert logits is not None  # they are read wherever something is explained
    with torch.enable_grad():
        score = target(logits)
        total = score.sum()
    if score.shape != logits.shape[:1]:
        raise ValueError(f"`target` returned shape {tuple(score.shape)}. Return one score for each image: (n,).")
    gradient = None
    if score.requires_grad:
        (gradient,) = gradients(total, [activations], retain_graph=keep, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"`layer` is {explanation.layer!r}, which does not lead to the score. Choose one that does "
            "(inside an activation checkpoint none does, unless it has `use_reentrant=False`)."
        )
    return _applied(explanation.method, _wide(activations.detach()), _wide(gradient))


def _applied(method: str | Cam, activations: Tensor, gradient: Tensor) -> Tensor:
    """The method's maps, checked: it may be the user's own."""
    try:
        signed = resolve(method)(activations, gradient)
    except Exception as error:
        if isinstance(method, str):
            raise
        raise ValueError(
            f"`method` fails: {type(error).__name__}: {error}. Give a function (activations, gradients) -> maps."
        ) from error
    expected = activations.shape[:1] + activations.shape[2:]
    if not isinstance(signed, Tensor) or signed.shape != expected:
        came = f"shape {tuple(signed.shape)}" if isinstance(signed, Tensor) else f"a {type(signed).__name__}"
        raise ValueError(f"`method` returned {came}. Return maps (n, y, x), here {tuple(expected)}.")
    return signed


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _joined(parts: Sequence[Look]) -> Look:
    return Look(
        None if parts[0].logits is None else torch.cat([part.logits for part in parts if part.logits is not None]),
        {name: torch.cat([part.outputs[name] for part in parts]) for name in parts[0].outputs},
        [torch.cat(maps) for maps in zip(*(part.maps for part in parts), strict=True)],
    )


def enlarge(maps: Float[Tensor, "n y x"], size: tuple[int, int]) -> Float[Tensor, "n h w"]:
    """Maps at another resolution, bilinear with half-pixel centers, as all CAM papers draw them."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@overload
def heatmaps(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    layer: str = ...,
    target: str | int | Int[Tensor, "..."] | targets_.Target = ...,
    method: str | Cam = ...,
    signed: bool = ...,
    forward: Forward | None = ...,
    output: Callable[[Any], Any] | None = ...,
) -> Float[Tensor, "n h w"]: ...
@overload
def heatmaps(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    layer: list[str] | tuple[str, ...],
    target: str | int | Int[Tensor, "..."] | targets_.Target = ...,
    method: str | Cam = ...,
    signed: bool = ...,
    forward: Forward | None = ...,
    output: Callable[[Any], Any] | None = ...,
) -> dict[str, Float[Tensor, "n h w"]]: ...
def heatmaps(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    layer: str | list[str] | tuple[str, ...] = "auto",
    target: str | int | Int[Tensor, "..."] | targets_.Target = "predicted",
    method: str | Cam = "gradcam",
    signed: bool = False,
    forward: Forward | None = None,
    output: Callable[[Any], Any] | None = None,
) -> Float[Tensor, "n h w"] | dict[str, Float[Tensor, "n h w"]]:
    """Where the evidence for a class lies in each image; the model is left as it was.

    Args:
        model: any module that returns class logits (see `outputs.logits`).
        images: model input.
        layer: a layer that returns maps (n, c, y, x); `"auto"`, the last one whose map is larger than 1 x 1; or a
            list of layers, explained in one forward.
        target: `"predicted"`, a class for all images, a tensor of n classes, or a function logits (n, k) -> (n,).
        method: a name in `cams.METHODS`, or a function (activations, gradients) -> signed map.
        signed: keep evidence against the class, as negative values; else it is clamped to 0.
        forward: images -> output of the model; default the model itself.
        output: what the model returns -> logits, where `outputs.logits` can't read it.

    Returns:
        Heatmaps at input size, in units of the score (logits), not rescaled: float64 for float64 images, else
        float32. For a list of layers a dict, layer -> heatmaps.

    Raises:
        ValueError: for an unknown layer, method or target, or a model whose logits can't be read.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
        >>> _ = net[3].weight.data.copy_(torch.tensor([[1.0], [8.0]]))
        >>> heatmaps(net, torch.tensor([[[[0.0, 0.5], [0.5, 1.0]]]]), layer="0")  # w / (y x) = 8 / 4
        tensor([[[0., 1.],
                 [1., 2.]]])
    """
    with isolated(model):
        names = _names(model, images, layer, forward)
        wanted = [Explanation(name, target, method) for name in names]
        maps = look(model, images, forward=forward, output=output, explanations=wanted).maps
        full = [enlarge(each, (images.shape[-2], images.shape[-1])) for each in maps]
    drawn = {name: each if signed else each.clamp(min=0) for name, each in zip(names, full, strict=True)}
    return drawn[names[0]] if isinstance(layer, str) else drawn


def _names(model: nn.Module, images: Tensor, layer: str | Sequence[str], forward: Forward | None) -> list[str]:
    if not isinstance(layer, str):
        return layers_.find(model, layer, argument="layer")
    if layer != "auto":
        return [layers_.find_one(model, layer)]
    with torch.no_grad():
        runs = layers_.survey(model, lambda: (forward or model)(images[:1].clone()))
    return [layers_.last_map(runs)]
