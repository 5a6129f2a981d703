"""How the layers of a network do, from every validation picture that passes: figures, how they changed, diagnostics."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lightning_convviz import diagnostics, layer_stats
from lightning_convviz.diagnostics import Alarm, Alarms, Reading
from lightning_convviz.engine.contract import DrawContext, Observers, RunInfo, Snapshot
from lightning_convviz.layer_stats import Figures, LayerAccumulator, Sums

FEWEST = 32  # pictures, under which a comparison of features says nothing
SAMPLED = 128  # weights of a filter that are compared with the last drawing's


@dataclass(frozen=True)
class LayerRecord:
    """One layer in one drawing.

    Attributes:
        layer: its name.
        figures: over the validation.
        cka: how similar its features are to those of the last drawing, see `layer_stats.cka`; None where not known.
        change: ‖w − w_last‖ / ‖w_last‖ of its weights since then; None where not known.
        drift: 1 − the cosine of its filters and those of the last drawing, on average; None where not known.
        trainable: whether its weights require a gradient; None where there are none.
    """

    layer: str
    figures: Figures
    cka: float | None
    change: float | None
    drift: float | None
    trainable: bool | None

    def values(self) -> dict[str, float | None]:
        """All numbers, by name."""
        return {**self.figures.scalars(), "cka": self.cka, "change": self.change, "drift": self.drift}


@dataclass(frozen=True)
class LayerReport:
    """All layers in one drawing.

    Attributes:
        records: by layer, first to last; nothing of layers where nothing was observed.
        new_alarms: those that this drawing raised.
        active_alarms: these, and those of earlier drawings that still hold.
        of_probes: whether figures are of the initial network, over a few pictures, and no whole validation's.
    """

    records: Mapping[str, LayerRecord]
    new_alarms: Sequence[Alarm] = ()
    active_alarms: Sequence[Alarm] = ()
    of_probes: bool = False

    def notes(self, layer: str) -> list[str]:
        """What the captions of a layer's page tell of the whole validation."""
        if self.of_probes or layer not in self.records:
            return []
        figures = self.records[layer].figures
        lines = [
            f"all {figures.count} validated: {figures.sparsity:.0%} 0 or less, {int(figures.dead.sum())} dead",
            f"effective rank {figures.effective_rank:.1f} of {figures.channels}",
        ]
        active = [alarm for alarm in self.active_alarms if alarm.layer == layer]
        return lines + [f"⚠ {alarm.kind}, since epoch {alarm.since}" for alarm in active]

    def dead(self, layer: str) -> list[int]:
        """The channels that were never above 0 in the whole validation; none where that is not known."""
        if self.of_probes or layer not in self.records:
            return []
        is_dead: list[bool] = self.records[layer].figures.dead.tolist()
        return [channel for channel, dead in enumerate(is_dead) if dead]

    def scalars(self) -> dict[str, float]:
        """The figures of a validation by `<figure>/<layer>`; those of a few pictures are none."""
        if self.of_probes:
            return {}
        return {
            f"{figure}/{layer}": value
            for layer, record in self.records.items()
            for figure, value in record.values().items()
            if value is not None and math.isfinite(value)
        }

    def diagnostics(self) -> str:
        """The new alarms in Markdown; empty where there are none."""
        return "\n".join(f"- **{alarm.kind}**: {alarm.text} *{alarm.advice}*" for alarm in self.new_alarms)


