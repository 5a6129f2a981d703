"""GradCAMLogger: why did the network think this, where is it, what went wrong in a mistake."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_convviz import cams
from lightning_convviz import layers as layers_
from lightning_convviz.callbacks.arguments import Forward
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.scene import View, Wants
from lightning_convviz.cams.heatmap import enlarge
from lightning_convviz.cams.methods import resolve
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Picture, Sheet, overlay, rgb
from lightning_convviz.render.sheet import MARGIN, RIGHT, UNKNOWN, WRONG, Block, font, numbers, shorten

SIDE = 108  # about how large a tile is drawn, in pixels: three of them fill TensorBoard's card

FAINT = 0.02  # of the row's peak: less can't be seen

LEGEND = """**Class activation heatmaps**: for each probe the picture, and over its gray copy where the evidence lies
for the predicted and, where known, for the true class. Without evidence the picture shows untouched; the hotter, the
more. The two maps of a row share one scale, whose end, the peak, is stamped in units of the logit. A green frame:
right; vermilion: wrong. The percentages are the network's own."""


class GradCAMLogger(Watcher):
    """Log heatmaps of the evidence for the predicted and the true class of each probe: tag `gradcam/probes`.

    Args:
        layer: the layer to explain, which returns maps (n, c, y, x); `"auto"` takes the last one that does.
        method: "gradcam", "hirescam" (`cams.METHODS`), or a function (activations, gradients) -> signed map.
        probes: the images to watch, see `ActivationLogger`; with labels, the true class is explained too.
        num_probes: how many to take from the validation data.
        dataloader_idx: see `ActivationLogger`.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: see `ActivationLogger`; its output must hold class logits, see `outputs.logits`.
        output: a function from what the model returns to logits (n, k), where they can't be found in it.
        name: the first part of the tags, by default "gradcam"; see `ActivationLogger`.
        save_dir: see `ActivationLogger`.
        save_images: see `ActivationLogger`.
        on_error: see `ActivationLogger`.
        initial: see `ActivationLogger`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for a layer or probes that don't fit the model.

    Example:
        >>> GradCAMLogger("layer4", method="hirescam").name
        'gradcam'
    """

    name = "gradcam"

    def __init__(
        self,
        layer: str = "auto",
        *,
        method: Callable[..., Any] | str = "gradcam",
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
        super().__init__(
            probes=probes, num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs,
            forward=forward, name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip
        if not isinstance(layer, str):
            raise TypeError(f"`layer` is a {type(layer).__name__}. It must be the name of one layer, or 'auto'.")
        resolve(method)
        if output is not None and not callable(output):
            raise TypeError(f"`output` is a {type(output).__name__}. It must be a function: model output -> logits.")
        self.output = output
        self.layer = layer
        self.method = method

    @override
    def begin(self) -> None:
        self._layer: str | None = None

    @override
    def check(self, model: nn.Module) -> None:
        if self.layer != "auto":
            layers_.find_one(model, self.layer)

    @override
    def resolve(self, model: nn.Module, runs: Mapping[str, layers_.Run]) -> None:
        if self._layer not in runs:
            named = self.layer != "auto"
            self._layer = layers_.find_one(model, self.layer) if named else layers_.last_map(runs)
            layers_.require_maps(runs, [self._layer], argument="layer")

    @override
    def wants(self, probes: Probes) -> Wants:
        assert self._layer is not None  # resolved before
        explanations = [cams.Explanation(self._layer, "predicted", self.method)]
        if probes.labels is not None:
            labels = torch.as_tensor(probes.labels, device=probes.images.device)
            explanations.append(cams.Explanation(self._layer, labels, self.method))
        return Wants(explanations=explanations)

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Picture]:
        return {f"{self.name}/probes": self._picture(view)}

    @override
    def kept(self) -> dict[str, Any]:
        return {"chosen": self.layer, "layer": self._layer}

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        if state["chosen"] == self.layer:
            self._layer = state["layer"]

    def _picture(self, view: View) -> Picture:
        photos, zoom = _fitted(view.photos)
        h, w = photos.shape[2] * zoom, photos.shape[3] * zoom
        large = photos.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
        peaks = torch.stack([each.amax((1, 2)) for each in view.look.maps], dim=1).clamp(min=0)
        shared = peaks.amax(1)[:, None, None].clamp(min=1e-12)  # a map without positive evidence stays 0
        overlays = [overlay(large, enlarge(each, (h, w)) / shared) for each in view.look.maps]
        tiles = torch.stack([rgb(large), *overlays], dim=1).flatten(0, 1)
        items = _items(view, peaks)
        columns = ["input", "predicted", "true"][: 1 + len(overlays)]
        sheet = Sheet(2 * MARGIN + len(columns) * (w + MARGIN))
        y, x = view.look.maps[0].shape[1:]
        self._head(sheet, view, items, f"{y} × {x}")
        for index, column in enumerate(columns):
            sheet.label(column, MARGIN + 2 + index * (w + MARGIN), sheet.y, width=w)
        sheet.y += sheet.line
        grid = sheet.tiles(tiles, columns=len(columns), x=MARGIN + 2, gap=MARGIN, above=sheet.line + 2)
        for row, item in enumerate(items):
            _caption(sheet, grid, row, item)
        about = {
            "kind": "gradcam", "layer": self._layer, "epoch": view.moment.epoch, "step": view.moment.step,
            "scale": "each row from 0 to its peak, in logits", "rows": list(view.probes.ids or ()), "columns": columns,
            "items": items,
        }  # fmt: skip
        return sheet.picture(main=grid, colormap=None, legend=LEGEND, about=about)

    def _head(self, sheet: Sheet, view: View, items: list[dict[str, Any]], cells: str) -> None:
        method = self.method if isinstance(self.method, str) else getattr(self.method, "__name__", "cam")
        sheet.write(f"Evidence for a class ({method}) at {self._layer}, {cells}", bold=True)
        right = [item["right"] for item in items if item["right"] is not None]
        score = f" · {sum(right)} of {len(right)} probes right" if right else ""
        sheet.write(view.moment.caption + score)
        sheet.scale_bar("0", "peak of the row, in logits")


def _items(view: View, peaks: Float[Tensor, "n m"]) -> list[dict[str, Any]]:
    """What the net says of each probe: classes by name, probabilities, and the peaks of its maps in logits.

    Of a net that has diverged, what is not a number is None.
    """
    assert view.look.logits is not None  # explanations read them
    probabilities = view.look.logits.cpu().double().softmax(1)
    predicted = probabilities.argmax(1)
    labels = None if view.probes.labels is None else torch.as_tensor(view.probes.labels).to(predicted)
    true = predicted if labels is None else labels
    columns = [predicted, true, *(probabilities.gather(1, each[:, None])[:, 0] for each in (predicted, true))]
    table = torch.stack([column.double() for column in columns], dim=1)
    number = [row.isfinite().all().item() for row in probabilities]
    items = []
    for (said, is_, p_said, p_is), peak, fine in zip(table.tolist(), peaks.tolist(), number, strict=True):
        known = labels is not None
        items.append({
            "predicted": view.probes.name(int(said)) if fine else None,
            "p_predicted": round(p_said, 4) if fine else None,
            "true": view.probes.name(int(is_)) if known else None,
            "p_true": round(p_is, 4) if known and fine else None,
            "right": said == is_ if known and fine else None,
            "peaks": [float(text) if math.isfinite(value) else None
                      for text, value in zip(numbers(peak), peak, strict=True)],
        })  # fmt: skip
    return items


def _caption(sheet: Sheet, grid: Block, row: int, item: dict[str, Any]) -> None:
    """Above a row right or wrong, the peak, and the classes; a frame around it; a word where there is no evidence."""
    first = row * grid.columns
    mark, color = {True: ("✓ ", RIGHT), False: ("✗ ", WRONG), None: ("", UNKNOWN)}[item["right"]]
    finite = [peak for peak in item["peaks"] if peak is not None]
    texts = [f"{mark}peak {numbers([max(finite)])[0]}" if finite else "not a number"]
    for which in ("predicted", "true")[: grid.columns - 1]:
        share = item[f"p_{which}"]
        percent = "" if share is None else f" {share:.0%}"
        room = grid.size[0] - font(sheet.text).getlength(percent)
        texts.append(shorten(item[which] or "", room, sheet.text) + percent)
    for index, text in enumerate(texts):
        x, y = grid.corner(first + index)
        sheet.label(text, x, y - sheet.line - 2, color=color)
    sheet.frame(grid, first, first + grid.columns - 1, color)
    for index, value in enumerate(item["peaks"], start=1):
        words = _verdict(value, max(finite, default=0.0))
        left, top = grid.corner(first + index)
        for line, word in enumerate(words):
            sheet.label(word, left + 4, top + 4 + line * sheet.line, boxed=True, width=grid.size[0])


def _verdict(peak: float | None, row: float) -> tuple[str, ...]:
    """What to write on a map that shows nothing; `row` is the peak that it is scaled to."""
    if peak is None:
        return "not a", "number"
    if peak <= 0:
        return "no positive", "evidence"
    return ("hardly any", "evidence") if peak < FAINT * row else ()


def _fitted(photos: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n 3 v u"], int]:
    """Photographs near the width that captions need: very small ones are to be enlarged `zoom` times, others get it."""
    h, w = photos.shape[2:]
    if max(h, w) <= SIDE // 2 or w == SIDE:
        return photos, SIDE // max(h, w)
    size = max(1, round(h * SIDE / w)), SIDE
    if w > SIDE:
        return F.interpolate(photos, size=size, mode="area"), 1
    return F.interpolate(photos, size=size, mode="bilinear", align_corners=False), 1
