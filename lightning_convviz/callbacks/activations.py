"""ActivationLogger: every channel of chosen layers as a picture, over time, with figures of the whole validation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import layers as layers_
from lightning_convviz.callbacks import channels, closer, health
from lightning_convviz.callbacks.arguments import Forward, check_channels, check_layers
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.evolution import Evolution
from lightning_convviz.callbacks.scales import Scales
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Drawable
from lightning_convviz.render.strips import Strip

LAYERS = 5  # what "auto" draws


class ActivationLogger(Watcher):
    """Log every channel of chosen layers as a picture, at every validation: tags `activations/<layer>`.

    `evolution/activations/<layer>` shows four channels over the whole run in one picture, the initial network included,
    and `animation/...` the same in time, at the end of the fit. From the validation batches that pass anyway come the
    figures of `layer_stats/activations`, a chart over depth and epoch, and of the scalars `convviz/activations/...`:
    sparsity, dead and dormant channels, effective rank, saturation, mean, 99.5th percentile, similarity to the last
    drawing (CKA), change of the weights. What is sick in them is told as an alarm, see `diagnostics`.

    Args:
        layers: names as in `named_modules()`, globs, module classes, or a list of these: their outputs are drawn as
            they are. `"auto"` takes five convolutions, spread over depth, the first and the last included, and draws
            each after the normalization and nonlinearity that directly follow it.
        max_channels: more channels than these are thinned out evenly; chosen once.
        cmap: a matplotlib colormap.
        scale: `"layer"`: one scale for all channels of a layer, which stays from drawing to drawing; `"channel"`: each
            channel by its own largest value, which shows shapes and no magnitude.
        layer_stats: observe the whole validation: figures, their chart, dead channels, alarms.
        evolution: draw film strips and, at the end, animations.
        strongest: of each probe this many channels that answer most to it, `activations/<layer>/strongest`; 0: none.
        exciting: of this many channels of each layer, evenly spread, or of those with these numbers, the three
            pictures of the validation that excite each most, `activations/<layer>/exciting`; 0: none.
        probes: the images to watch: Probes, a tensor of model inputs, (images, labels), (data set, indices) or the
            path of a folder. By default some of the first validation batches, with as many classes as possible.
        num_probes: how many of them to take.
        dataloader_idx: from which validation loader to take them, where there are several.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: how to get from the images to the model's output: the name of a sub-module, or a function
            (model, images) -> output. By default the module's own `forward`.
        name: the first part of the tags, by default "activations"; tells several callbacks of a kind apart.
        save_dir: a local folder for pictures as files, in folders by tag and step, beside what the loggers take.
        save_images: keep the probes from the validation data in checkpoints, so that a resumed run shows the same
            ones; False for private data.
        on_error: `"warn"`: a drawing that fails warns, and training goes on; `"raise"` is for tests.
        initial: dry-run a drawing before training, so that what does not fit fails at once; it is kept in
            `initial_pictures`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for layers or probes that don't fit the model.

    Example:
        >>> ActivationLogger(["conv1", "layer*"], max_channels=16).name
        'activations'
    """

    name = "activations"
    spare: ClassVar[Mapping[str, tuple[str, str]]] = {
        "features": ("features of the last drawing", "layers"), "evolution": ("film strips", "layers"),
    }  # fmt: skip

    def __init__(
        self,
        layers: type[nn.Module] | str | Sequence[type[nn.Module] | str] = "auto",
        *,
        max_channels: int = 64,
        cmap: str = "viridis",
        scale: Literal["layer", "channel"] = "layer",
        layer_stats: bool = True,
        evolution: bool = True,
        strongest: int = 0,
        exciting: int | Sequence[int] = 0,
        probes: ProbesLike = None,
        num_probes: int = 8,
        dataloader_idx: int = 0,
        every_n_epochs: int | Literal["log"] = 1,
        forward: Forward = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
        save_images: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        initial: bool = True,
    ) -> None:
        check_layers(layers)
        check_channels(
            max_channels=max_channels, cmap=cmap, scale=scale, layer_stats=layer_stats, evolution=evolution,
            strongest=strongest, exciting=exciting,
        )  # fmt: skip
        self.layers = layers
        self.max_channels = max_channels
        self.cmap, self.scale, self.layer_stats, self.evolution = cmap, scale, layer_stats, evolution
        self.strongest, self.exciting = strongest, exciting
        super().__init__(
            probes=probes, num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs,
            forward=forward, name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip

    @override
    def begin(self) -> None:
        self._sources: dict[str, str] = {}  # layer -> the module whose output is drawn
        self._pinned: dict[str, list[int]] = {}  # layer -> channels that are followed, chosen in the first drawing
        self._scales = Scales()
        self._evolution = Evolution()
        self._health = health.Health()
        self._closer = closer.Closer(self.strongest, self.exciting)
        self.shares = self.layer_stats or self._closer.listens

    @override
    def check(self, model: nn.Module) -> None:
        if self.layers != "auto":
            layers_.find(model, self.layers)

    @override
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        runs = scene.runs
        if not self._sources or not {*self._sources, *self._sources.values()} <= runs.keys():
            self._find(model, runs)
        self._closer.check({name: runs[source].shape[1] for name, source in self._sources.items()})

    def _find(self, model: nn.Module, runs: Mapping[str, layers_.LayerTrace]) -> None:
        if self.layers == "auto":
            names = layers_.convolutions(runs, count=LAYERS)
            self._sources = {name: layers_.post_activation(runs, name) for name in names}
            return
        names = layers_.find(model, self.layers)
        layers_.require_maps(runs, names)
        self._sources = {name: name for name in names}

    @override
    def wants(self, probes: Probes) -> Wants:
        return Wants(layers=list(self._sources.values()))

    # -- what passes -------------------------------------------------------------------------------------------------

    @override
    def opened(self) -> None:
        self._health.begin(list(self._sources.values()) if self.layer_stats else (), self.turn.session.ranks.world)
        self._closer.begin(self._sources.values())

    @override
    def observers(self) -> Mapping[str, Callable[[Tensor], None]]:
        return self._closer.beside(self._health.observers())

    @override
    def passed(self, images: Tensor | None) -> None:
        self._health.passed(images)
        self._closer.passed(images)

    # -- the drawing -------------------------------------------------------------------------------------------------

    @override
    def compute(self, view: View, mine: slice) -> closer.Part:
        return closer.Part(self._health.heard(), self._closer.ranked())

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Drawable]:
        pictures: dict[str, Drawable] = {}
        items = self._health.read(view, self._sources, [part.heard for part in parts]) if self.layer_stats else []
        for name in self._sources:
            page = self._page(view, name)
            pictures[f"{self.name}/{name}"] = page.picture()
            found = self._closer.pictures(page, [part.ranked.get(page.source) for part in parts])
            pictures |= {f"{self.name}/{name}/{kind}": picture for kind, picture in found.items()}
            if self.evolution and view.moment.training:
                self._follow(page, pictures)
        if items and self.evolution and view.moment.training:
            drawn = health.chart(self._evolution, items, view.moment)
            pictures |= {} if view.moment.initial else {f"layer_stats/{self.name}": drawn}
        return pictures

    def _page(self, view: View, name: str) -> channels.Page:
        maps = view.look.outputs[self._sources[name]].float()
        drawn = channels.fitting(maps, self.max_channels)
        pinned = self._pinned.get(name) or channels.strongest(maps, drawn, channels.FOLLOWED)
        if view.moment.training and not view.moment.initial and name not in self._pinned:
            self._pinned[name] = pinned
            self._evolution.choose(name, [drawn.index(channel) for channel in pinned])
        own = self.scale == "channel"
        top = maps.amax((0, 2, 3)).nan_to_num(0, 0, 0).cpu() if own else self._top(name, maps, view)
        return channels.Page(
            view, name, self._sources[name], maps, top, self._scales.stamp(name), own, pinned,
            self._health.dead(name), self._health.lines(name), self.cmap, self.max_channels,
        )  # fmt: skip

    def _top(self, name: str, maps: Float[Tensor, "n c y x"], view: View) -> float:
        """The upper end of the layer's scale."""
        values = maps.flatten()[:: max(1, maps.numel() // 100_000)].nan_to_num(0, 0, 0)
        high, most = torch.stack([values.quantile(0.995), values.max()]).tolist()
        return self._scales.hold(name, high if high > 0 else most, view.moment)

    def _follow(self, page: channels.Page, pictures: dict[str, Drawable]) -> None:
        """One more drawing for a layer's strip; the initial network's keeps all channels, to choose from."""
        shown = self._pinned.get(page.name) or channels.fitting(page.maps, self.max_channels)
        facts = channels.frame_facts(shown, page.dead)
        history = self._evolution.note(page.name, channels.shrunk(page.maps[0, shown]), facts, page.view.moment)
        if not page.view.moment.initial:
            strip = page.strip(history)
            self._evolution.strips[f"{self.name}/{page.name}"] = strip
            pictures[f"evolution/{self.name}/{page.name}"] = strip.picture()

    @override
    def scalars(self) -> Mapping[str, float]:
        return self._health.scalars()

    @override
    def text(self) -> str:
        return self._health.text()

    @override
    def strips(self) -> Mapping[str, Strip]:
        return self._evolution.strips

    @override
    def chosen(self) -> dict[str, Any]:
        return dict(self._sources)

    @override
    def choose(self, chosen: Mapping[str, Any]) -> None:
        self._sources = dict(chosen)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @override
    def kept(self) -> dict[str, Any]:
        return {
            "layers": repr(self.layers), "sources": dict(self._sources), "scales": self._scales.state(),
            "pinned": dict(self._pinned), "health": self._health.state(), "features": self._health.features(),
            "evolution": self._evolution.state() if self.save_images else None,  # early maps show the pictures
        }  # fmt: skip

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        if state["layers"] == repr(self.layers):
            self._scales.restore(state["scales"])
            self._sources, self._pinned = dict(state["sources"]), dict(state["pinned"])
            self._health.restore(state["health"], state["features"])
            self._evolution.restore(state["evolution"])
