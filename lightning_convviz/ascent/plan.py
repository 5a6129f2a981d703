"""Where patterns are made: in which box, at which size, and which layers share a batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lightning_convviz import layers as layers_
from lightning_convviz.ascent.climb import Forward, Layer, LayerReader, dtype_of
from lightning_convviz.canvas import Box, box
from lightning_convviz.isolation import autograd_everywhere, devices, isolated

TIMES = 2  # how often each way is timed; the shortest counts


def is_cheaper_together(
    model: nn.Module,
    channels: Mapping[str | None, Sequence[int]],
    *,
    like: Float[Tensor, "n c h w"] | None = None,
    shape: tuple[int, int, int] | None = None,
    chunk: int | None = None,
    forward: Forward | None = None,
    output: Callable[[Any], Any] | None = None,
) -> bool:
    """Whether `patterns_of_layers` takes less time with all layers in one batch, as its `share_batch=None` measures.

    For arguments and errors see `patterns_of_layers`. A model in pieces over ranks runs whole: there it is always True.
    """
    if len(channels) < 2 or layers_.is_fsdp(model):
        return True
    with isolated(model):
        within, size = frame(model, like, shape)
        counts = {layer: len(each) for layer, each in channels.items() if each}
        return is_cheaper(LayerReader(model, forward or model, output), counts, within, size, chunk)


def is_cheaper(
    reader: LayerReader, counts: Mapping[Layer, int], within: Box, size: tuple[int, int], chunk: int | None
) -> bool:
    """Whether a step of all layers in one batch takes less time than a step of each to its own depth.

    Many short calls cost a GPU more than their arithmetic; a CPU, or a large net, is better off with less of it.
    """
    try:
        with autograd_everywhere(reader.model):
            apart = sum(_seconds(reader, {layer: count}, within, size, chunk) for layer, count in counts.items())
            return _seconds(reader, counts, within, size, chunk) < apart
    except torch.OutOfMemoryError:
        return False


def _seconds(
    reader: LayerReader, counts: Mapping[Layer, int], within: Box, size: tuple[int, int], chunk: int | None
) -> float:
    """What a forward and the gradient to the images take, for some images of each layer."""
    total, times = sum(counts.values()), []
    at_once = min(total, chunk or total)
    middle = ((within.low + within.high) / 2)[:, None, None].expand(at_once, -1, *size).clone().requires_grad_()
    for _ in range(TIMES + 1):
        _wait(middle)
        begin = time.perf_counter()
        maps, first, sums = reader.maps(list(counts), middle), 0, []
        for layer, count in counts.items():
            sums.append(maps[layer][first : first + count].sum())
            first += count
        torch.autograd.grad(torch.stack(sums).sum(), middle)
        _wait(middle)
        times.append(time.perf_counter() - begin)
    return min(times[1:]) * total / at_once


def _wait(tensor: Tensor) -> None:
    if tensor.device.type != "cpu":
        torch.get_device_module(tensor.device).synchronize(tensor.device)


def frame(model: nn.Module, like: Tensor | None, shape: tuple[int, int, int] | None) -> tuple[Box, tuple[int, int]]:
    """The value box and the size of the images, from what the caller gave."""
    if like is not None and (not isinstance(like, Tensor) or like.ndim != 4):
        what = tuple(like.shape) if isinstance(like, Tensor) else type(like).__name__
        raise ValueError(f"`like` is {what}. Give example inputs as a tensor (n, c, h, w).")
    if shape is not None and len(shape) != 3:
        raise ValueError(f"`shape` is {tuple(shape)}. Give (channels, height, width).")
    if like is not None:
        within = box(like.clone())
        if shape is not None and shape[0] != like.shape[1]:
            raise ValueError(f"`shape` is {shape}, but `like` has {like.shape[1]} channels. Make them agree.")
    elif shape is not None:
        where = next(iter(devices(model)), torch.device("cpu"))
        dtype = torch.float64 if dtype_of(model) == torch.float64 else torch.float32
        bound = torch.full((shape[0],), 2.0, dtype=dtype, device=where)
        within = Box(-bound, bound, torch.eye(shape[0], dtype=dtype, device=where))
    else:
        raise ValueError("`like` and `shape` are both missing. Give example inputs, or (channels, height, width).")
    h, w = (shape or like.shape)[-2:]  # type: ignore[union-attr]
    return within, (h, w)
