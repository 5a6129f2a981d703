"""Seeing more of one thing: the strongest channels for each probe, the most exciting pictures for a channel."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.callbacks.channels import Page, resized
from lightning_convviz.callbacks.health import Heard
from lightning_convviz.callbacks.overheard import Overheard
from lightning_convviz.layer_stats import top_images
from lightning_convviz.layers import evenly_spaced
from lightning_convviz.render import PageLayout, Picture, encode_values, rgb
from lightning_convviz.render.color import LEVELS
from lightning_convviz.render.layout import CARD, GAP, INK, MARGIN, UNKNOWN, TileGrid, numbers, zoom_for

BUDGET = 60_000  # bytes of a file
PIXELS = 40_000  # of maps in a picture: as palette PNG about 35 kB
THUMBNAIL = 64  # pixels: the longer side of a picture
PHOTOS = 100_000  # pixels of pictures on a page: more are drawn smaller
MARK = 0.25  # the side of the frame, as a share of the picture's
YELLOW, BLACK, BLANK = (255, 220, 0), (0, 0, 0), 240
BETWEEN = 10  # pixels between a channel and the next

STEP = 5  # levels of the scale from color to color, of `LEVELS - 1`: files are a quarter smaller, and look the same

STRONGEST = """**Strongest channels**: a row for each probe: the picture, then the channels of the layer with the
largest values anywhere in it, strongest first. Below each map the channel's number and its largest value; all maps are
on the layer's scale. Channels that lead every row answer to anything; those that lead a few rows tell what these
pictures have in common."""

EXCITING = """**Most exciting pictures**: for each channel the three pictures of the whole validation in which its
largest value is highest, strongest first, with that value below. The yellow frame is around the place of the value: a
channel of a deep layer sees more of the picture than what is framed. What the three have in common is what the channel
looks for; where they have nothing in common, the channel has not specialized, or on something that is hard to name. A
picture without a frame left the channel at 0 or below."""


@dataclass(frozen=True)
class Part:
    """What one rank heard of the validation: figures, and by module the most exciting pictures."""

    heard: Heard
    ranked: Mapping[str, top_images.TopImages | None]


class Closer:
    """What was asked for beside every layer's page.

    Args:
        strongest: channels of each probe.
        exciting: how many channels of each layer, or which.

    Attributes:
        listens: whether the validation is observed for it.
    """

    def __init__(self, strongest: int, exciting: int | Sequence[int]) -> None:
        self.strongest = strongest
        self.exciting = exciting
        self.listens = bool(exciting)
        self._overheard = Overheard()

    def check(self, channels: Mapping[str, int]) -> None:
        """Before training, with the number of channels of each layer.

        Raises:
            ValueError: where a channel was asked for that a layer does not have.
        """
        for layer, count in channels.items():
            wrong = [] if isinstance(self.exciting, int) else [each for each in self.exciting if each >= count]
            if wrong:
                raise ValueError(f"`exciting` holds {wrong[0]}; layer {layer!r} has channels 0 to {count - 1}.")

    def begin(self, sources: Iterable[str]) -> None:
        """A validation begins, in which these modules are observed."""
        self._overheard.begin(
            {source: top_images.TopImagesAccumulator(self._chosen) for source in sources} if self.listens else {}
        )

    def _chosen(self, count: int) -> list[int]:
        if isinstance(self.exciting, int):
            return list(evenly_spaced(range(count), self.exciting))
        return [channel for channel in self.exciting if channel < count]

    def beside(self, others: Mapping[str, Callable[[Tensor], None]]) -> Mapping[str, Callable[[Tensor], None]]:
        """For each module what to do with its output, after what others do with it."""
        own = self._overheard.observers()
        together = {name: [each[name] for each in (others, own) if name in each] for name in {**others, **own}}
        return {name: partial(_all, each) for name, each in together.items()}

    def passed(self, images: Tensor | None) -> None:
        """The images of the batch that was observed."""
        self._overheard.passed(images)

    def ranked(self) -> dict[str, top_images.TopImages | None]:
        """What this process has found, in main memory; nothing stays on the device while training goes on."""
        found = {name: listener.compute() for name, listener in self._overheard.listeners.items()}
        self._overheard.clear()
        return {name: None if each is None else each.cpu() for name, each in found.items()}

    def pictures(self, page: Page, parts: Sequence[top_images.TopImages | None]) -> dict[str, Picture]:
        """By kind, beside a layer's page: "strongest", and "exciting" where a validation was observed."""
        drawn = {"strongest": strongest(page, self.strongest)} if self.strongest else {}
        ranked = top_images.TopImagesAccumulator.merge(parts)
        return drawn if ranked is None else {**drawn, "exciting": exciting(page, ranked)}


