"""Methods that need more than (activations, gradients): second derivatives, more forwards, another score.

And the three tables of methods as one: `resolve`, `check` and `unit_of` know the names of `METHODS`, `GRAPH_METHODS`
and `FUSIONS`.
"""

from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_convviz import targets as targets_
from lightning_convviz.cams.fusion import FUSIONS, resize_maps
from lightning_convviz.cams.graph import BackwardContext, GraphCam, at_least_float32
from lightning_convviz.cams.methods import METHODS, Cam, gradcam
from lightning_convviz.isolation import gradients
from lightning_convviz.targets import freeze

REPEATS = 8  # masks in one forward of Score-CAM: few, since a batch that leaves no memory comes again in smaller parts,
IMAGES = 64  # and masked images: of large batches one repeat is enough


def shapleycam(graph: BackwardContext) -> Float[Tensor, "n *yx"]:
    """Grad-CAM with curvature: what the score loses where a channel is missing, to second order (ShapleyCAM).

    `L[p] = Σ_c w_c A[c, p]` with `w_c = mean_p (g - H·A / 2)[c, p]`, where `A` are the activations, `g` is the gradient
    `∂S/∂A` of the score `S`, and `H` its Hessian; only its product with `A` is computed. Cai 2025,
    https://arxiv.org/abs/2501.06261; with the target's score in place of the paper's utility. Where the rest of the
    net is piecewise linear, `H` is 0 and the map is that of Grad-CAM.

    Args:
        graph: the forward, still differentiable.

    Returns:
        Signed maps at the layer's resolution, in units of the score.

    Raises:
        ValueError: where the layer does not lead to the score, or the model has no second derivatives.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]]]], requires_grad=True)
        >>> S = (A**3).flatten(1).sum(1, keepdim=True)  # g = 3 A², H = 6 A, so g - H·A / 2 = 0
        >>> shapleycam(BackwardContext(A, A, S, lambda logits: logits[:, 0], lambda maps: maps, lambda images: images))
        tensor([[[0., 0.]]])
    """
    slopes = graph.gradient(create_graph=True)
    weights = slopes.detach() - _curvature(slopes, graph.output) / 2
    return gradcam(graph.activations, at_least_float32(graph.maps(weights)))


def _curvature(slopes: Tensor, output: Tensor) -> Tensor:
    """`H·A`: the gradient of `g·A` with `A` held fast."""
    if not slopes.requires_grad:
        return torch.zeros_like(slopes)
    options = {"grad_outputs": output.detach(), "retain_graph": True, "allow_unused": True}
    try:
        (found,) = gradients(slopes, [output], **options)
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise ValueError(
            f"`method` is 'shapleycam', which needs second derivatives: {error}. Run it under "
            "`torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)`, or choose another method."
        ) from error
    return torch.zeros_like(slopes) if found is None else found


