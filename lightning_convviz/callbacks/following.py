"""Patterns that follow the network: they go on from those of the last drawing, and now and then begin anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_convviz.ascent import Patterns, joined

AUDITS = 5  # every so many drawings a filter of each layer is found from a blank image, too
LOW = 0.7  # a layer whose patterns reach less than this share of a cold start's objective begins anew

Layer = str | None
Climb = Callable[..., dict[Layer, Patterns]]


@dataclass(frozen=True)
class Found:
    """The patterns of one layer, and how they came about.

    Attributes:
        patterns: for the filters that were asked for.
        steps: how many, in this drawing.
        warm: whether they go on from the last drawing.
        ratio: of an audited filter, the objective that was reached as a share of a cold start's; None without an audit.
    """

    patterns: Patterns
    steps: int
    warm: bool
    ratio: float | None = None

    @property
    def fell_back(self) -> bool:
        """Whether the layer was begun anew since an audit said so."""
        return not self.warm and self.ratio is not None

    def cpu(self) -> "Found":
        """The same in main memory."""
        return replace(self, patterns=self.patterns.cpu())


class Following:
    """The parameters of the last patterns, by layer and filter, in half precision as a checkpoint holds them.

    Attributes:
        drawings: how many there were.
    """

    def __init__(self, steps: int, cold_steps: int, *, warm: bool) -> None:
        self.steps, self.cold_steps, self.warm = steps, cold_steps, warm
        self.drawings = 0
        self._values: dict[Layer, dict[int, Tensor]] = {}

    def find(
        self,
        climb: Climb,
        share: Mapping[Layer, Sequence[int]],
        *,
        shape: tuple[int, ...],
        first: bool,
        keeps: bool,
        audits: bool,
    ) -> dict[Layer, Found]:
        """The patterns of some filters in the network as it is now.

        Args:
            climb: layer -> filters, and keyword arguments of `ascent.patterns_of_layers` -> patterns.
            share: layer -> filters.
            shape: of a pattern's parameters; others, of pictures of another size, are not gone on from.
            first: a look at the initial network, of which nothing goes on; it has the steps of any other drawing.
            keeps: whether the next drawing goes on from this one.
            audits: whether this process may do more than the others.
        """
        start = {} if first else {layer: self._last(layer, share[layer], shape) for layer in share}
        start = {layer: values for layer, values in start.items() if values is not None}
        cold = {layer: each for layer, each in share.items() if layer not in start}
        cold_steps = self.steps if first else self.cold_steps
        found: dict[Layer, Found] = {}
        for layers, steps, given in (
            ({each: share[each] for each in start}, self.steps, start),
            (cold, cold_steps, {}),
        ):
            made = climb(layers, steps=steps, start=given) if layers else {}
            found |= {layer: Found(each, steps, bool(given)) for layer, each in made.items()}
        if keeps:
            self.drawings += 1
        if start and audits and self.drawings % AUDITS == 0:
            found |= self._audited(climb, {layer: found[layer] for layer in start}, share)
        if keeps:
            self.keep({layer: each.patterns.values for layer, each in found.items()}, share)
        return {layer: found[layer] for layer in share}

    def _audited(
        self, climb: Climb, found: Mapping[Layer, Found], share: Mapping[Layer, Sequence[int]]
    ) -> dict[Layer, Found]:
        """One filter of each layer from a blank image, another one at each audit; where that is better, all of them."""
        rows = {layer: (self.drawings // AUDITS - 1) % len(share[layer]) for layer in found}
        alone = climb({layer: [share[layer][row]] for layer, row in rows.items()}, steps=self.cold_steps, start={})
        audited, low = {}, {}
        for layer, row in rows.items():
            reached, cold = float(found[layer].patterns.improvement[row]), float(alone[layer].improvement[0])
            ratio = reached / cold if cold > 0 else 1.0
            audited[layer] = replace(found[layer], ratio=ratio)
            if not ratio >= LOW:  # also where it is no number
                low[layer] = share[layer]
        anew = climb(low, steps=self.cold_steps, start={}) if low else {}
        for layer, patterns in anew.items():
            audited[layer] = Found(patterns, self.cold_steps, warm=False, ratio=audited[layer].ratio)
        return audited

    def _last(self, layer: Layer, channels: Sequence[int], shape: tuple[int, ...]) -> Tensor | None:
        kept = self._values.get(layer, {})
        if not self.warm or not channels or any(channel not in kept for channel in channels):
            return None
        if any(kept[channel].shape != shape for channel in channels):
            return None
        return torch.stack([kept[channel] for channel in channels]).float()

    def keep(self, values: Mapping[Layer, Tensor], channels: Mapping[Layer, Sequence[int]]) -> None:
        """These are the parameters to go on from, in main memory; what is not finite begins anew."""
        if self.warm:
            for layer, each in values.items():
                kept = self._values.setdefault(layer, {})
                for channel, row in zip(channels[layer], each.detach().half().cpu(), strict=True):
                    if bool(row.isfinite().all()):
                        kept[channel] = row.clone()
                    else:
                        kept.pop(channel, None)

    def forget(self) -> None:
        """Nothing of what there is fits any more."""
        self._values.clear()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Layers, their filters, and the parameters of each."""
        kept = {layer: each for layer, each in self._values.items() if len({v.shape for v in each.values()}) == 1}
        return {
            "layers": list(kept),
            "channels": [list(each) for each in kept.values()],
            "values": [torch.stack(list(each.values())) for each in kept.values()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where an earlier run stopped."""
        self.forget()
        for layer, channels, values in zip(state["layers"], state["channels"], state["values"], strict=True):
            self._values[layer] = dict(zip(channels, values, strict=True))


def gathered(parts: Sequence[Found | None]) -> Found:
    """What all ranks found of one layer, in the order of the filters, of which each rank had every n-th."""
    found = [part for part in parts if part is not None]
    counts = [len(part.patterns) for part in found]
    firsts = [sum(counts[:rank]) for rank in range(len(found))]
    order = [firsts[rank] + row for row in range(max(counts)) for rank, count in enumerate(counts) if row < count]
    ratios = [part.ratio for part in found if part.ratio is not None]
    return Found(
        joined([part.patterns for part in found]).take(order),
        max(part.steps for part in found),
        all(part.warm for part in found),
        min(ratios) if ratios else None,
    )
