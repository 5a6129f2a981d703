"""Pages of heatmaps: a row for each image, its maps over a gray copy of it, and the scales that they are read by."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.cams.fusion import resize_maps
from lightning_convviz.history import Snapshot
from lightning_convviz.mistakes import Confusions
from lightning_convviz.pages.captions import MARKS, RowCaption, name_caption, prediction_caption
from lightning_convviz.pages.explained import ExplainedImages
from lightning_convviz.render import PageLayout, Picture, overlay, rgb
from lightning_convviz.render.color import LEVELS
from lightning_convviz.render.layout import MARGIN, TileGrid, numbers

BUDGET = 90_000  # bytes of a file: there are several such pages in a drawing
SIDE = 108  # about how large a tile is drawn, in pixels
FAINT = 0.02  # of the scale: less can't be seen
SEQUENTIAL = "inferno"
DIVERGING = "RdBu_r"  # blue, nothing, red: told apart by color-blind eyes

HOW_TO_READ = """Over the gray picture the evidence shows where the map is not 0: the hotter, the more; without evidence
the picture is untouched. One scale holds for all rows and stays from drawing to drawing until values leave it by a
factor of two: its end stands beside the bar, in logits where the map's sum is one. In the difference red speaks for the
predicted class and blue for the other one; it is the difference of the two maps, exact for methods that are linear in
the score (Grad-CAM, HiResCAM, XGrad-CAM). The line above a row: the predicted class and its probability; `truth`, the
true class, or where the prediction is right or nobody knows, `2nd`, the second best class; the margin between their
logits. Green with ✓: right; vermilion with ✗: wrong."""

PROBES = f"""**Class activation heatmaps**: for each probe the evidence for the class that is predicted, for the other
one in question (the true class in a mistake, else the second best), and the difference of both. {HOW_TO_READ}"""

MISTAKES = f"""**Mistakes**: the most confident errors of this validation, worst first. {HOW_TO_READ}"""


# -- maps and their scales ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapScale:
    """How values become colors, the same for all maps that share it.

    Attributes:
        title: what is measured.
        high: the value at the end of the bar.
        unit: of the values.
        diverging: from `-high` over an untouched 0 to `high`; else from an untouched 0 to `high`.
        upper: of a diverging scale, what the upper end speaks for; `title` is what the lower one does.
    """

    title: str
    high: float
    unit: str
    diverging: bool = False
    upper: str = ""

    @property
    def colormap(self) -> str:
        """Its name in matplotlib."""
        return DIVERGING if self.diverging else SEQUENTIAL

    def overlay(self, photos: Float[Tensor, "n 3 h w"], maps: Float[Tensor, "n y x"]) -> UInt8[Tensor, "n h w 3"]:
        """Maps over photographs: what can't be shown is cut off, and the rest is enlarged, in this order.

        So do the papers: enlarged first, evidence against a class would eat into the evidence for it beside.
        """
        shown = maps.float() if self.diverging else maps.float().clamp(min=0)
        full = resize_maps(shown, tuple(photos.shape[2:]))
        heat = (full / max(self.high, 1e-12)).clamp(-1.0 if self.diverging else 0.0, 1.0)
        return overlay(photos, heat, self.colormap, diverging=self.diverging)

    def write_bar(self, page: PageLayout) -> None:
        """A line of the page with the colors between the values at their ends."""
        (high,) = numbers([self.high])
        low = f"-{high}" if self.diverging else "0"
        page.scale_bar(f"{self.title} {low}", f"≥ {high} {self.upper}".rstrip(), ramp=self._ramp())

    def _ramp(self) -> UInt8[Tensor, "x 3"]:
        """The bar, as the colors come out over gray."""
        heat = torch.linspace(-1.0 if self.diverging else 0.0, 1.0, LEVELS)
        shown = overlay(torch.full((1, 3, 1, LEVELS), 0.55), heat[None, None], self.colormap, diverging=self.diverging)
        return shown[0, 0]

    def empty_note(self, maps: Float[Tensor, "y x"]) -> tuple[str, ...]:
        """What to write on a map that shows nothing, in lines."""
        peak = float(maps.abs().max() if self.diverging else maps.max())
        if not math.isfinite(peak):
            return "not a", "number"
        if peak <= 0:
            return ("none",)
        return ("hardly", "any") if peak < FAINT * self.high else ()

    def ends(self) -> list[float | str]:
        """What travels with the file: the values at both ends, and their unit."""
        return [-self.high if self.diverging else 0.0, self.high, self.unit]


@dataclass(frozen=True)
class HeatmapInfo:
    """What the heatmaps of one drawing are of; all of its pages share this.

    Attributes:
        layer: or layers, that are explained.
        method: its name.
        target: what is explained where it is one thing: a class, or a name.
        has_classes: whether that is a class.
        high_res_layer: of higher resolution, explained beside; its maps are the last ones. None without.
        snapshot: which network this is.
        evidence: the scale of the maps for a class.
        difference: the scale of what the first two differ by.
        high_res: the scale of the maps of `high_res_layer`.
        changes: which scales were changed and when last, in words.
    """

    layer: str | tuple[str, ...]
    method: str
    target: str | int
    has_classes: bool
    high_res_layer: str | None
    snapshot: Snapshot
    evidence: MapScale
    difference: MapScale
    high_res: MapScale
    changes: Sequence[str] = ()

    def has_pair(self, explained: ExplainedImages) -> bool:
        """Whether the first two maps are for two classes, which can be compared."""
        return len(explained.result.maps) - (self.high_res_layer is not None) == 2

    def place(self, maps: Tensor) -> str:
        """Where the maps come from, for a title."""
        name = self.layer if isinstance(self.layer, str) else " + ".join(self.layer)
        return f"({self.method}) at {name}, {maps.shape[-2]}×{maps.shape[-1]}"

    def captions(self, maps: Sequence[Tensor]) -> list[str]:
        """What stands below the title of every page: the layer of higher resolution, units, changes."""
        captions = []
        units = f"scales in {self.evidence.unit} a cell"
        if self.high_res_layer is not None:
            y, x = maps[-1].shape[1:]
            captions.append(f"high-res: hirescam at {self.high_res_layer}, {y}×{x}")
            units += f", high-res in {self.high_res.unit}" if self.evidence.unit != self.high_res.unit else ""
        changes = [f"scales: {'; '.join(self.changes)}"] if self.changes else []
        return [*captions, units, *changes]

    def facts(self, kind: str) -> dict[str, Any]:
        """What travels with the file of a page of this kind."""
        return {"kind": kind, "layer": self.layer, "epoch": self.snapshot.epoch, "step": self.snapshot.step}


# -- the pages ---------------------------------------------------------------------------------------------------------


def probes_page(info: HeatmapInfo, explained: ExplainedImages, photos: Float[Tensor, "n 3 h w"]) -> Picture:
    """`gradcam/probes`: the evidence in each probe.

    Args:
        info: what the maps are of.
        explained: the probes.
        photos: the same for display, in [0, 1].
    """
    predictions = explained.predictions
    graded = [each.right for each in predictions if each.right is not None]
    score = f" · {sum(graded)} of {len(graded)} probes right" if graded else ""
    what = "Evidence for a class" if info.has_classes else "Evidence"
    rows = [prediction_caption(each) for each in predictions] or [name_caption(name) for name in explained.ids]
    return heatmap_rows(
        photos,
        _columns(info, explained, "true / 2nd"),
        rows,
        title=f"{what} {info.place(explained.result.maps[0])}",
        captions=[info.snapshot.caption + score, *info.captions(explained.result.maps)],
        legend=PROBES,
        about={**info.facts("gradcam"), "method": info.method, "rows": explained.ids},
    )


def mistakes_page(info: HeatmapInfo, explained: ExplainedImages | None, confusions: Confusions) -> Picture:
    """`gradcam/mistakes`: the evidence in the most confident mistakes; says so where there are none.

    Args:
        info: what the maps are of.
        explained: the mistakes, worst first; None where there are none.
        confusions: the counts of the whole validation.
    """
    wrong, seen = confusions.wrong, confusions.seen
    share = f"{seen} seen" if wrong is None else f"{wrong} wrong of {seen} seen"
    caption = f"{info.snapshot.caption} · {share}"
    counts = {"validated": seen, "wrong": wrong}
    if explained is None:
        nothing = "No mistakes in this validation" if confusions.labeled else "No labeled pictures with finite logits"
        return _message_page(nothing, [caption], legend=MISTAKES, about={**info.facts("mistakes"), **counts})
    return heatmap_rows(
        explained.probes.display(),
        _columns(info, explained, "true"),
        [prediction_caption(each) for each in explained.predictions],
        title=f"The {len(explained)} most confident mistakes {info.place(explained.result.maps[0])}",
        captions=[caption, *info.captions(explained.result.maps)],
        legend=MISTAKES,
        about={**info.facts("mistakes"), "method": info.method, "rows": explained.ids, **counts},
    )


@dataclass(frozen=True)
class Column:
    """Maps of one kind, a tile for each image, and the scale that they are read by."""

    title: str
    maps: Float[Tensor, "n y x"]
    scale: MapScale


def _columns(info: HeatmapInfo, explained: ExplainedImages, other: str) -> list[Column]:
    """The maps side by side; `other` is the title of the second class where labels are known."""
    maps, probes = explained.result.maps, explained.probes
    if info.has_pair(explained):
        columns = [
            Column("predicted", maps[0], info.evidence),
            Column("2nd best" if probes.labels is None else other, maps[1], info.evidence),
            Column("difference", maps[0] - maps[1], info.difference),
        ]
    else:
        title = probes.name(info.target) if isinstance(info.target, int) else info.target
        columns = [Column(title, maps[0], info.evidence)]
    if info.high_res_layer is not None:
        columns.append(Column("high-res", maps[-1], info.high_res))
    return columns


def heatmap_rows(
    photos: Float[Tensor, "n 3 h w"],
    columns: Sequence[Column],
    rows: Sequence[RowCaption],
    *,
    title: str,
    captions: Sequence[str],
    legend: str,
    about: Mapping[str, Any],
) -> Picture:
    """A page with a row for each photograph: the photograph, and its maps over a gray copy of it.

    Args:
        photos: in [0, 1].
        columns: the maps.
        rows: one for each photograph.
        title: what the page shows.
        captions: more lines below the title.
        legend: how to read pictures of this tag, in Markdown.
        about: facts that travel with the file.
    """
    large = resize_photos(photos, SIDE)
    w = large.shape[3]
    tiles = [rgb(large), *(column.scale.overlay(large, column.maps) for column in columns)]
    scales = {column.scale.title: column.scale for column in columns}
    page = _headed(2 * MARGIN + len(tiles) * (w + MARGIN), title, captions)
    for scale in scales.values():
        scale.write_bar(page)
    titles = ["input", *(column.title for column in columns)]
    for place, text in enumerate(titles):
        page.label(text, MARGIN + 2 + place * (w + MARGIN), page.y, width=w)
    page.y += page.line
    grid = page.tiles(
        torch.stack(tiles, dim=1).flatten(0, 1), columns=len(tiles), x=MARGIN + 2, gap=MARGIN, above=page.line + 2
    )
    for place, row in enumerate(rows):
        _annotate(page, grid, place, row, columns)
    ends = {name: scale.ends() for name, scale in scales.items()}
    facts = {**about, "columns": titles, "items": [row.facts for row in rows], "scale": ends}
    return page.picture(main=grid, colormap=None, legend=legend, about=facts, budget=BUDGET)


def _annotate(page: PageLayout, grid: TileGrid, index: int, row: RowCaption, columns: Sequence[Column]) -> None:
    """The line above a row, the frame around it, and words on maps that show nothing."""
    mark, color = MARKS[row.right]
    first = index * grid.columns
    page.label_above(grid, first, f"{mark} {row.text}".strip(), gap=2, color=color)
    page.frame(grid, first, first + grid.columns - 1, color)
    for place, column in enumerate(columns, start=1):
        if not (note := column.scale.empty_note(column.maps[index])):
            continue
        left, top = grid.corner(first + place)
        for line, word in enumerate(note):
            page.label(word, left + 4, top + 4 + line * page.line, boxed=True, width=grid.size[0] - 8)


def _message_page(title: str, captions: Iterable[str], *, legend: str, about: Mapping[str, Any]) -> Picture:
    """A page that says that there is nothing to show."""
    page = _headed(0, title, captions)
    grid = page.tiles(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), columns=1)
    facts = {**about, "scale": None, "columns": [], "rows": [], "items": []}
    return page.picture(main=grid, colormap=None, legend=legend, about=facts)


def _headed(width: int, title: str, captions: Iterable[str]) -> PageLayout:
    """A page with its title and captions."""
    page = PageLayout(width)
    page.write(title, bold=True)
    for caption in captions:
        page.write(caption)
    return page


def resize_photos(photos: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 v u"]:
    """Photographs about `side` pixels wide: small ones enlarged a whole number of times, pixels left to be seen."""
    h, w = photos.shape[2:]
    if max(h, w) <= side // 2:
        zoom = side // max(h, w)
        return photos.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    scale = min(side / w, 2 * side / h)  # of very tall ones the height is bounded
    size = max(1, round(h * scale)), max(1, round(w * scale))
    if scale < 1:
        return F.interpolate(photos, size=size, mode="area")
    return photos if scale == 1 else F.interpolate(photos, size=size, mode="bilinear", align_corners=False)
