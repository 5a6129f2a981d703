"""How the layers of a network fare, from every validation picture that passes: figures, a chart of them, alarms."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_convviz import diagnostics, layer_stats
from lightning_convviz.callbacks.evolution import Evolution
from lightning_convviz.callbacks.overheard import Overheard
from lightning_convviz.callbacks.scene import Moment, View
from lightning_convviz.render import Chart, Panel

FEWEST = 32  # pictures, under which a comparison of features says nothing
SAMPLED = 128  # weights of a filter that are compared with the last drawing's
BUDGET = 45_000  # bytes of the chart's file

LEGEND = """**Statistics by depth and epoch**: a line for each drawing, light ones are old and the dark one is the
current network, the initial one is dashed; layers from first to last along the axis. All figures are over the whole
validation. *Values at 0 or below*: how sparse a layer is, which grows with depth in most networks. *Dead channels*
are never above 0. *Effective rank*: how many directions the features (means of the maps) use, as a share of the
channels. *99.5th percentile*: how large activations are. *CKA to the last drawing*: 1 where a layer's features have
not changed since then. *Weights changed by*: the norm of the change as a share of the weights' norm, since the last
drawing."""

PANELS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparsity": ("values at 0 or below", {"unit": "%", "low": 0.0, "high": 1.0}),
    "dead": ("dead channels", {"unit": "%", "low": 0.0, "high": 1.0}),
    "effective_rank": ("effective rank / channels", {"unit": "%", "low": 0.0, "high": 1.0}),
    "high": ("99.5th percentile", {"low": 0.0}),
    "cka": ("CKA to the last drawing", {"low": 0.0, "high": 1.0}),
    "change": ("weights changed by", {"log": True}),
}

Heard = Mapping[str, layer_stats.Sums]


class Health:
    """What is known of each layer, from drawing to drawing.

    Attributes:
        figures: of the last drawing, by layer.
        told: alarms that the last drawing raised.
    """

    def __init__(self) -> None:
        self._overheard = Overheard()
        self._features: dict[str, tuple[Tensor, Tensor]] = {}  # by layer: features of pictures, and what tells these
        self._weights: dict[str, Tensor] = {}
        self._alarms = diagnostics.Alarms()
        self.figures: dict[str, layer_stats.Figures] = {}
        self.told: list[diagnostics.Alarm] = []
        self._scalars: dict[str, float] = {}
        self._is_sample = False  # of a few pictures, before training

    # -- what passes -------------------------------------------------------------------------------------------------

    def begin(self, sources: Iterable[str], world: int) -> None:
        """A validation begins, in which these modules are observed, by each of `world` processes."""
        pictures = math.ceil(layer_stats.PICTURES / world)
        self._overheard.begin({source: layer_stats.LayerAccumulator(pictures) for source in sources})

    def observers(self) -> Mapping[str, Callable[[Tensor], None]]:
        """For each module what to do with its output."""
        return self._overheard.observers()

    def passed(self, images: Tensor | None) -> None:
        """The images of the batch that was observed."""
        self._overheard.passed(images)

    def heard(self) -> Heard:
        """What this process has seen, in main memory; nothing stays on the device while training goes on."""
        sums = {name: accumulator.compute() for name, accumulator in self._overheard.listeners.items()}
        self._overheard.clear()
        return {name: each.cpu() for name, each in sums.items() if each is not None}

    # -- what it says ------------------------------------------------------------------------------------------------

    def read(self, view: View, sources: Mapping[str, str], parts: Sequence[Heard]) -> list[dict[str, Any]]:
        """The figures of a drawing by layer, first to last; nothing of layers where nothing was observed."""
        items, self.figures, self.told, self._is_sample = [], {}, [], view.moment.initial
        for layer, source in sources.items():
            sums = layer_stats.LayerAccumulator.merge([part.get(source) for part in parts])
            if sums is None and view.moment.initial:  # the layers were not known before: at least over the probes
                sums = _of_probes(view, source)
            if sums is not None:
                self.figures[layer] = layer_stats.figures(sums)
                items.append(self._item(view, layer, self.figures[layer]))
        self._scalars = {
            f"{figure}/{item['layer']}": value
            for item in items
            for figure, value in item.items()
            if isinstance(value, float) and math.isfinite(value)
        }
        if view.moment.training and items:
            self._alarm(view, items)
        return items

    def _item(self, view: View, layer: str, figures: layer_stats.Figures) -> dict[str, Any]:
        """One layer's figures as plain values, and what is compared with the next drawing's."""
        weight = _weight(view.runs[layer].module)
        sample, before = None if weight is None else _sampled(weight), self._weights.get(layer)
        item = {"layer": layer, "count": figures.count, "channels": figures.channels, **figures.scalars()}
        item |= {"cka": self._similarity(layer, figures), "change": None, "drift": None}
        if sample is not None and before is not None and before.shape == sample.shape:
            item["change"] = float((sample - before).norm() / before.norm().clamp(min=1e-12))
            item["drift"] = float((1 - nn.functional.cosine_similarity(sample, before, dim=1)).mean())
        item["trainable"] = None if weight is None else weight.requires_grad
        if view.moment.training:
            self._features[layer] = figures.features, figures.fingerprints
            self._weights |= {} if sample is None else {layer: sample}
        return item

    def _similarity(self, layer: str, figures: layer_stats.Figures) -> float | None:
        """CKA to the last drawing, over the first pictures that are the same ones."""
        if layer not in self._features:
            return None
        before, fingerprints = self._features[layer]
        count = min(len(fingerprints), len(figures.fingerprints))
        alike = before.shape[1] == figures.features.shape[1]
        if count < FEWEST or not alike or not layer_stats.same(fingerprints[:count], figures.fingerprints[:count]):
            return None
        value = layer_stats.cka(before[:count], figures.features[:count])
        return value if math.isfinite(value) else None

    def _alarm(self, view: View, items: Sequence[Mapping[str, Any]]) -> None:
        moment, first = view.moment, _weight(view.runs[items[0]["layer"]].module)
        noise = None if first is None else diagnostics.noise(first.detach().float().cpu())
        readings = [
            diagnostics.Reading(
                layer=item["layer"], epoch=moment.epoch, step=moment.step, initial=moment.initial,
                channels=item["channels"], dead=item["dead"], sparsity=item["sparsity"], mean=item["mean"],
                high=item["high"], effective_rank=item["effective_rank"] * item["channels"], cka=item["cka"],
                change=item["change"], trainable=item["trainable"], noise=noise if place == 0 else None,
            )
            for place, item in enumerate(items)
        ]  # fmt: skip
        self.told = self._alarms.update(readings)
        for alarm in self.told:
            logging.getLogger("lightning_convviz").warning("%s %s", alarm.text, alarm.advice)

    def lines(self, layer: str) -> list[str]:
        """What a layer's picture says of the whole validation."""
        figures = self.figures.get(layer)
        if figures is None or self._is_sample:
            return []
        said = [
            f"all {figures.count} validated: {figures.sparsity:.0%} 0 or less, {int(figures.dead.sum())} dead",
            f"effective rank {figures.effective_rank:.1f} of {figures.channels}",
        ]
        active = [alarm for alarm in self._alarms.active() if alarm.layer == layer]
        return said + [f"⚠ {alarm.kind}, since epoch {alarm.since}" for alarm in active]

    def dead(self, layer: str) -> list[bool]:
        """Which channels were never above 0 in the whole validation; empty where that is not known."""
        return [] if self._is_sample or layer not in self.figures else self.figures[layer].dead.tolist()

    def scalars(self) -> Mapping[str, float]:
        """The figures by `<figure>/<layer>`."""
        return self._scalars

    def text(self) -> str:
        """The alarms that the last drawing raised, in Markdown; empty where there are none."""
        return "\n".join(f"- **{each.kind}**: {each.text} *{each.advice}*" for each in self.told)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"weights": dict(self._weights), "alarms": self._alarms.state()}

    def features(self) -> dict[str, list[Tensor]]:
        """The features of the last drawing, which may be large."""
        return {layer: list(pair) for layer, pair in self._features.items()}

    def restore(self, state: Mapping[str, Any], features: Mapping[str, Sequence[Tensor]] | None) -> None:
        """Go on with what an earlier run knew."""
        self._weights = dict(state["weights"])
        self._alarms.restore(state["alarms"])
        self._features = {layer: (pair[0], pair[1]) for layer, pair in (features or {}).items()}


