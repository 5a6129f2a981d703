"""Pages of filters: the images that excite them beside real ones, and the weights of the first layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lightning_convviz.render.color import rgb
from lightning_convviz.render.layout import (
    CARD,
    GAP,
    INK,
    MARGIN,
    UNKNOWN,
    PageLayout,
    Picture,
    TileGrid,
    near_square,
    zoom_for,
)
from lightning_convviz.render.paint import paint

BETWEEN = 8  # pixels between a pair of tiles and the next
BUDGET = 60_000  # bytes of a file: there is one for each layer
KERNEL_BUDGET = 400_000  # never reached: of few flat tiles a PNG is small, and has to be tried
HATCH = 6  # pixels from stroke to stroke
MOST_KERNELS = 64

LEGEND = """**Filter patterns**: for each filter of the layer an image that excites it, found by gradient ascent from a
blank one, within the range of values and the colors of the probes; beside it the part of a validation image that
excites it most. Under both how strongly, at the best place, in standard deviations of the filter over the validation
data. First layers look for edges and colors, middle ones for textures, last ones for parts. The patterns are synthetic:
they show what would excite a filter most, not all that it answers to. Gray numbers: the real image excites the filter
more. Hatched: a filter that nothing excites. From drawing to drawing a pattern goes on from the last one, so that
changes are the network's."""

KERNELS = """**Kernels**: the weights of the first convolution as pictures: gray is 0, bright positive, dark negative,
all on one scale that stays until the weights leave it by a factor of two. Below, what changed since the last
drawing."""


@dataclass(frozen=True)
class Tile:
    """What is said of one filter.

    Attributes:
        name: "#12", or the name of a class.
        value: how strongly its pattern excites it, for a reader.
        real: the same for the validation image beside it; empty where there is none.
        dead: why it is hatched; empty where it is not.
        facts: for the picture's data.
        weak: whether the real image excites it more: the caption is gray.
    """

    name: str
    value: str
    real: str
    dead: str
    facts: Mapping[str, Any]
    weak: bool = False


