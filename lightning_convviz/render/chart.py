"""Numbers over depth and epoch: small panels that share their layers and their colors."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BUDGET = 60_000  # bytes of a file


@dataclass(frozen=True)
class Panel:
    """One figure over depth, a line for each drawing.

    Attributes:
        title: what is measured; the key of its numbers in the facts.
        lines: one for each drawing, with a value for each layer; None where it is not known.
        unit: of the values; "%" for shares from 0 to 1, which are drawn as percentages.
        log: whether the scale is logarithmic; what is 0 or less stands at its foot, on a mark of its own.
        low: that the scale reaches down to at least; it always reaches all values.
        high: that it reaches up to at least.
    """

    title: str
    lines: Sequence[Sequence[float | None]]
    unit: str = ""
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chart:
    """Figures over depth (x: layers, first to last) and epoch (the color of a line).

    Attributes:
        title: of the page.
        captions: lines below it.
        layers: names, first to last.
        drawings: names of the lines, oldest first: "initial", "epoch 0", ...; the initial network's line is dashed.
        panels: the figures, each with a title of its own.
        about: the facts that travel with the file, as those of a `Picture`.
        legend: how to read charts of this tag, in Markdown.
        budget: how many bytes its file should take at most.

    Raises:
        ValueError: without a layer, a drawing or a panel; where a panel has not a line for each drawing and a value for
            each layer, or two have one title.
    """

    title: str
    captions: Sequence[str]
    layers: Sequence[str]
    drawings: Sequence[str]
    panels: Sequence[Panel]
    about: Mapping[str, Any]
    legend: str
    budget: int = BUDGET

    def __post_init__(self) -> None:
        for name in ("layers", "drawings", "panels"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` is empty. Give a chart one at least.")
        expected = [len(self.layers)] * len(self.drawings)
        for panel in self.panels:
            if [len(line) for line in panel.lines] != expected:
                raise ValueError(
                    f"`lines` of {panel.title!r} have {[len(line) for line in panel.lines]} values. Give a line for "
                    f"each of {len(self.drawings)} drawings, with a value for each of {len(self.layers)} layers."
                )

        titles = [panel.title for panel in self.panels]
        if twice := next((title for title in titles if titles.count(title) > 1), ""):
            raise ValueError(f"`panels` has the title {twice!r} twice. Give each panel a title of its own.")

    def cpu(self) -> "Chart":
        """The chart itself: its numbers are in main memory."""
        return self

    def json(self) -> str:
        """`about` and the numbers, of four digits, as compact JSON; null is what is not known or not finite."""
        panels = {panel.title: [[_rounded(value) for value in line] for line in panel.lines] for panel in self.panels}
        facts = {"v": 1, **self.about, "layers": [*self.layers], "drawings": [*self.drawings], "panels": panels}
        return json.dumps(facts, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
