"""ActivationLogger: every channel of chosen layers as a picture, over time, with figures of the whole validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz.callbacks.activations.layer_monitor import LayerMonitor, LayerReport
from lightning_convviz.callbacks.activations.top_examples import TopExamples
from lightning_convviz.callbacks.base import VisualizationCallback
from lightning_convviz.callbacks.common import Filmstrips, Scales
from lightning_convviz.callbacks.options import check_activations, check_layers
from lightning_convviz.engine.contract import (
    DrawContext,
    DrawResult,
    Droppable,
    Forward,
    ForwardRequest,
    Needs,
    Observers,
    ProbeView,
    RunInfo,
    Snapshot,
)
from lightning_convviz.layer_stats import Sums
from lightning_convviz.layer_stats.top_images import TopImages, TopImagesAccumulator
from lightning_convviz.layers import convolutions, find, post_activation, require_maps
from lightning_convviz.pages.activations import (
    ColorScale,
    LayerActivations,
    activation_page,
    activation_strip,
    channels_that_fit,
    shrink_for_strip,
    strip_facts,
    strongest_channels,
)
from lightning_convviz.pages.layer_chart import chart_facts, layer_chart
from lightning_convviz.pages.top_examples import exciting_page, strongest_page
from lightning_convviz.probes import ProbesLike
from lightning_convviz.render import Chart, Drawable

NUM_LAYERS = 5  # what "auto" draws
FOLLOWED = 4  # channels in a film strip


@dataclass(frozen=True)
class ActivationPart:
    """What one rank took from a validation, by module, in main memory.

    Attributes:
        sums: for the figures.
        top_images: the most exciting pictures.
    """

    sums: Mapping[str, Sums] = field(default_factory=dict)
    top_images: Mapping[str, TopImages | None] = field(default_factory=dict)


class ActivationLogger(VisualizationCallback):
    """Log every channel of chosen layers as a picture, at every validation: tags `activations/<layer>`.

    `evolution/activations/<layer>` shows four channels over the whole run in one picture, the initial network included,
    and `animation/...` the same in time, at the end of the fit. From the validation batches that pass anyway come the
    figures of `layer_stats/activations`, a chart over depth and epoch, and of the scalars `convviz/activations/...`:
    sparsity, dead and dormant channels, effective rank, saturation, mean, 99.5th percentile, similarity to the last
    drawing (CKA), change of the weights. Where they are alarming, `convviz/diagnostics/activations` has a text, see
    `diagnostics`.

    Args:
        layers: names as in `named_modules()`, globs, module classes, or a list of these: their outputs are drawn as
            they are. `"auto"` takes five convolutions, spread over depth, the first and the last included, and draws
            each after the normalization and nonlinearity that directly follow it.
        max_channels: more channels than these are thinned out evenly; chosen once.
        cmap: a matplotlib colormap.
        scale: `"layer"`: one scale for all channels of a layer, which stays from drawing to drawing; `"channel"`: each
            channel by its own largest value, which shows shapes and no magnitude.
        layer_stats: observe the whole validation: figures, their chart, dead channels, diagnostics.
        evolution: draw film strips and, at the end, animations.
        strongest: of each probe this many channels that respond most to it, `activations/<layer>/strongest`; 0: none.
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
        initial: try a drawing before training, so that what does not fit fails at once; it is logged at step 0.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for layers or probes that don't fit the model.

    Example:
        >>> ActivationLogger(["conv1", "layer*"], max_channels=16).name
        'activations'
    """

    name = "activations"
    droppable: ClassVar[Mapping[str, Droppable]] = {
        "features": Droppable("features of the last drawing", "layers"),
        "evolution": Droppable("film strips", "layers"),
    }

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
        check_activations(
            max_channels=max_channels,
            cmap=cmap,
            scale=scale,
            layer_stats=layer_stats,
            evolution=evolution,
            strongest=strongest,
            exciting=exciting,
        )
        super().__init__(
            probes=probes,
            num_probes=num_probes,
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            forward=forward,
            name=name,
            save_dir=save_dir,
            save_images=save_images,
            on_error=on_error,
            initial=initial,
        )
        self.layers = layers
        self.max_channels = max_channels
        self.cmap = cmap
        self.scale = scale
        self.layer_stats = layer_stats
        self.evolution = evolution
        self.strongest = strongest
        self.exciting = exciting
        self.needs = Needs(divisible=layer_stats or bool(exciting))
        self.reset()

    @override
    def reset(self) -> None:
        self._sources: dict[str, str] = {}  # layer -> the module whose output is drawn
        self._followed: dict[str, list[int]] = {}  # layer -> channels shown over time, chosen in the first drawing
        self._scales = Scales()
        self._strips = Filmstrips()
        self._monitor = LayerMonitor() if self.layer_stats else None
        self._top_examples = TopExamples(self.exciting) if self.exciting else None

    # -- layers --------------------------------------------------------------------------------------------------------

    @override
    def validate(self, model: nn.Module) -> None:
        if self.layers != "auto":
            find(model, self.layers)

    @override
    def select(self, view: ProbeView) -> None:
        if not self._sources or not {*self._sources, *self._sources.values()} <= view.trace.keys():
            self._sources = self._find_sources(view)
        if self._top_examples is not None:
            counts = {layer: view.trace[source].shape[1] for layer, source in self._sources.items()}
            self._top_examples.check(counts)

    def _find_sources(self, view: ProbeView) -> dict[str, str]:
        """The layers to draw, and for each the module whose output is drawn."""
        if self.layers == "auto":
            names = convolutions(view.trace, count=NUM_LAYERS)
            return {name: post_activation(view.trace, name) for name in names}
        names = find(view.model, self.layers)
        require_maps(view.trace, names)
        return {name: name for name in names}

    @override
    def request(self, view: ProbeView) -> ForwardRequest:
        return ForwardRequest(layers=list(self._sources.values()))

    # -- the validation ------------------------------------------------------------------------------------------------

    @override
    def start_validation(self, run: RunInfo) -> Observers:
        sources = list(self._sources.values())
        observers = [] if self._monitor is None else [*self._monitor.start_validation(sources, run)]
        return observers if self._top_examples is None else [*observers, *self._top_examples.start_validation(sources)]

    @override
    def end_validation(self) -> None:
        for part in (self._monitor, self._top_examples):
            if part is not None:
                part.end_validation()

    @override
    def compute(self, context: DrawContext, share: slice) -> ActivationPart:
        return ActivationPart(
            sums={} if self._monitor is None else self._monitor.compute(),
            top_images={} if self._top_examples is None else self._top_examples.compute(),
        )

    # -- the drawing ---------------------------------------------------------------------------------------------------

    @override
    def draw(self, context: DrawContext, parts: Sequence[ActivationPart]) -> DrawResult:
        snapshot, report = context.snapshot, LayerReport({})
        if self._monitor is not None:
            report = self._monitor.report(context, self._sources, [part.sums for part in parts])
        pictures: dict[str, Drawable] = {}
        for layer, source in self._sources.items():
            shown = self._layer_activations(context, layer, source)
            top_images = TopImagesAccumulator.merge([part.top_images.get(source) for part in parts])
            pictures |= self._layer_pictures(shown, report, top_images)
        if self.evolution and snapshot.training and report.records:
            chart = self._append_to_chart(report, snapshot)
            pictures |= {} if snapshot.initial else {f"layer_stats/{self.name}": chart}
        return DrawResult(pictures, report.scalars(), report.diagnostics(), self._strips.animations())

    def _layer_activations(self, context: DrawContext, layer: str, source: str) -> LayerActivations:
        """A layer's output, and the scale of its colors."""
        maps = context.result.outputs[source].float()
        if self.scale == "channel":
            scale = ColorScale(maps.amax((0, 2, 3)).nan_to_num(0, 0, 0).cpu())
        else:
            high = self._scales.hold(layer, _high_end(maps), context.snapshot)
            scale = ColorScale(high, self._scales.change_note(layer))
        return LayerActivations(layer, source, maps, context.probes, context.photos, context.snapshot, scale, self.cmap)

    def _layer_pictures(
        self, shown: LayerActivations, report: LayerReport, top_images: TopImages | None
    ) -> dict[str, Drawable]:
        """All pictures of a layer, by tag."""
        tag, dead = f"{self.name}/{shown.layer}", report.dead(shown.layer)
        channels = channels_that_fit(shown.maps, self.max_channels)
        followed = self._follow(shown, channels)
        notes = report.notes(shown.layer)
        pictures: dict[str, Drawable] = {
            tag: activation_page(shown, channels=channels, strongest=followed, dead=dead, notes=notes)
        }
        if self.strongest:
            pictures[f"{tag}/strongest"] = strongest_page(shown, self.strongest)
        if top_images is not None:
            pictures[f"{tag}/exciting"] = exciting_page(shown, top_images)
        if self.evolution and shown.snapshot.training:
            # Of the initial network all channels are kept: those that are followed are chosen in the next drawing.
            kept = self._followed.get(shown.layer, channels)
            maps, facts = shrink_for_strip(shown.maps[0, kept]), strip_facts(kept, dead)
            history = self._strips.append(shown.layer, maps, facts, shown.snapshot)
            if not shown.snapshot.initial:
                self._strips.drawn[tag] = activation_strip(shown, history)
                pictures[f"evolution/{tag}"] = self._strips.drawn[tag].picture()
        return pictures

    def _follow(self, shown: LayerActivations, channels: Sequence[int]) -> list[int]:
        """The channels that are shown on all probes and over time; the first drawing in training chooses them."""
        if shown.layer in self._followed:
            return self._followed[shown.layer]
        followed = strongest_channels(shown.maps, channels, FOLLOWED)
        if shown.snapshot.training and not shown.snapshot.initial:
            self._followed[shown.layer] = followed
            self._strips.keep_rows(shown.layer, [channels.index(channel) for channel in followed])
        return followed

    def _append_to_chart(self, report: LayerReport, snapshot: Snapshot) -> Chart:
        """One more drawing in the chart of the figures."""
        facts = [chart_facts(layer, record.figures.count, record.values()) for layer, record in report.records.items()]
        history = self._strips.append(f"layer_stats/{self.name}", torch.zeros(len(facts), 0), facts, snapshot)
        return layer_chart(history, snapshot)

    # -- ranks and checkpoints -----------------------------------------------------------------------------------------

    @override
    def shared_choice(self) -> dict[str, Any]:
        return dict(self._sources)

    @override
    def adopt_choice(self, choice: Mapping[str, Any]) -> None:
        self._sources = dict(choice)

    @override
    def export_state(self) -> dict[str, Any]:
        return {
            "layers": repr(self.layers),
            "sources": dict(self._sources),
            "followed": dict(self._followed),
            "scales": self._scales.state_dict(),
            "monitor": None if self._monitor is None else self._monitor.state_dict(),
            "features": None if self._monitor is None else self._monitor.features(),
            "evolution": self._strips.state_dict()
            if self.settings.save_images
            else None,  # early maps show the pictures
        }

    @override
    def import_state(self, state: Mapping[str, Any]) -> None:
        if state["layers"] != repr(self.layers):
            return
        self._sources = dict(state["sources"])
        self._followed = dict(state["followed"])
        self._scales.load_state_dict(state["scales"])
        if self._monitor is not None and state["monitor"] is not None:
            self._monitor.load_state_dict(state["monitor"], state["features"])
        self._strips.load_state_dict(state["evolution"])


def _high_end(maps: Float[Tensor, "n c y x"]) -> float:
    """The upper end of a layer's own scale: the 99.5th percentile of its values, or else the largest."""
    values = maps.flatten()[:: max(1, maps.numel() // 100_000)].nan_to_num(0, 0, 0)
    high, most = torch.stack([values.quantile(0.995), values.max()]).tolist()
    return float(high if high > 0 else most)
