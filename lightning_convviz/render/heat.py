"""Rows of heatmaps over their pictures, with the scales they are read by: the page of every Grad-CAM picture."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.render.color import LEVELS, overlay, rgb
from lightning_convviz.render.layout import MARGIN, RIGHT, UNKNOWN, WRONG, PageLayout, Picture, TileGrid, numbers

BUDGET = 90_000  # bytes of a file: there are several such pages in a drawing
SIDE = 108  # about how large a tile is drawn, in pixels
FAINT = 0.02  # of the scale: less can't be seen
SEQUENTIAL = "inferno"
DIVERGING = "RdBu_r"  # blue, nothing, red: told apart by color-blind eyes
MARKS = {True: ("✓", RIGHT), False: ("✗", WRONG), None: ("", UNKNOWN)}


@dataclass(frozen=True)
class Scale:
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

    def heat(self, maps: Float[Tensor, "n y x"]) -> Float[Tensor, "n y x"]:
        """Values in [0, 1], or [-1, 1]."""
        return (maps.float() / max(self.high, 1e-12)).clamp(-1.0 if self.diverging else 0.0, 1.0)

    @property
    def colormap(self) -> str:
        """Its name in matplotlib."""
        return DIVERGING if self.diverging else SEQUENTIAL

    def ramp(self) -> UInt8[Tensor, "x 3"]:
        """The bar, as the colors come out over gray."""
        heat = torch.linspace(-1.0 if self.diverging else 0.0, 1.0, LEVELS)
        shown = overlay(torch.full((1, 3, 1, LEVELS), 0.55), heat[None, None], self.colormap, diverging=self.diverging)
        return shown[0, 0]


@dataclass(frozen=True)
class Column:
    """Maps of one kind, a tile for each picture, and the scale that they are read by."""

    title: str
    maps: Float[Tensor, "n y x"]
    scale: Scale


@dataclass(frozen=True)
class Row:
    """What stands above a row, whether its picture is answered rightly, and the facts that travel with the file."""

    text: str
    right: bool | None
    facts: Mapping[str, Any]


def resize_photos(photos: Float[Tensor, "n 3 h w"], side: int = SIDE) -> Float[Tensor, "n 3 v u"]:
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


def overlay_maps(
    photos: Float[Tensor, "n 3 h w"], maps: Float[Tensor, "n y x"], scale: Scale
) -> UInt8[Tensor, "n h w 3"]:
    """Maps over photographs, bilinear with half-pixel centers, as all CAM papers draw them."""
    full = F.interpolate(maps.float()[:, None], size=photos.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return overlay(photos, scale.heat(full), scale.colormap, diverging=scale.diverging)


def heat_rows(
    photos: Float[Tensor, "n 3 h w"],
    columns: Sequence[Column],
    rows: Sequence[Row],
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
    large = resize_photos(photos)
    w = large.shape[3]
    tiles = [rgb(large), *(overlay_maps(large, column.maps, column.scale) for column in columns)]
    scales = {column.scale.title: column.scale for column in columns}
    sheet = _headed(2 * MARGIN + len(tiles) * (w + MARGIN), title, captions, scales.values())
    titles = ["input", *(column.title for column in columns)]
    for index, text in enumerate(titles):
        sheet.label(text, MARGIN + 2 + index * (w + MARGIN), sheet.y, width=w)
    sheet.y += sheet.line
    grid = sheet.tiles(
        torch.stack(tiles, dim=1).flatten(0, 1), columns=len(tiles), x=MARGIN + 2, gap=MARGIN, above=sheet.line + 2
    )
    for index, row in enumerate(rows):
        _annotate(sheet, grid, index, row, columns)
    ends = {name: [-scale.high if scale.diverging else 0.0, scale.high, scale.unit] for name, scale in scales.items()}
    facts = {**about, "columns": titles, "items": [row.facts for row in rows], "scale": ends}
    return sheet.picture(main=grid, colormap=None, legend=legend, about=facts, budget=BUDGET)


def _headed(width: int, title: str, captions: Iterable[str], scales: Iterable[Scale]) -> PageLayout:
    """A page with its title, captions and scales."""
    sheet = PageLayout(width)
    sheet.write(title, bold=True)
    for caption in captions:
        sheet.write(caption)
    for scale in scales:
        colorbar(sheet, scale)
    return sheet


def _annotate(sheet: PageLayout, grid: TileGrid, index: int, row: Row, columns: Sequence[Column]) -> None:
    """The line above a row, the frame around it, and words on maps that show nothing."""
    mark, color = MARKS[row.right]
    x, y = grid.corner(index * grid.columns)
    sheet.label(f"{mark} {row.text}".strip(), x, y - sheet.line - 2, color=color, width=sheet.width - 2 * x)
    sheet.frame(grid, index * grid.columns, (index + 1) * grid.columns - 1, color)
    for place, column in enumerate(columns, start=1):
        left, top = grid.corner(index * grid.columns + place)
        for line, word in enumerate(empty_note(column.maps[index], column.scale)):
            sheet.label(word, left + 4, top + 4 + line * sheet.line, boxed=True, width=grid.size[0] - 8)


def message_page(title: str, captions: Iterable[str], *, legend: str, about: Mapping[str, Any]) -> Picture:
    """A page that says that there is nothing to show."""
    sheet = _headed(0, title, captions, ())
    grid = sheet.tiles(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8), columns=1)
    facts = {**about, "scale": None, "columns": [], "rows": [], "items": []}
    return sheet.picture(main=grid, colormap=None, legend=legend, about=facts)


def colorbar(sheet: PageLayout, scale: Scale) -> None:
    """A line of the page with a scale's colors between the values at their ends."""
    (high,) = numbers([scale.high])
    low = f"-{high}" if scale.diverging else "0"
    sheet.scale_bar(f"{scale.title} {low}", f"≥ {high} {scale.upper}".rstrip(), ramp=scale.ramp())


def empty_note(maps: Float[Tensor, "y x"], scale: Scale) -> tuple[str, ...]:
    """What to write on a map that shows nothing."""
    peak = float(maps.abs().max() if scale.diverging else maps.max())
    if not math.isfinite(peak):
        return "not a", "number"
    if peak <= 0:
        return ("none",)
    return ("hardly", "any") if peak < FAINT * scale.high else ()
