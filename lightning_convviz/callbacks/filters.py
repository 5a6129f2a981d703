"""FilterPatternLogger: what each filter looks for, by gradient ascent that follows the network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import ascent, statistics
from lightning_convviz import layers as layers_
from lightning_convviz.callbacks import gallery
from lightning_convviz.callbacks.arguments import Forward, check_layers, check_patterns
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.climbing import Climber
from lightning_convviz.callbacks.following import Following, Found, Layer, gathered
from lightning_convviz.callbacks.overheard import Overheard
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Picture

LAYERS = 4  # what "auto" draws


@dataclass(frozen=True)
class Part:
    """What one rank found: patterns by layer, what the filters answered to its validation images, and weights."""

    found: Mapping[Layer, Found]
    seen: Mapping[Any, statistics.Seen | None]
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
    warm one reached is logged as `filters/<layer>/warm_over_cold`; a layer that reaches less than .7 begins anew, and
    says so in its picture. `filters/<layer>/above_best_real` is the share of patterns that excite their filter more
    than any validation image does.

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
        objective: what is raised: "rise" (above the response to the blank image), "mean", "neuron", or a function, see
            `ascent.many`.
        canvas: how images are parametrized: "fourier", "pixels", "maco" or "textbook", see `ascent.many`.
        chunk: how many images at once, at most; by default as many as memory allows.
        examples: show the validation images beside.
        kernels: show the first layer's weights.
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
    spare: ClassVar[Mapping[str, tuple[str, str]]] = {"following": ("patterns", "num_filters")}

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
        objective: Callable[..., Any] | str = "rise", canvas: str = "fourier",
        chunk: int | None = None,
        examples: bool = True, kernels: bool = True,
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
            objective=objective, canvas=canvas, output=output,
        )  # fmt: skip
        self.layers, self.num_filters, self.filters, self.important_for = layers, num_filters, filters, important_for
        self.classes, self.examples, self.kernels, self.output = list(classes), examples, kernels, output
        self.steps, self.cold_steps, self.warm, self.size = steps, cold_steps, warm, size
        self.seed, self.objective, self.canvas, self.chunk = seed, objective, canvas, chunk
        super().__init__(
            probes=probes, num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs,
            forward=forward, name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip

    # -- which filters -----------------------------------------------------------------------------------------------

    @override
    def begin(self) -> None:
        self._sources: dict[str, str] = {}  # layer -> the module whose output is raised
        self._channels: dict[Layer, list[int]] = {}
        self._final = False  # whether filters were chosen in a network that is being trained
        self._fields: Mapping[str, tuple[float, float]] = {}
        self._climber = Climber(
            size=self.size, seed=self.seed, objective=self.objective, canvas=self.canvas, chunk=self.chunk,
            output=self.output,
        )  # fmt: skip
        self._following = Following(self.steps, self.cold_steps, warm=self.warm)
        self._overheard = Overheard()
        self._kernels: Tensor | None = None
        self._scales: dict[str, float] = {}
        self._scalars: dict[str, float] = {}

    @override
    def check(self, model: nn.Module) -> None:
        if self.layers != "auto":
            layers_.find(model, self.layers)

    @override
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        runs = scene.runs
        if self._sources and {*self._sources, *self._sources.values()} <= runs.keys():
            return
        if self.layers == "auto":
            names = layers_.convolutions(runs, count=LAYERS)
            self._sources = {name: layers_.settled(runs, name) for name in names}
        else:
            names = layers_.find(model, self.layers)
            layers_.require_maps(runs, names)
            self._sources = {name: name for name in names}
        self._final, self._fields = False, {}
        self._channels = {name: self._spread(runs[name].shape[1], name) for name in names}
        self._channels |= {None: self.classes} if self.classes else {}

    def _spread(self, count: int, name: str) -> list[int]:
        if isinstance(self.filters, str):
            return list(layers_.spread(range(count), self.num_filters))
        if wrong := [channel for channel in self.filters if channel >= count]:
            raise ValueError(f"`filters` holds {wrong[0]}; layer {name!r} has channels 0 to {count - 1}.")
        return list(self.filters)

    def _choose(self, view: View) -> None:
        """Filters by what they do, for the first time in the initial network and for good in the first drawing."""
        names, images = list(self._sources.values()), view.probes.images
        if self.important_for is not None:
            ranked = ascent.most_important(
                view.model, names, images, self.important_for, forward=view.again, output=self.output
            )
        elif self.filters == "active":
            ranked = ascent.most_active(view.model, names, images, forward=view.again)
        else:
            return
        for name, source in self._sources.items():
            self._channels[name] = sorted(ranked[source][: self.num_filters])

    # -- what passes -------------------------------------------------------------------------------------------------

    @override
    def wants(self, probes: Probes) -> Wants:
        return Wants()

    @override
    def opened(self) -> None:
        self._overheard.begin({source: self._channels[name] for name, source in self._sources.items()})

    @override
    def observers(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        return self._overheard.observers(list(self._sources.values()))

    @override
    def passed(self, images: Tensor | None) -> None:
        self._overheard.passed(images)

    # -- the drawing -------------------------------------------------------------------------------------------------

    @override
    def compute(self, view: View, mine: slice) -> Part:
        training = view.moment.training and not view.moment.initial
        if not self._final:
            self._choose(view)
            # Of several ranks all have to choose in the same network, and the first drawing may be rank 0's alone.
            self._final = training and (self.turn.shared or not self.turn.session.ranks.sharing)
        if self.examples and not self._fields:
            self._fields = self._seen_fields(view)
        share = {layer: channels[mine] for layer, channels in self._channels.items() if channels[mine]}
        ranks = self.turn.session.ranks
        found = self._following.find(
            partial(self._climber.climb, view, self._sources),
            share,
            shape=self._climber.parameters(view.probes),
            first=view.moment.initial,
            keeps=training,
            audits=not ranks.sharded,
        )
        heard = {name: self._overheard.seen(source, self._channels[name]) for name, source in self._sources.items()}
        self._overheard.clear()
        part = Part(found, heard, gallery.first_weights(view) if self.kernels and ranks.leads else None)
        return part if mine == slice(None) else part.cpu()

    def _seen_fields(self, view: View) -> Mapping[str, tuple[float, float]]:
        """How much of a picture each layer sees; all of it where that can't be found out."""
        names = list(self._sources.values())
        try:
            return ascent.receptive_fields(view.model, names, view.probes.images, forward=view.forward)
        except Exception as error:
            if self.turn.session.ranks.sharded:  # the others may be waiting
                raise
            self.turn.failures.tell("find out how much of a picture its layers see", error)
            return dict.fromkeys(names, (1.0, 1.0))

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Picture]:
        pictures, self._scalars = {}, {}
        keeps = view.moment.training and not view.moment.initial
        for layer, channels in self._channels.items():
            found = gathered([part.found.get(layer) for part in parts])
            if keeps and len(parts) > 1:  # what other ranks found; its own are kept already
                self._following.keep({layer: found.patterns.values}, {layer: channels})
            seen = None if layer is None else statistics.merged([part.seen[layer] for part in parts])
            page = gallery.Page(
                view, layer, self._sources.get(layer or "", ""), channels, found, seen, gallery.asked(self)
            )
            tag = "classes" if layer is None else layer
            field = self._fields.get(page.source) if self.examples else None
            pictures[f"{self.name}/{tag}"] = page.picture(field)
            self._scalars |= {f"{tag}/{name}": value for name, value in page.scalars().items()}
        if parts[0].kernels is not None:
            pictures[f"{self.name}/kernels"] = gallery.kernels(view, parts[0].kernels, self._kernels, self._scales)
            self._kernels = parts[0].kernels if keeps else self._kernels
        return pictures

    @override
    def scalars(self) -> Mapping[str, float]:
        return self._scalars

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @override
    def kept(self) -> dict[str, Any]:
        return {
            "chosen": self._chosen(), "channels": dict(self._channels), "sources": dict(self._sources),
            "final": self._final, "drawings": self._following.drawings, "following": self._following.state(),
            "kernels": self._kernels, "scales": dict(self._scales), "fixed_size": self._climber.fixed_size,
        }  # fmt: skip

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        if state["chosen"] == self._chosen() and "sources" in state:  # those of older versions have none
            self._channels, self._sources = dict(state["channels"]), dict(state["sources"])
            self._final, self._following.drawings = state["final"], state["drawings"]
            self._kernels, self._scales = state["kernels"], dict(state["scales"])
            self._climber.fixed_size = state["fixed_size"]
            if state["following"] is not None:
                self._following.restore(state["following"])

    def _chosen(self) -> str:
        """What a state has to agree in: which filters, and what their parameters mean."""
        which = f"{self.layers!r}, {self.num_filters}, {self.filters!r}, {self.important_for}, {self.classes}"
        return f"{which}, {self.canvas}, {self.size}"
