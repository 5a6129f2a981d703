"""Run a model once over a few images and take what activations and heatmaps need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz import outputs as outputs_
from lightning_convviz import targets as targets_
from lightning_convviz.cams import fusion
from lightning_convviz.cams.extended import is_extended, resolve
from lightning_convviz.cams.graph import BackwardContext, GraphCam, at_least_float32
from lightning_convviz.cams.methods import Cam
from lightning_convviz.isolation import gradients, in_chunks

Images = Float[Tensor, "n *chw"]
Forward = Callable[..., Any]
Reshape = Callable[[Tensor], Tensor]
Target = str | int | Tensor | Sequence[Any] | targets_.Target


@dataclass(frozen=True)
class Explanation:
    """One heatmap wanted of a forward: of which layer (or layers, to be fused), for which target, by which method."""

    layer: str | tuple[str, ...]
    target: Target = "predicted"
    method: str | Cam | GraphCam = "gradcam"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer or layers."""
        return (self.layer,) if isinstance(self.layer, str) else tuple(self.layer)


@dataclass(frozen=True)
class ForwardResult:
    """What one forward gave, detached.

    Attributes:
        logits: (n, k), or whatever scores callable targets were given; None where no explanation was asked for.
        outputs: what the recorded layers returned, by name.
        maps: a signed map (n, y, x) for each explanation, at its layer's resolution, in units of its method.
        uniform_gradient: for each explanation, whether the gradient is the same at every position, as where pooling
            and a linear head follow: there Grad-CAM is in logits. A tensor without axes, on the device; False where
            unknown.
    """

    logits: Tensor | None
    outputs: dict[str, Tensor]
    maps: list[Tensor]
    uniform_gradient: list[Tensor]


