"""The patterns of a layer's filters beside real images, and as a film strip over the run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.ascent import Patterns
from lightning_convviz.history import KEPT, History, Snapshot
from lightning_convviz.layer_stats import ChannelResponses, patches
from lightning_convviz.layers import evenly_spaced
from lightning_convviz.pages.filmstrip import LEGEND as FILMSTRIP_LEGEND
from lightning_convviz.pages.filmstrip import Filmstrip
from lightning_convviz.pixels import estimate
from lightning_convviz.probes import Probes
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
    numbers,
    zoom_for,
)

BETWEEN = 8  # pixels between a pair of tiles and the next
BUDGET = 60_000  # bytes of a file: there is one for each layer
HATCH = 6  # pixels from stroke to stroke
STRIP_ROWS = 3  # filters in a film strip
STRIP_SIDE = 36  # pixels: the longer side of a pattern in a film strip
STRIP_BUDGET = 22_000  # bytes of a film strip's file

LEGEND = """**Filter patterns**: for each filter of the layer an image that excites it, found by gradient ascent from a
blank one, within the range of values and the colors of the probes; beside it the part of a validation image that
excites it most. Under both how strongly, at the best place, in standard deviations of the filter over the validation
data. First layers look for edges and colors, middle ones for textures, last ones for parts. The patterns are synthetic:
they show what would excite a filter most, not all that it responds to. Gray numbers: the real image excites the filter
more. Hatched: a filter that is silent on the validation images and on its pattern (dead), or that the ascent found no
way to excite (no response). Woken: silent on all validation images, but not on its pattern. From drawing to drawing a
pattern goes on from the last one, so that changes are the network's."""


@dataclass(frozen=True)
class LayerPatterns:
    """What is known of the patterns of one layer, or of the classes.

    Attributes:
        layer: its name; None for the classes that the model predicts.
        source: the module whose output was raised: the layer itself, or what directly follows it; empty for classes.
        channels: the filters, or classes.
        num_channels: how many the layer has.
        patterns: one for each of `channels`.
        steps: of ascent in this drawing.
        warm: whether the patterns went on from the last drawing's.
        warm_over_cold: what they reached before, as a share of a start from blank images; None without a comparison.
        responses: of the channels to the validation images; None where none have passed.
        request: what the user asked for beside the defaults, a line each.
    """

    layer: str | None
    source: str
    channels: Sequence[int]
    num_channels: int
    patterns: Patterns
    steps: int
    warm: bool
    warm_over_cold: float | None = None
    responses: ChannelResponses | None = None
    request: Sequence[str] = ()

    @property
    def title(self) -> str:
        """What the page shows."""
        if self.layer is None:
            return "What the network would call a perfect example"
        source = f" → {self.source}" if self.source != self.layer else ""
        return f"What excites filters of {self.layer}{source}"


# -- the page ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caption:
    """What stands below a pattern, and what its facts are.

    Attributes:
        text: for a reader.
        facts: for the picture's data.
        is_dead: whether the filter is crossed out.
        is_weak: whether the real image excites it more, so that the text is gray.
    """

    text: str
    facts: Mapping[str, Any]
    is_dead: bool = False
    is_weak: bool = False


def pattern_page(
    shown: LayerPatterns, probes: Probes, snapshot: Snapshot, *, receptive_field: tuple[float, float] | None = None
) -> Picture:
    """The patterns in a grid, each beside the validation image that excites the filter most.

    Args:
        shown: the patterns.
        probes: which know how images are displayed, and what classes are called.
        snapshot: which network this is.
        receptive_field: height and width of what the layer sees of an image, as shares; without it the patterns stand
            alone.
    """
    responses, images = shown.responses, _display(probes, shown.patterns.images)
    _, _, h, w = images.shape
    crops, beside = None, ""
    if receptive_field is not None and responses is not None:
        # A little more than the field, and no less than a few pixels: what is around helps to see what it is.
        height, width = (min(1.0, max(1.5 * share, 0.25)) for share in receptive_field)
        crops = _display(probes, patches(responses, (height, width), (h, w))).to(images.device)
        beside = "the" if min(height, width) == 1 else "part of the"
    captions = _captions(shown, probes)
    about = {
        "kind": "filters",
        "layer": shown.layer or "classes",
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "scale": None,
        "rows": ["pattern"],
        "columns": list(shown.channels),
        "warm": shown.warm,
        "request": list(shown.request),
        "items": [caption.facts for caption in captions],
    }
    page, grid = _layout(images, crops, captions, shown.title, _lines(shown, snapshot, beside))
    return page.picture(main=grid, colormap=None, legend=LEGEND, budget=BUDGET, about=about)


