"""The pages of ActivationLogger: every channel of a layer, and some of them over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.callbacks.evolution import LEGEND as OVER_TIME
from lightning_convviz.callbacks.scene import View
from lightning_convviz.history import KEPT, History
from lightning_convviz.layers import evenly_spaced
from lightning_convviz.probes import Probes
from lightning_convviz.render import PageLayout, Picture, encode_values, rgb
from lightning_convviz.render.color import PAGE, TONES
from lightning_convviz.render.layout import GAP, MARGIN, TileGrid, near_square, numbers, zoom_for
from lightning_convviz.render.strips import Strip, hatched_codes

PIXELS = 110_000  # of maps in a picture: as palette PNG about 90 kB
FEWEST = 16  # channels that are kept before maps are made smaller
ON_ALL = 2  # channels that are shown on every probe
FOLLOWED = 4  # channels in a strip
SMALL = 16  # pixels: the longer side of a map in a strip
WIDEST = 1_200  # pixels of a picture; more probes than fit are left out of its lower part
STRIP = 40_000  # bytes of a strip's file
STROKE = PAGE + TONES // 2  # the tone of what is crossed out

LEGEND = """**Activations**: what each channel of the layer answers to the first probe image, a tile for each
channel, in the order of their numbers; below, the channels that were strongest in the first drawing on all probes.
Dark is 0 or less (what a ReLU would cut off), bright the upper end of the scale, which is one for the layer and
stays until the values leave it by a factor of two. Early layers keep the picture; deeper ones answer in fewer
places. A tile that stays dark is a filter that found nothing in this picture; a hatched one is dead: it was never
above 0 on any picture of the whole validation."""


def strongest(maps: Float[Tensor, "n c y x"], among: Sequence[int], count: int) -> list[int]:
    """The channels with the largest values, on average over the pictures, strongest first."""
    peaks = maps[:, list(among)].amax((2, 3)).nan_to_num(0, 0, 0).mean(0)
    return [among[place] for place in peaks.topk(min(count, len(among))).indices.tolist()]


def shrunk(maps: Float[Tensor, "*n y x"]) -> Float[Tensor, "*n v u"]:
    """Maps for a strip: means of squares, so that they are small."""
    pool = -(-max(maps.shape[-2:]) // SMALL)
    return F.avg_pool2d(maps.flatten(0, -3), min(pool, *maps.shape[-2:])) if pool > 1 else maps


@dataclass(frozen=True)
class Page:
    """One layer in one drawing.

    Attributes:
        view: what the drawing is made from.
        name: of the layer.
        source: the module whose output is shown.
        maps: its output for the probes.
        top: the end of the scale; for `own`, of each channel's.
        stamp: when the scale was last changed, if it was.
        own: whether each channel has a scale of its own.
        pinned: the channels that are shown on all probes, and over time.
        dead: which channels were never above 0 in the whole validation, as far as it is known.
        said: more lines for the head: of the whole validation, and alarms.
        cmap: the colormap.
        most: channels to draw at most.
    """

    view: View
    name: str
    source: str
    maps: Float[Tensor, "n c y x"]
    top: float | Float[Tensor, " c"]
    stamp: str
    own: bool
    pinned: Sequence[int]
    dead: Sequence[bool]
    said: Sequence[str]
    cmap: str
    most: int

    def picture(self) -> Picture:
        """`activations/<layer>`."""
        channels, small, pool = self._cut()
        codes = self._codes(small)
        w = codes.shape[-1]
        fitting = max(1, WIDEST // (w + GAP))
        columns, across = min(near_square(len(channels)), fitting), min(len(codes), fitting)
        zooms = [zoom_for(max(codes.shape[-2:]), count) for count in (columns, across)]
        sheet = PageLayout(2 * MARGIN + max(columns * (w * zooms[0] + GAP), across * (w * zooms[1] + GAP)))
        silent = round(float((self.maps <= 0).float().mean()), 4)
        self._head(sheet, channels, silent, pool)
        self.bar(sheet)
        grid = sheet.tiles(self._marked(codes[0, channels], channels), columns=columns, zoom=zooms[0])
        shown = list(self.pinned[:ON_ALL])
        strip = self._on_all(sheet, codes[:across], shown, zooms[1])
        ids = list(self.view.probes.ids or ())
        items = {
            "source": self.source,
            "silent": silent,
            "pool": pool,
            "dead": self._dead(channels),
            "blank": self._blank(channels),
        }
        about = {
            **self.about("activations"), "rows": ids[:1], "columns": channels, "items": [items],
            "also": {"tiles": strip.geometry(), "rows": shown, "columns": ids[:across]},
        }  # fmt: skip
        return sheet.picture(main=grid, colormap=self.cmap, legend=LEGEND, about=about)

    def strip(self, history: History) -> Strip:
        """`evolution/activations/<layer>`: the pinned channels on the first probe, in the drawings that are kept."""
        maps = torch.stack([frame.maps() for frame in history.frames], 1)
        channels = [int(item["channel"]) for item in history.frames[-1].facts]
        high = maps.amax((1, 2, 3), keepdim=True) if self.own else torch.as_tensor(float(self.top))
        codes = encode_values(maps / high.clamp(min=1e-12), 0.0, 1.0)
        for place, frame in enumerate(history.frames):
            for row, item in enumerate(frame.facts):
                if item["dead"]:
                    codes[row, place] = hatched_codes(codes[row, place], STROKE)
        note = f"input: probe {_called(self.view.probes, 0)}"
        return Strip(
            title=f"Activations of {self.called} over time", lines=[self.view.moment.caption, note],
            rows=[f"channel {channel}" for channel in channels], ids=channels, columns=history.titles(), tiles=codes,
            scale=self.bar, colormap=self.cmap, budget=STRIP, places=KEPT,
            legend=OVER_TIME.format(row="of the channels that were strongest in the first drawing"),
            about=self.about("evolution"),
        )  # fmt: skip

    def about(self, kind: str) -> dict[str, Any]:
        """The facts of a page of this kind."""
        moment = self.view.moment
        scale = None if isinstance(self.top, Tensor) else [0.0, self.top]
        stamp = {"scale_changed": self.stamp} if self.stamp else {}
        return {
            "kind": kind, "layer": self.name, "epoch": moment.epoch, "step": moment.step, "scale": scale, **stamp,
        }  # fmt: skip

    def _codes(self, maps: Float[Tensor, "n c y x"]) -> UInt8[Tensor, "n c y x"]:
        if isinstance(self.top, Tensor):
            return encode_values(maps / self.top.to(maps.device)[:, None, None].clamp(min=1e-12), 0.0, 1.0)
        return encode_values(maps, 0.0, self.top)

    def _dead(self, channels: Sequence[int]) -> list[int]:
        return [channel for channel in channels if self.dead and self.dead[channel]]

    def _blank(self, channels: Sequence[int]) -> list[int]:
        """Those that found nothing in the first probe, and are not dead."""
        silent, dead = (self.maps[0].amax((1, 2)) <= 0).tolist(), self._dead(channels)
        return [channel for channel in channels if silent[channel] and channel not in dead]

    def _marked(self, codes: UInt8[Tensor, "k y x"], channels: Sequence[int]) -> UInt8[Tensor, "k y x"]:
        """With strokes over the dead ones, and a corner of the blank ones."""
        codes, corner = codes.clone(), max(1, round(codes.shape[2] / 12))
        for channel in self._dead(channels):
            codes[channels.index(channel)] = hatched_codes(codes[channels.index(channel)], STROKE)
        for channel in self._blank(channels):
            codes[channels.index(channel), :corner, :corner] = STROKE
        return codes

    def _cut(self) -> tuple[list[int], Float[Tensor, "n c v u"], int]:
        """Which channels to draw, and the maps, smaller if they must be: first fewer channels, then integer pooling."""
        maps = self.maps
        area, strip = maps.shape[2] * maps.shape[3], ON_ALL * len(maps)
        channels = fitting(maps, self.most)
        pool = 1
        while (len(channels) + strip) * area > PIXELS * pool**2 and pool < min(maps.shape[2:]):
            pool += 1
        return channels, F.avg_pool2d(maps, pool) if pool > 1 else maps, pool

    @property
    def called(self) -> str:
        """The layer, and where its output is taken."""
        return self.name + (f" → {self.source}" if self.source != self.name else "")

    def _head(self, sheet: PageLayout, channels: Sequence[int], silent: float, pool: int) -> None:
        photos, maps = self.view.photos, self.maps
        photo = resized(photos[:1], *_thumbnail(*photos.shape[-2:]))
        top = sheet.y
        block = sheet.tiles(rgb(photo), columns=1)
        below, sheet.y = sheet.y, top
        x = block.x + block.size[0] + 2 * MARGIN
        means = f", means of {pool} × {pool}" if pool > 1 else ""
        blank = len(self._blank(channels))
        dead = self._dead(channels)
        sheet.write(f"Activations of {self.called}", bold=True, x=x)
        sheet.write(self.view.moment.caption, x=x)
        sheet.write(f"input: probe {_called(self.view.probes, 0)}", x=x)
        sheet.write(f"{len(channels)} of {maps.shape[1]} channels, {maps.shape[2]} × {maps.shape[3]}{means}", x=x)
        sheet.write(f"probes: {silent:.0%} of the values 0 or less", x=x)
        if blank:
            sheet.write(f"gray corner, blank here: {blank}", x=x)
        for line in self.said:
            sheet.write(line, x=x)
        if dead:
            sheet.write(
                "hatched, dead: " + ", ".join(f"#{channel}" for channel in dead[:12]) + " …" * (len(dead) > 12), x=x
            )
        sheet.y = max(sheet.y, below) + MARGIN

    def bar(self, sheet: PageLayout) -> None:
        """The scale, as a line of a page."""
        if isinstance(self.top, Tensor):
            sheet.scale_bar("0", "max", note="each channel by its own: shape only")
        else:
            sheet.scale_bar("0", numbers([self.top])[0], note="dark: 0 or less")
            if self.stamp:
                sheet.write(f"scale {self.stamp}")

    def _on_all(self, sheet: PageLayout, codes: Tensor, shown: list[int], zoom: int) -> TileGrid:
        """A few channels, a row each, on all probes, a column each."""
        sheet.y += MARGIN
        sheet.write(f"{len(shown)} strong channels, on every probe", bold=True)
        h, w = codes.shape[2] * zoom, codes.shape[3] * zoom
        sheet.tiles(rgb(resized(self.view.photos[: len(codes)], h, w)), columns=len(codes))
        tiles = codes[:, shown].transpose(0, 1).flatten(0, 1)
        block = sheet.tiles(tiles, columns=len(codes), zoom=zoom, above=sheet.line)
        for row, channel in enumerate(shown):
            sheet.label(f"channel {channel}", block.x, block.corner(row * len(codes))[1] - sheet.line)
        return block


def fitting(maps: Float[Tensor, "n c y x"], most: int) -> list[int]:
    """The channels of a layer that are drawn: evenly spread, as many as the picture's pixels allow."""
    area, strip = maps.shape[2] * maps.shape[3], ON_ALL * len(maps)
    return list(evenly_spaced(range(maps.shape[1]), min(most, max(FEWEST, PIXELS // area - strip))))


def frame_facts(channels: Sequence[int], dead: Sequence[bool]) -> list[Mapping[str, Any]]:
    """What a strip remembers of each channel's tile."""
    return [{"channel": channel, "dead": bool(dead and dead[channel])} for channel in channels]


def _called(probes: Probes, row: int) -> str:
    """What a caption calls a probe: its id and, where known, its class."""
    name = str((probes.ids or ())[row])
    return name if probes.labels is None else f"{name}, {probes.name(int(probes.labels[row]))}"


def _thumbnail(h: int, w: int, side: int = 90) -> tuple[int, int]:
    """A size near `side`: a multiple of a small picture's, a fraction of a large one's."""
    longest = max(h, w)
    factor = max(1, side // longest) if longest <= side else side / longest
    return max(1, round(h * factor)), max(1, round(w * factor))


def resized(photos: Float[Tensor, "n 3 h w"], h: int, w: int) -> Float[Tensor, "n 3 v u"]:
    """Photographs at another size: averaged where it is smaller, every pixel repeated where it is larger."""
    mode = "area" if h < photos.shape[2] or w < photos.shape[3] else "nearest"
    return F.interpolate(photos.float(), size=(h, w), mode=mode)
