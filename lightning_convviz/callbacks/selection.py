"""Which filters FilterPatternLogger draws: chosen once, by place or by what they do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lightning_convviz import ascent, layers
from lightning_convviz.callbacks.following import Layer
from lightning_convviz.callbacks.scene import Scene, View

LAYERS = 4  # what "auto" draws


@dataclass
class Selection:
    """The filters of a run.

    Attributes:
        layers: what the user asked for.
        filters: "spread", "active", or the filters' numbers.
        count: how many filters of a layer.
        important_for: the class that they are to speak for, if any.
        classes: of which to draw what raises their logit most.
        sources: layer -> the module whose output is raised.
        channels: layer -> filters; None -> classes.
        final: whether they were chosen in a network that is being trained.
    """

    layers: Any
    filters: str | Sequence[int]
    count: int
    important_for: int | None
    classes: Sequence[int]
    sources: dict[str, str] = field(default_factory=dict)
    channels: dict[Layer, list[int]] = field(default_factory=dict)
    final: bool = False

    def resolve(self, model: nn.Module, scene: Scene) -> bool:
        """Choose layers, and filters evenly; whether there was something to choose."""
        runs = scene.runs
        if self.sources and {*self.sources, *self.sources.values()} <= runs.keys():
            return False
        if self.layers == "auto":
            names = layers.convolutions(runs, count=LAYERS)
            self.sources = {name: layers.post_activation(runs, name) for name in names}
        else:
            names = layers.find(model, self.layers)
            layers.require_maps(runs, names)
            self.sources = {name: name for name in names}
        self.final = False
        self.channels = {name: self._spread(runs[name].shape[1], name) for name in names}
        self.channels |= {None: list(self.classes)} if self.classes else {}
        return True

    def _spread(self, count: int, name: str) -> list[int]:
        if isinstance(self.filters, str):
            return list(layers.evenly_spaced(range(count), self.count))
        if wrong := [channel for channel in self.filters if channel >= count]:
            raise ValueError(f"`filters` holds {wrong[0]}; layer {name!r} has channels 0 to {count - 1}.")
        return list(self.filters)

    def choose(self, view: View, output: Any, *, final: bool) -> None:
        """Filters by what they do, for the first time in the initial network and for good in the first drawing."""
        if self.final:
            return
        names, images = list(self.sources.values()), view.probes.images
        ranked: dict[str, list[int]] = {}
        if self.important_for is not None:
            ranked = ascent.most_important(
                view.model, names, images, self.important_for, forward=view.again, output=output
            )
        elif self.filters == "active":
            ranked = ascent.most_active(view.model, names, images, forward=view.again)
        for name, source in self.sources.items() if ranked else ():
            self.channels[name] = sorted(ranked[source][: self.count])
        self.final = final

    def asked(self) -> str:
        """What was asked for, as a state remembers it."""
        return f"{self.layers!r}, {self.count}, {self.filters!r}, {self.important_for}, {list(self.classes)}"

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {"channels": dict(self.channels), "sources": dict(self.sources), "final": self.final}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run chose."""
        self.channels, self.sources, self.final = dict(state["channels"]), dict(state["sources"]), state["final"]
