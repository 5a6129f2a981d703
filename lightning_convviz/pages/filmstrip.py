"""Film strips: the same tiles in several drawings, side by side in one picture, or one after the other in time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from lightning_convviz.render.animation import Animation
from lightning_convviz.render.layout import CARD, GAP, INK, MARGIN, PageLayout, Picture, TileGrid, near_square, zoom_for

LEGEND = """One picture of the whole run: a row for each {row}, a column for each drawing, oldest first: the initial
network, then drawings further and further apart, and on the right the current one. All drawings are colored by today's
scale."""

ANIMATION_LEGEND = """**Animation**: the drawings of the film strip `evolution/...` of the same name, one after the
other, oldest first; the last one is the network at the end of the training. Each picture names its drawing. All are
colored by the last drawing's scale."""

WORD = "✓100"  # what has to fit below a tile

Caption = tuple[str, tuple[int, int, int]]  # a caption and its color


@dataclass(frozen=True)
class Filmstrip:
    """A row for each thing that is followed, a column for each drawing.

    Attributes:
        title: what is shown.
        lines: more captions below it; the first one says which network the last drawing is of.
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
    below: Sequence[Sequence[Caption | None]] = ()
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
        page = self._headed(2 * MARGIN + columns * step)
        unit = "steps" if self.columns[-1].startswith("s. ") else "epochs"
        page.write(f"{unit}, oldest first" + "; init.: before training" * ("initial" in self.columns))
        for place, text in enumerate(["input"] * beside + [short_title(name) for name in self.columns]):
            page.label(text, MARGIN + place * step, page.y, width=step - GAP)
        page.y += page.line
        top, room = page.y, {"above": page.line + 2, "below": (page.line + 2) * bool(self.below)}
        grid = page.tiles(
            self.tiles.flatten(0, 1), columns=len(self.columns), zoom=self._zoom, gap=step - w,
            x=MARGIN + step * beside, **room,
        )  # fmt: skip
        if self.inputs is not None:
            end, page.y = page.y, top
            page.tiles(self.inputs, columns=1, gap=step - w, **room)
            page.y = end
        for row, text in enumerate(self.rows):
            y = grid.corner(row * len(self.columns))[1]
            page.label(text, MARGIN, y - page.line - 2, width=page.width - 2 * MARGIN)
            for place in range(len(self.columns) if self.below else 0):
                self._caption(page, grid, row * len(self.columns) + place, self.below[row][place])
        return self._finished(page, grid, list(self.columns))

    def animation(self) -> Animation:
        """The drawings one after the other."""
        return Animation(
            [self._still(place) for place in range(len(self.columns))],
            about={**self.about, "rows": list(self.ids or self.rows), "columns": list(self.columns)},
            legend=ANIMATION_LEGEND,
            budget=2 * self.budget,
        )

    def _still(self, place: int) -> Picture:
        """One drawing: its tiles in a grid."""
        across = near_square(len(self.rows))
        w = self.tiles.shape[3]
        zoom = zoom_for(w, across) if self.colormap else max(1, round(80 / w))
        step = max(w * zoom + GAP, (CARD - 2 * MARGIN) // across)
        page = self._headed(2 * MARGIN + across * step, prefix="until ")  # the caption is of the last drawing
        page.write(self.columns[place], bold=True)
        grid = page.tiles(
            self.tiles[:, place], columns=across, zoom=zoom, gap=step - w * zoom, above=page.line,
            below=(page.line + 2) * bool(self.below),
        )  # fmt: skip
        for row, text in enumerate(self.rows):
            page.label_above(grid, row, text, width=step - GAP)
            self._caption(page, grid, row, self.below[row][place] if self.below else None)
        return self._finished(page, grid, [self.columns[place]])

    def _headed(self, width: int, prefix: str = "") -> PageLayout:
        page = PageLayout(width)
        page.write(self.title, bold=True)
        for line in [prefix + self.lines[0], *self.lines[1:]] if self.lines else ():
            page.write(line)
        if self.scale is not None:
            self.scale(page)
        return page

    @staticmethod
    def _caption(page: PageLayout, grid: TileGrid, index: int, caption: Caption | None) -> None:
        text, color = caption or ("", INK)
        if text:
            page.label_below(grid, index, text, gap=1, color=color, width=grid.dx - GAP)

    def _finished(self, page: PageLayout, grid: TileGrid, columns: Sequence[str]) -> Picture:
        facts = {**self.about, "rows": list(self.ids or self.rows), "columns": list(columns)}
        return page.picture(main=grid, colormap=self.colormap, legend=self.legend, about=facts, budget=self.budget)


def short_title(name: str) -> str:
    """The head of a column: what a drawing is called, without its unit.

    >>> short_title("initial"), short_title("ep. 29"), short_title("s. 125000")
    ('init.', '29', '125k')
    """
    if name == "initial":
        return "init."
    number = name.rsplit(" ", maxsplit=1)[-1]
    return f"{int(number) / 1000:.3g}k" if number.isdigit() and int(number) >= 10_000 else number


def hatch_codes(codes: UInt8[Tensor, "*n h w"], ink: int) -> UInt8[Tensor, "*n h w"]:
    """Level codes under slanted strokes of another code, as on a part that is crossed out.

    >>> hatch_codes(torch.zeros(2, 4, dtype=torch.uint8), 9)
    tensor([[9, 0, 0, 9],
            [0, 0, 9, 0]], dtype=torch.uint8)
    """
    h, w = codes.shape[-2:]
    period = max(2, min(6, 1 + w // 2))
    strokes = (torch.arange(h)[:, None] + torch.arange(w)) % period == 0
    return torch.where(strokes.to(codes.device), torch.full_like(codes, ink), codes)