def scorecam(graph: BackwardContext) -> Float[Tensor, "n *yx"]:
    """Weigh each channel by the score that the image keeps where only the channel's map shows it (Score-CAM).

    `L[p] = Σ_c w_c A[c, p]` with `w = softmax_c (S(X ∘ s(up(A_c))) - S(X_b))`, where `s` scales a map to [0, 1], `up`
    enlarges it to the size of the image `X`, and `X_b` is the baseline. Wang et al. 2020, algorithm 1,
    https://arxiv.org/abs/1910.01279. The baseline's score is the same for all channels, so that it has no say in the
    softmax and is left out. The score is that of the classes that were chosen for `X`. A constant map shows nothing.

    A forward for each channel: for notebooks, and not for each epoch.

    Args:
        graph: the forward.

    Returns:
        Signed maps at the layer's resolution, in units of the activations (the weights have sum 1).

    Example:
        >>> A = torch.tensor([[[[4.0, 0.0]], [[0.0, 2.0]]]])  # the score is what the left pixel shows
        >>> forward = lambda images: images[:, :, 0, 0]
        >>> images, logits = torch.ones(1, 1, 1, 2), torch.ones(1, 1)
        >>> scorecam(BackwardContext(images, A, logits, lambda z: z[:, 0], lambda A: A, forward))
        tensor([[[2.9242, 0.5379]]])
    """
    activations, images = graph.activations, graph.images
    target = freeze(graph.target, graph.logits.detach())
    step = max(1, min(REPEATS, IMAGES // len(images)))
    scores: list[Tensor] = []
    for start in range(0, activations.shape[1], step):
        some = activations[:, start : start + step].unbind(1)
        logits = graph.forward(torch.cat([images * _mask(each, images) for each in some]))
        scores += [target(each) for each in logits.reshape(len(some), len(images), *logits.shape[1:])]
    weights = at_least_float32(torch.stack(scores, dim=1)).softmax(1)
    return (weights.reshape(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(1)


def _mask(maps: Float[Tensor, "n *yx"], images: Float[Tensor, "n c *hw"]) -> Float[Tensor, "n 1 *hw"]:
    """A channel's maps, enlarged and then scaled to [0, 1]; 0 where there is nothing to scale."""
    full = resize_maps(maps, tuple(images.shape[2:]))
    axes = tuple(range(1, full.ndim))
    low, high = full.amin(axes, keepdim=True), full.amax(axes, keepdim=True)
    flat = maps.amin(axes, keepdim=True) == maps.amax(axes, keepdim=True)  # enlarged, it has rounding errors
    scaled = (full - low) / torch.where(high > low, high - low, 1)
    return torch.where(flat, 0, scaled)[:, None].to(images.dtype)


def finercam(graph: BackwardContext) -> Float[Tensor, "n *yx"]:
    """Grad-CAM of what sets the class apart from those most similar to it (Finer-CAM).

    Grad-CAM with the score `S = y_c - γ mean_t y_{d_t}`, see `targets.finercam`, where `c` is the class that the target
    chose. Zhang et al. 2025, https://arxiv.org/abs/2501.11309

    Args:
        graph: the forward, still differentiable.

    Returns:
        Signed maps at the layer's resolution, in units of the score.

    Raises:
        ValueError: where the target is not the score of one class, or the layer does not lead to it.

    Example:
        >>> A = torch.tensor([[[[4.0, 0.0]], [[0.0, 2.0]]]], requires_grad=True)
        >>> forward = lambda images: images.flatten(2).mean(2)  # two classes: 2 and 1
        >>> finercam(BackwardContext(A, A, forward(A), lambda z: z[:, 0], lambda A: A, forward))
        tensor([[[ 2.0000, -0.6000]]])
    """
    slopes = graph.gradient(targets_.finercam(_classes(graph)))
    return gradcam(graph.activations, at_least_float32(graph.maps(slopes)))


def _classes(graph: BackwardContext) -> Tensor:
    """The class that the target scores in each image, read from its own gradient: so it may be any function."""
    logits = graph.logits.detach().requires_grad_()
    with torch.enable_grad():
        score = graph.target(logits).sum()
    (slopes,) = torch.autograd.grad(score, logits) if score.requires_grad else (torch.zeros_like(logits),)
    if logits.ndim != 2 or not torch.equal(slopes, torch.nn.functional.one_hot(slopes.argmax(1), slopes.shape[1])):
        raise ValueError(
            "`method` is 'finercam', which compares a class with others, but `target` is not the logit of one class. "
            "Choose a class, or another method."
        )
    return slopes.argmax(1)


# The one table of names; add a method here and a row in the tests.
GRAPH_METHODS: dict[str, GraphCam] = {"shapleycam": shapleycam, "scorecam": scorecam, "finercam": finercam}


def resolve(method: str | Cam | GraphCam) -> Cam | GraphCam:
    """The function behind a name in `METHODS` or `GRAPH_METHODS`; a function passes through.

    Raises:
        ValueError: for an unknown name, or that of a fusion: it has no maps of its own.
        TypeError: for something that can't be called.
    """
    check(method)
    if not isinstance(method, str):
        return method
    if method in FUSIONS:
        raise ValueError(f"`method` is {method!r}, which fuses maps of several layers. Name them, or choose another.")
    return GRAPH_METHODS[method] if method in GRAPH_METHODS else METHODS[method]


def is_extended(method: str | Cam | GraphCam) -> bool:
    """Whether a method is called with the graph of the forward, by name or as the function.

    >>> is_extended("scorecam"), is_extended(scorecam), is_extended("gradcam")
    (True, True, False)
    """
    return (
        method in GRAPH_METHODS if isinstance(method, str) else any(method is each for each in GRAPH_METHODS.values())
    )


def check(method: Any) -> None:
    """Whether there is such a method, in any of the three tables.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something that can't be called.
    """
    names = sorted([*METHODS, *GRAPH_METHODS, *FUSIONS])
    if isinstance(method, str):
        if method not in names:
            close = get_close_matches(method, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"`method` is {method!r}. It can be {names} or a function.{hint}")
    elif not callable(method):
        raise TypeError(f"`method` is a {type(method).__name__}. It can be {names} or a function.")


def unit_of(method: str | Cam | GraphCam, uniform: bool) -> str:
    """What a method's values are measured in.

    Args:
        method: a name or a function.
        uniform: whether the gradient is the same at every position, as where pooling and a linear head follow.

    Returns:
        "logits" for HiResCAM, whose map sums to the logit then, and for its equals where the gradient is uniform.

    Example:
        >>> unit_of("hirescam", False), unit_of("gradcam", True), unit_of("layercam", True)
        ('logits', 'logits', 'units of layercam')
    """
    known = (name for name, function in [*METHODS.items(), *GRAPH_METHODS.items()] if function is method)
    name = method if isinstance(method, str) else next(known, getattr(method, "__name__", "the method"))
    exact = name == "hirescam" or (uniform and name in {"gradcam", "xgradcam"})
    return "logits" if exact else f"units of {name}"
