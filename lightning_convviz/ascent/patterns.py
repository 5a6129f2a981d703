"""Images that excite channels: all layers in one batch where that is cheaper, each by itself where it is not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz.ascent.climb import Forward, Job, Layer, LayerReader, Patterns, climb, joined
from lightning_convviz.ascent.objectives import ObjectiveFactory
from lightning_convviz.ascent.plan import frame, is_cheaper
from lightning_convviz.ascent.recipes import build_config
from lightning_convviz.isolation import in_chunks, isolated


def patterns(
    model: nn.Module,
    layer: str | None,
    channels: Sequence[int],
    *,
    start: Patterns | None = None,
    **options: Any,
) -> Patterns:
    """Images that excite channels of a layer, all in one batch; the model is left as it was.

    `x* = argmax_x mean_yx A[c, y, x](x)` over images within the value box, from a blank start, by Adam on the Fourier
    spectrum under random changes: shifts of up to 1/32 of the side, from 64 pixels on also 5 % of scale and 5 degrees
    of rotation. Each forward stops at the layer. Olah et al. 2017, "Feature Visualization",
    https://distill.pub/2017/feature-visualization

    Args:
        model: any module.
        layer: the name of a layer that returns maps (n, c, y, x) or vectors (n, c); None for the class logits that the
            model returns. A ReLU is asked for its input, since where it cuts off no gradient comes through.
        channels: which of its channels (or classes), one image each; a channel may be named several times.
        start: patterns of the same channels from an earlier network, to go on from.
        options: as for `patterns_of_layers`.

    Raises:
        TypeError: for an objective or a canvas that is none.
        ValueError: for an unknown layer, objective, canvas, channel or size, or a layer without maps.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False))
        >>> found = patterns(net, "0", [0], shape=(1, 6, 6), steps=20)
        >>> found.images.shape, bool(found.peaks > 0)
        (torch.Size([1, 1, 6, 6]), True)
    """
    if isinstance(channels, int) or isinstance(layer, nn.Module):
        argument, came = ("channels", channels) if isinstance(channels, int) else ("layer", type(layer).__name__)
        raise TypeError(f"`{argument}` is {came}. Give the name of a layer, and a list of its channels.")
    if not channels:
        raise ValueError("`channels` is empty. Name at least one.")
    name = None if layer is None else layers_.find_one(model, layer)
    if start is not None and len(start) != len(channels):
        raise ValueError(f"`start` has {len(start)} patterns for {len(channels)} channels. Give one for each.")
    return patterns_of_layers(model, {name: channels}, start=None if start is None else {name: start}, **options)[name]


def patterns_of_layers(
    model: nn.Module,
    channels: Mapping[str | None, Sequence[int]],
    *,
    like: Float[Tensor, "n c h w"] | None = None,
    shape: tuple[int, int, int] | None = None,
    steps: int | None = None, rate: float | None = None, seed: int = 0,
    objective: str | ObjectiveFactory = "mean", canvas: str = "fourier", recipe: Literal["textbook"] | None = None,
    augment: bool = True,
    start: Mapping[str | None, Patterns | Tensor] | None = None, shrink: float = 0.5,
    share_batch: bool | None = None, chunk: int | None = None,
    progress: bool = False,
    forward: Forward | None = None, output: Callable[[Any], Any] | None = None,
) -> dict[str | None, Patterns]:  # fmt: skip
    """Images that excite channels of several layers.

    Args:
        model: any module.
        channels: layer (None for the class logits) -> its channels.
        like: example inputs: they give the size, the range of values, the correlation of colors and the spectrum.
        shape: (c, h, w) of the images, where it is to differ from `like`'s; without `like` values lie in [-2, 2].
        steps: steps of ascent, 64 by default; more give stronger patterns.
        rate: the length of a step, by default what suits the canvas; more steps want a smaller one.
        seed: another seed, other patterns. A pattern's random numbers depend on it, its layer and its channel, and on
            how many of the same channel come before.
        objective: what is raised: `"mean"`, `"above_blank"`, `"neuron"`, `"diverse"`, or a function:
            `direction(vectors)`, `difference(others)`, or one of your own: (channels, answer to the blank image) ->
            objective.
        canvas: how images are parametrized: `"fourier"`, `"pixels"`, `"maco"` (the examples' spectrum is kept, only the
            phase is learned) or `"textbook"` (pixels as they are, along the normalized gradient).
        recipe: `"textbook"` does as Chollet, "Deep Learning with Python", 2nd ed., 9.4.2: that canvas, 30 steps, from
            gray noise, the mean, and nothing to survive.
        augment: whether patterns have to survive shifts, and from 64 pixels on scale and rotation.
        start: for some of the layers the patterns to go on from, or their `values`.
        shrink: how much of them is kept; the rest is the blank start.
        share_batch: whether all layers share one batch that runs to the deepest, where each image reads its own layer
            (cheaper where calls cost more than arithmetic), or each is run by itself to its own depth; None measures
            a step of both.
        chunk: how many images at once, at most; by default all, or as many as memory allows.
        progress: show a progress bar.
        forward: images -> output of the model; default the model itself.
        output: what the model returns -> logits.

    Returns:
        For each layer its patterns, in the order of the channels.

    Raises:
        TypeError: for an objective or a canvas that is none.
        ValueError: as for `patterns`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        >>> found = patterns_of_layers(net, {"0": [0, 1], "2": [3]}, shape=(3, 9, 9), steps=2)
        >>> {layer: len(each) for layer, each in found.items()}
        {'0': 2, '2': 1}
    """
    config = build_config(steps, rate, seed, objective, canvas, recipe, augment, shrink)
    if chunk is not None and chunk < 1:
        raise ValueError(f"`chunk` is {chunk}. It must be at least 1, or None.")
    wanted = _jobs(model, channels)
    jobs = [job for each in wanted.values() for job in each]
    if not jobs:
        raise ValueError("`channels` names no channel. Name at least one.")
    reader = LayerReader(model, forward or model, output)
    with isolated(model):
        within, size = frame(model, like, shape)
        begin = _start(start or {}, wanted, config.canvas.parameter_shape, (len(within.low), *size))
        whole, counts = layers_.is_fsdp(model), {layer: len(each) for layer, each in channels.items() if each}
        if share_batch is None:
            share_batch = whole or len(counts) < 2 or is_cheaper(reader, counts, within, size, chunk)
        batches = [jobs] if share_batch else [each for each in wanted.values() if each]
        parts = []
        for batch, rounds in zip(batches, _bars(batches, progress), strict=True):
            run = partial(climb, reader, batch, config, within, size, begin, rounds)
            parts += in_chunks(run, len(batch), whole=whole, size=chunk)
    return _split(joined(parts), channels)


def _jobs(model: nn.Module, channels: Mapping[Layer, Sequence[int]]) -> dict[Layer, list[Job]]:
    """One job for each image, in order."""
    if not isinstance(channels, Mapping) or any(isinstance(each, int) for each in channels.values()):
        raise TypeError(f"`channels` is {channels!r}. Give a dict, layer -> a list of its channels.")
    unknown = [layer for layer in channels if layer is not None and layer not in layers_.named_layers(model)]
    if unknown:
        layers_.find(model, [layers_.canonical_name(layer) for layer in unknown], argument="channels")
        raise ValueError(f"`channels` names {unknown}. Name each layer in full.")
    return {
        layer: [(layer, channel, list(each[:row]).count(channel)) for row, channel in enumerate(each)]
        for layer, each in channels.items()
    }


def _split(found: Patterns, channels: Mapping[Layer, Sequence[int]]) -> dict[Layer, Patterns]:
    split, first = {}, 0
    for layer, each in channels.items():
        split[layer] = found.take(slice(first, first + len(each)))
        first += len(each)
    return split


def _start(
    given: Mapping[Layer, Patterns | Tensor],
    wanted: Mapping[Layer, Sequence[Job]],
    parameters: Callable[..., tuple[int, ...]],
    shape: tuple[int, ...],
) -> dict[Job, Tensor]:
    """For each job the parameters to go on from."""
    found: dict[Job, Tensor] = {}
    for layer, each in given.items():
        values = each.values if isinstance(each, Patterns) else each
        expected = (len(wanted.get(layer, ())), *parameters(*shape))
        if values.shape != expected:
            raise ValueError(
                f"`start` has parameters of shape {tuple(values.shape)} for {layer!r}, where {expected} fits. Begin "
                "anew, or keep channels, size and canvas as they were."
            )
        found.update(zip(wanted[layer], values, strict=True))
    return found


def _bars(batches: Sequence[Sequence[Job]], progress: bool) -> list[Callable[[int], Iterator[int]] | None]:
    """For each batch what shows its steps; nothing where nobody wants to see them."""
    if not progress:
        return [None] * len(batches)
    from tqdm.auto import tqdm

    def bar(name: str, steps: int) -> Iterator[int]:
        yield from tqdm(range(steps), desc=name, unit="step")

    return [partial(bar, ", ".join(dict.fromkeys(layer or "classes" for layer, *_ in batch))) for batch in batches]
