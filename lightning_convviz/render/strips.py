"""Film strips: the same tiles in several drawings, side by side in one picture, or one after the other in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from lightning_convviz.render.animation import Animation
from lightning_convviz.render.layout import CARD, GAP, INK, MARGIN, PageLayout, Picture, TileGrid, near_square, zoom_for

WORD = "✓100"  # what has to fit below a tile

Words = tuple[str, tuple[int, int, int]]  # a caption and its color


@dataclass(frozen=True)
class Strip:
    """A row for each thing that is followed, a column for each drawing.

    Attributes:
        title: what is shown.
        lines: more captions below it.
        rows: what stands above each row.
        columns: what the drawings are called, oldest first.
        tiles: level codes (rows, columns, h, w) or RGB (rows, columns, h, w, 3).
        scale: draws the scale's bar on the page, if there is one.
        colormap: what level codes mean; None for RGB.
        legend: how to read it, in Markdown.
        about: facts that travel with the file; `rows` and `columns` are added.
        budget: bytes of the file, at most.
        inputs: a picture beside each row, RGB of the tiles' size as drawn.
        below: what stands below each tile, by row and column; None for nothing.
        ids: what the rows are, for the facts; by default their names.
        places: how many columns to leave room for, so that a picture's size stays the same while the strip grows.
    """

    title: str
    lines: Sequence[str]
    rows: Sequence[str]
    columns: Sequence[str]
    tiles: UInt8[Tensor, "rows columns h w *rgb"]
    scale: Callable[[PageLayout], None] | None
    colormap: str | None
    legend: str
    about: Mapping[str, Any]
    budget: int
    inputs: UInt8[Tensor, "rows v u 3"] | None = None
    below: Sequence[Sequence[Words | None]] = ()
    places: int = 1
    ids: Sequence[int | str] = ()

    @property
    def _zoom(self) -> int:
        """How often tiles are enlarged: to the size of the pictures beside, or to fill the page."""
        if self.inputs is not None:
            return max(1, round(self.inputs.shape[2] / self.tiles.shape[3]))
        return zoom_for(self.tiles.shape[3], self.places)

    def picture(self) -> Picture:
        """All drawings side by side."""
        beside = self.inputs is not None
        w = self.tiles.shape[3] * self._zoom
        columns = self.places + beside
        step = max(w + GAP, (CARD - 2 * MARGIN) // columns)
        while self.below and step < PageLayout(2 * MARGIN + columns * step).width_of(WORD) + 3 * GAP:
            step += 1  # captions below tiles grow with the page
        sheet = self._headed(2 * MARGIN + columns * step)
        unit = "steps" if self.columns[-1].startswith("s. ") else "epochs"
        sheet.write(f"{unit}, oldest first; init.: before training")
        for place, text in enumerate(["input"] * beside + [short(name) for name in self.columns]):
            sheet.label(text, MARGIN + place * step, sheet.y, width=step - GAP)
        sheet.y += sheet.line
        top, room = sheet.y, {"above": sheet.line + 2, "below": (sheet.line + 2) * bool(self.below)}
        grid = sheet.tiles(
            self.tiles.flatten(0, 1), columns=len(self.columns), zoom=self._zoom, gap=step - w,
            x=MARGIN + step * beside, **room,
        )  # fmt: skip
        if self.inputs is not None:
            end, sheet.y = sheet.y, top
            sheet.tiles(self.inputs, columns=1, gap=step - w, **room)
            sheet.y = end
        for row, text in enumerate(self.rows):
            y = grid.corner(row * len(self.columns))[1]
            sheet.label(text, MARGIN, y - sheet.line - 2, width=sheet.width - 2 * MARGIN)
            for place in range(len(self.columns) if self.below else 0):
                self._caption(sheet, grid, row * len(self.columns) + place, self.below[row][place])
        return self._finished(sheet, grid, list(self.columns))

    def animation(self) -> Animation:
        """The drawings one after the other."""
        return Animation(
            [self._still(place) for place in range(len(self.columns))],
            about={**self.about, "rows": list(self.ids or self.rows), "columns": list(self.columns)},
            legend=self.legend, budget=2 * self.budget,
        )  # fmt: skip

    def _still(self, place: int) -> Picture:
        """One drawing: its tiles in a grid."""
        across = near_square(len(self.rows))
        w = self.tiles.shape[3]
        zoom = zoom_for(w, across) if self.colormap else max(1, round(80 / w))
        step = max(w * zoom + GAP, (CARD - 2 * MARGIN) // across)
        sheet = self._headed(2 * MARGIN + across * step)
        sheet.write(self.columns[place], bold=True)
        grid = sheet.tiles(
            self.tiles[:, place], columns=across, zoom=zoom, gap=step - w * zoom, above=sheet.line,
            below=(sheet.line + 2) * bool(self.below),
        )  # fmt: skip
        for row, text in enumerate(self.rows):
            x, y = grid.corner(row)
            sheet.label(text, x, y - sheet.line, width=step - GAP)
            self._caption(sheet, grid, row, self.below[row][place] if self.below else None)
        return self._finished(sheet, grid, [self.columns[place]])

    def _headed(self, width: int) -> PageLayout:
        sheet = PageLayout(width)
        sheet.write(self.title, bold=True)
        for line in self.lines:
            sheet.write(line)
        if self.scale is not None:
            self.scale(sheet)
        return sheet

    @staticmethod
    def _caption(sheet: PageLayout, grid: TileGrid, index: int, words: Words | None) -> None:
        text, color = words or ("", INK)
        if text:
            x, y = grid.corner(index)
            sheet.label(text, x, y + grid.size[1] + 1, color=color, width=grid.dx - GAP)

    def _finished(self, sheet: PageLayout, grid: TileGrid, columns: Sequence[str]) -> Picture:
        facts = {**self.about, "rows": list(self.ids or self.rows), "columns": list(columns)}
        return sheet.picture(main=grid, colormap=self.colormap, legend=self.legend, about=facts, budget=self.budget)


def short(name: str) -> str:
    """The head of a column: what a drawing is called, without its unit.

    >>> short("initial"), short("ep. 29"), short("s. 125000")
    ('init.', '29', '125k')
    """
    if name == "initial":
        return "init."
    number = name.rsplit(" ", maxsplit=1)[-1]
    return f"{int(number) / 1000:.3g}k" if number.isdigit() and int(number) >= 10_000 else number


def hatched_codes(codes: UInt8[Tensor, "*n h w"], ink: int) -> UInt8[Tensor, "*n h w"]:
    """Level codes under slanted strokes of another code, as on a part that is crossed out.

    >>> hatched_codes(torch.zeros(2, 4, dtype=torch.uint8), 9)
    tensor([[9, 0, 0, 9],
            [0, 0, 9, 0]], dtype=torch.uint8)
    """
    h, w = codes.shape[-2:]
    period = max(2, min(6, 1 + w // 2))
    strokes = (torch.arange(h)[:, None] + torch.arange(w)) % period == 0
    return torch.where(strokes.to(codes.device), torch.full_like(codes, ink), codes)
