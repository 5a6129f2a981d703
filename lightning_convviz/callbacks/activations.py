"""ActivationLogger: every channel of chosen layers as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from lightning_convviz import layers as layers_
from lightning_convviz.callbacks.arguments import Forward, at_least, check_layers
from lightning_convviz.callbacks.base import Watcher
from lightning_convviz.callbacks.scales import hold
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.probes import Probes, ProbesLike
from lightning_convviz.render import Picture, Sheet, colormap, encode_values, rgb
from lightning_convviz.render.sheet import GAP, MARGIN, Block, near_square, numbers, zoom_for

LAYERS = 5  # what "auto" draws
PIXELS = 140_000  # of maps in a picture: as palette PNG about 100 kB
FEWEST = 16  # channels that are kept before maps are made smaller
STRONGEST = 3  # channels that are shown on every probe
WIDEST = 1_200  # pixels of a picture; more probes than fit are left out of its lower part

LEGEND = """**Activations**: what each channel of the layer answers to the first probe image, a tile for each
channel, in the order of their numbers; below, the strongest channels on all probes. Dark is 0 or less (what a ReLU
would cut off), bright the upper end of the scale, which is one for the layer and stays until the values leave it by a
factor of two. Early layers keep the picture; deeper ones answer in fewer places, and a tile that stays dark is a filter
that found nothing."""


class ActivationLogger(Watcher):
    """Log every channel of chosen layers as a picture, at every validation: tags `activations/<layer>`.

    Args:
        layers: names as in `named_modules()`, globs, module classes, or a list of these: their outputs are drawn as
            they are. `"auto"` takes five convolutions, spread over depth, the first and the last included, and draws
            each after the normalization and nonlinearity that directly follow it.
        max_channels: more channels than these are thinned out evenly; chosen once.
        cmap: a matplotlib colormap.
        probes: the images to watch: Probes, a tensor of model inputs, (images, labels), (data set, indices) or the
            path of a folder. By default some of the first validation batches, with as many classes as possible.
        num_probes: how many of them to take.
        dataloader_idx: from which validation loader to take them, where there are several.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: how to get from the images to the model's output: the name of a sub-module, or a function
            (model, images) -> output. By default the module's own `forward`.
        name: the first part of the tags, by default "activations"; tells several callbacks of a kind apart.
        save_dir: a local folder for pictures as files, in folders by tag and step, beside what the loggers take.
        save_images: keep the probes from the validation data in checkpoints, so that a resumed run shows the same
            ones; False for private data.
        on_error: `"warn"`: a drawing that fails warns, and training goes on; `"raise"` is for tests.
        initial: dry-run a drawing before training, so that what does not fit fails at once; it is kept in
            `initial_pictures`.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range; before training, for layers or probes that don't fit the model.

    Example:
        >>> ActivationLogger(["conv1", "layer*"], max_channels=16).name
        'activations'
    """

    name = "activations"

    def __init__(
        self,
        layers: type[nn.Module] | str | Sequence[type[nn.Module] | str] = "auto",
        *,
        max_channels: int = 64,
        cmap: str = "viridis",
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
        at_least("max_channels", max_channels, 1)
        if not isinstance(cmap, str):
            raise TypeError(f"`cmap` is {cmap!r}. It must be the name of a matplotlib colormap.")
        try:
            colormap(cmap)
        except ValueError as error:
            raise ValueError(f"`cmap` is {cmap!r}: {error}") from None
        self.layers = layers
        self.max_channels = max_channels
        self.cmap = cmap

    @override
    def begin(self) -> None:
        self._sources: dict[str, str] = {}  # layer -> the module whose output is drawn
        self._scales: dict[str, float] = {}

    @override
    def check(self, model: nn.Module) -> None:
        if self.layers != "auto":
            layers_.find(model, self.layers)

    @override
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        runs = scene.runs
        if self._sources and {*self._sources, *self._sources.values()} <= runs.keys():
            return
        if self.layers == "auto":
            names = layers_.convolutions(runs, count=LAYERS)
            self._sources = {name: layers_.settled(runs, name) for name in names}
            return
        names = layers_.find(model, self.layers)
        layers_.require_maps(runs, names)
        self._sources = {name: name for name in names}

    @override
    def wants(self, probes: Probes) -> Wants:
        return Wants(layers=list(self._sources.values()))

    @override
    def draw(self, view: View, parts: list[Any]) -> dict[str, Picture]:
        return {f"{self.name}/{name}": self._picture(view, name) for name in self._sources}

    @override
    def kept(self) -> dict[str, Any]:
        return {"layers": repr(self.layers), "sources": dict(self._sources), "scales": dict(self._scales)}

    @override
    def keep(self, state: Mapping[str, Any]) -> None:
        self._scales = dict(state["scales"])
        if state["layers"] == repr(self.layers):
            self._sources = dict(state["sources"])

    def _picture(self, view: View, name: str) -> Picture:
        maps = view.look.outputs[self._sources[name]].float()
        top, silent = self._measured(name, maps)
        channels, small, pool = self._cut(maps)
        codes = encode_values(small, 0.0, top)
        w = codes.shape[-1]
        fitting = max(1, WIDEST // (w + GAP))
        columns, across = min(near_square(len(channels)), fitting), min(len(codes), fitting)
        side = max(codes.shape[-2:])
        zooms = zoom_for(side, columns), zoom_for(side, across)
        sheet = Sheet(2 * MARGIN + max(columns * (w * zooms[0] + GAP), across * (w * zooms[1] + GAP)))
        self._head(sheet, view, name, f"{len(channels)} of {maps.shape[1]} channels", maps, silent, pool)
        sheet.scale_bar("0", numbers([top])[0], note="dark: 0 or less")
        grid = sheet.tiles(codes[0, channels], columns=columns, zoom=zooms[0])
        strongest = maps.amax((2, 3)).mean(0).topk(min(STRONGEST, maps.shape[1])).indices.tolist()
        strip = self._strip(sheet, view, codes[:across], strongest, zooms[1])
        ids = list(view.probes.ids or ())
        item = {"source": self._sources[name], "silent": silent, "pool": pool}
        about = {
            "kind": "activations", "layer": name, "epoch": view.moment.epoch, "step": view.moment.step,
            "scale": [0.0, top], "rows": ids[:1], "columns": channels, "items": [item],
            "also": {"tiles": strip.geometry(), "rows": strongest, "columns": ids[:across]},
        }  # fmt: skip
        return sheet.picture(main=grid, colormap=self.cmap, legend=LEGEND, about=about)

    def _measured(self, name: str, maps: Float[Tensor, "n c y x"]) -> tuple[float, float]:
        """The upper end of the layer's scale, and the share of values that are 0 or less."""
        values = maps.flatten()[:: max(1, maps.numel() // 100_000)].nan_to_num(0, 0, 0)
        high, most, silent = torch.stack([values.quantile(0.995), values.max(), (maps <= 0).float().mean()]).tolist()
        return hold(self._scales, name, high if high > 0 else most), round(silent, 4)

    def _cut(self, maps: Float[Tensor, "n c y x"]) -> tuple[list[int], Float[Tensor, "n c v u"], int]:
        """Which channels to draw, and the maps, smaller if they must be: first fewer channels, then integer pooling."""
        area, strip = maps.shape[2] * maps.shape[3], STRONGEST * len(maps)
        fitting = max(FEWEST, PIXELS // area - strip)
        channels = layers_.spread(range(maps.shape[1]), min(self.max_channels, fitting))
        pool = 1
        while (len(channels) + strip) * area > PIXELS * pool**2 and pool < min(maps.shape[2:]):
            pool += 1
        return list(channels), F.avg_pool2d(maps, pool) if pool > 1 else maps, pool

    def _head(
        self, sheet: Sheet, view: View, name: str, shown: str, maps: Float[Tensor, "n c y x"], silent: float, pool: int
    ) -> None:
        source = self._sources[name]
        photo = _resized(view.photos[:1], *_thumbnail(*view.photos.shape[-2:]))
        top = sheet.y
        block = sheet.tiles(rgb(photo), columns=1)
        below, sheet.y = sheet.y, top
        x = block.x + block.size[0] + 2 * MARGIN
        sheet.write(f"Activations of {name}" + (f" → {source}" if source != name else ""), bold=True, x=x)
        sheet.write(view.moment.caption, x=x)
        sheet.write(f"input: probe {_called(view.probes, 0)}", x=x)
        means = f", means of {pool} × {pool}" if pool > 1 else ""
        sheet.write(f"{shown}, {maps.shape[2]} × {maps.shape[3]}{means}", x=x)
        sheet.write(f"{silent:.0%} of the values are 0 or less", x=x)
        sheet.y = max(sheet.y, below) + MARGIN

    @staticmethod
    def _strip(sheet: Sheet, view: View, codes: Tensor, strongest: list[int], zoom: int) -> Block:
        """The strongest channels, a row each, on all probes, a column each."""
        sheet.y += MARGIN
        sheet.write(f"The {len(strongest)} strongest channels, on every probe", bold=True)
        h, w = codes.shape[2] * zoom, codes.shape[3] * zoom
        sheet.tiles(rgb(_resized(view.photos[: len(codes)], h, w)), columns=len(codes))
        block = sheet.tiles(
            codes[:, strongest].transpose(0, 1).flatten(0, 1), columns=len(codes), zoom=zoom, above=sheet.line
        )
        for row, channel in enumerate(strongest):
            sheet.label(f"channel {channel}", block.x, block.corner(row * len(codes))[1] - sheet.line)
        return block


def _called(probes: Probes, row: int) -> str:
    """What a caption calls a probe: its id and, where known, its class."""
    name = str((probes.ids or ())[row])
    return name if probes.labels is None else f"{name}, {probes.name(int(probes.labels[row]))}"


def _thumbnail(h: int, w: int, side: int = 90) -> tuple[int, int]:
    """A size near `side`: a multiple of a small picture's, a fraction of a large one's."""
    longest = max(h, w)
    factor = max(1, side // longest) if longest <= side else side / longest
    return max(1, round(h * factor)), max(1, round(w * factor))


def _resized(photos: Float[Tensor, "n 3 h w"], h: int, w: int) -> Float[Tensor, "n 3 v u"]:
    """Photographs at another size: averaged where it is smaller, every pixel repeated where it is larger."""
    mode = "area" if h < photos.shape[2] or w < photos.shape[3] else "nearest"
    return F.interpolate(photos.float(), size=(h, w), mode=mode)