def _all(observers: Sequence[Callable[[Tensor], None]], output: Tensor) -> None:
    for observe in observers:
        observe(output)


# -- the strongest channels --------------------------------------------------------------------------------------------


def leading(maps: Float[Tensor, "n c y x"], count: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Of each picture the largest values and their channels, strongest first; of equal ones the lower number.

    >>> leading(torch.tensor([[1.0, 3.0, 2.0]]).view(1, 3, 1, 1), 2)
    (tensor([[3., 2.]]), tensor([[1, 2]]))
    """
    peaks, channels = maps.amax((2, 3)).nan_to_num(top_images.NONE).sort(dim=1, descending=True, stable=True)
    return peaks[:, :count], channels[:, :count]


def strongest(page: Page, count: int) -> Picture:
    """`activations/<layer>/strongest`: a row for each probe, its strongest channels from left to right."""
    peaks, channels = leading(page.maps, count)
    codes, pool = _codes(page, channels)
    n, k, h, w = codes.shape
    zoom = zoom_for(max(h, w), k + 1)
    sheet = PageLayout(2 * MARGIN + (k + 1) * (w * zoom + GAP) + GAP)
    sheet.write(f"Strongest channels of {page.called}", bold=True)
    sheet.write(page.view.moment.caption)
    means = f", means of {pool} × {pool}" if pool > 1 else ""
    sheet.write(f"{k} of {page.maps.shape[1]} channels for each of {n} probes, {h} × {w}{means}")
    often = Counter(channels.flatten().tolist()).most_common(3)
    sheet.write("most often here: " + ", ".join(f"#{channel} ({times} of {n})" for channel, times in often))
    page.bar(sheet)
    grid = _rows(sheet, page, codes, zoom)
    items = [
        {"channel": channel, "peak": _plain(peak)}
        for channel, peak in zip(channels.flatten().tolist(), peaks.flatten().tolist(), strict=True)
    ]
    for index, item in enumerate(items):
        _below(sheet, grid, index, f"#{item['channel']} {_said(item['peak'])}")
    ids = list(page.view.probes.ids or ())
    about = {**page.about("strongest"), "rows": ids, "columns": list(range(1, k + 1)), "items": items, "pool": pool}
    return sheet.picture(main=grid, colormap=page.cmap, legend=STRONGEST, about=about, budget=BUDGET)


def _rows(sheet: PageLayout, page: Page, codes: UInt8[Tensor, "n k v u"], zoom: int) -> TileGrid:
    """The probes, and beside each its maps."""
    n, k, h, w = codes.shape
    top = sheet.y
    photos = sheet.tiles(rgb(resized(page.view.photos, h * zoom, w * zoom)), columns=1, below=sheet.line)
    for row in range(n):
        _below(sheet, photos, row, _called(page, row))
    sheet.y = top
    return sheet.tiles(codes.flatten(0, 1), columns=k, zoom=zoom, x=photos.x + photos.dx + GAP, below=sheet.line)


def _codes(page: Page, channels: Int[Tensor, "n k"]) -> tuple[UInt8[Tensor, "n k v u"], int]:
    """Maps of some channels of each probe, on the page's scale, and how many positions a side a pixel stands for."""
    maps = page.maps[torch.arange(len(channels), device=channels.device)[:, None], channels]
    n, k, h, w = maps.shape
    pool = min(max(1, round(max(h, w) * (k + 1) / CARD)), h, w)
    while n * k * h * w > PIXELS * pool**2 and pool < min(h, w):
        pool += 1
    maps = F.avg_pool2d(maps, pool) if pool > 1 else maps
    if isinstance(page.top, Tensor):
        maps = maps / page.top.to(maps.device)[channels][..., None, None].clamp(min=1e-12)
    codes = encode_values(maps, 0.0, 1.0 if isinstance(page.top, Tensor) else page.top)
    return torch.where(codes < LEVELS, (codes + STEP // 2) // STEP * STEP, codes), pool


def _called(page: Page, row: int) -> str:
    """What stands below a probe: its class, or else its id."""
    probes = page.view.probes
    return str((probes.ids or ())[row]) if probes.labels is None else probes.name(int(probes.labels[row]))


# -- the most exciting pictures ----------------------------------------------------------------------------------------


def exciting(page: Page, ranked: top_images.TopImages) -> Picture:
    """`activations/<layer>/exciting`: for each channel its best pictures of the validation, in a cell."""
    k, m = ranked.peaks.shape
    tiles = _cells(page, ranked)
    w = tiles.shape[2]
    columns = min(k, max(1, round(CARD / (w + BETWEEN))))
    sheet = PageLayout(2 * MARGIN + columns * (w + BETWEEN) - BETWEEN)
    sheet.write(f"Most exciting pictures for {page.called}", bold=True)
    sheet.write(page.view.moment.caption)
    sheet.write(f"{k} of {page.maps.shape[1]} channels, the best {m} of {ranked.count} validated")
    sheet.write("best first; framed and below: the largest value")
    sheet.y += MARGIN
    grid = sheet.tiles(tiles, columns=columns, gap=BETWEEN, above=sheet.line, below=sheet.line)
    items = [
        {"peaks": [_plain(peak) for peak in peaks], "pictures": pictures, "places": _places(places)}
        for peaks, pictures, places in zip(
            ranked.peaks.tolist(), ranked.pictures.tolist(), ranked.places.tolist(), strict=True
        )
    ]
    for index, (channel, item) in enumerate(zip(ranked.channels, items, strict=True)):
        x, y = grid.corner(index)
        alive = item["peaks"][0] is not None and item["peaks"][0] > 0
        name = f"channel {channel}" + ("" if alive else ", never above 0")
        sheet.label(name, x, y - sheet.line, bold=alive, width=w, color=INK if alive else UNKNOWN)
        for place, peak in enumerate(item["peaks"]):
            silent = peak is not None and peak <= 0
            text, color = ("≤ 0", UNKNOWN) if silent else (_said(peak), INK)
            sheet.label(text, x + place * (w + GAP) // m, y + grid.size[1], color=color)
    about = {
        **page.about("exciting"), "scale": None, "count": ranked.count, "rows": ["exciting"],
        "columns": ranked.channels, "items": items,
    }  # fmt: skip
    return sheet.picture(main=grid, colormap=None, legend=EXCITING, about=about, budget=BUDGET)


def _cells(page: Page, ranked: top_images.TopImages) -> UInt8[Tensor, "k v u 3"]:
    """A tile for each channel: its pictures side by side, each with its frame."""
    space = page.view.probes.space
    assert space is not None  # the session gives one to all probes
    k, m, _, h, w = ranked.images.shape
    side = min(THUMBNAIL, round((PHOTOS / (k * m)) ** 0.5))
    size = max(1, round(h * side / max(h, w))), max(1, round(w * side / max(h, w)))
    shown = rgb(resized(space.display(ranked.images.flatten(0, 1)), *size)).clone()
    places, peaks = ranked.places.flatten(0, 1).tolist(), ranked.peaks.flatten().tolist()
    for tile, (y, x), peak in zip(shown, places, peaks, strict=True):
        if peak == top_images.NONE:
            tile.fill_(BLANK)
        elif peak > 0:
            framed(tile, y, x)
    spaced = F.pad(shown, (0, 0, 0, GAP), value=255).reshape(k, m, size[0], size[1] + GAP, 3)
    return spaced.transpose(1, 2).flatten(2, 3)[:, :, :-GAP]


def framed(tile: UInt8[Tensor, "v u 3"], y: float, x: float) -> None:
    """Draw a frame around a place, given as shares of height and width: yellow, in a black one."""
    h, w, _ = tile.shape
    high, wide = max(3, round(h * MARK)), max(3, round(w * MARK))
    top = min(max(0, round(y * h - high / 2)), h - high)
    left = min(max(0, round(x * w - wide / 2)), w - wide)
    inside = tile[top + 1 : top + high - 1, left + 1 : left + wide - 1].clone()
    outer = slice(max(0, top - 2), top + high + 2), slice(max(0, left - 2), left + wide + 2)
    tile[outer] = tile.new_tensor(BLACK)
    tile[max(0, top - 1) : top + high + 1, max(0, left - 1) : left + wide + 1] = tile.new_tensor(YELLOW)
    tile[top + 1 : top + high - 1, left + 1 : left + wide - 1] = inside


# -- words -------------------------------------------------------------------------------------------------------------


def _below(sheet: PageLayout, block: TileGrid, index: int, text: str) -> None:
    x, y = block.corner(index)
    sheet.label(text, x, y + block.size[1], width=block.size[0])


def _plain(value: float) -> float | None:
    """A value for the facts: three digits; None where there is none."""
    return None if value == top_images.NONE else float(f"{value:.3g}")


def _said(value: float | None) -> str:
    return "–" if value is None else numbers([value])[0]


def _places(places: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(each, 3) for each in place] for place in places]
