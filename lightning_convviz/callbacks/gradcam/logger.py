"""GradCAMLogger: why did the network predict this, where is the evidence, what went wrong in a mistake."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import _lightning
from lightning_convviz.callbacks.base import VisualizationCallback
from lightning_convviz.callbacks.common import Filmstrips, Scales
from lightning_convviz.callbacks.gradcam.explainer import Explainer
from lightning_convviz.callbacks.gradcam.reliability import ReliabilityTracker
from lightning_convviz.callbacks.gradcam.tracked_mistakes import TrackedMistakes
from lightning_convviz.callbacks.options import check_gradcam
from lightning_convviz.engine.contract import (
    DrawContext,
    DrawResult,
    Droppable,
    Forward,
    ForwardRequest,
    Needs,
    Observers,
    PictureSet,
    ProbeView,
    RunInfo,
    Snapshot,
    ValidationBatch,
)
from lightning_convviz.mistakes import Confusions, Mistakes
from lightning_convviz.pages.confusions import confusions_page
from lightning_convviz.pages.explained import ExplainedImages, probes_of_mistakes
from lightning_convviz.pages.heatmap_strip import probes_strip, strip_facts, tracked_strip
from lightning_convviz.pages.heatmaps import FAINT, HeatmapInfo, MapScale, mistakes_page, probes_page
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Drawable

IN_STRIP = 6  # probes in a film strip


@dataclass(frozen=True)
class GradCAMPart:
    """What one rank adds to a drawing, in main memory.

    Attributes:
        mistakes: its own, explained.
        tracked: on rank 0, those that are pinned, as they are explained now.
        confusions: of its share of the validation.
        scalars: how far the probes' heatmaps can be believed.
    """

    mistakes: ExplainedImages | None = None
    tracked: ExplainedImages | None = None
    confusions: Confusions = field(default_factory=Confusions)
    scalars: Mapping[str, float] = field(default_factory=dict)


class GradCAMLogger(VisualizationCallback):
    """Log heatmaps of the evidence for what the network predicts, and for what it should have predicted.

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
    droppable: ClassVar[Mapping[str, Droppable]] = {
        "tracked": Droppable("followed mistakes", "num_mistakes"),
        "evolution": Droppable("film strips", "num_probes"),
    }

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
        check_gradcam(
            layer=layer,
            method=method,
            target=target,
            high_res_layer=high_res_layer,
            signed=signed,
            num_mistakes=num_mistakes,
            heatmap_metrics=heatmap_metrics,
            evolution=evolution,
        )
        super().__init__(
            probes=probes,
            num_probes=num_probes,
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            forward=forward,
            output=output,
            reshape=reshape,
            logits=logits,
            name=name,
            save_dir=save_dir,
            save_images=save_images,
            on_error=on_error,
            initial=initial,
        )
        self.signed = signed
        self.num_mistakes = num_mistakes
        self.heatmap_metrics = heatmap_metrics
        self.evolution = evolution
        self._explainer = Explainer(layer, method, target, high_res_layer)
        has_classes = self._explainer.has_classes
        finds_mistakes = num_mistakes > 0 and has_classes
        self.needs = Needs(logits=finds_mistakes, classifier=has_classes, divisible=finds_mistakes)
        self.reset()

    @override
    def reset(self) -> None:
        self._explainer.reset()
        self._reliability = ReliabilityTracker()
        self._tracked = TrackedMistakes(self.num_mistakes)
        self._scales = Scales()
        self._strips = Filmstrips()
        self._mistakes = Mistakes(max(self.num_mistakes, 1))
        self._pictures: dict[str, Probes] = {}  # what `request` asked for beside the probes
        self._confidence: Float[Tensor, " n"] | None = None  # of the mistakes among them
        self._run: RunInfo | None = None  # of the current validation
        self._misses_batches = False  # whether some of the current validation had no logits or labels
        self._takes_extra_inputs = True  # as long as it is not known what the forward takes
        self._has_warned = False

    # -- what is explained ---------------------------------------------------------------------------------------------

    @override
    def validate(self, model: nn.Module) -> None:
        self._explainer.validate(model)

    @override
    def select(self, view: ProbeView) -> None:
        self._takes_extra_inputs = bool(view.extra_inputs)
        note = self._explainer.select(view, self.settings.output, self.settings.reshape)
        if note:
            _lightning.rank_zero_info(f"{type(self).__name__} explains {self._explainer.layer!r}: {note}.")

    @override
    def request(self, view: ProbeView) -> ForwardRequest:
        if not view.labels_are_classes:  # what was counted in this validation were no mistakes
            self._mistakes.reset()
        self._collect_pictures(view.probes)
        device = view.probes.images.device
        pictures = {
            name: PictureSet(probes, self._explainer.explanations(probes, device, pair=True))
            for name, probes in self._pictures.items()
        }
        return ForwardRequest(explanations=self._explainer.explanations(view.probes, device), pictures=pictures)

    def _collect_pictures(self, like: Probes) -> None:
        """The mistakes of this rank, and on rank 0 those that are pinned; waits for the device, once."""
        self._pictures, self._confidence = {}, None
        if self._run is None or not self._finds_mistakes:
            return
        mistakes = self._mistakes.compute()
        if mistakes is not None and len(mistakes):
            self._pictures["mistakes"] = probes_of_mistakes(mistakes, like)
            self._confidence = mistakes.confidence
        if self._tracked.probes is not None and self._run.is_rank_zero and self._mistakes.seen:
            self._pictures["tracked"] = self._tracked.probes

    # -- the validation ------------------------------------------------------------------------------------------------

    @property
    def _finds_mistakes(self) -> bool:
        """Whether mistakes of the current validation are drawn.

        Not where ranks run their forwards together: each has mistakes of its own, and some have none.
        """
        return self.needs.logits and self._run is not None and self._run.mode != "lockstep"

    @override
    def start_validation(self, run: RunInfo) -> Observers:
        self._run = run
        self.end_validation()
        self._misses_batches = False
        if self.needs.logits and run.mode == "lockstep" and not self._has_warned:
            self._has_warned = True
            _lightning.rank_zero_warn(
                f"{type(self).__name__}: mistakes are not drawn where each rank holds a part of the model."
            )
        return ()

    @override
    def on_batch(self, batch: ValidationBatch) -> None:
        if not self._finds_mistakes or self._misses_batches:
            return
        if batch.logits is None or batch.labels is None:  # counts of a part of the validation would not be true
            self._misses_batches = True
            self._mistakes.reset()
            return
        extra_inputs = batch.extra_inputs if self._takes_extra_inputs else None
        self._mistakes.update(batch.images, batch.labels, batch.logits, extra_inputs, positions=batch.positions)

    # -- the drawing ---------------------------------------------------------------------------------------------------

    @override
    def compute(self, context: DrawContext, share: slice) -> GradCAMPart:
        return GradCAMPart(
            mistakes=self._explained("mistakes", context, self._confidence),
            tracked=self._explained("tracked", context),
            confusions=self._mistakes.confusions(),
            scalars=self._measure(context),
        )

    def _explained(
        self, name: str, context: DrawContext, confidence: Float[Tensor, " n"] | None = None
    ) -> ExplainedImages | None:
        """Further pictures that were asked for, with what came back, in main memory."""
        if name not in context.explained:
            return None
        return ExplainedImages(self._pictures[name], context.explained[name], confidence).cpu()

    @override
    def end_validation(self) -> None:
        self._mistakes.reset()
        self._pictures, self._confidence = {}, None

    def _measure(self, context: DrawContext) -> Mapping[str, float]:
        """How far to believe the probes' heatmaps; numbers must not cost pictures, so that errors only warn."""
        in_lockstep = context.run.mode == "lockstep"
        if not self.heatmap_metrics or not (context.run.is_rank_zero or in_lockstep):
            return {}
        try:
            assert context.result.logits is not None  # explanations read them
            classes = self._explainer.classes(context.result.logits, context.probes)
            return self._reliability.measure(context, classes, self.settings.output)
        except Exception as error:
            context.warn("measure how far to trust its heatmaps", error)
            return {}

    @override
    def draw(self, context: DrawContext, parts: Sequence[GradCAMPart]) -> DrawResult:
        snapshot = context.snapshot
        probes = ExplainedImages(context.probes, context.result, has_classes=self._explainer.has_classes)
        mistakes = ExplainedImages.merge([part.mistakes for part in parts], self.num_mistakes)
        confusions = Confusions.merge([part.confusions for part in parts])
        info = self._info(context, [probes] if mistakes is None else [probes, mistakes])
        pictures: dict[str, Drawable] = {f"{self.name}/probes": probes_page(info, probes, context.photos)}
        if self.evolution and snapshot.training:
            pictures |= self._probes_over_time(info, probes, context.photos)
        if confusions.seen:
            pictures |= self._pages_of_mistakes(info, context.probes, mistakes, confusions)
        if snapshot.training and not snapshot.initial:
            pictures |= self._track(info, mistakes, parts[0].tracked)
        scalars = {f"heatmap_metrics/{name}": value for name, value in parts[0].scalars.items()}
        return DrawResult(pictures, scalars, animations=self._strips.animations())

    def _info(self, context: DrawContext, explained: Sequence[ExplainedImages]) -> HeatmapInfo:
        """What the drawing's maps are of, and their scales, which hold for all of its pages."""
        explainer, snapshot = self._explainer, context.snapshot
        unit, high_res_layer = explainer.unit(context.result), explainer.high_res_layer
        for_classes = [each.result.maps[:-1] if high_res_layer is not None else each.result.maps for each in explained]
        high = self._hold("evidence", [maps[0] for maps in for_classes], snapshot)
        differences = [maps[0] - maps[1] for maps in for_classes if len(maps) == 2]
        high_res = [each.result.maps[-1] for each in explained] if high_res_layer is not None else []
        # What is nothing beside the evidence is not to be blown up to full color.
        high_res_end = max(self._hold("high-res", high_res, snapshot), FAINT * high)
        return HeatmapInfo(
            layer=explainer.layer,
            method=explainer.method_name,
            target=explainer.target_name,
            has_classes=explainer.has_classes,
            high_res_layer=high_res_layer,
            snapshot=snapshot,
            evidence=MapScale("evidence", high, unit, self.signed),
            difference=MapScale("the other", self._hold("difference", differences, snapshot), unit, True, "pred."),
            high_res=MapScale("high-res", high_res_end, "logits", self.signed),
            changes=[
                f"{name} {note}"
                for name in ("evidence", "difference", "high-res")
                if (note := self._scales.change_note(name))
            ],
        )

    def _hold(self, name: str, maps: Sequence[Float[Tensor, "_ _ _"]], snapshot: Snapshot) -> float:
        """The kept end of a scale: when it is chosen, nine of ten maps have their peak below it."""
        if not maps:
            return 1.0
        peaks = torch.cat([each.detach().float().abs().flatten(1).amax(1).cpu() for each in maps])
        peaks = peaks[peaks.isfinite() & (peaks > 0)]
        return self._scales.hold(name, float(peaks.quantile(0.9)) if len(peaks) else 0.0, snapshot)

    def _probes_over_time(
        self, info: HeatmapInfo, probes: ExplainedImages, photos: Float[Tensor, "n 3 h w"]
    ) -> dict[str, Drawable]:
        """One more drawing for the probes' film strip."""
        count = min(len(probes), IN_STRIP)
        facts = strip_facts(probes.predictions, count)
        history = self._strips.append("probes", probes.result.maps[0][:count], facts, info.snapshot)
        if info.snapshot.initial:
            return {}
        strip = probes_strip(info, probes.probes.select(range(count)), photos[:count], history)
        tag = f"{self.name}/probes"
        self._strips.drawn[tag] = strip
        return {f"evolution/{tag}": strip.picture()}

    def _pages_of_mistakes(
        self, info: HeatmapInfo, probes: Probes, mistakes: ExplainedImages | None, confusions: Confusions
    ) -> dict[str, Drawable]:
        """The mistakes of this validation, and which classes are taken for which."""
        pictures: dict[str, Drawable] = {f"{self.name}/mistakes": mistakes_page(info, mistakes, confusions)}
        table = confusions_page(confusions, probes, info.snapshot, info.facts("confusions"))
        if table is not None:
            pictures[f"{self.name}/confusions"] = table
        return pictures

    def _track(
        self, info: HeatmapInfo, mistakes: ExplainedImages | None, tracked: ExplainedImages | None
    ) -> dict[str, Drawable]:
        """Pin new mistakes where there is room, and show how all that are pinned fare."""
        found = self._tracked.pin(mistakes, tracked)
        if found is None:
            return {}
        history = self._tracked.append(found, info.snapshot)
        return {f"{self.name}/followed": tracked_strip(info, found.probes, history).picture()}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    @override
    def export_state(self) -> dict[str, Any]:
        return {
            "explainer": self._explainer.state_dict(),
            "scales": self._scales.state_dict(),
            "reliability": self._reliability.state_dict(),
            "tracked": self._tracked.state_dict() if self.settings.save_images else None,
            "evolution": self._strips.state_dict(),
        }

    @override
    def import_state(self, state: Mapping[str, Any]) -> None:
        if not self._explainer.matches(state["explainer"]):
            return
        self._explainer.load_state_dict(state["explainer"])
        self._scales.load_state_dict(state["scales"])
        self._strips.load_state_dict(state["evolution"])
        self._reliability.load_state_dict(state["reliability"])
        self._tracked.load_state_dict(state["tracked"])