@dataclass(frozen=True)
class _ModelCall:
    """How the model is called, for any of the images."""

    model: nn.Module
    forward: Forward
    output: Callable[[Any], Any] | None
    extra_inputs: Mapping[str, Tensor]
    reshape: Reshape | None
    free: bool  # whether targets take scores that are no class logits

    def scores(self, returned: Any) -> Tensor:
        return outputs_.logits(returned, self.output, dense=self.free)

    def again(self, rows: slice, images: Tensor) -> Tensor:
        """Logits of other images: whole repeats of the batch, so that its other inputs fit."""
        count = len(range(*rows.indices(rows.stop)))
        extra_inputs = {
            name: torch.cat([other[rows]] * (len(images) // count)) for name, other in self.extra_inputs.items()
        }
        with torch.no_grad():
            return self.scores(self.forward(images, **extra_inputs))


def run_forward(
    model: nn.Module,
    images: Images,
    *,
    forward: Forward | None = None,
    output: Callable[[Any], Any] | None = None,
    extra_inputs: Mapping[str, Tensor] = MappingProxyType({}),
    layers: Sequence[str] = (),
    explanations: Sequence[Explanation] = (),
    reshape: Reshape | None = None,
) -> ForwardResult:
    """One forward, and one short backward for each target, from the score to the layers and no further.

    Call it inside `isolated(model)`. Out of CUDA memory, it goes on in smaller chunks.

    Args:
        model: where the layers are.
        images: (n, c, h, w) model input, or of one or three spatial axes.
        forward: images, and extra inputs by name -> what the model returns; default the model itself.
        output: what the model returns -> logits, see `outputs.logits`.
        extra_inputs: further inputs, a row for each image.
        layers: names of layers to record.
        explanations: heatmaps to compute.
        reshape: a layer's output -> maps (n, c, y, x), where `layers.layout` can't tell.

    Raises:
        ValueError: where a layer does not run, does not lead to the logits, or no logits can be read.
    """
    if not layers and not explanations:
        return ForwardResult(None, {}, [], [])
    scores = [targets_.resolve(explanation.target, len(images)) for explanation in explanations]
    free = bool(explanations) and all(callable(explanation.target) for explanation in explanations)
    call = _ModelCall(model, forward or model, output, extra_inputs, reshape, free)
    chunk = partial(_look, call, images, layers, explanations, scores)
    parts = in_chunks(chunk, len(images), whole=layers_.is_fsdp(model))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _look(
    call: _ModelCall,
    images: Tensor,
    layers: Sequence[str],
    explanations: Sequence[Explanation],
    scores: Sequence[Callable[[slice], targets_.Target]],
    rows: slice,
) -> ForwardResult:
    explained = list(dict.fromkeys(name for explanation in explanations for name in explanation.layers))
    names = list(dict.fromkeys([*layers, *explained]))
    logits, recorded = _forward(call, images[rows], rows, names, explained)
    layers_.require(recorded, names)
    targets = [score(rows) for score in scores]
    maps, uniform = [], []
    if logits is not None:
        layouts = {name: _layout(call, name, recorded[name], images[rows]) for name in explained}
        slopes = _slopes(logits, recorded, explanations, targets)
        for explanation, target in zip(explanations, targets, strict=True):
            graphs = {
                name: BackwardContext(
                    images[rows], recorded[name], logits, target, layouts[name], partial(call.again, rows)
                )
                for name in explanation.layers
            }
            found = slopes.get(_key(explanation), {})
            maps.append(_map(explanation, graphs, found))
            uniform.append(_is_uniform(layouts[explanation.layers[-1]], found.get(explanation.layers[-1]), maps[-1]))
    outputs = {name: recorded[name].detach() for name in layers}
    return ForwardResult(None if logits is None else logits.detach(), outputs, maps, uniform)


def _forward(
    call: _ModelCall, images: Tensor, rows: slice, names: Sequence[str], explained: Sequence[str]
) -> tuple[Tensor | None, dict[str, Tensor]]:
    # Under no_grad up to the first explained layer, so that nothing before it is kept. A model that puts its backbone
    # under no_grad itself restores our no_grad after the layer: then once more, recording from the start.
    extra_inputs = {name: other[rows] for name, other in call.extra_inputs.items()}
    for grad in (torch.no_grad, torch.enable_grad):
        with grad(), layers_.record(call.model, names, differentiable=explained) as recorded:
            returned = call.forward(images.clone(), **extra_inputs)  # a clone made here is not an inference tensor
            logits = call.scores(returned) if explained else None
        if logits is None or logits.requires_grad:
            break
    if logits is not None and len(logits) != len(images):
        raise ValueError(
            f"the model returned {len(logits)} rows of logits for {len(images)} images. Give `forward=` a function "
            "(model, images) -> logits (n, k)."
        )
    return logits, recorded


def _layout(call: _ModelCall, name: str, output: Tensor, images: Tensor) -> Reshape:
    """How the layer's output becomes maps."""
    if call.reshape is not None:
        shape = _reshaped(call.reshape, output).shape
        if len(shape) != images.ndim or shape[0] != len(output):
            raise ValueError(
                f"`reshape` makes {tuple(shape)} of the output of {name!r}, which is {tuple(output.shape)}. "
                "Return maps (n, c, y, x)."
            )
        return call.reshape
    found = layers_.layout(output.shape, images.shape, module=layers_.named_layers(call.model).get(name))
    if found is None:
        raise ValueError(
            f"`layer` is {name!r}, whose output has shape {tuple(output.shape)}. Choose a layer that returns maps "
            "(n, c, y, x), or give `reshape=` a function (the layer's output) -> maps."
        )
    return found


def _reshaped(reshape: Reshape, output: Tensor) -> Tensor:
    try:
        return reshape(output.detach())
    except Exception as error:
        raise ValueError(
            f"`reshape` fails on a layer's output of shape {tuple(output.shape)}: {type(error).__name__}: {error}. "
            "Give a function (the layer's output) -> maps (n, c, y, x)."
        ) from error


def _key(explanation: Explanation) -> str | int:
    """Explanations with the same key share a backward."""
    target = explanation.target
    return target if isinstance(target, str) else id(target)


def _slopes(
    logits: Tensor,
    recorded: Mapping[str, Tensor],
    explanations: Sequence[Explanation],
    targets: Sequence[targets_.Target],
) -> dict[str | int, dict[str, Tensor]]:
    """For each target and each of its layers the gradient of the score: one backward a target."""
    wanted: dict[str | int, tuple[targets_.Target, dict[str, None]]] = {}
    for explanation, target in zip(explanations, targets, strict=True):
        names = wanted.setdefault(_key(explanation), (target, {}))[1]
        names.update({} if is_extended(explanation.method) else dict.fromkeys(explanation.layers))
    return {key: _slope(logits, recorded, target, list(names)) for key, (target, names) in wanted.items()}


def _slope(
    logits: Tensor, recorded: Mapping[str, Tensor], target: targets_.Target, names: Sequence[str]
) -> dict[str, Tensor]:
    with torch.enable_grad():
        score = target(logits)
        total = score.sum()
    if score.shape != logits.shape[:1]:
        raise ValueError(f"`target` returned shape {tuple(score.shape)}. Return one score for each image: (n,).")
    if not names:
        return {}
    inputs = [recorded[name] for name in names]
    slopes: Sequence[Tensor | None] = [None] * len(inputs)
    if score.requires_grad:
        slopes = gradients(total, inputs, retain_graph=True, allow_unused=True)
    for name, slope in zip(names, slopes, strict=True):
        if slope is None:
            raise ValueError(
                f"`layer` is {name!r}, which does not lead to the score. Choose one that does "
                "(inside an activation checkpoint none does, unless it has `use_reentrant=False`)."
            )
    return {name: slope for name, slope in zip(names, slopes, strict=True) if slope is not None}


def _map(explanation: Explanation, graphs: Mapping[str, BackwardContext], slopes: Mapping[str, Tensor]) -> Tensor:
    """The method's maps of one layer, or of several, fused."""
    if isinstance(explanation.method, str) and explanation.method in fusion.FUSIONS:
        base, fuse = fusion.FUSIONS[explanation.method]
        return fuse([_applied(base, graph, slopes[name]) for name, graph in graphs.items()])
    ((name, graph),) = graphs.items()
    return _applied(explanation.method, graph, slopes.get(name))


def _applied(method: str | Cam | GraphCam, graph: BackwardContext, slope: Tensor | None) -> Tensor:
    """The method's maps, checked: it may be the user's own."""
    function, activations = resolve(method), graph.activations
    arguments = (graph,) if slope is None else (activations, at_least_float32(graph.maps(slope)))
    try:
        signed = function(*arguments)
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


def _is_uniform(maps: Reshape, slope: Tensor | None, like: Tensor) -> Tensor:
    if slope is None:
        return torch.zeros((), dtype=torch.bool, device=like.device)
    flat = at_least_float32(maps(slope)).flatten(2)
    return (flat - flat[:, :, :1]).abs().amax() <= 1e-3 * flat.abs().amax()


def _joined(parts: Sequence[ForwardResult]) -> ForwardResult:
    return ForwardResult(
        None if parts[0].logits is None else torch.cat([part.logits for part in parts if part.logits is not None]),
        {name: torch.cat([part.outputs[name] for part in parts]) for name in parts[0].outputs},
        [torch.cat(maps) for maps in zip(*(part.maps for part in parts), strict=True)],
        [torch.stack(each).all() for each in zip(*(part.uniform_gradient for part in parts), strict=True)],
    )
