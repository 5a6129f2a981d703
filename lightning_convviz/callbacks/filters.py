"""FilterPatternLogger: what each filter looks for, by gradient ascent that follows the network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import ascent, layer_stats
from lightning_convviz import layers as layers_
from lightning_convviz.callbacks import gallery
from lightning_convviz.callbacks.arguments import Forward, check_layers, check_patterns
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.climbing import Climber
from lightning_convviz.callbacks.evolution import Evolution
from lightning_convviz.callbacks.following import Following, Found, Layer, gathered
from lightning_convviz.callbacks.overheard import Overheard
from lightning_convviz.callbacks.scales import Scales
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.callbacks.selection import Selection
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Drawable
from lightning_convviz.render.strips import Strip


@dataclass(frozen=True)
class Part:
    """What one rank found: patterns by layer, what the filters answered to its validation images, and weights."""

    found: Mapping[Layer, Found]
    seen: Mapping[Any, layer_stats.ChannelResponses | None]
    kernels: Tensor | None

    def cpu(self) -> "Part":
        """The same in main memory, to be sent to another rank."""
        seen = {name: None if each is None else each.cpu() for name, each in self.seen.items()}
        return Part({name: each.cpu() for name, each in self.found.items()}, seen, self.kernels)


class FilterPatternLogger(Watcher):
    """Log images that excite single filters, found by gradient ascent at every validation: tags `filters/<layer>`.

    The first drawing begins with blank images, the others go on from the last one's. Beside each pattern stands the
    part of a validation image that excites the filter most, from the batches that pass anyway, and below both how
    strongly, in standard deviations of the filter over the validation. `filters/kernels` shows the first layer's
    weights and their change, `filters/classes` (with `classes=`) what would be a perfect example of a class to the net.

    Every fifth drawing a filter of each layer is found from a blank image, too, and the share of its objective that the
    warm one reached is logged as `convviz/filters/<layer>/warm_over_cold`; a layer that reaches less than .7 begins
    anew, and says so in its picture. `convviz/filters/<layer>/above_best_real` is the share of patterns that excite
    their filter more than any validation image does.

    Args:
        layers: names as in `named_modules()`, globs, module classes, or a list of these: their outputs are raised as
            they are (a ReLU's before it cuts off). `"auto"` takes up to four convolutions, spread over depth, the first
            and the last included, each after the normalization and nonlinearity that directly follow it.
        num_filters: how many filters of a layer; chosen once.
        filters: which ones: `"spread"` evenly, `"active"`, those that answer most to the probes, or their numbers.
        important_for: a class: take the filters that speak most for it in the probes.
        classes: classes of which to draw what raises their logit most.
        steps: steps of ascent in each drawing; their cost is two forwards up to the layer each.
        cold_steps: steps where patterns begin with blank images.
        warm: whether patterns go on from the last drawing; if not, every drawing takes `cold_steps`.
        size: side of the patterns in pixels; default that of the probes, up to 96.
        seed: for the blank image's noise and the random changes.
        objective: what is raised: "above_blank" (above the response to the blank image), "mean", "neuron", or a
            function, see `ascent.patterns_of_layers`.
        canvas: how images are parametrized: "fourier", "pixels", "maco" or "textbook", see `ascent.patterns_of_layers`.
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
    shares = True
    spare: ClassVar[Mapping[str, tuple[str, str]]] = {
        "evolution": ("film strips", "num_filters"), "following": ("patterns", "num_filters"),
    }  # fmt: skip

    def __init__(
        self,
        layers: type[nn.Module] | str | Sequence[type[nn.Module] | str] = "auto",
        *,
        num_filters: int = 12,
        filters: Literal["spread", "active"] | Sequence[int] = "spread",
        important_for: int | None = None,
        classes: Sequence[int] = (),
        steps: int = 16, cold_steps: int = 48, warm: bool = True,
        size: int | None = None, seed: int = 0,
        objective: Callable[..., Any] | str = "above_blank", canvas: str = "fourier",
        chunk: int | None = None,
        examples: bool = True, kernels: bool = True, evolution: bool = True,
        output: Callable[..., Any] | None = None,
        probes: ProbesLike = None, num_probes: int = 8, dataloader_idx: int = 0,
        every_n_epochs: int | Literal["log"] = 1,
        forward: Forward = None,
        name: str | None = None,
        save_dir: str | Path | None = None, save_images: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        initial: bool = True,
    ) -> None:  # fmt: skip
        check_layers(layers)
        check_patterns(
            num_filters=num_filters, filters=filters, important_for=important_for, classes=classes, steps=steps,
            cold_steps=cold_steps, warm=warm, size=size, seed=seed, chunk=chunk, examples=examples, kernels=kernels,
            objective=objective, canvas=canvas, output=output, evolution=evolution,
        )  # fmt: skip
        self.layers, self.num_filters, self.filters, self.important_for = layers, num_filters, filters, important_for
        self.classes, self.examples, self.kernels, self.output = list(classes), examples, kernels, output
        self.evolution = evolution
        self.steps, self.cold_steps, self.warm, self.size = steps, cold_steps, warm, size
        self.seed, self.objective, self.canvas, self.chunk = seed, objective, canvas, chunk
        super().__init__(
            probes=probes, num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs,
            forward=forward, name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip

    # -- which filters -----------------------------------------------------------------------------------------------

    @override
    def begin(self) -> None:
        self._selection = Selection(self.layers, self.filters, self.num_filters, self.important_for, self.classes)
        self._fields: Mapping[str, tuple[float, float]] = {}
        self._climber = Climber(
            size=self.size, seed=self.seed, objective=self.objective, canvas=self.canvas, chunk=self.chunk,
            output=self.output,
        )  # fmt: skip
        self._following = Following(self.steps, self.cold_steps, warm=self.warm)
        self._overheard = Overheard()
        self._kernels: Tensor | None = None
        self._scales = Scales()
        self._evolution = Evolution()
        self._scalars: dict[str, float] = {}

    @override
    def check(self, model: nn.Module) -> None:
        if self.layers != "auto":
            layers_.find(model, self.layers)

    @override
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        if self._selection.resolve(model, scene):
            self._fields = {}

    # -- what passes -------------------------------------------------------------------------------------------------

    @override
    def wants(self, probes: Probes) -> Wants:
        return Wants()

    @override
    def opened(self) -> None:
        chosen = self._selection
        self._overheard.begin(
            {source: layer_stats.ResponseAccumulator(chosen.channels[name]) for name, source in chosen.sources.items()}
        )

    @override
    def observers(self) -> Mapping[str, Callable[[Tensor], None]]:
        return self._overheard.observers()

    @override
    def passed(self, images: Tensor | None) -> None:
        self._overheard.passed(images)

    # -- the drawing -------------------------------------------------------------------------------------------------

    @override
    def compute(self, view: View, mine: slice) -> Part:
        training = view.moment.training and not view.moment.initial
        chosen, sources = self._selection, self._selection.sources
        # Of several ranks all have to choose in the same network, and the first drawing may be rank 0's alone.
        final = training and (self.turn.shared or not self.turn.session.ranks.sharing)
        chosen.choose(view, self.output, final=final)
        if self.examples and not self._fields:
            self._fields = self._seen_fields(view)
        share = {layer: channels[mine] for layer, channels in chosen.channels.items() if channels[mine]}
        ranks = self.turn.session.ranks
        found = self._following.find(
            partial(self._climber.climb, view, sources),
            share,
            shape=self._climber.parameters(view.probes),
            first=view.moment.initial,
            keeps=training,
            audits=not ranks.sharded,
        )
        heard = {name: self._seen(source, chosen.channels[name]) for name, source in sources.items()}
        self._overheard.clear()
        part = Part(found, heard, gallery.first_weights(view) if self.kernels and ranks.leads else None)
        return part if mine == slice(None) else part.cpu()

    def _seen(self, source: str, channels: Sequence[int]) -> layer_stats.ChannelResponses | None:
        """What these channels answered to the validation; None where nothing passed, or others were observed."""
        responses = self._overheard.listeners.get(source)
        return responses.compute() if responses is not None and responses.channels == list(channels) else None

    def _seen_fields(self, view: View) -> Mapping[str, tuple[float, float]]:
        """How much of a picture each layer sees; all of it where that can't be found out."""
        names = list(self._selection.sources.values())
        try:
            return ascent.receptive_fields(view.model, names, view.probes.images, forward=view.forward)
        except Exception as error:
            if self.turn.session.ranks.sharded:  # the others may be waiting
                raise
            self.turn.failures.tell("find out how much of a picture its layers see", error)
            return dict.fromkeys(names, (1.0, 1.0))

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Drawable]:
        pictures: dict[str, Drawable] = {}
        self._scalars = {}
        keeps = view.moment.training and not view.moment.initial
        for layer, channels in self._selection.channels.items():
            found = gathered([part.found.get(layer) for part in parts])
            if keeps and len(parts) > 1:  # what other ranks found; its own are kept already
                self._following.keep({layer: found.patterns.values}, {layer: channels})
            seen = (
                None if layer is None else layer_stats.ResponseAccumulator.merge([part.seen[layer] for part in parts])
            )
            page = gallery.Page(
                view, layer, self._selection.sources.get(layer or "", ""), channels, found, seen, gallery.asked(self)
            )
            tag = "classes" if layer is None else layer
            field = self._fields.get(page.source) if self.examples else None
            pictures[f"{self.name}/{tag}"] = page.picture(field)
            self._scalars |= {f"{tag}/{name}": value for name, value in page.scalars().items()}
            if self.evolution and view.moment.training and page.follow(self._evolution, self.name):
                pictures[f"evolution/{self.name}/{tag}"] = self._evolution.strips[f"{self.name}/{tag}"].picture()
        if parts[0].kernels is not None:
            pictures[f"{self.name}/kernels"] = gallery.kernels(view, parts[0].kernels, self._kernels, self._scales)
            self._kernels = parts[0].kernels if keeps else self._kernels
        return pictures

    @override
    def scalars(self) -> Mapping[str, float]:
        return self._scalars

    @override
    def strips(self) -> Mapping[str, Strip]:
        return self._evolution.strips

    @override
    def chosen(self) -> dict[str, Any]:
        return self._selection.state()

    @override
    def choose(self, chosen: Mapping[str, Any]) -> None:
        self._selection.restore(chosen)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @override
    def kept(self) -> dict[str, Any]:
        return {
            "chosen": self._chosen(), "selection": self._selection.state(), "drawings": self._following.drawings,
            "following": self._following.state(), "kernels": self._kernels, "scales": self._scales.state(),
            "fixed_size": self._climber.fixed_size, "evolution": self._evolution.state(),
        }  # fmt: skip

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        if state["chosen"] == self._chosen():
            self._selection.restore(state["selection"])
            self._following.drawings, self._kernels = state["drawings"], state["kernels"]
            self._scales.restore(state["scales"])
            self._evolution.restore(state["evolution"])
            self._climber.fixed_size = state["fixed_size"]
            if state["following"] is not None:
                self._following.restore(state["following"])

    def _chosen(self) -> str:
        """What a state has to agree in: which filters, and what their parameters mean."""
        return f"{self._selection.asked()}, {self.canvas}, {self.size}"
