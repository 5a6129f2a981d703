"""A chart as a page: its heading, the key of its colors, and panels side by side that share their layers."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_convviz.render.axes import Axis, linear, logarithmic
from lightning_convviz.render.chart import Chart, Panel
from lightning_convviz.render.layout import INK, UNKNOWN, font, shorten, wrapped
from lightning_convviz.render.page import EDGE, SMALL, TEXT, TITLE, WIDTH, Color, Page
from lightning_convviz.render.paint import Encoded, png_options

TONES = (6, 3, 1)  # from white to each color: the fewer, the smaller the file

# In pixels, as all that follows.
PLOT = 150  # the height of a plot
HEAD, BELOW, BETWEEN = 33, 21, 22  # the room above, below and between plots
INSET = 16  # from a plot's side to its first layer
SWATCH = 26
NAMED = 12  # layers with their names; more are numbered
NAME = 180  # the longest name of a layer
SLANT = 55  # degrees
EPOCH = "epoch"

FAINT, GRID = (140, 140, 140), (224, 224, 224)
PALEST = 0.08  # where the colors begin: yellow is lost on white


@dataclass(frozen=True)
class Stroke:
    """How the line of a drawing is drawn.

    Attributes:
        color: the darker, the later.
        initial: whether it is the network before the run: dashed.
        current: whether it is the last one: thick, with markers.
    """

    color: Color
    initial: bool
    current: bool

    def options(self, *, marked: bool = True) -> dict[str, Any]:
        """For `Page.line`; `marked` where there is room for marks on the current line."""
        width = 4 if self.current else 2.4
        marks = {"marker": "o", "markersize": 10} if self.current and marked else {}
        return {"color": self.color, "width": width, "linestyle": (0, (3, 1.5)) if self.initial else "-", **marks}


@dataclass(frozen=True)
class Box:
    """A plot's place on the page; `gutter` is the room that its ticks take beside it."""

    x: float
    y: float
    width: float
    gutter: float

    def layers(self, count: int) -> list[float]:
        """Where each layer stands, from left to right; one alone in the middle."""
        if count == 1:
            return [self.x + self.width / 2]
        step = (self.width - 2 * INSET) / max(count - 1, 1)
        return [self.x + INSET + index * step for index in range(count)]

    def height(self, axis: Axis, value: float) -> float:
        """Where a value stands."""
        return self.y + PLOT * (1 - axis.place(value))


def encode_chart(chart: Chart, *, budget: int | None = None) -> Encoded:
    """The chart as a PNG with a palette that carries its facts in a text chunk `convviz`."""
    budget = chart.budget if budget is None else budget
    page, options = plot(chart), png_options(chart.json())
    pixels = page.pixels()
    for tones in TONES:
        image, buffer = page.reduced(pixels, tones), io.BytesIO()
        image.save(buffer, **options)
        if buffer.tell() <= budget:
            break
    return Encoded(buffer.getvalue(), *image.size)


def plot(chart: Chart) -> Page:
    """The chart laid out: its heading, the key of its colors, and the panels, two in a row."""
    page, strokes, names = Page(), _strokes(chart.drawings), _short(chart.layers)
    _heading(page, chart, names)
    _key(page, chart, strokes)
    axes = [_axis(panel) for panel in chart.panels]
    columns = min(len(axes), 2)
    gutters = [max(map(_gutter, axes[column::2])) for column in range(columns)]
    width = (WIDTH - 2 * EDGE - sum(gutters) - BETWEEN * (columns - 1)) / max(columns, 1)
    top = bottom = page.y
    for index, (panel, axis) in enumerate(zip(chart.panels, axes, strict=True)):
        row, column = divmod(index, 2)
        x = EDGE + sum(gutters[: column + 1]) + column * (width + BETWEEN)
        box = Box(x, top + row * (HEAD + PLOT + BELOW) + HEAD, width, gutters[column])
        _frame(page, panel, axis, box, len(names))
        _lines(page, panel, axis, box, strokes)
        if index + 2 >= len(axes):  # the last one in its column
            bottom = max(bottom, _layers(page, names, box))
    page.y = bottom
    return page


