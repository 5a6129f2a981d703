"""Pages of a layer's activations: all channels on the first probe, and a few channels over time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.history import KEPT, History, Snapshot
from lightning_convviz.layers import evenly_spaced
from lightning_convviz.pages.filmstrip import LEGEND as FILMSTRIP_LEGEND
from lightning_convviz.pages.filmstrip import Filmstrip, hatch_codes
from lightning_convviz.probes import Probes
from lightning_convviz.render import PageLayout, Picture, encode_values, rgb
from lightning_convviz.render.color import PAGE, TONES
from lightning_convviz.render.layout import GAP, MARGIN, TileGrid, near_square, numbers, zoom_for

PIXELS = 110_000  # of maps in a picture: as palette PNG about 90 kB
FEWEST = 16  # channels that are kept before maps are made smaller
ON_ALL = 2  # channels that are shown on every probe
STRIP_SIDE = 16  # pixels: the longer side of a map in a film strip
WIDEST = 1_200  # pixels of a picture; more probes than fit are left out of its lower part
THUMBNAIL = 90  # pixels: the longer side of the probe beside the captions, about
STRIP_BUDGET = 40_000  # bytes of a film strip's file
MARK = PAGE + TONES // 2  # the tone of the strokes over dead channels, and of the corners of blank ones
MOST_NAMED = 12  # dead channels that are named in the captions

LEGEND = """**Activations**: the output of each channel of the layer for the first probe image, a tile for each
channel, in the order of their numbers; below, the channels that were strongest in the first drawing on all probes.
Dark is 0 or less (what a ReLU would cut off), bright the upper end of the scale, which is one for the layer and
stays until the values leave it by a factor of two. Early layers keep the picture; deeper ones respond in fewer
places. A tile that stays dark is a filter that found nothing in this picture; a hatched one is dead: it was never
above 0 on any picture of the whole validation."""


# -- what all pages of a layer share -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColorScale:
    """How values become colors on the pages of a layer: from 0 or less, dark, to `high`, bright.

    Attributes:
        high: the value at the bright end; (c,) where each channel has a scale of its own.
        change_note: when the end was last changed, and from what; empty where it never was.
    """

    high: float | Float[Tensor, " c"]
    change_note: str = ""

    def encode(
        self, maps: Float[Tensor, "n k y x"], channels: Int[Tensor, "*n k"] | None = None
    ) -> UInt8[Tensor, "n k y x"]:
        """Maps as level codes; `channels` says which ones these are, where they are not all of the layer."""
        if not isinstance(self.high, Tensor):
            return encode_values(maps, 0.0, self.high)
        high = self.high.to(maps.device)
        high = high if channels is None else high[channels]
        return encode_values(maps / high[..., None, None].clamp(min=1e-12), 0.0, 1.0)

    def write_bar(self, page: PageLayout) -> None:
        """The scale, as a line of a page."""
        if isinstance(self.high, Tensor):
            page.scale_bar("0", "max", note="each channel by its own: shape only")
            return
        page.scale_bar("0", numbers([self.high])[0], note="dark: 0 or less")
        if self.change_note:
            page.write(f"scale {self.change_note}")

    def facts(self) -> dict[str, Any]:
        """What travels with a file; no scale where each channel has its own."""
        ends = {"scale": None if isinstance(self.high, Tensor) else [0.0, self.high]}
        return ends | ({"scale_changed": self.change_note} if self.change_note else {})


@dataclass(frozen=True)
class LayerActivations:
    """A layer's output for the probes in one drawing, and how it is shown; all pages of the layer are made from it.

    Attributes:
        layer: its name.
        source: the module whose output this is: the layer itself, or the nonlinearity that follows it.
        maps: the output.
        probes: the images.
        photos: the same for display, in [0, 1].
        snapshot: which network this is.
        scale: of the colors.
        colormap: its name.
    """

    layer: str
    source: str
    maps: Float[Tensor, "n c y x"]
    probes: Probes
    photos: Float[Tensor, "n 3 h w"]
    snapshot: Snapshot
    scale: ColorScale
    colormap: str

    @property
    def title(self) -> str:
        """The layer, and where its output is taken."""
        return self.layer if self.source == self.layer else f"{self.layer} → {self.source}"

    @property
    def ids(self) -> list[int | str]:
        """Those of the probes."""
        return list(self.probes.ids or ())

    def facts(self, kind: str) -> dict[str, Any]:
        """What travels with the file of a page of this kind."""
        where = {"kind": kind, "layer": self.layer, "epoch": self.snapshot.epoch, "step": self.snapshot.step}
        return where | self.scale.facts()


def channels_that_fit(maps: Float[Tensor, "n c y x"], most: int) -> list[int]:
    """The channels of a layer that its page shows: evenly spread, as many as the picture's pixels allow.

    >>> channels_that_fit(torch.zeros(1, 64, 2, 2), most=5)
    [0, 16, 32, 47, 63]
    """
    room = PIXELS // (maps.shape[2] * maps.shape[3]) - ON_ALL * len(maps)
    return evenly_spaced(range(maps.shape[1]), min(most, max(FEWEST, room)))


def strongest_channels(maps: Float[Tensor, "n c y x"], among: Sequence[int], count: int) -> list[int]:
    """The channels with the largest values, on average over the pictures, strongest first.

    >>> strongest_channels(torch.tensor([1.0, 3.0, 2.0, 9.0]).view(1, 4, 1, 1), among=[0, 1, 2], count=2)
    [1, 2]
    """
    peaks = maps[:, list(among)].amax((2, 3)).nan_to_num(0, 0, 0).mean(0)
    return [among[place] for place in peaks.topk(min(count, len(among))).indices.tolist()]


def resize_photos(photos: Float[Tensor, "n 3 h w"], h: int, w: int) -> Float[Tensor, "n 3 v u"]:
    """Photographs at another size: averaged where it is smaller, every pixel repeated where it is larger."""
    mode = "area" if h < photos.shape[2] or w < photos.shape[3] else "nearest"
    return F.interpolate(photos.float(), size=(h, w), mode=mode)


# -- the page of a layer -----------------------------------------------------------------------------------------------


def activation_page(
    shown: LayerActivations,
    *,
    channels: Sequence[int],
    strongest: Sequence[int],
    dead: Collection[int],
    notes: Sequence[str],
) -> Picture:
    """`activations/<layer>`: channels on the first probe, and below two of them on all probes.

    Args:
        shown: the layer.
        channels: which ones, see `channels_that_fit`.
        strongest: those that were strongest in the first drawing.
        dead: those that were never above 0 in the whole validation, as far as that is known.
        notes: more captions: of the whole validation.
    """
    maps, pool = _pool_to_budget(shown.maps, len(channels))
    codes = shown.scale.encode(maps)
    n, _, h, w = codes.shape
    most = max(1, WIDEST // (w + GAP))
    columns, across = min(near_square(len(channels)), most), min(n, most)
    zoom, zoom_on_all = zoom_for(max(h, w), columns), zoom_for(max(h, w), across)
    marked = _MarkedChannels.of(shown.maps[0], channels, dead)
    silent = round(float((shown.maps <= 0).float().mean()), 4)

    page = PageLayout(2 * MARGIN + max(columns * (w * zoom + GAP), across * (w * zoom_on_all + GAP)))
    _write_head(page, shown, _head_lines(shown, len(channels), pool, silent, marked, notes))
    shown.scale.write_bar(page)
    grid = page.tiles(marked.draw(codes[0, list(channels)], channels), columns=columns, zoom=zoom)
    on_all = list(strongest[:ON_ALL])
    below = _write_on_all(page, shown.photos[:across], codes[:across, on_all], on_all, zoom_on_all)
    item = {"source": shown.source, "silent": silent, "pool": pool, "dead": marked.dead, "blank": marked.blank}
    about = {
        **shown.facts("activations"),
        "rows": shown.ids[:1],
        "columns": list(channels),
        "items": [item],
        "also": {"tiles": below.geometry(), "rows": on_all, "columns": shown.ids[:across]},
    }
    return page.picture(main=grid, colormap=shown.colormap, legend=LEGEND, about=about)


def _pool_to_budget(maps: Float[Tensor, "n c y x"], channels: int) -> tuple[Float[Tensor, "n c v u"], int]:
    """The maps, where the picture would be too large as means of squares, and the side of these squares."""
    tiles, area, pool = channels + ON_ALL * len(maps), maps.shape[2] * maps.shape[3], 1
    while tiles * area > PIXELS * pool**2 and pool < min(maps.shape[2:]):
        pool += 1
    return F.avg_pool2d(maps, pool) if pool > 1 else maps, pool


@dataclass(frozen=True)
class _MarkedChannels:
    """Channels on a page whose tiles are marked.

    Attributes:
        dead: never above 0 in the whole validation; hatched.
        blank: not above 0 on the first probe, and not dead; a gray corner.
    """

    dead: list[int]
    blank: list[int]

    @classmethod
    def of(cls, maps: Float[Tensor, "c y x"], channels: Sequence[int], dead: Collection[int]) -> "_MarkedChannels":
        silent = (maps.amax((1, 2)) <= 0).tolist()
        return cls(
            dead=[channel for channel in channels if channel in dead],
            blank=[channel for channel in channels if silent[channel] and channel not in dead],
        )

    def draw(self, codes: UInt8[Tensor, "k y x"], channels: Sequence[int]) -> UInt8[Tensor, "k y x"]:
        codes = codes.clone()
        corner = max(1, round(codes.shape[2] / 12))
        for tile, channel in zip(codes, channels, strict=True):
            if channel in self.dead:
                tile.copy_(hatch_codes(tile, MARK))
            elif channel in self.blank:
                tile[:corner, :corner] = MARK
        return codes


def _head_lines(
    shown: LayerActivations, count: int, pool: int, silent: float, marked: _MarkedChannels, notes: Sequence[str]
) -> list[str]:
    """The captions below a page's title."""
    _, c, y, x = shown.maps.shape
    means = f", means of {pool} × {pool}" if pool > 1 else ""
    named = ", ".join(f"#{channel}" for channel in marked.dead[:MOST_NAMED])
    more = " …" if len(marked.dead) > MOST_NAMED else ""
    return [
        shown.snapshot.caption,
        f"input: probe {_probe_name(shown.probes, 0)}",
        f"{count} of {c} channels, {y} × {x}{means}",
        f"probes: {silent:.0%} of the values 0 or less",
        *([f"gray corner, blank here: {len(marked.blank)}"] if marked.blank else []),
        *notes,
        *([f"hatched, dead: {named}{more}"] if marked.dead else []),
    ]


