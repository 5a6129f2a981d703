"""Pages of extremes: for each probe a layer's strongest channels, for each channel the pictures that excite it most."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.layer_stats.top_images import NONE, TopImages
from lightning_convviz.pages.activations import LayerActivations, resize_photos
from lightning_convviz.pixels import Denormalization
from lightning_convviz.probes import Probes
from lightning_convviz.render import PageLayout, Picture, rgb
from lightning_convviz.render.color import LEVELS
from lightning_convviz.render.layout import CARD, GAP, INK, MARGIN, UNKNOWN, TileGrid, numbers, zoom_for

BUDGET = 60_000  # bytes of a file

# Of the strongest channels:
PIXELS = 40_000  # of maps in a picture: as palette PNG about 35 kB
STEP = 5  # levels of the scale from color to color, of `LEVELS - 1`: files are a quarter smaller, and look the same

# Of the most exciting pictures:
THUMBNAIL = 64  # pixels: the longer side of a picture
PHOTOS = 100_000  # pixels of pictures on a page: more are drawn smaller
FRAME = 0.25  # the side of the frame, as a share of the picture's
YELLOW, BLACK, BLANK = (255, 220, 0), (0, 0, 0), 240
BETWEEN = 10  # pixels between a channel and the next

STRONGEST = """**Strongest channels**: a row for each probe: the picture, then the channels of the layer with the
largest values anywhere in it, strongest first. Below each map the channel's number and its largest value; all maps are
on the layer's scale. Channels that lead every row respond to anything; those that lead a few rows tell what these
pictures have in common."""

EXCITING = """**Most exciting pictures**: for each channel the three pictures of the whole validation in which its
largest value is highest, strongest first, with that value below. The yellow frame is around the place of the value: a
channel of a deep layer sees more of the picture than what is framed. What the three have in common is what the channel
looks for; where they have nothing in common, the channel has not specialized, or on something that is hard to name. A
picture without a frame left the channel at 0 or below."""


# -- the strongest channels --------------------------------------------------------------------------------------------


def strongest_page(shown: LayerActivations, count: int) -> Picture:
    """`activations/<layer>/strongest`: a row for each probe, its `count` strongest channels from left to right."""
    peaks, channels = strongest_of_each(shown.maps, count)
    codes, pool = _strongest_codes(shown, channels)
    n, k, h, w = codes.shape
    zoom = zoom_for(max(h, w), k + 1)
    page = PageLayout(2 * MARGIN + (k + 1) * (w * zoom + GAP) + GAP)
    page.write(f"Strongest channels of {shown.title}", bold=True)
    page.write(shown.snapshot.caption)
    means = f", means of {pool} × {pool}" if pool > 1 else ""
    page.write(f"{k} of {shown.maps.shape[1]} channels for each of {n} probes, {h} × {w}{means}")
    most_often = Counter(channels.flatten().tolist()).most_common(3)
    page.write("most often here: " + ", ".join(f"#{channel} ({times} of {n})" for channel, times in most_often))
    shown.scale.write_bar(page)
    grid = _probes_and_maps(page, shown, codes, zoom)
    items = [
        {"channel": channel, "peak": _plain(peak)}
        for channel, peak in zip(channels.flatten().tolist(), peaks.flatten().tolist(), strict=True)
    ]
    for index, item in enumerate(items):
        page.label_below(grid, index, f"#{item['channel']} {_in_words(item['peak'])}")
    columns = list(range(1, k + 1))
    about = {**shown.facts("strongest"), "rows": shown.ids, "columns": columns, "items": items, "pool": pool}
    return page.picture(main=grid, colormap=shown.colormap, legend=STRONGEST, about=about, budget=BUDGET)


def strongest_of_each(maps: Float[Tensor, "n c y x"], count: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Of each picture the largest values and their channels, strongest first; of equal ones the lower number.

    >>> strongest_of_each(torch.tensor([[1.0, 3.0, 2.0]]).view(1, 3, 1, 1), 2)
    (tensor([[3., 2.]]), tensor([[1, 2]]))
    """
    peaks, channels = maps.amax((2, 3)).nan_to_num(NONE).sort(dim=1, descending=True, stable=True)
    return peaks[:, :count], channels[:, :count]