def filters(
    patterns: Float[Tensor, "n 3 h w"],
    tiles: Sequence[Tile],
    *,
    title: str,
    lines: Sequence[str] = (),
    real: Float[Tensor, "n 3 h w"] | None = None,
    about: Mapping[str, Any],
    legend: str = LEGEND,
) -> Picture:
    """Patterns in a grid, each beside a real image, with a line below.

    Args:
        patterns: in [0, 1].
        tiles: what is said of each.
        title: of the page.
        lines: below it.
        real: in [0, 1], the images beside, if any.
        about: the facts of the page; those of the tiles are added as `items`.
        legend: how to read it, in Markdown.
    """
    n, _, h, w = patterns.shape
    pair = 1 if real is None else 2
    columns = near_square(n) if real is None else pairs_across(n)
    zoom = zoom_for(max(h, w), pair * columns)
    step = pair * (w * zoom + GAP) + (BETWEEN if pair > 1 else 0)
    sheet = PageLayout(2 * MARGIN + columns * step)
    sheet.write(title, bold=True)
    for line in lines:
        sheet.write(line)
    gap = max(GAP, step - w * zoom, (CARD - 2 * MARGIN) // columns - w * zoom)
    shown = rgb(patterns)
    for row in [row for row, tile in enumerate(tiles) if tile.dead]:
        shown[row] = hatched(h, w).to(shown.device)
    top = sheet.y
    grid = sheet.tiles(shown, columns=columns, zoom=zoom, gap=gap, below=sheet.line)
    if real is not None:
        below, sheet.y = sheet.y, top
        sheet.tiles(rgb(real), columns=columns, zoom=zoom, x=MARGIN + w * zoom + GAP, gap=gap, below=sheet.line)
        sheet.y = below
    for index, tile in enumerate(tiles):
        _caption(sheet, grid, index, tile, grid.dx - GAP)
    return sheet.picture(
        main=grid, colormap=None, legend=legend, budget=BUDGET, about={**about, "items": [t.facts for t in tiles]}
    )


def grid(images: Float[Tensor, "n 3 h w"], names: Sequence[object], *, title: str = "") -> Image.Image:
    """Images with a word under each, for a notebook, which shows it.

    Args:
        images: in [0, 1]; `pixels.estimate(examples).display(...)` makes such of model inputs.
        names: what stands below, one for each.
        title: of the page.

    Raises:
        ValueError: where there is not one name for each image.

    Example:
        >>> grid(torch.rand(4, 3, 32, 32), ["a", "b", "c", "d"], title="noise").size
        (350, 385)
    """
    if len(names) != len(images):
        raise ValueError(f"`names` has {len(names)} items for {len(images)} images. Give one for each.")
    tiles = [Tile(str(name), "", "", "", {}) for name in names]
    return paint(filters(images, tiles, title=title, about={}))


def _caption(sheet: PageLayout, grid: TileGrid, index: int, tile: Tile, width: int) -> None:
    x, y = grid.corner(index)
    y += grid.size[1]
    if tile.dead:
        sheet.label(f"{tile.name}  {tile.dead}", x, y, width=width, color=UNKNOWN)
    elif tile.real:
        sheet.label(f"{tile.name}  {tile.value} | {tile.real}", x, y, width=width, color=UNKNOWN if tile.weak else INK)
    else:
        sheet.label(f"{tile.name}  {tile.value}", x, y, width=width)


def pairs_across(count: int) -> int:
    """How many pairs of tiles stand in a row: a page a little taller than wide.

    >>> [pairs_across(count) for count in (1, 4, 9, 12, 16)]
    [1, 2, 3, 3, 4]
    """
    columns = max(1, round(math.sqrt(count / 1.3)))
    return next((each for each in (columns, columns + 1) if count % each == 0), columns)


def hatched(h: int, w: int) -> UInt8[Tensor, "h w 3"]:
    """Slanted strokes, as on a part that is crossed out.

    >>> hatched(6, 6)[..., 0].unique()
    tensor([160, 240], dtype=torch.uint8)
    """
    places = torch.arange(h)[:, None] + torch.arange(w)
    strokes = torch.where(places % HATCH == 0, 160, 240).to(torch.uint8)
    return strokes[..., None].expand(h, w, 3)


def kernels(
    weights: Float[Tensor, "n c h w"],
    before: Float[Tensor, "n c h w"] | None,
    channels: Sequence[int],
    *,
    high: float,
    title: str,
    lines: Sequence[str] = (),
    about: Mapping[str, Any],
) -> Picture:
    """The weights of the first layer as pictures, and below what changed since the last drawing.

    Args:
        weights: of the filters that are shown.
        before: the same at the last drawing, if there was one.
        channels: the filters' numbers.
        high: the weight that is shown brightest.
        title: of the page.
        lines: below it.
        about: the facts of the page.
    """
    columns = near_square(len(weights))
    zoom = zoom_for(max(weights.shape[2:]), columns)
    sheet = PageLayout(2 * MARGIN + columns * (weights.shape[3] * zoom + GAP))
    sheet.write(title, bold=True)
    for line in lines:
        sheet.write(line)
    ramp = rgb(torch.linspace(0, 1, 176).expand(1, 3, 1, -1))[0, 0]
    sheet.scale_bar(f"-{high:.2g}", f"{high:.2g}", note="gray: 0", ramp=ramp)
    grid = sheet.tiles(rgb(_gray(weights, high)), columns=columns, zoom=zoom)
    items: list[dict[str, Any]] = [{} for _ in channels]
    if before is not None:
        sheet.y += MARGIN
        change = weights - before
        most = float(change.abs().max())
        share = (change.flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp(min=1e-12)).tolist()
        items = [{"change": round(each, 4) if math.isfinite(each) else None} for each in share]
        first = sorted(range(len(share)), key=lambda row: -share[row])[:3]
        sheet.write("Change since the last drawing", bold=True)
        sheet.write(
            "most: " + ", ".join(f"#{channels[row]} {share[row]:.0%}" for row in first) + " of its norm; gray: none"
        )
        sheet.scale_bar(f"-{most:.2g}", f"{most:.2g}", ramp=ramp)
        sheet.tiles(rgb(_gray(change, max(most, 1e-12))), columns=columns, zoom=zoom)
    facts = {**about, "scale": [-high, high], "rows": ["kernel"], "columns": list(channels), "items": items}
    return sheet.picture(main=grid, colormap=None, legend=KERNELS, budget=KERNEL_BUDGET, about=facts)


def _gray(values: Float[Tensor, "n c h w"], high: float) -> Float[Tensor, "n 3 h w"]:
    """Values as colors, a channel each, 0 in the middle; one channel in gray, of more than three the first three."""
    shown = (values.float() / (2 * high) + 0.5).clamp(0, 1).nan_to_num(0.5)
    if shown.shape[1] == 2:
        shown = torch.cat([shown, torch.full_like(shown[:, :1], 0.5)], 1)
    return shown.expand(-1, 3, -1, -1) if shown.shape[1] == 1 else shown[:, :3]
