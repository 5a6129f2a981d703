"""Mistakes that are pinned when they are first found, and followed until the network gets them right, or forgets."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_convviz.callbacks import memory
from lightning_convviz.callbacks.evidence import WIDTH, Evidence, cut, joined, percent
from lightning_convviz.callbacks.scene import Moment
from lightning_convviz.history import Frame, History
from lightning_convviz.probes import Probes
from lightning_convviz.render import Picture, Sheet, rgb
from lightning_convviz.render.heat import BUDGET, MARKS, Scale, bar, covered, fitted
from lightning_convviz.render.sheet import GAP, MARGIN

FRAMES = 6  # drawings in a strip
SIDE = 72  # about how wide a tile is, in pixels

LEGEND = """**Followed mistakes**: the first mistakes that were found, pinned, a row each. On the left the picture, then
one tile for each drawing, oldest first: over the gray picture the evidence for the class that the net predicted then,
all on one scale. Below each tile the probability of the true class, green with ✓ where it won. The line above a row
names the true class and what the net said in the drawings shown."""


class Followed:
    """The pinned pictures and their history.

    Attributes:
        probes: the pictures; None as long as no mistake was found.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.probes: Probes | None = None
        self._history = History(FRAMES)
        self._drawings = 0

    def pin(self, mistakes: Evidence | None, seen: Evidence | None) -> Evidence | None:
        """Fill free places with mistakes that are not followed yet; returns all that is followed, as seen now."""
        known = set() if self.probes is None else set(self.probes.ids or ())
        free = self.count - len(known)
        if mistakes is None or free <= 0 or not self._fits(mistakes.probes, seen):
            return seen
        fresh = [row for row, name in enumerate(mistakes.probes.ids or ()) if name not in known][:free]
        if not fresh:
            return seen
        new = mistakes.take(fresh)
        self.probes = new.probes if self.probes is None else joined([self.probes, new.probes])
        return new if seen is None else _appended(seen, new, self.probes)

    def _fits(self, fresh: Probes, seen: Evidence | None) -> bool:
        """Whether more pictures can stand in one batch with those that are followed."""
        if self.probes is None:
            return True
        same = (
            fresh.images.shape[1:] == self.probes.images.shape[1:] and fresh.others.keys() == self.probes.others.keys()
        )
        return same and seen is not None

    def note(self, seen: Evidence, facts: Sequence[Mapping[str, Any]], moment: Moment) -> None:
        """One more drawing."""
        self._drawings += 1
        plain = [{key: item[key] for key in ("predicted", "p_true", "right")} for item in facts]
        frame = Frame.of(seen.look.maps[0], plain, number=self._drawings, epoch=moment.epoch, step=moment.step)
        self._history.add(frame)

    def picture(self, moment: Moment, scale: Scale, title: str, about: Mapping[str, Any]) -> Picture:
        """The strips: a row for each picture, a tile for each drawing."""
        assert self.probes is not None  # asked for only when something is followed
        frames = self._history.frames
        photos = fitted(self.probes.shown().cpu(), SIDE)
        columns = [rgb(photos), *(self._tiles(photos, frame, scale) for frame in frames)]
        width = photos.shape[3]
        sheet = Sheet(2 * MARGIN + (1 + FRAMES) * (width + GAP))
        sheet.write(title, bold=True)
        sheet.write(moment.caption)
        bar(sheet, scale)
        for place, text in enumerate(["input", *self._when()]):
            sheet.label(text, MARGIN + place * (width + GAP), sheet.y, width=width)
        sheet.y += sheet.line
        tiles = torch.stack(columns, dim=1).flatten(0, 1)
        grid = sheet.tiles(tiles, columns=len(columns), above=sheet.line + 2, below=sheet.line + 2)
        items = []
        for row in range(len(self.probes)):
            past = [frame.facts[row] if row < len(frame.facts) else None for frame in frames]
            items.append({"true": self._true(row), "drawings": past})
            self._captions(sheet, grid.corner(row * len(columns)), grid.dx, grid.size[1], row, past)
        facts = {
            **about, "rows": list(self.probes.ids or ()), "columns": ["input", *(frame.epoch for frame in frames)],
            "items": items, "scale": {scale.title: [0.0, scale.high, scale.unit]},
        }  # fmt: skip
        return sheet.picture(main=grid, colormap=None, legend=LEGEND, about=facts, budget=BUDGET)

    def _when(self) -> list[str]:
        """What the columns are called: by epoch, or where several are of one by step."""
        frames = self._history.frames
        epochs = [frame.epoch for frame in frames]
        distinct = len(set(epochs)) == len(epochs)
        return [f"ep. {frame.epoch}" if distinct else f"s. {frame.step}" for frame in frames]

    def _tiles(self, photos: Tensor, frame: Frame, scale: Scale) -> Tensor:
        maps = frame.maps()
        shown = covered(photos[: len(maps)], maps, scale)
        blank = shown.new_full((len(photos) - len(maps), *shown.shape[1:]), 255)  # not followed yet
        return torch.cat([shown, blank])

    def _captions(
        self, sheet: Sheet, corner: tuple[int, int], dx: int, height: int, row: int, past: Sequence[Any]
    ) -> None:
        x, y = corner
        said = [item["predicted"] or "not a number" for item in past if item is not None]
        runs = [(name, len(list(group))) for name, group in groupby(said)]
        story = [cut(name, 14) if times == 1 else f"{cut(name, 14)} ({times}x)" for name, times in runs]
        head = f"truth {cut(self._true(row), 14)}; said "
        while len(story) > 2 and len(head + ", ".join(story)) > WIDTH + 6:
            story = ["…", *story[2:]]  # the end counts
        text = head + ", ".join(story)
        sheet.label(text, x, y - sheet.line - 2, width=sheet.width - 2 * MARGIN)
        for place, item in enumerate(past, start=1):
            if item is not None:
                mark, color = MARKS[item["right"]]
                share = "" if item["p_true"] is None else percent(item["p_true"])
                sheet.label(f"{mark}{share}", x + place * dx, y + height + 1, color=color, width=dx - GAP)

    def _true(self, row: int) -> str:
        assert self.probes is not None  # as above
        return "?" if self.probes.labels is None else self.probes.name(int(torch.as_tensor(self.probes.labels)[row]))

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state(self, *, images: bool) -> dict[str, Any] | None:
        """Plain values; None without pictures, or with more of them than a checkpoint should hold."""
        plain = None if self.probes is None or not images else memory.packed(self.probes)
        if plain is None:
            return None
        return {"probes": plain, "frames": self._history.state(), "drawings": self._drawings}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on following what an earlier run did."""
        if state is not None:
            self.probes = memory.unpacked(state["probes"])
            self._history.restore(state["frames"])
            self._drawings = int(state["drawings"])


def _appended(seen: Evidence, new: Evidence, probes: Probes) -> Evidence:
    """Both in one; the pictures are those that `probes` has joined already."""
    from lightning_convviz.cams import Look

    logits = [each.look.logits for each in (seen, new) if each.look.logits is not None]
    maps = [torch.cat(pair) for pair in zip(seen.look.maps, new.look.maps, strict=True)]
    return Evidence(probes, Look(torch.cat(logits), {}, maps, seen.look.uniform))
