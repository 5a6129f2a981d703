"""Patterns that follow the network: they go on from those of the last drawing, and now and then start from blank."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import ascent

AUDIT_EVERY = 5  # drawings; then a filter of each layer is also made from a blank image
LOWEST_RATIO = 0.7  # a layer whose patterns reach less than this share of a cold start's objective is restarted

# Layer -> channels, steps and parameters to go on from -> patterns; see `PatternOptimizer.optimize`.
Optimize = Callable[..., dict[str | None, ascent.Patterns]]


@dataclass(frozen=True)
class TrackedPatterns:
    """The patterns of one layer, and how they came about.

    Attributes:
        patterns: one for each filter.
        steps: of ascent, in this drawing.
        warm: whether they go on from the last drawing's.
        warm_over_cold: the objective that an audited filter reached, as a share of a cold start's; None without audit.
    """

    patterns: ascent.Patterns
    steps: int
    warm: bool
    warm_over_cold: float | None = None

    @property
    def restarted(self) -> bool:
        """Whether the layer was started from blank images because an audit said so."""
        return not self.warm and self.warm_over_cold is not None

    def cpu(self) -> "TrackedPatterns":
        """The same in main memory."""
        return replace(self, patterns=self.patterns.cpu())

    @staticmethod
    def merge(parts: Sequence["TrackedPatterns | None"]) -> "TrackedPatterns":
        """What all ranks made of one layer, in the order of the filters, of which rank r had every n-th from r on."""
        made = [part for part in parts if part is not None]
        counts = [len(part.patterns) for part in made]
        firsts = [sum(counts[:rank]) for rank in range(len(made))]
        order = [firsts[rank] + row for row in range(max(counts)) for rank, count in enumerate(counts) if row < count]
        ratios = [part.warm_over_cold for part in made if part.warm_over_cold is not None]
        return TrackedPatterns(
            ascent.joined([part.patterns for part in made]).take(order),
            max(part.steps for part in made),
            all(part.warm for part in made),
            min(ratios) if ratios else None,
        )


class PatternTracker:
    """Makes the patterns of each drawing from the last one's, whose parameters it keeps in half precision.

    Args:
        steps: of ascent, where patterns go on from the last drawing's.
        cold_steps: where they start from blank images.
        warm: whether they ever go on.

    Attributes:
        num_drawings: how many there were that the next one goes on from.
    """

    def __init__(self, steps: int, cold_steps: int, *, warm: bool) -> None:
        self.num_drawings = 0
        self._steps = steps
        self._cold_steps = cold_steps
        self._warm = warm
        self._values: dict[str | None, dict[int, Tensor]] = {}

    def update(
        self,
        optimize: Optimize,
        channels: Mapping[str | None, Sequence[int]],
        *,
        parameter_shape: tuple[int, ...],
        initial: bool,
        keep: bool,
        audit: bool,
    ) -> dict[str | None, TrackedPatterns]:
        """The patterns of some filters in the network as it is now.

        Args:
            optimize: makes patterns.
            channels: layer -> filters.
            parameter_shape: of one pattern; kept parameters of another shape belong to images of another size.
            initial: a drawing of the initial network, from which nothing goes on; it takes as many steps as any other.
            keep: whether the next drawing goes on from this one.
            audit: whether this process may do more than the others.
        """
        start = {} if initial else self._start(channels, parameter_shape)
        cold = [layer for layer in channels if layer not in start]
        cold_steps = self._steps if initial else self._cold_steps
        tracked = self._run(optimize, {layer: channels[layer] for layer in start}, self._steps, start)
        tracked |= self._run(optimize, {layer: channels[layer] for layer in cold}, cold_steps, {})
        if keep:
            self.num_drawings += 1
        if start and audit and self.num_drawings % AUDIT_EVERY == 0:
            tracked |= self._audit(optimize, {layer: tracked[layer] for layer in start}, channels)
        if keep:
            self.store({layer: each.patterns.values for layer, each in tracked.items()}, channels)
        return {layer: tracked[layer] for layer in channels}

    @staticmethod
    def _run(
        optimize: Optimize,
        channels: Mapping[str | None, Sequence[int]],
        steps: int,
        start: Mapping[str | None, Tensor],
    ) -> dict[str | None, TrackedPatterns]:
        patterns = optimize(channels, steps=steps, start=start) if channels else {}
        return {layer: TrackedPatterns(each, steps, warm=bool(start)) for layer, each in patterns.items()}

    def _audit(
        self,
        optimize: Optimize,
        tracked: Mapping[str | None, TrackedPatterns],
        channels: Mapping[str | None, Sequence[int]],
    ) -> dict[str | None, TrackedPatterns]:
        """Make one filter of each layer from a blank image, another one at each audit; where that is better, all."""
        rows = {layer: (self.num_drawings // AUDIT_EVERY - 1) % len(channels[layer]) for layer in tracked}
        one_each = {layer: [channels[layer][row]] for layer, row in rows.items()}
        cold = self._run(optimize, one_each, self._cold_steps, {})
        audited: dict[str | None, TrackedPatterns] = {}
        for layer, row in rows.items():
            reached = float(tracked[layer].patterns.improvement[row])
            possible = float(cold[layer].patterns.improvement[0])
            audited[layer] = replace(tracked[layer], warm_over_cold=reached / possible if possible > 0 else 1.0)
        ratios = {layer: each.warm_over_cold for layer, each in audited.items() if each.warm_over_cold is not None}
        low = {layer: channels[layer] for layer, ratio in ratios.items() if not ratio >= LOWEST_RATIO}  # NaN is low
        for layer, each in self._run(optimize, low, self._cold_steps, {}).items():
            audited[layer] = replace(each, warm_over_cold=ratios[layer])
        return audited

    def _start(
        self, channels: Mapping[str | None, Sequence[int]], parameter_shape: tuple[int, ...]
    ) -> dict[str | None, Tensor]:
        """The last drawing's parameters, of the layers where all filters have some that fit."""
        start = {}
        for layer, wanted in channels.items():
            kept = self._values.get(layer, {})
            fits = [channel in kept and kept[channel].shape == parameter_shape for channel in wanted]
            if self._warm and fits and all(fits):
                start[layer] = torch.stack([kept[channel] for channel in wanted]).float()
        return start

    def store(self, values: Mapping[str | None, Tensor], channels: Mapping[str | None, Sequence[int]]) -> None:
        """Keep parameters to go on from, in main memory; those that are not finite start from blank."""
        if not self._warm:
            return
        for layer, each in values.items():
            kept = self._values.setdefault(layer, {})
            for channel, row in zip(channels[layer], each.detach().half().cpu(), strict=True):
                if bool(row.isfinite().all()):
                    kept[channel] = row.clone()
                else:
                    kept.pop(channel, None)

    def state_dict(self) -> dict[str, Any]:
        """Layers, their filters, and the parameters of each."""
        kept = {layer: each for layer, each in self._values.items() if len({v.shape for v in each.values()}) == 1}
        return {
            "layers": list(kept),
            "channels": [list(each) for each in kept.values()],
            "values": [torch.stack(list(each.values())) for each in kept.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on where an earlier run stopped; None where a checkpoint had no room for the patterns."""
        self._values = {}
        if state is not None:
            for layer, channels, values in zip(state["layers"], state["channels"], state["values"], strict=True):
                self._values[layer] = dict(zip(channels, values, strict=True))
