"""What one forward shows of every layer, and which ones "auto" takes."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_convviz.layers.record import named_layers

T = TypeVar("T")

JIT = " (What `torch.jit` compiled can't be watched: give the model as it was before.)"


@dataclass
class LayerTrace:
    """What one forward showed of a layer: its last output's shape, its calls, and which call took that output next."""

    module: nn.Module
    shape: tuple[int, ...]
    calls: int
    next_call: tuple[str, int] | None = None

    @property
    def is_map(self) -> bool:
        """Whether the output is (n, c, y, x) with more than one position."""
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1


def trace(model: nn.Module, forward: Callable[[], object]) -> dict[str, LayerTrace]:
    """Run `forward` once and tell which layers of `model` returned tensors, in the order in which they finished."""
    runs: dict[str, LayerTrace] = {}
    calls: Counter[str] = Counter()
    last: list[tuple[str, Tensor]] = []  # the leaf that ran last, with its output: kept so that `is` can be trusted

    def note(name: str, leaf: bool) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] += 1
            if leaf and last and args and args[0] is last[0][1]:
                runs[last[0][0]].next_call = (name, calls[name])
            if isinstance(output, Tensor):
                runs.pop(name, None)  # a layer that runs again moves to the end
                runs[name] = LayerTrace(module, tuple(output.shape), calls[name])
                if leaf:
                    last[:] = [(name, output)]

        return hook

    handles = [
        module.register_forward_hook(note(name, not any(True for _ in module.children())))
        for name, module in named_layers(model).items()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return runs


def post_activation(runs: Mapping[str, LayerTrace], name: str) -> str:
    """The last of the layers that directly follow a convolution: its normalization, its nonlinearity, or itself.

    Follows the modules that took the layer's output, kept its shape and have no weight matrix. The walk ends where the
    nonlinearity is a function (`F.relu`), where a sum comes between, and at a module that runs again later.
    """
    while taken := runs[name].next_call:
        following, call = taken
        run = runs.get(following)
        if run is None or run.shape != runs[name].shape or run.calls != call:
            break
        if any(parameter.ndim > 1 for parameter in run.module.parameters()):
            break
        name = following
    return name


def convolutions(runs: Mapping[str, LayerTrace], *, count: int) -> list[str]:
    """Up to `count` convolutions with a spatial map, evenly spaced over depth, the first and the last included.

    Strided 1 x 1 convolutions, the projections around a residual block, do not count.

    Raises:
        ValueError: where no convolution with a map larger than 1 x 1 ran.
    """
    names = [name for name, run in runs.items() if run.is_map and _is_spatial_or_unstrided_conv(run.module)]
    if not names:
        raise ValueError('`layers` is "auto", but no convolution with a map of over 1 x 1 ran. Name the layers.' + JIT)
    return evenly_spaced(names, count)


def _is_spatial_or_unstrided_conv(module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return False
    return max(module.kernel_size) > 1 or max(module.stride) == 1


def require_ran(runs: Mapping[str, LayerTrace], names: Sequence[str], *, argument: str) -> None:
    """Check that layers ran and returned tensors.

    Raises:
        ValueError: naming the first that did not.
    """
    for name in names:
        if name not in runs:
            raise ValueError(
                f"`{argument}` holds {name!r}, which the forward does not call, or which returns no "
                "tensor. Choose another layer."
            )


def require_maps(runs: Mapping[str, LayerTrace], names: Sequence[str], *, argument: str = "layers") -> None:
    """Check that layers ran and returned maps.

    Raises:
        ValueError: naming the first that did not.
    """
    require_ran(runs, names, argument=argument)
    for name in names:
        if len(runs[name].shape) != 4:
            raise ValueError(
                f"`{argument}` holds {name!r}, whose output has shape {runs[name].shape}. Choose one with maps "
                "(n, c, y, x)."
            )


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` items at even distances, the first and the last included.

    >>> evenly_spaced([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if count >= len(items):
        return list(items)
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]
