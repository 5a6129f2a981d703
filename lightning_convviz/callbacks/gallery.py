"""The pages of FilterPatternLogger: what is said of each pattern, and the first layer's weights."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_convviz import layer_stats
from lightning_convviz.callbacks.evolution import LEGEND as OVER_TIME
from lightning_convviz.callbacks.evolution import Evolution
from lightning_convviz.callbacks.following import Found, Layer
from lightning_convviz.callbacks.scales import Scales
from lightning_convviz.callbacks.scene import View
from lightning_convviz.history import KEPT
from lightning_convviz.layers import evenly_spaced
from lightning_convviz.render import Picture, filters, rgb
from lightning_convviz.render.layout import INK, numbers
from lightning_convviz.render.strips import Strip

if TYPE_CHECKING:
    from lightning_convviz.callbacks.filters import FilterPatternLogger


FOLLOWED = 3  # filters in a strip
SMALL = 36  # pixels: the longer side of a pattern in a strip
STRIP = 22_000  # bytes of a strip's file


@dataclass(frozen=True)
class Page:
    """The patterns of one layer.

    Attributes:
        view: what the drawing is made from.
        layer: its name; None for the classes.
        source: the module whose output was raised.
        channels: the filters, or classes.
        found: their patterns.
        seen: what they answered to the validation images, if any were seen.
        asked: what the user asked for.
    """

    view: View
    layer: Layer
    source: str
    channels: Sequence[int]
    found: Found
    seen: layer_stats.ChannelResponses | None
    asked: Sequence[str] = ()

    def picture(self, field: tuple[float, float] | None) -> Picture:
        """The page; with a receptive field the validation images stand beside."""
        space = self.view.probes.space
        assert space is not None  # the session gives one to all probes
        patterns = self.found.patterns
        real, beside = None, ""
        if field is not None and self.seen is not None:
            size = patterns.images.shape[2], patterns.images.shape[3]
            # A little more than the field, and no less than a few pixels: what is around helps to see what it is.
            wide = tuple(min(1.0, max(1.5 * share, 0.25)) for share in field)
            beside = "the" if min(wide) == 1 else "part of the"
            real = space.display(layer_stats.patches(self.seen, (wide[0], wide[1]), size)).to(patterns.images.device)
        about = {
            "kind": "filters", "layer": self.layer or "classes", "epoch": self.view.moment.epoch,
            "step": self.view.moment.step, "scale": None, "rows": ["pattern"], "columns": list(self.channels),
            "warm": self.found.warm, "asked": list(self.asked),
        }  # fmt: skip
        tiles = [self._tile(*row) for row in zip(self.channels, *self._figures(), strict=True)]
        return filters.filters(
            space.display(patterns.images), tiles, title=self._title(), lines=self._lines(beside), real=real,
            about=about,
        )  # fmt: skip

    def follow(self, evolution: Evolution, name: str) -> bool:
        """One more drawing for the film strip of callback `name`; whether there is one to show."""
        space, patterns = self.view.probes.space, self.found.patterns
        assert space is not None  # as above
        rows = list(evenly_spaced(range(len(self.channels)), FOLLOWED))
        small = F.interpolate(space.display(patterns.images[rows]), size=_small(patterns.images), mode="area")
        facts = [{"channel": self.channels[row], "peak": _plain(float(patterns.peaks[row]))} for row in rows]
        tag, moment = self.layer or "classes", self.view.moment
        history = evolution.note(tag, small, facts, moment)
        if moment.initial:
            return False
        tiles = torch.stack([rgb(frame.maps()) for frame in history.frames], 1)
        names = [
            self.view.probes.name(self.channels[row]) if self.layer is None else f"filter {self.channels[row]}"
            for row in rows
        ]
        past = [[frame.facts[row]["peak"] for frame in history.frames] for row in range(len(rows))]
        about = {"kind": "evolution", "layer": tag, "epoch": moment.epoch, "step": moment.step, "scale": None}
        evolution.strips[f"{name}/{tag}"] = Strip(
            title=self._title() + ", over time", lines=[moment.caption, "below each tile its largest activation"],
            rows=names, ids=[self.channels[row] for row in rows],
            columns=history.titles(), tiles=tiles, scale=None, colormap=None, budget=STRIP, places=KEPT,
            legend=OVER_TIME.format(row="filter" if self.layer else "class"), about={**about, "items": past},
            below=[[("" if peak is None else f"{peak:.2g}", INK) for peak in row] for row in past],
        )  # fmt: skip
        return True

    def scalars(self) -> dict[str, float]:
        """What is logged beside the page."""
        found = {} if self.found.ratio is None else {"warm_over_cold": self.found.ratio}
        if self.seen is not None:
            above = self.found.patterns.peaks.cpu() > self.seen.peak.cpu()
            found["above_best_real"] = float(above.float().mean())
        return found

    def _figures(self) -> tuple[Sequence[Any], ...]:
        """For each filter: peak, gain, deviations of pattern and best image, whether it is silent."""
        patterns, n = self.found.patterns, len(self.channels)
        peaks, improvement = patterns.peaks.tolist(), patterns.improvement.tolist()
        if self.seen is None:
            return peaks, improvement, [None] * n, [None] * n, [False] * n
        seen = self.seen.cpu()
        sigmas = [seen.sigmas(each.cpu()).tolist() for each in (patterns.peaks, seen.peak)]
        return peaks, improvement, *sigmas, seen.silent.tolist()

    def _tile(
        self, channel: int, peak: float, improvement: float, sigmas: float | None, real: float | None, silent: bool
    ) -> filters.Tile:
        facts = {"peak": _plain(peak), "sigmas": _plain(sigmas), "real_sigmas": _plain(real), "silent": silent}
        name = f"#{channel}"
        if self.layer is None:  # the number first: a long name may be cut
            name, value = numbers([peak])[0], self.view.probes.name(channel)
            return filters.Tile(name, value, "", "no answer" if improvement == 0 else "", facts)
        # What answers alike to all images may have been woken: by its pattern alone, then.
        dead = "dead" if silent and peak <= 0 else "" if improvement != 0 else "no answer"
        if sigmas is None or real is None or silent:
            value = "woken" if silent else numbers([peak])[0]
            return filters.Tile(name, value, "", dead, facts)
        return filters.Tile(name, _sigmas(sigmas), f"{_sigmas(real)} σ", dead, facts, weak=sigmas <= real)

    def _title(self) -> str:
        if self.layer is None:
            return "What the network would call a perfect example"
        source = f" → {self.source}" if self.source != self.layer else ""
        return f"What excites filters of {self.layer}{source}"

    def _lines(self, real: str) -> list[str]:
        what = "classes"
        if self.layer is not None:
            what = f"of {self.view.runs[self.source].shape[1]} filters"
        lines = [f"{self.view.moment.caption} · {len(self.channels)} {what}", *self.asked, self._begun()]
        if real and self.seen is not None:
            lines.append(f"pattern | {real} best of {self.seen.count} validation images")
            lines.append("below: largest responses, in σ of the validation")
        else:
            lines.append("below each its logit" if self.layer is None else "below each: filter, its largest activation")
        return lines

    def _begun(self) -> str:
        if self.found.fell_back:
            return f"begun anew: the last patterns led to {self.found.ratio:.0%} of this"
        return f"{self.found.steps} steps from " + ("the last patterns" if self.found.warm else "blank images")


def asked(watcher: "FilterPatternLogger") -> list[str]:
    """What a callback was asked for beside its defaults, for the head of its pages."""
    objective = watcher.objective if isinstance(watcher.objective, str) else getattr(watcher.objective, "__name__", "")
    said = [] if watcher.important_for is None else [f"those that matter most for class {watcher.important_for}"]
    said += ["those most active on the probes"] if watcher.filters == "active" else []
    said += [f"objective {objective}"] if objective not in ("above_blank", "") else []
    return said + ([f"canvas {watcher.canvas}"] if watcher.canvas != "fourier" else [])


def _small(images: Tensor) -> tuple[int, int]:
    """The size of an image in a strip."""
    h, w = images.shape[2:]
    share = min(1.0, SMALL / max(h, w))
    return max(1, round(h * share)), max(1, round(w * share))


def _sigmas(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _plain(value: float | None) -> float | None:
    return float(f"{value:.3g}") if value is not None and math.isfinite(value) else None


def first_weights(view: View) -> Tensor | None:
    """The weights of the convolution that takes the images; None where there is none, or no rank has all of them."""
    name = _first(view)
    weight = None if name is None else view.runs[name].module.weight
    if not isinstance(weight, Tensor) or type(weight).__name__ == "DTensor" or weight.ndim != 4:
        return None
    return weight.detach().float().cpu().clone()  # which training would change else


def _first(view: View) -> str | None:
    channels = view.probes.images.shape[1]
    for name, run in view.runs.items():
        conv = run.module
        if isinstance(conv, nn.Conv2d) and conv.in_channels == channels and conv.groups == 1:
            return name if max(conv.kernel_size) > 1 else None
    return None


def kernels(view: View, weights: Tensor, before: Tensor | None, scales: Scales) -> Picture:
    """The page of the first layer's weights."""
    name = str(_first(view))
    channels = evenly_spaced(range(len(weights)), filters.MOST_KERNELS)
    shown = weights[list(channels)]
    values = shown.abs().flatten()
    high = scales.hold("kernels", float(values.nan_to_num(0, 0, 0).quantile(0.995)), view.moment)
    stamp = scales.stamp("kernels")
    fits = before is not None and before.shape == weights.shape
    _, c, h, w = weights.shape
    first = ", the first three of them as colors" if c > 3 else ""
    about: Mapping[str, Any] = {
        "kind": "kernels", "layer": name, "epoch": view.moment.epoch, "step": view.moment.step,
    }  # fmt: skip
    return filters.kernels(
        shown, before[list(channels)] if fits and before is not None else None, channels, high=high,
        title=f"Weights of {name}",
        lines=[
            view.moment.caption,
            f"{len(shown)} of {len(weights)} filters in order of number, {h} × {w}, {c} channels{first}",
            *([f"scale {stamp}"] if stamp else []),
        ],
        about=about,
    )  # fmt: skip
