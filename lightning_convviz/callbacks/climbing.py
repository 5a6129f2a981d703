"""How FilterPatternLogger asks for patterns: at which size, which layers together, and how much is kept of the last."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import ascent
from lightning_convviz.callbacks.following import Layer
from lightning_convviz.callbacks.scene import View
from lightning_convviz.canvas import CANVASES
from lightning_convviz.probes import Probes

SIDE = 96  # patterns of larger inputs are made at this size: a filter's pattern repeats, and their cost is its square
# What the next drawing keeps of a pattern's parameters. Over two nets, three seeds and 20 epochs, 16 steps from .75 of
# the last parameters reach .92 to 1.10 of the objective of 96 cold steps (from the fifth drawing on, median over
# filters and drawings, for each layer and seed), where .5 and 1 of them reach less than .9 somewhere. In single early
# drawings, where the net changes fast, it is .78: tests/benchmarks/results/warm.md.
SHRINK = 0.75


class Climber:
    """`ascent.patterns_of_layers` for the layers of one callback.

    Attributes:
        fixed_size: whether the net takes pictures of the probes' size only.
    """

    def __init__(
        self,
        *,
        size: int | None,
        seed: int,
        objective: Callable[..., Any] | str,
        canvas: str,
        chunk: int | None,
        output: Callable[..., Any] | None,
    ) -> None:
        self._size = size
        self._how: dict[str, Any] = {"seed": seed, "objective": objective, "canvas": canvas, "shrink": SHRINK}
        self._run = {"chunk": chunk, "output": output}
        self._together: bool | None = None
        self._works = False  # whether the net took pictures of this size
        self.fixed_size = False

    def parameters(self, probes: Probes) -> tuple[int, ...]:
        """The shape of a pattern's parameters."""
        return CANVASES[self._how["canvas"]].parameter_shape(*self._shape(probes))

    def climb(
        self,
        view: View,
        sources: Mapping[str, str],
        layers: Mapping[Layer, Sequence[int]],
        *,
        steps: int,
        start: Mapping[Layer, Tensor],
    ) -> dict[Layer, ascent.Patterns]:
        """Patterns by the layers' own names; `sources` are the modules whose output is raised for them."""
        named: dict[Layer, Layer] = {layer: None if layer is None else sources[layer] for layer in layers}
        channels = {named[layer]: each for layer, each in layers.items()}
        begin = {named[layer]: each for layer, each in start.items()}
        own, shape = _of(view.probes), self._shape(view.probes)
        try:
            found = self._many(view, channels, shape, steps, begin)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if shape == own or self._works or begin:
                raise
            if self._size is not None:
                raise ValueError(
                    f"`size` is {self._size}, and the model fails on it: {error}. Leave it out."
                ) from error
            self.fixed_size = True
            found = self._many(view, channels, own, steps, {})
        self._works = True
        return {layer: found[named[layer]] for layer in layers}

    def _many(
        self,
        view: View,
        channels: Mapping[Layer, Sequence[int]],
        shape: tuple[int, int, int],
        steps: int,
        start: Mapping[Layer, Tensor],
    ) -> dict[Layer, ascent.Patterns]:
        given: dict[str, Any] = {"like": view.probes.images, "shape": shape, "forward": view.forward, **self._run}
        if self._together is None and len(channels) > 1:
            self._together = ascent.is_cheaper_together(view.model, channels, **given)
        return ascent.patterns_of_layers(
            view.model, channels, start=start, steps=steps, share_batch=self._together, **self._how, **given
        )

    def _shape(self, probes: Probes) -> tuple[int, int, int]:
        c, h, w = _of(probes)
        factor = self._size / max(h, w) if self._size else min(1.0, SIDE / max(h, w))
        return (c, h, w) if self.fixed_size else (c, max(1, round(h * factor)), max(1, round(w * factor)))


def _of(probes: Probes) -> tuple[int, int, int]:
    c, h, w = probes.images.shape[1:]
    return c, h, w
