"""GradCAMLogger: why did the network think this, where is it, what went wrong in a mistake."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import _lightning
from lightning_convviz.callbacks import lens
from lightning_convviz.callbacks.arguments import Forward, check_lens
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.evidence import Evidence, facts, merged, of_mistakes
from lightning_convviz.callbacks.evolution import Evolution
from lightning_convviz.callbacks.followed import Followed, remembered
from lightning_convviz.callbacks.scales import Scales
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.callbacks.trusted import Trusted
from lightning_convviz.mistakes import Examples, Mistakes
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Drawable
from lightning_convviz.render.strips import Strip

FOLLOWED = 6  # probes in a strip


@dataclass(frozen=True)
class Part:
    """What one rank adds to a drawing: its own mistakes, and on rank 0 how those that are followed fare now."""

    mistakes: Evidence | None = None
    followed: Evidence | None = None
    table: Tensor | None = None
    examples: Examples = field(default_factory=dict)
    seen: int = 0
    labeled: int = 0
    scalars: Mapping[str, float] = field(default_factory=dict)


class GradCAMLogger(Watcher):
    """Log heatmaps of the evidence for what the network says, and for what it should have said.

    `gradcam/probes` shows for each probe the evidence for the predicted class, for the other one in question (the true
    class where the network errs, else the second best) and their signed difference. `gradcam/mistakes` shows the same
    for the most confident errors of the validation, `gradcam/followed` how the first of them fare from drawing to
    drawing, `gradcam/confusions` which classes are taken for which. Scales stay from drawing to drawing.

    Args:
        layer: the layer to explain, which returns maps (n, c, y, x), channels-last maps or tokens; `"auto"` takes the
            last one that leads to the logits and is larger than 1 x 1. A list of layers for a method that fuses them.
        method: a name in `cams.METHODS`, `cams.GRAPH_METHODS` or `cams.FUSIONS`, or a function
            (activations, gradients) -> signed map.
        target: `"auto"`, both classes and the difference as above; or one column for `"predicted"`, `"label"`,
            `"runner_up"`, `"finercam"`, a class, or a function logits -> (n,), see `targets`, which need not be a
            class: with one there are no mistakes.
        high_res_layer: a second layer, of higher resolution, that is explained with HiResCAM beside; `"auto"`
            takes the resolution before the last where pictures are at most 128 pixels large; None leaves it out.
        signed: show evidence against a class too, on a diverging scale.
        num_mistakes: how many errors to show, and how many to follow; 0 for none. They are found in the logits that
            `validation_step` computes anyway.
        logits: a function from what `validation_step` returns to logits (n, k). By default its entry "logits", else
            what the module's forward returned, where that is called once a batch.
        heatmap_metrics: log numbers that say how far to believe the heatmaps, `convviz/gradcam/heatmap_metrics/...`:
            see `heatmap_metrics`.
        evolution: draw the probes' film strip, `evolution/gradcam/probes`, and at the end of the fit its animation.
        reshape: a function from the layer's output to maps (n, c, y, x), where `layers.layout` can't tell.
        probes: the images to watch, see `ActivationLogger`; with labels, the true class is explained too.
        num_probes: how many to take from the validation data.
        dataloader_idx: see `ActivationLogger`; mistakes are looked for in the same loader.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: see `ActivationLogger`; its output must hold class logits, see `outputs.logits`.
        output: a function from what the model returns to logits (n, k), where they can't be found in it.
        name: the first part of the tags, by default "gradcam"; see `ActivationLogger`.
        save_dir: see `ActivationLogger`.
        save_images: see `ActivationLogger`; without, mistakes that are followed are forgotten on resume.
        on_error: see `ActivationLogger`.
        initial: see `ActivationLogger`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for a layer or probes that don't fit the model.

    Example:
        >>> GradCAMLogger("layer4", method="hirescam", num_mistakes=4).name
        'gradcam'
    """

    name = "gradcam"
    spare: ClassVar[Mapping[str, tuple[str, str]]] = {
        "followed": ("followed pictures", "num_mistakes"), "evolution": ("film strips", "num_probes"),
    }  # fmt: skip

    def __init__(
        self,
        layer: str | list[str] = "auto",
        *,
        method: Callable[..., Any] | str = "gradcam",
        target: Callable[..., Any] | str | int = "auto",
        high_res_layer: str | None = "auto",
        signed: bool = False,
        num_mistakes: int = 8,
        logits: Callable[..., Any] | None = None,
        heatmap_metrics: bool = True,
        evolution: bool = True,
        reshape: Callable[..., Any] | None = None,
        probes: ProbesLike = None,
        num_probes: int = 8,
        dataloader_idx: int = 0,
        every_n_epochs: int | Literal["log"] = 1,
        forward: Forward = None,
        output: Callable[..., Any] | None = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
        save_images: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        initial: bool = True,
    ) -> None:
        check_lens(
            layer=layer, method=method, target=target, high_res_layer=high_res_layer, signed=signed,
            num_mistakes=num_mistakes, heatmap_metrics=heatmap_metrics, output=output, reshape=reshape, logits=logits,
            evolution=evolution,
        )  # fmt: skip
        self.lens = lens.Lens(layer, method, target, high_res_layer, signed)
        self.output, self.reshape, self.logits = output, reshape, logits
        self.num_mistakes = num_mistakes
        self.heatmap_metrics, self.evolution = heatmap_metrics, evolution
        super().__init__(
            probes=probes, num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs,
            forward=forward, name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip

    # -- what is explained -------------------------------------------------------------------------------------------

    @override
    def begin(self) -> None:
        mistakes = self.num_mistakes if self.lens.has_classes else 0
        self.hears = self.shares = mistakes > 0
        self.classifies = self.lens.has_classes
        self.lens.begin()
        self._mistakes = Mistakes(max(mistakes, 1))
        self._followed = Followed(mistakes)
        self._takes_others = True  # as long as it is not known what the forward takes
        self._trusted = Trusted()
        self._scales = Scales()
        self._evolution = Evolution()
        self._scalars: dict[str, float] = {}

    @override
    def check(self, model: nn.Module) -> None:
        self.lens.check(model)

    @override
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        self._takes_others = bool(scene.extra_inputs)
        note = self.lens.resolve(model, scene, self.output, self.reshape)
        if note:
            _lightning.rank_zero_info(f"{type(self).__name__} explains {self.lens.layer!r}: {note}.")

    @override
    def wants(self, probes: Probes) -> Wants:
        return Wants(explanations=self.lens.explanations(probes))

    # -- what passes -------------------------------------------------------------------------------------------------

    @override
    def opened(self) -> None:
        self._mistakes.reset()

    @override
    def hear(self, images: Tensor, labels: Tensor, logits: Tensor, extra_inputs: Mapping[str | int, Tensor]) -> None:
        self._mistakes.update(images, labels, logits, extra_inputs if self._takes_others else None)

    # -- the drawing -------------------------------------------------------------------------------------------------

    @override
    def compute(self, view: View, mine: slice) -> Part:
        ranks = self.turn.session.ranks
        if ranks.sharded:  # all ranks must run the same forwards, and each has mistakes of its own
            self._deaf("mistakes are not drawn where the model is in pieces over ranks")
        found = self._mistakes.compute() if self.hears else None
        mistakes, followed = None, None
        if found is not None and len(found):
            # Of several ranks: the index in the data, as Lightning's own sampler deals them out.
            first, step = (ranks.rank, ranks.world) if ranks.replicated else (0, 1)
            pictures = of_mistakes(found, view.probes, [first + step * place for place in found.positions.tolist()])
            look = view.explain(pictures, self.lens.explanations(pictures, pair=True))
            mistakes = Evidence(pictures, look, found.confidence).cpu()
        if self._followed.probes is not None and ranks.leads and self.hears:
            pinned = self._followed.probes
            followed = Evidence(pinned, view.explain(pinned, self.lens.explanations(pinned, pair=True))).cpu()
        measures = self.heatmap_metrics and (ranks.leads or ranks.sharded)
        scalars = self._measured(view) if measures else {}
        table = self._mistakes.table if self.hears else None
        part = Part(
            mistakes, followed, None if table is None else table.cpu(), self._mistakes.examples() if self.hears else {},
            self._mistakes.seen, self._mistakes.labeled(), scalars,
        )  # fmt: skip
        self._mistakes.reset()  # nothing stays on the device while training goes on
        return part

    def _measured(self, view: View) -> Mapping[str, float]:
        """Numbers, which must not cost pictures: where they can't be had, none."""
        try:
            return self._trusted.measure(view, self.lens, self.output)
        except Exception as error:
            if self.turn.session.ranks.sharded:  # the others may be waiting
                raise
            self.turn.failures.tell("measure how far to trust its heatmaps", error)
            return {}

    def _deaf(self, why: str) -> None:
        if self.hears and self.turn.session.ranks.leads:
            _lightning.rank_zero_warn(f"{type(self).__name__}: {why}.")
        self.hears = False

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Drawable]:
        mistakes = merged([part.mistakes for part in parts], self.num_mistakes)
        followed = parts[0].followed
        follows = view.moment.training and not view.moment.initial
        followed = self._followed.pin(mistakes, followed) if follows else None
        probes = Evidence(view.probes, view.look)
        page = lens.Page(self.lens, view, self._scales, [each for each in (probes, mistakes) if each is not None])
        pictures: dict[str, Drawable] = {f"{self.name}/probes": page.probes(probes)}
        if self.evolution and view.moment.training:
            pictures |= self._follow(page, probes, view)
        seen, table = sum(part.seen for part in parts), _summed([part.table for part in parts])
        if self.hears and seen:
            pictures[f"{self.name}/mistakes"] = page.mistakes(
                mistakes, table, seen, sum(part.labeled for part in parts)
            )
            if table is not None:
                pictures[f"{self.name}/confusions"] = page.confusions(_best([part.examples for part in parts]), table)
        if followed is not None and followed.look.logits is not None:
            self._followed.note(followed, facts(followed.probes, followed.look.logits), view.moment)
            pictures[f"{self.name}/followed"] = page.followed(self._followed)
        self._scalars = {f"heatmap_metrics/{name}": value for name, value in parts[0].scalars.items()}
        return pictures

    def _follow(self, page: lens.Page, probes: Evidence, view: View) -> dict[str, Drawable]:
        """One more drawing for the probes' strip."""
        said: list[dict[str, Any]] = [{}] * len(probes)
        if self.lens.has_classes and probes.look.logits is not None and probes.look.logits.ndim == 2:
            said = facts(probes.probes, probes.look.logits)
        some = probes.probes.select(range(len(probes))[:FOLLOWED])
        maps = probes.look.maps[0][:FOLLOWED]
        history = self._evolution.note("probes", maps, remembered(said[:FOLLOWED]), view.moment)
        if view.moment.initial:
            return {}
        strip = self._evolution.strips[f"{self.name}/probes"] = page.over_time(some, history)
        return {f"evolution/{self.name}/probes": strip.picture()}

    @override
    def strips(self) -> Mapping[str, Strip]:
        return self._evolution.strips

    @override
    def scalars(self) -> Mapping[str, float]:
        return self._scalars

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @override
    def kept(self) -> dict[str, Any]:
        return {
            "lens": self.lens.kept(), "scales": self._scales.state(), "trusted": self._trusted.kept(),
            "followed": self._followed.state(images=self.save_images), "evolution": self._evolution.state(),
        }  # fmt: skip

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        if self.lens.keep(state["lens"]):
            self._scales.restore(state["scales"])
            self._evolution.restore(state["evolution"])
            self._trusted.keep(state["trusted"])
            self._followed.restore(state["followed"])


def _best(parts: Sequence[Examples]) -> Examples:
    """The most confident example of each kind, of all ranks."""
    found: Examples = {}
    for part in parts:
        for kind, example in part.items():
            if kind not in found or example[0] > found[kind][0]:
                found[kind] = example
    return found


def _summed(tables: Sequence[Tensor | None]) -> Tensor | None:
    known = [table for table in tables if table is not None]
    return torch.stack(known).sum(0) if known else None
