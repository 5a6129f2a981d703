"""Which classes are taken for which: a table with an example of each, over one validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from lightning_convviz.history import Snapshot
from lightning_convviz.mistakes import Confusions, Examples
from lightning_convviz.pages.captions import percent
from lightning_convviz.pages.heatmaps import resize_photos
from lightning_convviz.pixels import estimate
from lightning_convviz.probes import Probes
from lightning_convviz.render import PageLayout, Picture, rgb
from lightning_convviz.render.layout import GAP, MARGIN, TileGrid, shorten

ROWS = 8
BUDGET = 40_000  # bytes of a file
SIDE = 48  # about how large an example is drawn, in pixels
BESIDE = 8  # pixels between an example and the words beside it

LEGEND = """**Confusions**: which class is taken for which in this validation, the most frequent first, with the share
of the true class's pictures that it happens to. On the left the most confident example."""


def confusions_page(
    confusions: Confusions, probes: Probes, snapshot: Snapshot, about: Mapping[str, Any]
) -> Picture | None:
    """`gradcam/confusions`: the most frequent confusions, a line each; None where they are not counted.

    Args:
        confusions: of the whole validation.
        probes: know the names of the classes, and how pictures of the data are displayed.
        snapshot: which network this is.
        about: facts that travel with the file.
    """
    table = confusions.table
    if table is None:
        return None
    counts = table.clone().fill_diagonal_(0)
    most = counts.flatten().sort(descending=True, stable=True).indices[:ROWS].tolist()
    pairs = [divmod(place, len(table)) for place in most if counts.flatten()[place] > 0]
    page = PageLayout(0)
    page.write("Which classes are taken for which", bold=True)
    wrong = int(counts.sum())
    kinds = int((counts > 0).sum())
    described = f", {kinds} kind{'s' * (kinds > 1)} of mistakes" if wrong else ""
    page.write(f"{snapshot.caption} · {wrong} wrong of {int(table.sum())}{described}")
    grid = page.tiles(_example_tiles(pairs, probes, confusions.examples), columns=1, gap=GAP + 2)
    names = {label: probes.name(label) for pair in pairs for label in pair}
    items = [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(counts[true, predicted]),
            "of": int(table[true].sum()),
        }
        for true, predicted in pairs
    ]
    for row, item in enumerate(items):
        _write_beside(page, grid, row, item)
    facts = {**about, "scale": None, "rows": list(range(len(pairs))), "columns": ["example"], "items": items}
    return page.picture(main=grid, colormap=None, legend=LEGEND, about=facts, budget=BUDGET)


def _write_beside(page: PageLayout, grid: TileGrid, row: int, item: Mapping[str, Any]) -> None:
    """The true class, and below what it was taken for how often."""
    x, y = grid.corner(row)
    left, top = x + grid.size[0] + BESIDE, y + max(0, grid.size[1] // 2 - page.line)
    room = page.width - left - MARGIN
    page.label(item["true"], left, top, width=room)
    times = f": {item['count']} of {item['of']} ({percent(item['count'] / item['of'])})"
    name = shorten(f"taken for {item['predicted']}", room - page.width_of(times), page.text)
    page.label(name + times, left, top + page.line)


def _example_tiles(pairs: Sequence[tuple[int, int]], probes: Probes, examples: Examples) -> UInt8[Tensor, "n v u 3"]:
    """A picture for each pair of classes; white where there is none."""
    known = [examples[pair][1] for pair in pairs if pair in examples]
    if not known:
        return torch.full((max(1, len(pairs)), SIDE, SIDE, 3), 255, dtype=torch.uint8)
    images = torch.stack(known)
    shown = iter(rgb(resize_photos((probes.space or estimate(images)).display(images), SIDE)))
    tiles = [next(shown) if pair in examples else None for pair in pairs]
    blank = torch.full_like(next(tile for tile in tiles if tile is not None), 255)
    return torch.stack([blank if tile is None else tile for tile in tiles])