def _layout(
    images: Float[Tensor, "n 3 h w"],
    crops: Float[Tensor, "n 3 h w"] | None,
    captions: Sequence[Caption],
    title: str,
    lines: Sequence[str],
) -> tuple[PageLayout, TileGrid]:
    n, _, h, w = images.shape
    columns = near_square(n) if crops is None else pairs_across(n)
    tiles_across = columns if crops is None else 2 * columns
    zoom = zoom_for(max(h, w), tiles_across)
    step = w * zoom + GAP if crops is None else 2 * (w * zoom + GAP) + BETWEEN
    page = PageLayout(2 * MARGIN + columns * step)
    page.write(title, bold=True)
    for line in lines:
        page.write(line)
    tiles = rgb(images)
    for row, caption in enumerate(captions):
        if caption.is_dead:
            tiles[row] = hatched(h, w).to(tiles.device)
    gap = max(GAP, step - w * zoom, (CARD - 2 * MARGIN) // columns - w * zoom)
    top = page.y
    grid = page.tiles(tiles, columns=columns, zoom=zoom, gap=gap, below=page.line)
    if crops is not None:
        page.y = top
        page.tiles(rgb(crops), columns=columns, zoom=zoom, x=MARGIN + w * zoom + GAP, gap=gap, below=page.line)
    for index, caption in enumerate(captions):
        color = UNKNOWN if caption.is_dead or caption.is_weak else INK
        page.label_below(grid, index, caption.text, width=grid.dx - GAP, color=color)
    return page, grid


def _captions(shown: LayerPatterns, probes: Probes) -> list[Caption]:
    peaks, improvement = shown.patterns.peaks.tolist(), shown.patterns.improvement.tolist()
    if shown.responses is None:
        rows = [(None, None, False)] * len(peaks)
    else:
        responses = shown.responses.cpu()
        sigmas = responses.sigmas(shown.patterns.peaks.cpu()).tolist()
        real_sigmas = responses.sigmas(responses.peak).tolist()
        rows = list(zip(sigmas, real_sigmas, responses.silent.tolist(), strict=True))
    captions = []
    for channel, peak, rise, (sigma, real, silent) in zip(shown.channels, peaks, improvement, rows, strict=True):
        facts = {"peak": _rounded(peak), "sigmas": _rounded(sigma), "real_sigmas": _rounded(real), "silent": silent}
        if shown.layer is None:
            captions.append(_class_caption(probes.name(channel), peak, rise, facts))
        else:
            captions.append(_filter_caption(f"#{channel}", peak, rise, facts, sigma, real, silent))
    return captions


def _class_caption(name: str, peak: float, improvement: float, facts: Mapping[str, Any]) -> Caption:
    """The number first: a long name may be cut."""
    if improvement == 0:
        return Caption(f"{numbers([peak])[0]}  no response", facts, is_dead=True)
    return Caption(f"{numbers([peak])[0]}  {name}", facts)


def _filter_caption(
    name: str,
    peak: float,
    improvement: float,
    facts: Mapping[str, Any],
    sigmas: float | None,
    real_sigmas: float | None,
    silent: bool,
) -> Caption:
    if silent and peak <= 0:
        return Caption(f"{name}  dead", facts, is_dead=True)
    if improvement == 0:
        return Caption(f"{name}  no response", facts, is_dead=True)
    if silent:  # it responds alike to all validation images, and to its pattern otherwise
        return Caption(f"{name}  woken", facts)
    if sigmas is None or real_sigmas is None:
        return Caption(f"{name}  {numbers([peak])[0]}", facts)
    text = f"{name}  {_sigmas(sigmas)} | {_sigmas(real_sigmas)} σ"
    return Caption(text, facts, is_weak=sigmas <= real_sigmas)


def _lines(shown: LayerPatterns, snapshot: Snapshot, beside: str) -> list[str]:
    what = "classes" if shown.layer is None else f"of {shown.num_channels} filters"
    lines = [f"{snapshot.caption} · {len(shown.channels)} {what}", *shown.request, _origin(shown)]
    if beside and shown.responses is not None:
        lines.append(f"pattern | {beside} best of {shown.responses.count} validation images")
        lines.append("below: largest responses, in σ of the validation")
    elif shown.layer is None:
        lines.append("below each: its logit")
    else:
        lines.append("below each: filter, its largest activation")
    return lines


def _origin(shown: LayerPatterns) -> str:
    if not shown.warm and shown.warm_over_cold is not None:
        return f"started anew: the last patterns led to {shown.warm_over_cold:.0%} of this"
    return f"{shown.steps} steps from " + ("the last patterns" if shown.warm else "blank images")


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


# -- the film strip ----------------------------------------------------------------------------------------------------


def strip_frame(shown: LayerPatterns, probes: Probes) -> tuple[Float[Tensor, "n 3 h w"], list[dict[str, Any]]]:
    """What a film strip keeps of a drawing: small copies of a few patterns, and the facts of each."""
    rows = _strip_rows(shown)
    images = _display(probes, shown.patterns.images[rows])
    h, w = images.shape[2:]
    share = min(1.0, STRIP_SIDE / max(h, w))
    size = max(1, round(h * share)), max(1, round(w * share))
    facts = [{"channel": shown.channels[row], "peak": _rounded(float(shown.patterns.peaks[row]))} for row in rows]
    return F.interpolate(images, size=size, mode="area"), facts


def pattern_filmstrip(shown: LayerPatterns, probes: Probes, snapshot: Snapshot, history: History) -> Filmstrip:
    """A few patterns of the layer over the run.

    Args:
        shown: the patterns as they are now.
        probes: which know what classes are called.
        snapshot: which network this is.
        history: frames of `strip_frame`, the last one of `shown`.
    """
    channels = [shown.channels[row] for row in _strip_rows(shown)]
    if shown.layer is None:
        names = [probes.name(channel) for channel in channels]
    else:
        names = [f"filter {channel}" for channel in channels]
    peaks = [[frame.facts[row]["peak"] for frame in history.frames] for row in range(len(channels))]
    about = {
        "kind": "evolution",
        "layer": shown.layer or "classes",
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "scale": None,
        "items": peaks,
    }
    return Filmstrip(
        title=f"{shown.title}, over time",
        lines=[snapshot.caption, "below each tile its largest activation"],
        rows=names,
        ids=channels,
        columns=history.titles(),
        tiles=torch.stack([rgb(frame.maps()) for frame in history.frames], 1),
        scale=None,
        colormap=None,
        budget=STRIP_BUDGET,
        places=KEPT,
        legend=FILMSTRIP_LEGEND.format(row="class" if shown.layer is None else "filter"),
        about=about,
        below=[[("" if peak is None else f"{peak:.2g}", INK) for peak in row] for row in peaks],
    )


def _strip_rows(shown: LayerPatterns) -> list[int]:
    return evenly_spaced(range(len(shown.channels)), STRIP_ROWS)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _display(probes: Probes, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    """Model inputs in [0, 1], as the probes are displayed."""
    return (probes.space or estimate(probes.images)).display(images)


def _sigmas(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _rounded(value: float | None) -> float | None:
    """Three digits; None for what JSON does not know."""
    return float(f"{value:.3g}") if value is not None and math.isfinite(value) else None