class LayerMonitor:
    """Observes layers in validations, and keeps what is compared from drawing to drawing."""

    def __init__(self) -> None:
        self._accumulators: dict[str, LayerAccumulator] = {}
        # Of the last drawing, by layer: features of some pictures with the fingerprints of these, and weights.
        self._features: dict[str, tuple[Tensor, Tensor]] = {}
        self._weights: dict[str, Tensor] = {}
        self._alarms = Alarms()

    # -- in a validation -----------------------------------------------------------------------------------------------

    def start_validation(self, sources: Iterable[str], run: RunInfo) -> Observers:
        """What is to observe these modules in a validation that begins; the ranks divide the features that are kept."""
        pictures = math.ceil(layer_stats.PICTURES / run.world_size)
        self._accumulators = {source: LayerAccumulator(pictures) for source in sources}
        return list(self._accumulators.items())

    def compute(self) -> dict[str, Sums]:
        """What this process has seen, in main memory."""
        sums = {source: accumulator.compute() for source, accumulator in self._accumulators.items()}
        return {source: each.cpu() for source, each in sums.items() if each is not None}

    def end_validation(self) -> None:
        """Nothing stays on the device while training goes on."""
        self._accumulators = {}

    # -- in a drawing --------------------------------------------------------------------------------------------------

    def report(
        self, context: DrawContext, sources: Mapping[str, str], parts: Sequence[Mapping[str, Sums]]
    ) -> LayerReport:
        """The figures of a drawing.

        Args:
            context: what the drawing is made from.
            sources: for each layer the module whose output was observed, first to last.
            parts: what each rank computed.
        """
        snapshot, records = context.snapshot, {}
        for layer, source in sources.items():
            sums = LayerAccumulator.merge([part.get(source) for part in parts])
            if sums is None and snapshot.initial:  # the layers were not known before: at least over the probes
                sums = _sums_of_probes(context, source)
            if sums is not None:
                records[layer] = self._compare(context, layer, layer_stats.figures(sums))
        alarms = self._update_alarms(context, records) if snapshot.training and records else []
        return LayerReport(records, alarms, self._alarms.active(), of_probes=snapshot.initial)

    def _compare(self, context: DrawContext, layer: str, figures: Figures) -> LayerRecord:
        """A layer's figures beside those of the last drawing, and keep what the next one is compared with."""
        weight = _weight(context.trace[layer].module)
        sample = None if weight is None else _sample(weight)
        before = self._weights.get(layer)
        change = drift = None
        if sample is not None and before is not None and before.shape == sample.shape:
            change = float((sample - before).norm() / before.norm().clamp(min=1e-12))
            drift = float((1 - nn.functional.cosine_similarity(sample, before, dim=1)).mean())
        record = LayerRecord(
            layer=layer,
            figures=figures,
            cka=self._similarity(layer, figures),
            change=change,
            drift=drift,
            trainable=None if weight is None else weight.requires_grad,
        )
        if context.snapshot.training:
            self._features[layer] = figures.features, figures.fingerprints
            if sample is not None:
                self._weights[layer] = sample
        return record

    def _similarity(self, layer: str, figures: Figures) -> float | None:
        """CKA to the last drawing, over the first pictures, where these are the same ones."""
        if layer not in self._features:
            return None
        before, fingerprints = self._features[layer]
        count = min(len(fingerprints), len(figures.fingerprints))
        if count < FEWEST or before.shape[1] != figures.features.shape[1]:
            return None
        if not layer_stats.same(fingerprints[:count], figures.fingerprints[:count]):
            return None
        value = layer_stats.cka(before[:count], figures.features[:count])
        return value if math.isfinite(value) else None

    def _update_alarms(self, context: DrawContext, records: Mapping[str, LayerRecord]) -> list[Alarm]:
        """The new alarms, which are logged, too."""
        first = _weight(context.trace[next(iter(records))].module)
        noise = None if first is None else diagnostics.noise(first.detach().float().cpu())
        readings = [
            _reading(record, context.snapshot, noise=noise if place == 0 else None)
            for place, record in enumerate(records.values())
        ]
        alarms = self._alarms.update(readings)
        for alarm in alarms:
            logging.getLogger("lightning_convviz").warning("%s %s", alarm.text, alarm.advice)
        return alarms

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, without the features."""
        return {"weights": dict(self._weights), "alarms": self._alarms.state()}

    def features(self) -> dict[str, list[Tensor]]:
        """The features of the last drawing, which may be large."""
        return {layer: list(pair) for layer, pair in self._features.items()}

    def load_state_dict(self, state: Mapping[str, Any], features: Mapping[str, Sequence[Tensor]] | None) -> None:
        """Go on from an earlier run; `features` are None where a checkpoint had no room for them."""
        self._weights = dict(state["weights"])
        self._alarms.restore(state["alarms"])
        self._features = {layer: (pair[0], pair[1]) for layer, pair in (features or {}).items()}


def _reading(record: LayerRecord, snapshot: Snapshot, *, noise: float | None) -> Reading:
    """What the diagnostics are made from."""
    figures = record.figures
    return Reading(
        layer=record.layer,
        epoch=snapshot.epoch,
        step=snapshot.step,
        initial=snapshot.initial,
        channels=figures.channels,
        dead=float(figures.dead.double().mean()),
        sparsity=figures.sparsity,
        mean=figures.mean,
        high=figures.high,
        effective_rank=figures.effective_rank,
        cka=record.cka,
        change=record.change,
        trainable=record.trainable,
        noise=noise,
    )


def _sums_of_probes(context: DrawContext, source: str) -> Sums | None:
    accumulator = LayerAccumulator()
    accumulator.update(accumulator.reduce(context.result.outputs[source]), context.probes.images)
    sums = accumulator.compute()
    return None if sums is None else sums.cpu()


def _weight(module: nn.Module) -> Tensor | None:
    """The weights that make a module's output: its own, or of several the last; None where a rank has only a part."""
    own = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    if not own or type(own[-1].data).__name__ == "DTensor" or own[-1].device.type == "meta":
        return None
    return own[-1]


def _sample(weight: Tensor) -> Tensor:
    """A part of each filter's weights, in main memory: enough to tell how much they change."""
    rows = weight.detach().flatten(1)
    return rows[:, :: -(-rows.shape[1] // SAMPLED)].float().cpu().clone()