def _heading(page: Page, chart: Chart, names: Sequence[str]) -> None:
    lines = [(chart.title, TITLE), *((caption, TEXT) for caption in chart.captions)]
    if len(names) > NAMED:
        lines.append((f"Layers 1 to {len(names)}: {chart.layers[0]} … {chart.layers[-1]}", TEXT))
    for text, size in lines:
        for line in wrapped(text, WIDTH - 2 * EDGE, size, size == TITLE):
            page.text(line, EDGE, page.y + size / 2, size=size, bold=size == TITLE)
            page.y += round(1.35 * size)


def _key(page: Page, chart: Chart, strokes: Sequence[Stroke]) -> None:
    """Which color is which epoch; the word "epoch" is said once."""
    entries: list[tuple[Stroke | None, str]] = []
    for name, stroke in zip(chart.drawings, strokes, strict=True):
        if name.startswith("epoch ") and not any(word == EPOCH for _, word in entries):
            entries.append((None, EPOCH))
        entries.append((stroke, name.removeprefix("epoch ")))
    if any(_is_non_finite(value) for panel in chart.panels for line in panel.lines for value in line):
        entries.append((None, "▲ not finite"))
    x, y = float(EDGE), page.y + TEXT
    for mark, text in entries:
        bold = mark is not None and mark.current
        swatch = SWATCH + 5 if mark else 0
        width = swatch + font(TEXT, bold).getlength(text) + 10
        x += 0 if mark or x == EDGE else 8  # what is no entry stands apart
        if x + width > WIDTH:
            x, y = float(EDGE), y + 1.35 * TEXT
        if mark:
            page.line([x, x + SWATCH / 2, x + SWATCH], [y] * 3, **(mark.options() | {"markevery": [1]}))
        page.text(text, x + swatch, y, bold=bold, color=INK if mark else UNKNOWN)
        x += width
    page.y = y + TEXT


def _frame(page: Page, panel: Panel, axis: Axis, box: Box, layers: int) -> None:
    """A panel's title, its ticks and the lines that lead to its layers."""
    more = [panel.unit] * (panel.unit not in ("", "%")) + ["log"] * panel.log
    rest = "".join(f" · {each}" for each in more)
    x, y, room = box.x - box.gutter, box.y - HEAD / 2, box.width + box.gutter - font(SMALL).getlength(rest)
    title = shorten(panel.title, room, TEXT, bold=True)
    page.text(title, x, y, bold=True)
    page.text(rest, x + font(TEXT, True).getlength(title), y, size=SMALL, color=UNKNOWN)
    for value, text in axis.ticks:
        y = box.height(axis, value)
        page.line([box.x, box.x + box.width], [y, y], color=GRID)
        page.text(text, box.x - 6, y, size=SMALL, color=UNKNOWN, ha="right")
    for x in box.layers(layers) if layers > 1 else []:
        page.line([x, x], [box.y, box.y + PLOT], color=GRID)
    page.line([box.x, box.x, box.x + box.width], [box.y, box.y + PLOT, box.y + PLOT], color=FAINT, width=1.5)


def _lines(page: Page, panel: Panel, axis: Axis, box: Box, strokes: Sequence[Stroke]) -> None:
    """The values of a panel; what is not finite is a mark at the head."""
    if not any(value is not None for line in panel.lines for value in line):
        page.text("not known yet", box.x + box.width / 2, box.y + PLOT / 2, size=SMALL, color=UNKNOWN, ha="center")
    for row, (line, stroke) in enumerate(zip(panel.lines, strokes, strict=True)):
        xs = box.layers(len(line))
        if len(line) == 1 and len(strokes) > 1:  # beside each other, oldest on the left
            xs = [box.x + INSET + (box.width - 2 * INSET) * row / (len(strokes) - 1)]
        heights = [math.nan if value is None or not math.isfinite(value) else box.height(axis, value) for value in line]
        page.line(xs, heights, **stroke.options(marked=len(line) <= NAMED))
        gaps = [math.nan, *heights, math.nan]
        alone = [index for index in range(len(line)) if math.isnan(gaps[index]) and math.isnan(gaps[index + 2])]
        size = 13 if stroke.current else 10
        marks: dict[str, Any] = {"color": stroke.color, "width": 0, "marker": "o", "markersize": size}
        page.line([xs[index] for index in alone], [heights[index] for index in alone], **marks)
        wild = [x for x, value in zip(xs, line, strict=True) if _is_non_finite(value)]
        page.line(wild, [box.y] * len(wild), **(marks | {"marker": "^", "markersize": 12}))


