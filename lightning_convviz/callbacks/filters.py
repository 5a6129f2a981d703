"""FilterPatternLogger: what each filter looks for, by gradient ascent from a blank image."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import override

from lightning_convviz import ascent
from lightning_convviz import layers as layers_
from lightning_convviz.callbacks.arguments import Forward, at_least, check_layers
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Picture, Sheet, rgb
from lightning_convviz.render.sheet import CARD, GAP, MARGIN, near_square, numbers, zoom_for

LAYERS = 4  # what "auto" draws
# Adam's learning rate. Eight steps at 0.2 show the same as sixteen at 0.1; on a CIFAR-10 ResNet-20 they raise a filter
# two thirds to four fifths as far (median over 16 filters: 7.6 and 6.2 standard deviations over real images against 9.4
# and 9.3 in two layers; the best of 500 test images reached 2.9).
RATE = 0.2
BUDGET = 100_000  # bytes of a file: there is one for each layer
SIDE = 96  # patterns of larger inputs are made at this size: a filter's pattern repeats, and their cost is its square

LEGEND = """**Filter patterns**: for each filter of the layer an image that excites it, found by gradient ascent from a
blank one, within the range of values and the colors of the probes. The number is the filter's mean activation on it.
First layers look for edges and colors, middle ones for textures, last ones for parts. The images are synthetic: they
show what would excite a filter most, not all that it answers to."""


class FilterPatternLogger(Watcher):
    """Log images that excite single filters, found by gradient ascent at every validation: tags `filters/<layer>`.

    Args:
        layers: names as in `named_modules()`, globs, module classes, or a list of these; `"auto"` takes up to four
            convolutions, spread over depth, the first and the last included.
        num_filters: how many filters of a layer, spread evenly; chosen once.
        steps: steps of ascent for each pattern; their cost is two forwards up to the layer each.
        size: side of the patterns in pixels; default that of the probes, up to 96.
        seed: for the blank image's noise and the shifts.
        objective: what is raised: "rise" (above the response to the blank image) or "mean", see `ascent.patterns`.
        probes: images that give the range of values and the correlation of colors, see `ActivationLogger`.
        num_probes: how many to take from the validation data.
        dataloader_idx: see `ActivationLogger`.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: see `ActivationLogger`.
        name: the first part of the tags, by default "filters"; see `ActivationLogger`.
        save_dir: see `ActivationLogger`.
        save_images: see `ActivationLogger`.
        on_error: see `ActivationLogger`.
        initial: see `ActivationLogger`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for layers or probes that don't fit the model.

    Example:
        >>> FilterPatternLogger("features.*", num_filters=9, every_n_epochs="log").name
        'filters'
    """

    name = "filters"
    shares = True

    def __init__(
        self,
        layers: type[nn.Module] | str | Sequence[type[nn.Module] | str] = "auto",
        *,
        num_filters: int = 16,
        steps: int = 8,
        size: int | None = None,
        seed: int = 0,
        objective: str = "rise",
        probes: ProbesLike = None,
        num_probes: int = 8,
        dataloader_idx: int = 0,
        every_n_epochs: int | Literal["log"] = 1,
        forward: Forward = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
        save_images: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        initial: bool = True,
    ) -> None:
        super().__init__(
            probes=probes, num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs,
            forward=forward, name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip
        check_layers(layers)
        at_least("num_filters", num_filters, 1)
        at_least("steps", steps, 1)
        if size is not None:
            at_least("size", size, 8)
        at_least("seed", seed, 0)
        ascent.resolve(objective)
        self.layers = layers
        self.num_filters = num_filters
        self.steps = steps
        self.size = size
        self.seed = seed
        self.objective = objective

    @override
    def begin(self) -> None:
        self._channels: dict[str, list[int]] = {}
        self._fixed_size = False

    @override
    def check(self, model: nn.Module) -> None:
        if self.layers != "auto":
            layers_.find(model, self.layers)

    @override
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        runs = scene.runs
        if self._channels and self._channels.keys() <= runs.keys():
            return
        if self.layers == "auto":
            names = layers_.convolutions(runs, count=LAYERS)
        else:
            names = layers_.find(model, self.layers)
            layers_.require_maps(runs, names)
        self._channels = {name: list(layers_.spread(range(runs[name].shape[1]), self.num_filters)) for name in names}

    @override
    def wants(self, probes: Probes) -> Wants:
        return Wants()

    @override
    def compute(self, view: View, mine: slice) -> dict[str, ascent.Patterns]:
        shares = {name: channels[mine] for name, channels in self._channels.items() if channels[mine]}
        found = {name: self._found(view, name, channels) for name, channels in shares.items()}
        return found if mine == slice(None) else {name: each.cpu() for name, each in found.items()}

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Picture]:
        return {
            f"{self.name}/{name}": self._picture(view, name, channels, _joined([part.get(name) for part in parts]))
            for name, channels in self._channels.items()
        }

    @override
    def kept(self) -> dict[str, Any]:
        return {"chosen": self._chosen(), "channels": dict(self._channels)}

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        if state["chosen"] == self._chosen():
            self._channels = dict(state["channels"])

    def _chosen(self) -> str:
        return f"{self.layers!r}, {self.num_filters}"

    def _picture(self, view: View, name: str, channels: Sequence[int], found: ascent.Patterns) -> Picture:
        space = view.probes.space
        assert space is not None  # the session gives one to all probes
        tiles = rgb(space.display(found.images))
        columns = near_square(len(channels))
        zoom = zoom_for(max(tiles.shape[1:3]), columns)
        sheet = Sheet(2 * MARGIN + columns * (tiles.shape[2] * zoom + GAP))
        sheet.write(f"What excites filters of {name}", bold=True)
        sheet.write(view.moment.caption)
        sheet.write(f"{len(channels)} of {view.runs[name].shape[1]} filters, {self.steps} steps from a blank image")
        sheet.write("below each: filter, mean of its map")
        spread = (CARD - 2 * MARGIN) // columns - tiles.shape[2] * zoom  # captions get the whole card's width
        grid = sheet.tiles(tiles, columns=columns, zoom=zoom, gap=max(GAP, spread), below=sheet.line)
        activations = found.activations.tolist()
        for index, (channel, value) in enumerate(zip(channels, numbers(activations), strict=True)):
            x, y = grid.corner(index)
            sheet.label(f"#{channel}  {value}", x, y + grid.size[1], width=grid.dx)
        about = {
            "kind": "filters", "layer": name, "epoch": view.moment.epoch, "step": view.moment.step, "scale": None,
            "rows": ["pattern"], "columns": list(channels),
            "items": [{"activation": float(f"{value:.3g}") if math.isfinite(value) else None} for value in activations],
        }  # fmt: skip
        return sheet.picture(main=grid, colormap=None, legend=LEGEND, about=about, budget=BUDGET)

    def _found(self, view: View, name: str, channels: Sequence[int]) -> ascent.Patterns:
        climb = partial(
            ascent.patterns, view.model, name, channels, like=view.probes.images,
            steps=self.steps, rate=RATE, seed=self.seed, objective=self.objective, forward=view.forward,
        )  # fmt: skip
        c, h, w = view.probes.images.shape[1:]
        own = c, h, w
        shape = own if self._fixed_size else self._shape(view.probes)
        try:
            return climb(shape=shape)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if shape == own:
                raise
            if self.size is not None:
                raise ValueError(f"`size` is {self.size}, and the model fails on it: {error}. Leave it out.") from error
            self._fixed_size = True  # the net takes pictures of one size only
            return climb(shape=own)

    def _shape(self, probes: Probes) -> tuple[int, int, int]:
        c, h, w = probes.images.shape[1:]
        factor = self.size / max(h, w) if self.size else min(1.0, SIDE / max(h, w))
        return c, max(1, round(h * factor)), max(1, round(w * factor))


def _joined(parts: Sequence[ascent.Patterns | None]) -> ascent.Patterns:
    """The patterns of all ranks, in the order of the channels, of which each rank had every n-th."""
    given = [part for part in parts if part is not None]
    images, activations = [list(part.images) for part in given], [list(part.activations) for part in given]
    order = [(rank, row) for row in range(len(images[0])) for rank in range(len(images)) if row < len(images[rank])]
    return ascent.Patterns(
        torch.stack([images[rank][row] for rank, row in order]),
        torch.stack([activations[rank][row] for rank, row in order]),
    )
