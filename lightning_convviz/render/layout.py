"""Lay tiles and captions out on a page, and keep what every tile shows beside its pixels."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import ImageFont
from torch import Tensor

from lightning_convviz.render.color import LEVELS

# TensorBoard's card is 350 px wide: at this width a caption is as large there as it is drawn.
CARD = 350
TEXT = 11
MARGIN = 4
GAP = 2  # between tiles
ROW = 6  # at most between rows, however far apart the tiles of a row are

# Bytes of a file: TensorBoard's writer takes a quarter of a second for a million of them, on one core.
BUDGET = 145_000

INK = (34, 34, 34)
RIGHT = (0, 128, 96)  # the green and the vermilion of Okabe and Ito, darkened: told apart by color-blind eyes
WRONG = (196, 72, 0)
UNKNOWN = (90, 90, 90)


@dataclass(frozen=True)
class TileGrid:
    """Equal tiles in rows: level codes (n, y, x) or RGB (n, y, x, 3), each enlarged `zoom` times, every pixel alike."""

    tiles: UInt8[Tensor, "n y x *rgb"]
    x: int
    y: int
    dx: int
    dy: int
    columns: int
    zoom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a drawn tile in pixels."""
        return self.tiles.shape[2] * self.zoom, self.tiles.shape[1] * self.zoom

    def corner(self, index: int) -> tuple[int, int]:
        """The left upper pixel of a tile, as (x, y)."""
        return self.x + index % self.columns * self.dx, self.y + index // self.columns * self.dy

    def geometry(self) -> dict[str, int]:
        """Where tile `i` is: at `x + (i % cols) dx`, `y + (i // cols) dy`, `w` by `h` pixels."""
        w, h = self.size
        return {"x": self.x, "y": self.y, "w": w, "h": h, "dx": self.dx, "dy": self.dy, "cols": self.columns}


@dataclass(frozen=True)
class Label:
    """A line of text with its left upper corner; `boxed` puts white behind it, to be read on a photograph."""

    x: int
    y: int
    text: str
    size: int
    bold: bool = False
    color: tuple[int, int, int] = INK
    boxed: bool = False


@dataclass(frozen=True)
class Frame:
    """A rectangle's outline, just outside x, y, w, h."""

    x: int
    y: int
    w: int
    h: int
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """A finished layout: pixels, still on the device they were made on, and what they show.

    Attributes:
        width: in pixels.
        height: in pixels.
        blocks: the tiles.
        labels: the captions.
        frames: outlines of tiles.
        colormap: what level codes mean; None for a picture of RGB tiles alone.
        about: the facts that travel with the file: kind, layer, epoch, step, scale, colormap, tiles, rows, columns,
            items.
        legend: how to read pictures of this tag, in Markdown.
        budget: how many bytes its file should take at most.
    """

    width: int
    height: int
    blocks: tuple[TileGrid, ...]
    labels: tuple[Label, ...]
    frames: tuple[Frame, ...]
    colormap: str | None
    about: Mapping[str, Any]
    legend: str
    budget: int = BUDGET

    def cpu(self) -> "Picture":
        """The same picture with its tiles in main memory."""
        return replace(self, blocks=tuple(replace(block, tiles=block.tiles.cpu()) for block in self.blocks))

    def json(self) -> str:
        """`about` as compact JSON; `v` counts the versions of this format."""
        return json.dumps({"v": 1, **self.about}, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def shorten(text: str, width: float, size: int, bold: bool = False) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels.

    >>> shorten("a very long class name", 60, 11)
    'a very lo…'
    """
    if font(size, bold).getlength(text) <= width:
        return text
    while text and font(size, bold).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, width: float, size: int, bold: bool = False) -> list[str]:
    """The text in lines of at most `width` pixels; a word that is longer is cut.

    >>> wrapped("a class with a very long name", 60, 11)
    ['a class', 'with a', 'very long', 'name']
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font(size, bold).getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shorten(line, width, size, bold) for line in lines]


def zoom_for(tile: int, columns: int, *, width: int = CARD) -> int:
    """How often to enlarge tiles so that a row of them comes nearest to `width`; at least once.

    >>> zoom_for(16, 8), zoom_for(48, 4), zoom_for(112, 8)
    (3, 2, 1)
    """
    return max(1, round(((width - 2 * MARGIN) / columns - GAP) / tile))


