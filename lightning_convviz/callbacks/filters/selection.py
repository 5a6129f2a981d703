"""Which filters FilterPatternLogger draws: chosen once, by place or by what they respond to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lightning_convviz import ascent, layers
from lightning_convviz.engine.contract import ProbeView

NUM_AUTO_LAYERS = 4

LayerTypes = type[nn.Module] | str | Sequence[type[nn.Module] | str]


@dataclass
class FilterSelection:
    """The layers and filters of a run.

    Attributes:
        layers: what the user asked for.
        filters: "spread", "active", or the filters' numbers.
        num_filters: how many filters of a layer.
        important_for: the class that the filters should speak for, if any.
        classes: of which to draw what raises their logit most.
        sources: layer -> the module whose output is raised.
        channels: layer -> filters; None -> classes.
        is_final: whether the filters were chosen in a network that is being trained.
    """

    layers: LayerTypes
    filters: str | Sequence[int]
    num_filters: int
    important_for: int | None
    classes: Sequence[int]
    sources: dict[str, str] = field(default_factory=dict)
    channels: dict[str | None, list[int]] = field(default_factory=dict)
    is_final: bool = False

    def select(self, view: ProbeView) -> bool:
        """Choose layers, and filters by place; whether anything had to be chosen.

        Raises:
            ValueError: where what was asked for did not run, is no map, or has no such filter.
        """
        if self.sources and {*self.sources, *self.sources.values()} <= view.trace.keys():
            return False
        if self.layers == "auto":
            names = layers.convolutions(view.trace, count=NUM_AUTO_LAYERS)
            self.sources = {name: layers.post_activation(view.trace, name) for name in names}
        else:
            names = layers.find(view.model, self.layers)
            layers.require_maps(view.trace, names)
            self.sources = {name: name for name in names}
        self.channels = {name: self._by_place(name, view.trace[name].shape[1]) for name in names}
        if self.classes:
            self.channels[None] = list(self.classes)
        self.is_final = False
        return True

    def _by_place(self, name: str, num_channels: int) -> list[int]:
        if isinstance(self.filters, str):
            return list(layers.evenly_spaced(range(num_channels), self.num_filters))
        if too_large := [channel for channel in self.filters if channel >= num_channels]:
            raise ValueError(f"`filters` holds {too_large[0]}; layer {name!r} has channels 0 to {num_channels - 1}.")
        return list(self.filters)

    def select_by_response(self, view: ProbeView, output: Callable[..., Any] | None, *, final: bool) -> None:
        """Choose filters by what they do with the probes, where that was asked for and is not done for good yet.

        Args:
            view: the model and the probes.
            output: what the model returns -> logits.
            final: whether this choice stays for the rest of the run.
        """
        if self.is_final:
            return
        names, images, forward = list(self.sources.values()), view.probes.images, view.forward_repeated
        ranked: Mapping[str, list[int]] = {}
        if self.important_for is not None:
            ranked = ascent.most_important(
                view.model, names, images, self.important_for, forward=forward, output=output
            )
        elif self.filters == "active":
            ranked = ascent.most_active(view.model, names, images, forward=forward)
        if ranked:
            for name, source in self.sources.items():
                self.channels[name] = sorted(ranked[source][: self.num_filters])
        self.is_final = final

    @property
    def request(self) -> str:
        """What was asked for, as a state remembers it."""
        return f"{self.layers!r}, {self.num_filters}, {self.filters!r}, {self.important_for}, {list(self.classes)}"

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"channels": dict(self.channels), "sources": dict(self.sources), "is_final": self.is_final}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run chose."""
        self.channels = dict(state["channels"])
        self.sources = dict(state["sources"])
        self.is_final = state["is_final"]