def _write_head(page: PageLayout, shown: LayerActivations, lines: Sequence[str]) -> None:
    """The first probe, and the captions beside it."""
    top = page.y
    block = page.tiles(rgb(resize_photos(shown.photos[:1], *_thumbnail(*shown.photos.shape[-2:]))), columns=1)
    bottom, page.y = page.y, top
    x = block.x + block.size[0] + 2 * MARGIN
    page.write(f"Activations of {shown.title}", bold=True, x=x)
    for line in lines:
        page.write(line, x=x)
    page.y = max(page.y, bottom) + MARGIN


def _write_on_all(
    page: PageLayout,
    photos: Float[Tensor, "n 3 h w"],
    codes: UInt8[Tensor, "n k v u"],
    channels: Sequence[int],
    zoom: int,
) -> TileGrid:
    """A few channels, a row each, on all probes, a column each."""
    page.y += MARGIN
    page.write(f"{len(channels)} strong channels, on every probe", bold=True)
    n, _, h, w = codes.shape
    page.tiles(rgb(resize_photos(photos, h * zoom, w * zoom)), columns=n)
    block = page.tiles(codes.transpose(0, 1).flatten(0, 1), columns=n, zoom=zoom, above=page.line)
    for row, channel in enumerate(channels):
        page.label(f"channel {channel}", block.x, block.corner(row * n)[1] - page.line)
    return block