@dataclass
class PageLayout:
    """A page that is filled from top to bottom.

    Attributes:
        width: of the page in pixels; captions are wrapped to it and grow with it, so that on TensorBoard's card they
            come out at the same size.
        y: the next free line of pixels.
    """

    width: int
    y: int = MARGIN
    _blocks: list[TileGrid] = field(default_factory=list)
    _labels: list[Label] = field(default_factory=list)
    _frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.width = max(self.width, CARD)

    @property
    def text(self) -> int:
        """The height of a caption's letters in pixels; a pixel more where TensorBoard has to leave some out."""
        return TEXT if self.width <= CARD else math.ceil(TEXT * self.width / CARD) + 1

    @property
    def line(self) -> int:
        """The height of a caption's line in pixels."""
        return round(self.text * 1.35)

    def width_of(self, text: str) -> int:
        """How wide a caption is, in pixels."""
        return math.ceil(font(self.text).getlength(text))

    def write(self, text: str, *, bold: bool = False, x: int = MARGIN, color: tuple[int, int, int] = INK) -> None:
        """A caption, wrapped to the width that is left."""
        for line in wrapped(text, self.width - x - MARGIN, self.text, bold):
            self.label(line, x, self.y, bold=bold, color=color)
            self.y += self.line

    def label(
        self,
        text: str,
        x: int,
        y: int,
        *,
        bold: bool = False,
        width: int = 0,
        color: tuple[int, int, int] = INK,
        boxed: bool = False,
    ) -> None:
        """A line of text anywhere on the page; cut to `width` pixels, if given."""
        text = shorten(text, width, self.text, bold) if width else text
        self._labels.append(Label(x, y, text, self.text, bold, color, boxed))

    def label_above(
        self,
        grid: TileGrid,
        index: int,
        text: str,
        *,
        gap: int = 0,
        bold: bool = False,
        width: int = 0,
        color: tuple[int, int, int] = INK,
    ) -> None:
        """A line of text that ends `gap` pixels above a tile; by default as wide as the page from there on."""
        x, y = grid.corner(index)
        width = width or self.width - MARGIN - x
        self.label(text, x, y - self.line - gap, bold=bold, width=width, color=color)

    def label_below(
        self,
        grid: TileGrid,
        index: int,
        text: str,
        *,
        gap: int = 0,
        width: int = 0,
        color: tuple[int, int, int] = INK,
    ) -> None:
        """A line of text that begins `gap` pixels below a tile; by default as wide as the tile."""
        x, y = grid.corner(index)
        w, h = grid.size
        self.label(text, x, y + h + gap, width=width or w, color=color)

    def tiles(
        self,
        tiles: UInt8[Tensor, "n y x *rgb"],
        *,
        columns: int,
        zoom: int = 1,
        x: int = MARGIN,
        gap: int = GAP,
        above: int = 0,
        below: int = 0,
    ) -> TileGrid:
        """Tiles in rows, `gap` pixels apart.

        `above` and `below` leave that many pixels free for captions around each row.
        """
        w, h = tiles.shape[2] * zoom, tiles.shape[1] * zoom
        block = TileGrid(tiles, x, self.y + above, w + gap, above + h + min(gap, ROW) + below, columns, zoom)
        self._blocks.append(block)
        self.y += -(-len(tiles) // columns) * block.dy
        return block

    def frame(self, block: TileGrid, first: int, last: int, color: tuple[int, int, int]) -> None:
        """An outline around the tiles `first` to `last` of one row."""
        (x, y), (right, _), (w, h) = block.corner(first), block.corner(last), block.size
        self._frames.append(Frame(x, y, right + w - x, h, color))

    def scale_bar(
        self, low: str, high: str, *, note: str = "", ramp: UInt8[Tensor, "x 3"] | None = None, x: int = MARGIN
    ) -> None:
        """The colormap from left to right between the values at its ends; as level codes, or as the colors `ramp`."""
        self.label(low, x, self.y)
        x += round(font(self.text).getlength(low)) + 4
        codes = torch.arange(LEVELS, dtype=torch.uint8)
        bar = (codes if ramp is None else ramp)[:: max(1, LEVELS // (self.width // 4))]
        bar = bar[None].expand(self.text - 2, *bar.shape)
        self._blocks.append(TileGrid(bar[None], x, self.y + 2, 0, 0, 1, 1))
        self.label(f"{high}   {note}", x + bar.shape[1] + 4, self.y, width=self.width - x - bar.shape[1] - 8)
        self.y += self.line + 2

    def picture(
        self, *, main: TileGrid, colormap: str | None, legend: str, about: Mapping[str, Any], budget: int = BUDGET
    ) -> Picture:
        """The page as a picture; `main` is the block that the facts in `about` speak of."""
        facts = {**about, "colormap": colormap, "tiles": main.geometry()}
        return Picture(
            self.width, self.y + MARGIN, tuple(self._blocks), tuple(self._labels), tuple(self._frames),
            colormap, facts, legend, budget,
        )  # fmt: skip


def near_square(count: int) -> int:
    """How many columns make a grid of `count` tiles nearly square, rather wide than tall, and full where possible.

    >>> [near_square(count) for count in (1, 8, 13, 16, 32, 64)]
    [1, 4, 4, 4, 8, 8]
    """
    side = math.isqrt(count - 1) + 1
    return next((columns for columns in range(side, 2 * side) if count % columns == 0), side)


def numbers(values: Sequence[float]) -> list[str]:
    """Values as people write them: three digits.

    >>> numbers([0.0, 1234.5, 0.012345, float("nan")])
    ['0', '1.23e+03', '0.0123', 'nan']
    """
    return [f"{value:.3g}" for value in values]