def chart(evolution: Evolution, items: Sequence[Mapping[str, Any]], moment: Moment) -> Chart:
    """The figures of the drawings that are kept, over depth."""
    plain = [{key: item[key] for key in ("layer", "count", *PANELS)} for item in items]
    for item in plain if moment.initial else ():
        item["dead"] = item["effective_rank"] = None  # which so few pictures don't tell
    history = evolution.note("layer_stats", torch.zeros(len(items), 0), plain, moment)
    layers = [str(item["layer"]) for item in items]
    known = [{item["layer"]: item for item in frame.facts} for frame in history.frames]
    panels = [
        Panel(title, [[frame.get(layer, {}).get(figure) for layer in layers] for frame in known], **options)
        for figure, (title, options) in PANELS.items()
    ]
    count = items[0]["count"]
    about = {
        "kind": "layer_stats", "layer": layers, "epoch": moment.epoch, "step": moment.step, "scale": None,
        "count": count,
    }  # fmt: skip
    return Chart(
        title="How the layers fare, first to last", captions=[f"{moment.caption} · over {count} validation pictures"],
        layers=layers, drawings=history.titles(), panels=panels, about=about, legend=LEGEND, budget=BUDGET,
    )  # fmt: skip


def _of_probes(view: View, source: str) -> layer_stats.Sums | None:
    accumulator = layer_stats.LayerAccumulator()
    accumulator.update(accumulator.reduce(view.look.outputs[source]), view.probes.images)
    sums = accumulator.compute()
    return None if sums is None else sums.cpu()


def _weight(module: nn.Module) -> Tensor | None:
    """The weights that make a module's output: its own, or of several the last; None where a rank has only a part."""
    own = [each for each in module.parameters() if each.ndim >= 2]
    if not own or type(own[-1].data).__name__ == "DTensor" or own[-1].device.type == "meta":
        return None
    return own[-1]


def _sampled(weight: Tensor) -> Tensor:
    """A part of each filter's weights, in main memory: enough to tell how much they change."""
    rows = weight.detach().flatten(1)
    return rows[:, :: -(-rows.shape[1] // SAMPLED)].float().cpu().clone()