def _strongest_codes(shown: LayerActivations, channels: Int[Tensor, "n k"]) -> tuple[UInt8[Tensor, "n k v u"], int]:
    """Maps of some channels of each probe as level codes, and how many positions a side a pixel stands for."""
    maps = shown.maps[torch.arange(len(channels), device=channels.device)[:, None], channels]
    n, k, h, w = maps.shape
    pool = min(max(1, round(max(h, w) * (k + 1) / CARD)), h, w)
    while n * k * h * w > PIXELS * pool**2 and pool < min(h, w):
        pool += 1
    codes = shown.scale.encode(F.avg_pool2d(maps, pool) if pool > 1 else maps, channels)
    return torch.where(codes < LEVELS, (codes + STEP // 2) // STEP * STEP, codes), pool


def _probes_and_maps(page: PageLayout, shown: LayerActivations, codes: UInt8[Tensor, "n k v u"], zoom: int) -> TileGrid:
    """The probes, and beside each its maps."""
    n, k, h, w = codes.shape
    top = page.y
    photos = page.tiles(rgb(resize_photos(shown.photos, h * zoom, w * zoom)), columns=1, below=page.line)
    for row in range(n):
        page.label_below(photos, row, _short_probe_name(shown.probes, row))
    page.y = top
    return page.tiles(codes.flatten(0, 1), columns=k, zoom=zoom, x=photos.x + photos.dx + GAP, below=page.line)


def _short_probe_name(probes: Probes, row: int) -> str:
    """What stands below a probe: its class, or else its id."""
    return str((probes.ids or ())[row]) if probes.labels is None else probes.name(int(probes.labels[row]))


# -- the most exciting pictures ----------------------------------------------------------------------------------------


def exciting_page(shown: LayerActivations, found: TopImages) -> Picture:
    """`activations/<layer>/exciting`: for each channel its best pictures of the validation, side by side.

    Args:
        shown: the layer; its probes' `space` says how pictures of the validation are displayed.
        found: the pictures.
    """
    assert shown.probes.space is not None  # probes of a drawing have one
    k, m = found.peaks.shape
    tiles = _framed_pictures(found, shown.probes.space)
    w = tiles.shape[2]
    columns = min(k, max(1, round(CARD / (w + BETWEEN))))
    page = PageLayout(2 * MARGIN + columns * (w + BETWEEN) - BETWEEN)
    page.write(f"Most exciting pictures for {shown.title}", bold=True)
    page.write(shown.snapshot.caption)
    page.write(f"{k} of {shown.maps.shape[1]} channels, the best {m} of {found.count} validated")
    page.write("best first; framed and below: the largest value")
    page.y += MARGIN
    grid = page.tiles(tiles, columns=columns, gap=BETWEEN, above=page.line, below=page.line)
    items = [
        {"peaks": [_plain(peak) for peak in peaks], "pictures": pictures, "places": _rounded(places)}
        for peaks, pictures, places in zip(
            found.peaks.tolist(), found.pictures.tolist(), found.places.tolist(), strict=True
        )
    ]
    for index, (channel, item) in enumerate(zip(found.channels, items, strict=True)):
        _write_around(page, grid, index, channel, item["peaks"])
    about = {
        **shown.facts("exciting"),
        "scale": None,
        "count": found.count,
        "rows": ["exciting"],
        "columns": found.channels,
        "items": items,
    }
    return page.picture(main=grid, colormap=None, legend=EXCITING, about=about, budget=BUDGET)


def _framed_pictures(found: TopImages, space: Denormalization) -> UInt8[Tensor, "k v u 3"]:
    """A tile for each channel: its pictures side by side, each with its frame."""
    k, m, _, h, w = found.images.shape
    side = min(THUMBNAIL, round((PHOTOS / (k * m)) ** 0.5))
    size = max(1, round(h * side / max(h, w))), max(1, round(w * side / max(h, w)))
    pictures = rgb(resize_photos(space.display(found.images.flatten(0, 1)), *size)).clone()
    places, peaks = found.places.flatten(0, 1).tolist(), found.peaks.flatten().tolist()
    for picture, (y, x), peak in zip(pictures, places, peaks, strict=True):
        if peak == NONE:
            picture.fill_(BLANK)
        elif peak > 0:
            draw_frame(picture, y, x)
    spaced = F.pad(pictures, (0, 0, 0, GAP), value=255).reshape(k, m, size[0], size[1] + GAP, 3)
    return spaced.transpose(1, 2).flatten(2, 3)[:, :, :-GAP]


def draw_frame(picture: UInt8[Tensor, "v u 3"], y: float, x: float) -> None:
    """Draw a frame around a place, given as shares of height and width: yellow, in a black one."""
    h, w, _ = picture.shape
    high, wide = max(3, round(h * FRAME)), max(3, round(w * FRAME))
    top = min(max(0, round(y * h - high / 2)), h - high)
    left = min(max(0, round(x * w - wide / 2)), w - wide)
    inside = picture[top + 1 : top + high - 1, left + 1 : left + wide - 1].clone()
    outer = slice(max(0, top - 2), top + high + 2), slice(max(0, left - 2), left + wide + 2)
    picture[outer] = picture.new_tensor(BLACK)
    picture[max(0, top - 1) : top + high + 1, max(0, left - 1) : left + wide + 1] = picture.new_tensor(YELLOW)
    picture[top + 1 : top + high - 1, left + 1 : left + wide - 1] = inside


def _write_around(page: PageLayout, grid: TileGrid, index: int, channel: int, peaks: Sequence[float | None]) -> None:
    """The channel's name above its tile, and below each of its pictures the value."""
    x, y = grid.corner(index)
    w, h = grid.size
    is_alive = peaks[0] is not None and peaks[0] > 0
    name = f"channel {channel}" if is_alive else f"channel {channel}, never above 0"
    page.label(name, x, y - page.line, bold=is_alive, width=w, color=INK if is_alive else UNKNOWN)
    for place, peak in enumerate(peaks):
        is_silent = peak is not None and peak <= 0
        text, color = ("≤ 0", UNKNOWN) if is_silent else (_in_words(peak), INK)
        page.label(text, x + place * (w + GAP) // len(peaks), y + h, color=color)


# -- words -------------------------------------------------------------------------------------------------------------


def _plain(value: float) -> float | None:
    """A value for the facts: three digits; None where there is none."""
    return None if value == NONE else float(f"{value:.3g}")


def _in_words(value: float | None) -> str:
    return "–" if value is None else numbers([value])[0]


def _rounded(places: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(each, 3) for each in place] for place in places]
