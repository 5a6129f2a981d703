"""FilterPatternLogger: what each filter looks for, by gradient ascent that follows the network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import ascent
from lightning_convviz import layers as layers_
from lightning_convviz.callbacks.base import VisualizationCallback
from lightning_convviz.callbacks.common import Filmstrips, Scales
from lightning_convviz.callbacks.filters.optimizer import PatternOptimizer
from lightning_convviz.callbacks.filters.selection import FilterSelection, LayerTypes
from lightning_convviz.callbacks.filters.tracking import PatternTracker, TrackedPatterns
from lightning_convviz.callbacks.options import check_layers, check_patterns
from lightning_convviz.engine.contract import (
    DrawContext,
    DrawResult,
    Droppable,
    Forward,
    Needs,
    Observers,
    ProbeView,
    RunInfo,
    Snapshot,
)
from lightning_convviz.layer_stats import ChannelResponses, ResponseAccumulator
from lightning_convviz.pages.kernels import kernel_page, kernel_range
from lightning_convviz.pages.patterns import LayerPatterns, pattern_filmstrip, pattern_page, strip_frame
from lightning_convviz.probes import ProbesLike
from lightning_convviz.render import Drawable, Picture


@dataclass(frozen=True)
class Kernels:
    """The weights of the convolution that takes the images.

    Attributes:
        layer: its name.
        weights: (n, c, h, w), in main memory.
    """

    layer: str
    weights: Tensor


@dataclass(frozen=True)
class PatternPart:
    """What one rank computed of a drawing.

    Attributes:
        patterns: by layer, of this rank's share of its filters; None for the classes.
        responses: of all filters to this rank's share of the validation images, by layer.
        kernels: on rank 0, where the model has such a layer.
    """

    patterns: Mapping[str | None, TrackedPatterns]
    responses: Mapping[str, ChannelResponses | None]
    kernels: Kernels | None

    def cpu(self) -> "PatternPart":
        """The same in main memory, to be sent to another rank."""
        patterns = {layer: each.cpu() for layer, each in self.patterns.items()}
        responses = {layer: None if each is None else each.cpu() for layer, each in self.responses.items()}
        return replace(self, patterns=patterns, responses=responses)


class FilterPatternLogger(VisualizationCallback):
    """Log images that excite single filters, found by gradient ascent at every validation: tags `filters/<layer>`.

    The first drawing starts from blank images, the others go on from the last one's. Beside each pattern stands the
    part of a validation image that excites the filter most, from the batches that pass anyway, and below both how
    strongly, in standard deviations of the filter over the validation. `filters/kernels` shows the first layer's
    weights and their change, `filters/classes` (with `classes=`) what would be a perfect example of a class to the net.

    At every fifth drawing a filter of each layer is also made from a blank image, and the share of its objective that
    the warm one reached is logged as `convviz/filters/<layer>/warm_over_cold`; a layer that reaches less than .7 is
    started anew, and its picture says so. `convviz/filters/<layer>/above_best_real` is the share of patterns that
    excite their filter more than any validation image does.

    Args:
        layers: names as in `named_modules()`, globs, module classes, or a list of these: their outputs are raised as
            they are (a ReLU's before it cuts off). `"auto"` takes up to four convolutions, spread over depth, the first
            and the last included, each after the normalization and nonlinearity that directly follow it.
        num_filters: how many filters of a layer; chosen once.
        filters: which ones: `"spread"` evenly, `"active"`, those that respond most to the probes, or their numbers.
        important_for: a class: take the filters that speak most for it in the probes.
        classes: classes of which to draw what raises their logit most.
        steps: steps of ascent in each drawing; their cost is two forwards up to the layer each.
        cold_steps: steps where patterns start from blank images.
        warm: whether patterns go on from the last drawing; if not, every drawing takes `cold_steps`.
        size: side of the patterns in pixels; default that of the probes, up to 96.
        seed: for the blank image's noise and the random changes.
        objective: what is raised: "above_blank" (above the response to the blank image), "mean", "neuron", or a
            function, see `ascent.patterns_of_layers`.
        canvas: how images are parametrized: "fourier", "pixels", "maco" or "textbook", see
            `ascent.patterns_of_layers`.
        chunk: how many images at once, at most; by default as many as memory allows.
        examples: show the validation images beside.
        kernels: show the first layer's weights.
        evolution: draw film strips, `evolution/filters/...`, and at the end of the fit animations.
        output: what the model returns -> logits, for `classes` and `important_for`.
        probes: images that give the range of values and the correlation of colors, see `ActivationLogger`.
        num_probes: how many to take from the validation data.
        dataloader_idx: see `ActivationLogger`.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: see `ActivationLogger`.
        name: the first part of the tags, by default "filters"; see `ActivationLogger`.
        save_dir: see `ActivationLogger`.
        save_images: see `ActivationLogger`.
        on_error: see `ActivationLogger`.
        initial: see `ActivationLogger`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for layers or probes that don't fit the model.

    Example:
        >>> FilterPatternLogger("features.*", num_filters=9, every_n_epochs="log").name
        'filters'
    """

    name = "filters"
    droppable: ClassVar[Mapping[str, Droppable]] = {
        "filmstrips": Droppable("film strips", "num_filters"),
        "patterns": Droppable("patterns", "num_filters"),
    }

    def __init__(
        self,
        layers: LayerTypes = "auto",
        *,
        num_filters: int = 12,
        filters: Literal["spread", "active"] | Sequence[int] = "spread",
        important_for: int | None = None,
        classes: Sequence[int] = (),
        steps: int = 16,
        cold_steps: int = 48,
        warm: bool = True,
        size: int | None = None,
        seed: int = 0,
        objective: Callable[..., Any] | str = "above_blank",
        canvas: str = "fourier",
        chunk: int | None = None,
        examples: bool = True,
        kernels: bool = True,
        evolution: bool = True,
        output: Callable[..., Any] | None = None,
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
        check_patterns(
            num_filters=num_filters,
            filters=filters,
            important_for=important_for,
            classes=classes,
            steps=steps,
            cold_steps=cold_steps,
            warm=warm,
            size=size,
            seed=seed,
            chunk=chunk,
            examples=examples,
            kernels=kernels,
            objective=objective,
            canvas=canvas,
            evolution=evolution,
        )
        super().__init__(
            probes=probes,
            num_probes=num_probes,
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            forward=forward,
            output=output,
            name=name,
            save_dir=save_dir,
            save_images=save_images,
            on_error=on_error,
            initial=initial,
        )
        self.needs = Needs(divisible=True)
        self.layers = layers
        self.num_filters = num_filters
        self.filters = filters
        self.important_for = important_for
        self.classes = list(classes)
        self.steps = steps
        self.cold_steps = cold_steps
        self.warm = warm
        self.size = size
        self.seed = seed
        self.objective = objective
        self.canvas = canvas
        self.chunk = chunk
        self.examples = examples
        self.kernels = kernels
        self.evolution = evolution
        self.reset()

    @override
    def reset(self) -> None:
        self._selection = FilterSelection(self.layers, self.filters, self.num_filters, self.important_for, self.classes)
        self._optimizer = PatternOptimizer(
            size=self.size,
            seed=self.seed,
            objective=self.objective,
            canvas=self.canvas,
            chunk=self.chunk,
            output=self.settings.output,
        )
        self._tracker = PatternTracker(self.steps, self.cold_steps, warm=self.warm)
        self._accumulators: dict[str, ResponseAccumulator] = {}
        self._receptive_fields: Mapping[str, tuple[float, float]] = {}
        self._last_kernels: Tensor | None = None
        self._scales = Scales()
        self._filmstrips = Filmstrips()

    @override
    def validate(self, model: nn.Module) -> None:
        if self.layers != "auto":
            layers_.find(model, self.layers)

    # -- which filters, and what they respond to ----------------------------------------------------------------------

    @override
    def select(self, view: ProbeView) -> None:
        if self._selection.select(view):
            self._receptive_fields = {}

    @override
    def shared_choice(self) -> dict[str, Any]:
        return self._selection.state_dict()

    @override
    def adopt_choice(self, choice: Mapping[str, Any]) -> None:
        self._selection.load_state_dict(choice)

    @override
    def start_validation(self, run: RunInfo) -> Observers:
        sources, channels = self._selection.sources, self._selection.channels
        self._accumulators = {layer: ResponseAccumulator(channels[layer]) for layer in sources}
        return [(sources[layer], accumulator) for layer, accumulator in self._accumulators.items()]

    @override
    def end_validation(self) -> None:
        self._accumulators = {}

    # -- the drawing --------------------------------------------------------------------------------------------------

    @override
    def compute(self, context: DrawContext, share: slice) -> PatternPart:
        is_training = _is_training(context.snapshot)
        # All ranks have to choose in the same network: not in one that rank 0 alone has drawn.
        final = is_training and not context.run.provisional
        self._selection.select_by_response(context, self.settings.output, final=final)
        if self.examples and not self._receptive_fields:
            self._receptive_fields = self._measure_receptive_fields(context)
        channels = self._selection.channels
        patterns = self._tracker.update(
            partial(self._optimizer.optimize, context, self._selection.sources),
            {layer: each[share] for layer, each in channels.items() if each[share]},
            parameter_shape=self._optimizer.parameter_shape(context.probes),
            initial=context.snapshot.initial,
            keep=is_training,
            audit=context.run.mode != "lockstep",
        )
        responses = {
            layer: accumulator.compute() if accumulator.channels == channels[layer] else None
            for layer, accumulator in self._accumulators.items()
        }
        kernels = _first_kernels(context) if self.kernels and context.run.is_rank_zero else None
        part = PatternPart(patterns, responses, kernels)
        return part if share == slice(None) else part.cpu()

    def _measure_receptive_fields(self, context: DrawContext) -> Mapping[str, tuple[float, float]]:
        """How much of an image each layer sees; all of it where that can't be measured."""
        sources = list(self._selection.sources.values())
        try:
            return ascent.receptive_fields(context.model, sources, context.probes.images, forward=context.forward_any)
        except Exception as error:
            context.warn("find out how much of a picture its layers see", error)
            return dict.fromkeys(sources, (1.0, 1.0))

    @override
    def draw(self, context: DrawContext, parts: Sequence[PatternPart]) -> DrawResult:
        snapshot, probes = context.snapshot, context.probes
        pictures: dict[str, Drawable] = {}
        scalars: dict[str, float] = {}
        for layer, channels in self._selection.channels.items():
            tracked = TrackedPatterns.merge([part.patterns.get(layer) for part in parts])
            if _is_training(snapshot) and len(parts) > 1:  # the tracker of this rank has only its own share
                self._tracker.store({layer: tracked.patterns.values}, {layer: channels})
            shown = self._layer_patterns(context, layer, tracked, parts)
            tag = layer or "classes"
            receptive_field = self._receptive_fields.get(shown.source) if self.examples else None
            pictures[f"{self.name}/{tag}"] = pattern_page(shown, probes, snapshot, receptive_field=receptive_field)
            scalars |= {f"{tag}/{name}": value for name, value in _scalars(shown).items()}
            if self.evolution and snapshot.training:
                history = self._filmstrips.append(tag, *strip_frame(shown, probes), snapshot)
                if not snapshot.initial:
                    strip = pattern_filmstrip(shown, probes, snapshot, history)
                    self._filmstrips.drawn[f"{self.name}/{tag}"] = strip
                    pictures[f"evolution/{self.name}/{tag}"] = strip.picture()
        if parts[0].kernels is not None:
            pictures[f"{self.name}/kernels"] = self._draw_kernels(parts[0].kernels, snapshot)
        return DrawResult(pictures, scalars, animations=self._filmstrips.animations())

    def _layer_patterns(
        self, context: DrawContext, layer: str | None, tracked: TrackedPatterns, parts: Sequence[PatternPart]
    ) -> LayerPatterns:
        source = "" if layer is None else self._selection.sources[layer]
        responses = None
        if layer is not None:
            responses = ResponseAccumulator.merge([part.responses.get(layer) for part in parts])
        return LayerPatterns(
            layer=layer,
            source=source,
            channels=self._selection.channels[layer],
            num_channels=context.trace[source].shape[1] if source else len(self.classes),
            patterns=tracked.patterns,
            steps=tracked.steps,
            warm=tracked.warm,
            warm_over_cold=tracked.warm_over_cold,
            responses=responses,
            request=self._request(),
        )

    def _request(self) -> list[str]:
        """What was asked for beside the defaults, for the heads of the pages."""
        named = self.objective if isinstance(self.objective, str) else getattr(self.objective, "__name__", "")
        lines = []
        if self.important_for is not None:
            lines.append(f"those that matter most for class {self.important_for}")
        if self.filters == "active":
            lines.append("those most active on the probes")
        if named not in ("above_blank", ""):
            lines.append(f"objective {named}")
        if self.canvas != "fourier":
            lines.append(f"canvas {self.canvas}")
        return lines

    def _draw_kernels(self, kernels: Kernels, snapshot: Snapshot) -> Picture:
        weights, before = kernels.weights, self._last_kernels
        high = self._scales.hold("kernels", kernel_range(weights), snapshot)
        if before is not None and before.shape != weights.shape:
            before = None
        if _is_training(snapshot):
            self._last_kernels = weights
        note = self._scales.change_note("kernels")
        return kernel_page(weights, before, layer=kernels.layer, snapshot=snapshot, high=high, change_note=note)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @override
    def export_state(self) -> dict[str, Any]:
        return {
            "request": self._state_request(),
            "selection": self._selection.state_dict(),
            "num_drawings": self._tracker.num_drawings,
            "patterns": self._tracker.state_dict(),
            "fixed_size": self._optimizer.fixed_size,
            "kernels": self._last_kernels,
            "scales": self._scales.state_dict(),
            "filmstrips": self._filmstrips.state_dict(),
        }

    @override
    def import_state(self, state: Mapping[str, Any]) -> None:
        if state["request"] != self._state_request():
            return
        self._selection.load_state_dict(state["selection"])
        self._tracker.num_drawings = state["num_drawings"]
        self._tracker.load_state_dict(state["patterns"])
        self._optimizer.fixed_size = state["fixed_size"]
        self._last_kernels = state["kernels"]
        self._scales.load_state_dict(state["scales"])
        self._filmstrips.load_state_dict(state["filmstrips"])

    def _state_request(self) -> str:
        """What a state has to agree in: which filters, and what the parameters of their patterns mean."""
        return f"{self._selection.request}, {self.canvas}, {self.size}"


def _is_training(snapshot: Snapshot) -> bool:
    """Whether later drawings go on from this one."""
    return snapshot.training and not snapshot.initial


def _scalars(shown: LayerPatterns) -> dict[str, float]:
    """What is logged beside a page."""
    scalars = {} if shown.warm_over_cold is None else {"warm_over_cold": shown.warm_over_cold}
    if shown.responses is not None:
        above = shown.patterns.peaks.cpu() > shown.responses.peak.cpu()
        scalars["above_best_real"] = float(above.float().mean())
    return scalars


def _first_kernels(view: ProbeView) -> Kernels | None:
    """The weights of the convolution that takes the images; None where there is none, or no rank has all of them."""
    channels = view.probes.images.shape[1]
    for name, layer in view.trace.items():
        conv = layer.module
        if isinstance(conv, nn.Conv2d) and conv.in_channels == channels and conv.groups == 1:
            is_whole = isinstance(conv.weight, Tensor) and type(conv.weight).__name__ != "DTensor"
            if max(conv.kernel_size) == 1 or not is_whole or conv.weight.ndim != 4:
                return None
            return Kernels(name, conv.weight.detach().float().cpu().clone())  # training would change the weight itself
    return None
