"""Which classes are taken for which: a table with an example of each, over one validation."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_convviz.callbacks.evidence import percent
from lightning_convviz.mistakes import Examples
from lightning_convviz.pixels import estimate
from lightning_convviz.probes import Probes
from lightning_convviz.render import PageLayout, Picture, rgb
from lightning_convviz.render.heat import resize_photos
from lightning_convviz.render.layout import GAP, MARGIN, font, shorten

ROWS = 8
BUDGET = 40_000  # bytes of a file
SIDE = 48  # about how large an example is drawn, in pixels

LEGEND = """**Confusions**: which class is taken for which in this validation, the most frequent first, with the share
of the true class's pictures that it happens to. On the left the most confident example."""


def confusions(
    table: Int[Tensor, "k k"], probes: Probes, examples: Examples, caption: str, about: Mapping[str, Any]
) -> Picture:
    """The most frequent confusions, a line each.

    Args:
        table: how many pictures of the true class (row) were taken for another (column).
        probes: know the names of the classes.
        examples: a picture of each kind, as far as they are kept.
        caption: which network this is.
        about: facts that travel with the file.
    """
    counts = table.clone().fill_diagonal_(0)
    worst = counts.flatten().sort(descending=True, stable=True).indices[:ROWS].tolist()
    pairs = [divmod(place, len(table)) for place in worst if counts.flatten()[place] > 0]
    sheet = PageLayout(0)
    sheet.write("Which classes are taken for which", bold=True)
    wrong, seen = int(counts.sum()), int(table.sum())
    kinds = f", {int((counts > 0).sum())} kinds of mistakes" if wrong else ""
    sheet.write(f"{caption} · {wrong} wrong of {seen}{kinds}")
    grid = sheet.tiles(_tiles(pairs, probes, examples), columns=1, gap=GAP + 2)
    items = []
    for line, (true, said) in enumerate(pairs):
        x, y = grid.corner(line)
        count, of = int(counts[true, said]), int(table[true].sum())
        room = sheet.width - (x + grid.size[0] + 8) - MARGIN
        top = y + max(0, grid.size[1] // 2 - sheet.line)
        left = x + grid.size[0] + 8
        sheet.label(probes.name(true), left, top, width=room)
        times = f": {count} of {of} ({percent(count / of)})"
        name = shorten(f"taken for {probes.name(said)}", room - font(sheet.text).getlength(times), sheet.text)
        sheet.label(name + times, left, top + sheet.line)
        items.append({"true": probes.name(true), "predicted": probes.name(said), "count": count, "of": of})
    facts_ = {**about, "scale": None, "rows": list(range(len(pairs))), "columns": ["example"], "items": items}
    return sheet.picture(main=grid, colormap=None, legend=LEGEND, about=facts_, budget=BUDGET)


def _tiles(pairs: list[tuple[int, int]], probes: Probes, examples: Examples) -> Tensor:
    """A picture for each pair of classes; white where there is none."""
    known = [examples[pair][1] for pair in pairs if pair in examples]
    if not known:
        return torch.full((max(1, len(pairs)), SIDE, SIDE, 3), 255, dtype=torch.uint8)
    shown = iter(rgb(resize_photos((probes.space or estimate(torch.stack(known))).display(torch.stack(known)), SIDE)))
    tiles = [next(shown) if pair in examples else None for pair in pairs]
    blank = torch.full_like(next(tile for tile in tiles if tile is not None), 255)
    return torch.stack([blank if tile is None else tile for tile in tiles])
