"""How FilterPatternLogger makes patterns: at which size, which layers in one batch, and from where."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import ascent
from lightning_convviz.canvas import CANVASES
from lightning_convviz.engine.contract import ProbeView
from lightning_convviz.probes import Probes

SIDE = 96  # patterns of larger inputs are made at this size: a filter's pattern repeats, and their cost is its square
# What the next drawing keeps of a pattern's parameters. Over two nets, three seeds and 20 epochs, 16 steps from .75 of
# the last parameters reach .92 to 1.10 of the objective of 96 cold steps (from the fifth drawing on, median over
# filters and drawings, for each layer and seed), where .5 and 1 of them reach less than .9 somewhere. In single early
# drawings, where the net changes fast, it is .78: tests/benchmarks/results/warm.md.
SHRINK = 0.75


class PatternOptimizer:
    """`ascent.patterns_of_layers` with the arguments of one callback.

    Args:
        size: the longer side of the patterns in pixels; None is that of the probes, up to 96.
        seed: for the blank image's noise and the random changes.
        objective: what is raised.
        canvas: how images are parametrized.
        chunk: how many images at once, at most.
        output: what the model returns -> logits.

    Attributes:
        fixed_size: whether the model turned out to take images of the probes' size only.
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
        self.fixed_size = False
        self._size = size
        self._canvas = canvas
        self._options: dict[str, Any] = {"seed": seed, "objective": objective, "canvas": canvas, "shrink": SHRINK}
        self._forward_options: dict[str, Any] = {"chunk": chunk, "output": output}
        self._share_batch: bool | None = None  # measured once, for all drawings
        self._size_works = False

    def parameter_shape(self, probes: Probes) -> tuple[int, ...]:
        """The shape of a pattern's parameters."""
        return CANVASES[self._canvas].parameter_shape(*self._image_shape(probes))

    def optimize(
        self,
        view: ProbeView,
        sources: Mapping[str, str],
        channels: Mapping[str | None, Sequence[int]],
        *,
        steps: int,
        start: Mapping[str | None, Tensor],
    ) -> dict[str | None, ascent.Patterns]:
        """Patterns of several layers.

        Args:
            view: the model and the probes.
            sources: layer -> the module whose output is raised for it.
            channels: layer -> filters; None -> classes.
            steps: of ascent.
            start: for some of the layers the parameters to go on from.

        Raises:
            ValueError: where the model fails on images of the size that the user asked for.
        """
        names = {layer: None if layer is None else sources[layer] for layer in channels}
        of_sources = {names[layer]: each for layer, each in channels.items()}
        start_of_sources = {names[layer]: each for layer, each in start.items()}
        probe_shape, shape = _shape(view.probes), self._image_shape(view.probes)
        try:
            found = self._ascend(view, of_sources, shape, steps, start_of_sources)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if shape == probe_shape or self._size_works or start:
                raise
            if self._size is not None:
                raise ValueError(
                    f"`size` is {self._size}, and the model fails on it: {error}. Leave it out."
                ) from error
            self.fixed_size = True
            found = self._ascend(view, of_sources, probe_shape, steps, {})
        self._size_works = True
        return {layer: found[name] for layer, name in names.items()}

    def _ascend(
        self,
        view: ProbeView,
        channels: Mapping[str | None, Sequence[int]],
        shape: tuple[int, int, int],
        steps: int,
        start: Mapping[str | None, Tensor],
    ) -> dict[str | None, ascent.Patterns]:
        given = {"like": view.probes.images, "shape": shape, "forward": view.forward_any, **self._forward_options}
        if self._share_batch is None and len(channels) > 1:
            self._share_batch = ascent.is_cheaper_together(view.model, channels, **given)
        return ascent.patterns_of_layers(
            view.model, channels, steps=steps, start=start, share_batch=self._share_batch, **self._options, **given
        )

    def _image_shape(self, probes: Probes) -> tuple[int, int, int]:
        c, h, w = _shape(probes)
        if self.fixed_size:
            return c, h, w
        factor = self._size / max(h, w) if self._size else min(1.0, SIDE / max(h, w))
        return c, max(1, round(h * factor)), max(1, round(w * factor))


def _shape(probes: Probes) -> tuple[int, int, int]:
    c, h, w = probes.images.shape[1:]
    return c, h, w