def _layers(page: Page, names: Sequence[str], box: Box) -> float:
    """The layers' names below a plot, slanted where they have no room, or numbers; returns where they end."""
    y, xs = box.y + PLOT + 6, box.layers(len(names))
    step = xs[1] - xs[0] if len(xs) > 1 else box.width
    widths = [font(SMALL).getlength(name) for name in names]
    numbered, slanted = len(names) > NAMED, max(widths) > step - 8
    if numbered:
        every = next(each for each in (1, 2, 5, 10, 20, 50, 100) if each * step > 36)
        shown = {index: str(index + 1) for index in range(len(names)) if index == 0 or (index + 1) % every == 0}
    else:
        shown = dict(enumerate(names))
    down = SMALL
    if slanted and not numbered:
        down = math.ceil(max(widths) * math.sin(math.radians(SLANT)) + SMALL * 0.6)
    for index, name in shown.items():
        if slanted and not numbered:
            page.text(name, xs[index] + 5, y + 4, size=SMALL, ha="right", rotation=SLANT)
        else:
            page.text(name, xs[index], y + SMALL / 2, size=SMALL, ha="center")
    order = "layer, first → last" if len(names) > 1 else "first → last drawing"
    page.text(order, box.x + box.width / 2, y + down + SMALL, size=SMALL, color=UNKNOWN, ha="center")
    return y + down + 1.6 * SMALL


def _axis(panel: Panel) -> Axis:
    values = [value for line in panel.lines for value in line if value is not None and math.isfinite(value)]
    if not values:
        return Axis(0.0, 1.0, [])
    if panel.log:
        return logarithmic(values, panel.low, panel.high, percent=panel.unit == "%")
    return linear(values, panel.low, panel.high, percent=panel.unit == "%")


def _is_non_finite(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def _gutter(axis: Axis) -> float:
    """The room that an axis' ticks take, beside the plot."""
    return max((font(SMALL).getlength(text) for _, text in axis.ticks), default=0.0) + 8


def _strokes(drawings: Sequence[str]) -> list[Stroke]:
    """From pale to dark; the initial network, which is no epoch, gray."""
    from matplotlib import colormaps

    epochs = [name for name in drawings if name != "initial"]
    shares = np.linspace(PALEST, 1, len(epochs)) if len(epochs) > 1 else np.ones(1)
    colors = iter(colormaps["viridis_r"](shares, bytes=True)[:, :3].tolist())
    return [
        Stroke(FAINT if name == "initial" else tuple(next(colors)), name == "initial", row == len(drawings) - 1)
        for row, name in enumerate(drawings)
    ]


def _short(layers: Sequence[str]) -> list[str]:
    """Names without the modules that all are in, cut in the middle where they are still too long.

    >>> _short(["net.stem.2", "net.stage1.0.relu"])
    ['stem.2', 'stage1.0.relu']
    """
    parts = [name.split(".") for name in layers]
    depth = 0
    while all(len(each) > depth + 1 and each[depth] == parts[0][depth] for each in parts) and len(parts) > 1:
        depth += 1
    return [_middle(".".join(each[depth:])) for each in parts]


def _middle(name: str) -> str:
    kept = len(name)
    short = name
    while kept > 2 and font(SMALL).getlength(short) > NAME:
        kept -= 1
        short = f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"
    return short