def _probe_name(probes: Probes, row: int) -> str:
    """What a caption calls a probe: its id and, where known, its class."""
    name = str((probes.ids or ())[row])
    return name if probes.labels is None else f"{name}, {probes.name(int(probes.labels[row]))}"


def _thumbnail(h: int, w: int) -> tuple[int, int]:
    """A size near `THUMBNAIL`: a multiple of a small picture's, a fraction of a large one's."""
    longest = max(h, w)
    factor = max(1, THUMBNAIL // longest) if longest <= THUMBNAIL else THUMBNAIL / longest
    return max(1, round(h * factor)), max(1, round(w * factor))


# -- over time ---------------------------------------------------------------------------------------------------------


def shrink_for_strip(maps: Float[Tensor, "c y x"]) -> Float[Tensor, "c v u"]:
    """Maps as a film strip shows and keeps them: small, as means of squares."""
    pool = min(-(-max(maps.shape[-2:]) // STRIP_SIDE), *maps.shape[-2:])
    return F.avg_pool2d(maps, pool) if pool > 1 else maps


def strip_facts(channels: Sequence[int], dead: Collection[int]) -> list[Mapping[str, Any]]:
    """What a film strip keeps of each channel beside its map."""
    return [{"channel": channel, "dead": channel in dead} for channel in channels]


def activation_strip(shown: LayerActivations, history: History) -> Filmstrip:
    """`evolution/activations/<layer>`: channels on the first probe, in the drawings that are kept.

    Args:
        shown: the layer in the last drawing.
        history: its drawings, with maps from `shrink_for_strip` and facts from `strip_facts`.
    """
    maps = torch.stack([frame.maps() for frame in history.frames], 1)
    channels = [int(item["channel"]) for item in history.frames[-1].facts]
    high = shown.scale.high
    high = maps.amax((1, 2, 3), keepdim=True) if isinstance(high, Tensor) else torch.as_tensor(float(high))
    codes = encode_values(maps / high.clamp(min=1e-12), 0.0, 1.0)
    for place, frame in enumerate(history.frames):
        for row, item in enumerate(frame.facts):
            if item["dead"]:
                codes[row, place] = hatch_codes(codes[row, place], MARK)
    return Filmstrip(
        title=f"Activations of {shown.title} over time",
        lines=[shown.snapshot.caption, f"input: probe {_probe_name(shown.probes, 0)}"],
        rows=[f"channel {channel}" for channel in channels],
        ids=channels,
        columns=history.titles(),
        tiles=codes,
        scale=shown.scale.write_bar,
        colormap=shown.colormap,
        legend=FILMSTRIP_LEGEND.format(row="of the channels that were strongest in the first drawing"),
        about=shown.facts("evolution"),
        budget=STRIP_BUDGET,
        places=KEPT,
    )
