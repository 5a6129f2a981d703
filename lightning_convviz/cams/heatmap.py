"""`heatmaps`: where the evidence for a class lies in each image, in one call."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz.cams.choice import choose
from lightning_convviz.cams.forward import Explanation, Forward, Reshape, Target, run_forward
from lightning_convviz.cams.fusion import FUSIONS, resize_maps
from lightning_convviz.cams.graph import GraphCam
from lightning_convviz.cams.methods import Cam
from lightning_convviz.isolation import isolated


@overload
def heatmaps(
    model: nn.Module,
    images: Float[Tensor, "n c *hw"],
    *,
    layer: str = ...,
    target: Target = ...,
    method: str | Cam | GraphCam = ...,
    signed: bool = ...,
    forward: Forward | None = ...,
    output: Callable[[Any], Any] | None = ...,
    reshape: Reshape | None = ...,
) -> Float[Tensor, "n *hw"]: ...
@overload
def heatmaps(
    model: nn.Module,
    images: Float[Tensor, "n c *hw"],
    *,
    layer: list[str] | tuple[str, ...],
    target: Target = ...,
    method: str | Cam | GraphCam = ...,
    signed: bool = ...,
    forward: Forward | None = ...,
    output: Callable[[Any], Any] | None = ...,
    reshape: Reshape | None = ...,
) -> dict[str, Float[Tensor, "n *hw"]] | Float[Tensor, "n *hw"]: ...
def heatmaps(
    model: nn.Module,
    images: Float[Tensor, "n c *hw"],
    *,
    layer: str | list[str] | tuple[str, ...] = "auto",
    target: Target = "predicted",
    method: str | Cam | GraphCam = "gradcam",
    signed: bool = False,
    forward: Forward | None = None,
    output: Callable[[Any], Any] | None = None,
    reshape: Reshape | None = None,
) -> Float[Tensor, "n *hw"] | dict[str, Float[Tensor, "n *hw"]]:
    """Where the evidence for a class lies in each image; the model is left as it was.

    Args:
        model: any module that returns class logits (see `outputs.logits`).
        images: model input, of one, two or three spatial axes.
        layer: a layer that returns maps (n, c, y, x), channels-last maps or tokens (see `layers.layout`); `"auto"`, the
            last one whose map is larger than 1 x 1 and leads to the logits; or a list of layers, explained in one
            forward and one backward.
        target: `"predicted"`, `"runner_up"`, a class for all images, n classes, or a function logits (n, k) -> (n,);
            see `targets` for segmentations, embeddings and contrasts.
        method: a name in `cams.METHODS`, `cams.GRAPH_METHODS` or `cams.FUSIONS`, or a function
            (activations, gradients) -> signed map. A fusion makes one map of all layers.
        signed: keep evidence against the class, as negative values; else it is clamped to 0, at the layer's resolution.
        forward: images -> output of the model; default the model itself.
        output: what the model returns -> logits, where `outputs.logits` can't read it.
        reshape: the layer's output -> maps (n, c, y, x), where `layers.layout` can't tell.

    Returns:
        Heatmaps at input size, in units of the method (for Grad-CAM and HiResCAM: logits), not rescaled: float64 for
        float64 images, else float32. For a list of layers a dict, layer -> heatmaps; but of a fusion one heatmap.

    Raises:
        ValueError: for an unknown layer, method or target, or a model whose logits can't be read.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
        >>> _ = net[3].weight.data.copy_(torch.tensor([[1.0], [8.0]]))
        >>> heatmaps(net, torch.tensor([[[[0.0, 0.5], [0.5, 1.0]]]]), layer="0")  # w / (y x) = 8 / 4
        tensor([[[0., 1.],
                 [1., 2.]]])
    """
    if not len(images):
        raise ValueError(f"`images` has shape {tuple(images.shape)}. Give at least one image.")
    fused = isinstance(method, str) and method in FUSIONS
    with isolated(model):
        names = _names(model, images, layer, forward, output, fused)
        groups: list[str | tuple[str, ...]] = [tuple(names)] if fused else list(names)
        wanted = [Explanation(group, target, method) for group in groups]
        maps = run_forward(model, images, forward=forward, output=output, explanations=wanted, reshape=reshape).maps
    # Cut off first, at the layer's resolution, as in the papers: enlarged evidence against would eat into the rest.
    kept = [each if signed else each.clamp(min=0) for each in maps]
    full = [resize_maps(each, tuple(images.shape[2:])) for each in kept]
    return full[0] if fused or isinstance(layer, str) else dict(zip(names, full, strict=True))


def _names(
    model: nn.Module,
    images: Tensor,
    layer: str | Sequence[str],
    forward: Forward | None,
    output: Callable[[Any], Any] | None,
    fused: bool,
) -> list[str]:
    if not isinstance(layer, str):
        return layers_.find(model, layer, argument="layer")
    if layer != "auto":
        return [layers_.find_one(model, layer)]
    with torch.no_grad():
        runs = layers_.trace(model, lambda: (forward or model)(images[:2].clone()))
    choice = choose(model, images[:2], forward=forward, output=output, runs=runs)
    return [choice.high_res_layer, choice.layer] if fused and choice.high_res_layer else [choice.layer]
