"""What GradCAMLogger explains of a picture, and the pages that show it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_convviz import cams, layers, targets
from lightning_convviz.callbacks.confusions import confusions
from lightning_convviz.callbacks.evidence import Evidence, called, facts, row
from lightning_convviz.callbacks.evolution import LEGEND as OVER_TIME
from lightning_convviz.callbacks.followed import Followed, strip
from lightning_convviz.callbacks.scales import Scales
from lightning_convviz.callbacks.scene import Moment, Scene, View
from lightning_convviz.history import History
from lightning_convviz.mistakes import Examples
from lightning_convviz.probes import Probes
from lightning_convviz.render import Picture
from lightning_convviz.render.heat import FAINT, Column, Row, Scale, heat_rows, message_page
from lightning_convviz.render.strips import Strip

SIDE = 36  # about how wide a tile of the probes' strip is, in pixels
STRIP = 40_000  # bytes of its file
SMALL = 128  # pixels: pictures up to this size are explained at a second, finer resolution too

HOW = """Over the gray picture the evidence shows where the map is not 0: the hotter, the more; without evidence the
picture is untouched. One scale holds for all rows and stays from drawing to drawing until values leave it by a factor
of two: its end stands beside the bar, in logits where the map's sum is one. In the difference red speaks for the
predicted class and blue for the other one; it is the difference of the two maps, exact for methods that are linear in
the score (Grad-CAM, HiResCAM, XGrad-CAM). The line above a row: what the network says and how sure it is; `is` the true
class or, where it is right, `then` the second best; the margin between their logits. Green with ✓: right; vermilion
with ✗: wrong."""

PROBES = f"""**Class activation heatmaps**: for each probe the evidence for the class that is predicted, for the other
one in question (the true class in a mistake, else the second best), and the difference of both. {HOW}"""

MISTAKES = f"""**Mistakes**: the most confident errors of this validation, worst first. {HOW}"""


class Lens:
    """Which layer, target and method; the layers are chosen in the first drawing."""

    def __init__(
        self,
        layer: str | list[str],
        method: str | Callable[..., Any],
        target: Any,
        finer: str | None,
        signed: bool,
    ) -> None:
        self._layer, self._finer = layer, finer
        self.method, self.target, self.signed = method, target, signed
        self.fuses = isinstance(method, str) and method in cams.FUSIONS
        self.begin()

    def begin(self) -> None:
        """A new run: nothing is chosen yet."""
        self.layer: str | tuple[str, ...] = ()
        self.finer: str | None = None
        self._sure = False
        self._note = ""

    @property
    def has_classes(self) -> bool:
        """Whether mistakes can be told: a target of one's own may be no class."""
        return isinstance(self.target, str | int)

    @property
    def called(self) -> str:
        """The method's name."""
        return self.method if isinstance(self.method, str) else getattr(self.method, "__name__", "cam")

    def check(self, model: nn.Module) -> None:
        """Before anything runs: complain about layers that the model does not have."""
        if self._layer != "auto":
            layers.find(model, self._layer, argument="layer")
        if self._finer not in ("auto", None):
            layers.find_one(model, self._finer, argument="high_res_layer")

    def resolve(
        self, model: nn.Module, scene: Scene, output: Callable[..., Any] | None, reshape: Callable[..., Any] | None
    ) -> str:
        """Choose the layers, once; what there is to say of the choice, once."""
        names = {self.layer} if isinstance(self.layer, str) else {*self.layer}
        if names and self._sure and names <= scene.runs.keys():
            return ""
        images = scene.probes.images
        named = [] if self._layer == "auto" else layers.find(model, self._layer, argument="layer")
        note, sure = "", True
        small = self._finer == "auto" and max(images.shape[2:]) <= SMALL
        finer = (
            None if self._finer in ("auto", None) else layers.find_one(model, self._finer, argument="high_res_layer")
        )
        if not named or (small and reshape is None):
            choice = cams.choose(
                model, images, forward=scene.forward, output=output, extra_inputs=scene.extra_inputs, runs=scene.runs
            )
            named, note, sure = named or [choice.layer], "" if named else choice.note, choice.is_certain
            if self.fuses and self._layer == "auto" and choice.high_res_layer:
                named = [choice.high_res_layer, choice.layer]
            finer = choice.high_res_layer if small and choice.high_res_layer not in named else finer
        if self._layer != "auto":
            layers.require_ran(scene.runs, named, argument="layer")
        if not self.fuses and len(named) > 1:
            layers.find_one(model, str(self._layer), argument="layer")
        self.layer, self.finer, self._sure = tuple(named) if self.fuses else named[0], finer, sure
        told, self._note = self._note, note
        return note if note != told else ""

    def explanations(self, probes: Probes, *, pair: bool = False) -> list[cams.Explanation]:
        """What to ask of the forward of some pictures; with `pair` always for two classes."""
        labels = None if probes.labels is None else torch.as_tensor(probes.labels, device=probes.images.device)
        if pair or self.target == "auto":
            other: Any = "runner_up" if labels is None else targets.true_or_runner_up(labels)
            wanted = [cams.Explanation(self.layer, each, self.method) for each in ("predicted", other)]
        else:
            target = labels if self.target == "label" and labels is not None else self.target
            if isinstance(target, str) and target == "label":
                raise ValueError('`target` is "label", and the probes have no labels. Give `probes=` with labels.')
            wanted = [cams.Explanation(self.layer, target, self.method)]
        if self.finer is not None:
            wanted.append(cams.Explanation(self.finer, wanted[0].target, "hirescam"))
        return wanted

    def classes(self, logits: Tensor, probes: Probes) -> Tensor | None:
        """The class that the first map of each picture explains; None where it explains no class."""
        if not self.has_classes or logits.ndim != 2:
            return None
        if isinstance(self.target, int):
            return torch.full((len(logits),), self.target, device=logits.device)
        if self.target == "label" and probes.labels is not None:
            return torch.as_tensor(probes.labels, device=logits.device)
        return logits.argsort(dim=1, descending=True)[:, 1 if self.target == "runner_up" else 0]

    def kept(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        layer = self.layer if isinstance(self.layer, str) else list(self.layer)
        target = self.target if isinstance(self.target, str | int) else getattr(self.target, "__name__", "own")
        chosen = [repr(self._layer), repr(self._finer), self.called, repr(target)]
        return {"chosen": chosen, "layer": layer, "finer": self.finer, "sure": self._sure}

    def keep(self, state: Mapping[str, Any]) -> bool:
        """Go on with what an earlier run chose; whether it was asked for the same."""
        if list(state["chosen"]) != self.kept()["chosen"]:
            return False
        self.layer = state["layer"] if isinstance(state["layer"], str) else tuple(state["layer"])
        self.finer, self._sure = state["finer"], bool(state["sure"])
        return True


class Page:
    """One drawing's pages: their scales, and what stands on them."""

    def __init__(self, lens: Lens, view: View, scales: Scales, seen: Sequence[Evidence]) -> None:
        self.lens, self.view = lens, view
        uniform = bool(view.look.uniform_gradient[0])
        unit = cams.unit_of(lens.method, uniform) if lens.has_classes else "units of the score"
        self.units = f"scales in {unit} a cell" + (", finer in logits" if lens.finer and unit != "logits" else "")
        pair = [each.look.maps[:2] if self._has_pair(each) else each.look.maps[:1] for each in seen]
        self._scales, when = scales, view.moment
        high = _high(scales, "evidence", [group[0] for group in pair], when)
        self.evidence = Scale("evidence", high, unit, lens.signed)
        gaps = [group[0] - group[1] for group in pair if len(group) == 2]
        self.difference = Scale("the other", _high(scales, "difference", gaps, when), unit, True, "pred.")
        fine = _high(scales, "finer", [each.look.maps[-1] for each in seen] if lens.finer else [], when)
        # What is nothing beside the evidence is not to be blown up to full color.
        self.finer = Scale("finer", max(fine, FAINT * high), "logits", lens.signed)

    def _has_pair(self, seen: Evidence) -> bool:
        return len(seen.look.maps) - (self.lens.finer is not None) == 2

    def _columns(self, seen: Evidence, other: str) -> list[Column]:
        maps = seen.look.maps
        if self._has_pair(seen):
            columns = [
                Column("predicted", maps[0], self.evidence),
                Column("2nd best" if seen.probes.labels is None else other, maps[1], self.evidence),
                Column("difference", maps[0] - maps[1], self.difference),
            ]
        else:
            target = self.lens.target
            title = target if isinstance(target, str) else getattr(target, "__name__", "target")
            columns = [Column(seen.probes.name(target) if isinstance(target, int) else title, maps[0], self.evidence)]
        if self.lens.finer is not None:
            columns.append(Column("finer", maps[-1], self.finer))
        return columns

    def _page(
        self, kind: str, seen: Evidence, rows: list[Row], title: str, captions: list[str], legend: str, **more: Any
    ) -> Picture:
        lens = self.lens
        photos = seen.probes.display()
        y, x = seen.look.maps[-1].shape[1:]
        fine = [f"finer: hirescam at {lens.finer}, {y}×{x}"] if lens.finer else []
        about = {**self._about(kind), "method": lens.called, "rows": list(seen.probes.ids or ()), **more}
        return heat_rows(
            photos,
            self._columns(seen, "true" if kind == "mistakes" else "true / 2nd"),
            rows,
            title=title,
            captions=[*captions, *fine, self.units, *self._stamps()],
            legend=legend,
            about=about,
        )

    def _stamps(self) -> list[str]:
        """Which scales were changed, and when last."""
        named = {name: self._scales.stamp(name) for name in ("evidence", "difference", "finer")}
        said = "; ".join(f"{name} {stamp}" for name, stamp in named.items() if stamp)
        return [f"scales: {said}"] if said else []

    def _about(self, kind: str) -> dict[str, Any]:
        moment = self.view.moment
        return {"kind": kind, "layer": self.lens.layer, "epoch": moment.epoch, "step": moment.step}

    @property
    def _where(self) -> str:
        name = self.lens.layer if isinstance(self.lens.layer, str) else " + ".join(self.lens.layer)
        y, x = self.view.look.maps[0].shape[1:]
        return f"({self.lens.called}) at {name}, {y}×{x}"

    def probes(self, seen: Evidence) -> Picture:
        """`gradcam/probes`."""
        logits = seen.look.logits
        classes = self.lens.has_classes and logits is not None and logits.ndim == 2
        items = facts(seen.probes, logits) if classes and logits is not None else [{}] * len(seen)
        right = [item["right"] for item in items if item.get("right") is not None]
        score = f" · {sum(right)} of {len(right)} probes right" if right else ""
        names = [Row(called(name), None, {"id": name}) for name in seen.probes.ids or ()]
        rows = [row(item) for item in items] if classes else names
        what = "Evidence for a class" if self.lens.has_classes else "Evidence"
        return self._page("gradcam", seen, rows, f"{what} {self._where}", [self.view.moment.caption + score], PROBES)

    def mistakes(self, seen: Evidence | None, table: Tensor | None, count: int, labeled: int) -> Picture:
        """`gradcam/mistakes`: also where there are none."""
        wrong = None if table is None else int(table.sum() - table.diagonal().sum())
        share = f"{wrong} wrong of {count} seen" if wrong is not None else f"{count} seen"
        captions = [f"{self.view.moment.caption} · {share}"]
        counts = {"validated": count, "wrong": wrong}
        about = {**self._about("mistakes"), **counts}
        if seen is None:
            title = "No mistakes in this validation" if labeled else "No labeled pictures with finite logits"
            return message_page(title, captions, legend=MISTAKES, about=about)
        assert seen.look.logits is not None  # mistakes have logits
        rows = [row(item) for item in facts(seen.probes, seen.look.logits)]
        title = f"The {len(seen)} most confident mistakes {self._where}"
        return self._page("mistakes", seen, rows, title, captions, MISTAKES, **counts)

    def followed(self, followed: Followed) -> Picture:
        """`gradcam/followed`."""
        scale = Scale("evidence", self.evidence.high, self.evidence.unit)
        title = f"Mistakes followed {self._where}: evidence for what was said"
        return followed.picture(self.view.moment, scale, title, self._about("followed"))

    def over_time(self, probes: Probes, history: History) -> Strip:
        """`evolution/gradcam/probes`."""
        scale = Scale("evidence", self.evidence.high, self.evidence.unit)
        what = "predicted class" if self.lens.has_classes else "score"
        return strip(
            history, probes, scale, moment=self.view.moment, legend=OVER_TIME.format(row="probe"),
            title=f"Evidence for the {what}, over time {self._where}",
            about=self._about("evolution"), side=SIDE, budget=STRIP,
        )  # fmt: skip

    def confusions(self, examples: Examples, table: Tensor) -> Picture:
        """`gradcam/confusions`."""
        return confusions(table, self.view.probes, examples, self.view.moment.caption, self._about("confusions"))


def _high(scales: Scales, name: str, maps: Sequence[Tensor], when: Moment) -> float:
    """The kept end of a scale: when it is chosen, nine of ten maps have their peak below it."""
    if not maps:
        return 1.0
    peaks = torch.cat([each.detach().float().abs().flatten(1).amax(1).cpu() for each in maps])
    peaks = peaks[peaks.isfinite() & (peaks > 0)]
    return scales.hold(name, float(peaks.quantile(0.9)) if len(peaks) else 0.0, when)
