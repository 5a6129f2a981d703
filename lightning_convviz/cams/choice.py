"""Which layer "auto" explains: the last one whose maps lead to the score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz import outputs as outputs_
from lightning_convviz.isolation import gradients
from lightning_convviz.layers.layout import SKEW, skew
from lightning_convviz.layers.trace import JIT

# Modules, by class name, that hand on what they get: the layer before them is the one to name.
IDLE = frozenset({"Identity", "DropPath", "StochasticDepth", "DropBlock2d", "PatchDropout", "Permute"})

IMAGES = 2  # to look at: one may have a dead map
TAIL = 24  # layers at first: of a transformer's last block all, and some of the one before
HIGHER = 2  # times as many positions make a resolution higher

Maps = Mapping[str, layers_.Layout]


@dataclass(frozen=True)
class Choice:
    """The layer that "auto" explains.

    Attributes:
        layer: its name.
        high_res_layer: the last, outermost layer before it with maps of a higher resolution (at least twice as many
            positions) that lead to the score; None without one.
        note: why layers after it were passed over; empty where none was.
        is_certain: False where no gradient was found: choose again once the head has learned something.
    """

    layer: str
    high_res_layer: str | None = None
    note: str = ""
    is_certain: bool = True


def choose(
    model: nn.Module,
    images: Float[Tensor, "n *chw"],
    *,
    forward: Callable[..., Any] | None = None,
    output: Callable[[Any], Any] | None = None,
    extra_inputs: Mapping[str, Tensor] = MappingProxyType({}),
    runs: Mapping[str, layers_.LayerTrace],
) -> Choice:
    """Choose the layer to explain: the last with maps of over 1 x 1 whose positions have a gradient of the score.

    One forward of two images, one backward from the highest logit (of segmentation nets the sum of all pixels'). In a
    transformer that classifies by its class token, the patches that leave the last block lead nowhere: there it is the
    norm before the last attention. Call it inside `isolated(model)`.

    Args:
        model: where the layers are.
        images: model input; two are enough.
        forward: images, and extra inputs by name -> what the model returns; default the model itself.
        output: what the model returns -> logits, see `outputs.logits`.
        extra_inputs: further inputs, a row for each image.
        runs: what `layers.trace` returned, for these images or for fewer.

    Raises:
        ValueError: where no layer returned maps of over 1 x 1, or no logits can be read.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> images = torch.ones(1, 1, 6, 8)
        >>> choose(net, images, runs=layers_.trace(net, lambda: net(images))).layer
        '1'
    """
    maps = _candidates(runs, tuple(images.shape))
    if not maps:
        raise ValueError(
            '`layer` is "auto", but no layer returned a map (n, c, y, x) of over 1 x 1, channels-last maps or patch '
            "tokens. Name a layer, and give `reshape=` a function (the layer's output) -> maps." + JIT
        )
    names = list(maps)
    for tail in [names[-TAIL:], names] if len(names) > TAIL else [names]:
        wanted = dict.fromkeys(name for last in tail for name in [last, *_higher_resolutions(last, maps)])
        found = _gradients(model, images[:IMAGES], forward or model, output, extra_inputs, {n: maps[n] for n in wanted})
        live = [name for name in tail if _leads(found.get(name), maps[name])]
        passed = [name for name in tail[tail.index(live[-1]) + 1 :] if name in found] if live else []
        layer = _whole(live, maps, runs, _tokens(passed, maps, found)) if live else None
        if live and (layer or tail == names):
            return _choice(layer or live[-1], passed, maps, found, runs)
    note = "no gradient of the score reaches a map, as with a head of zeros: the last map was taken"
    joined = [name for name in names if found.get(name) is not None] or names  # zero, but a part of the way
    return Choice(joined[-1], None, note, is_certain=False)


def _candidates(runs: Mapping[str, layers_.LayerTrace], image: tuple[int, ...]) -> dict[str, layers_.Layout]:
    """The layouts of the layers that returned maps, in the order in which the layers finished."""
    rows = [run.shape[0] for run in runs.values() if run.shape]
    image = (image[0] if rows.count(image[0]) >= rows.count(1) else 1, *image[1:])  # traced with one image?
    convolved = {run.shape for run in runs.values() if isinstance(run.module, nn.modules.conv._ConvNd)}
    lengths = {run.shape[1] for run in runs.values() if len(run.shape) == 3}
    found = {}
    for name, run in runs.items():
        maps = None if _is_idle(run.module) else layers_.layout(run.shape, image, module=run.module)
        if maps is None or prod(maps.size) < 2 or run.shape[int(maps.order == "tokens first")] != image[0]:
            continue
        attention = maps.order == "channels first" and not lengths.isdisjoint(maps.size)  # (n, heads, tokens, ...)
        if run.shape in convolved or not (attention or skew(maps.size, image) > SKEW):
            found[name] = maps
    return found


def _gradients(
    model: nn.Module,
    images: Tensor,
    forward: Callable[..., Any],
    read: Callable[[Any], Any] | None,
    extra_inputs: Mapping[str, Tensor],
    maps: Maps,
) -> dict[str, Tensor | None]:
    """The gradient of the highest logit at each of the layers, in their order; nothing where there is none."""
    names = list(maps)
    extra_inputs = {name: other[: len(images)] for name, other in extra_inputs.items()}
    with torch.enable_grad():  # as `run_forward` will run it: what gets a gradient here gets one there
        with layers_.record(model, names, differentiable=names) as recorded:
            logits = outputs_.logits(forward(images.clone(), **extra_inputs), read, dense=True)
        score = logits.max(1).values.sum()
    # What has another number of rows now is nothing of the images: windows, a table of positions.
    rows = {name: recorded[name].shape[int(maps[name].order == "tokens first")] for name in names if name in recorded}
    known = [name for name, count in rows.items() if count == len(images)]
    if not score.requires_grad or not known:
        return {}
    try:
        found = gradients(score, [recorded[name] for name in known], allow_unused=True)
    except ValueError:  # activation checkpoints of the old kind
        return {}
    return dict(zip(known, found, strict=True))


def _leads(gradient: Tensor | None, maps: layers_.Layout) -> bool:
    """Whether the score depends on the layer's positions, not only on its class or register tokens."""
    return gradient is not None and bool((maps(gradient) != 0).any())


def _tokens(passed: Sequence[str], maps: Maps, found: Mapping[str, Tensor | None]) -> layers_.Layout | None:
    """The layout of the last layer that was passed over though its class or register tokens lead to the score."""
    layouts = [maps[name] for name in passed if (slope := found[name]) is not None and bool((slope != 0).any())]
    return layouts[-1] if layouts else None


def _whole(
    live: Sequence[str], maps: Maps, runs: Mapping[str, layers_.LayerTrace], tokens: layers_.Layout | None
) -> str | None:
    """The last of the live layers that is no part of an attention or of a head; None where each is.

    Queries, keys, values and scores are projections (`nn.Linear`) of one layer: that is the one to look at. What else
    stands within an attention that ends in the class token, convolutions say, is not laid out as its tokens are.
    """
    if tokens is None and not isinstance(runs[live[-1]].module, nn.Linear):
        return live[-1]
    like = [name for name in live if (maps[name] == tokens if tokens else maps[name].size == maps[live[-1]].size)]
    return next((name for name in reversed(like) if not isinstance(runs[name].module, nn.Linear)), None)


def _choice(
    layer: str,
    passed: Sequence[str],
    maps: Maps,
    found: Mapping[str, Tensor | None],
    runs: Mapping[str, layers_.LayerTrace],
) -> Choice:
    high_res = (name for name in _higher_resolutions(layer, maps) if _leads(found.get(name), maps[name]))
    note = _why_passed(passed, tokens=_tokens(passed, maps, found) is not None) or _why_small(layer, runs)
    return Choice(layer, next(high_res, None), note)


def _higher_resolutions(layer: str, maps: Maps) -> list[str]:
    """For each higher resolution, from the back, its outermost layer before this one; the last of several.

    Once there are maps of the layer's own size, what has a side as long as those have positions is attention's.
    """
    names, best, own = list(maps), dict[tuple[int, ...], str](), prod(maps[layer].size)
    start = next(index for index, name in enumerate(names) if maps[name].size == maps[layer].size)
    inner = {own, own + maps[layer].prefix}
    for index, name in reversed(list(enumerate(names[: names.index(layer)]))):
        size = maps[name].size
        if prod(size) >= HIGHER * own and (index < start or inner.isdisjoint(size)):
            best.setdefault(size, name)
            if name.count(".") < best[size].count("."):
                best[size] = name
    return list(best.values())


def _why_passed(passed: Sequence[str], *, tokens: bool) -> str:
    if not passed:
        return ""
    names = f"{passed[-1]!r}" + (f" and {len(passed) - 1} more" if len(passed) > 1 else "")
    why = "only class or register tokens lead to the logits" if tokens else "their maps do not lead to the logits"
    return f"passed over {names}: {why}"


def _why_small(layer: str, runs: Mapping[str, layers_.LayerTrace]) -> str:
    names = list(runs)
    later = names[names.index(layer) + 1 :]
    small = [name for name in later if _is_spatial_conv(runs[name].module) and prod(runs[name].shape[2:]) == 1]
    return f"passed over {small[-1]!r}: its maps are 1 x 1" if small else ""


def _is_spatial_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and max(module.kernel_size) > 1


def _is_idle(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in IDLE
