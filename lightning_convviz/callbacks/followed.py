"""Heatmaps over time: of the probes, and of mistakes that are pinned when they are first found."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lightning_convviz.callbacks import memory
from lightning_convviz.callbacks.evidence import WIDTH, Evidence, called, cut, joined, percent
from lightning_convviz.callbacks.scene import Moment
from lightning_convviz.history import Frame, History
from lightning_convviz.probes import Probes
from lightning_convviz.render import Picture, rgb
from lightning_convviz.render.heat import BUDGET, MARKS, Scale, colorbar, overlay_maps, resize_photos
from lightning_convviz.render.strips import Strip, Words

FRAMES = 6  # drawings in a strip
SIDE = 56  # about how wide a tile is, in pixels

LEGEND = """**Followed mistakes**: the first mistakes that were found, pinned, a row each. On the left the picture, then
one tile for each drawing, oldest first: over the gray picture the evidence for the class that the net predicted then,
all on one scale. Below each tile the probability of the true class, green with ✓ where it won. The line above a row
names the true class and what the net said in the drawings shown."""


class Followed:
    """The pinned pictures and their history.

    Attributes:
        probes: the pictures; None as long as no mistake was found.
        history: the drawings of them that are kept.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.probes: Probes | None = None
        self.history = History(FRAMES)

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
            fresh.images.shape[1:] == self.probes.images.shape[1:]
            and fresh.extra_inputs.keys() == self.probes.extra_inputs.keys()
        )
        return same and seen is not None

    def note(self, seen: Evidence, facts: Sequence[Mapping[str, Any]], moment: Moment) -> None:
        """One more drawing."""
        self.history.note(seen.look.maps[0], remembered(facts), epoch=moment.epoch, step=moment.step)

    def picture(self, moment: Moment, scale: Scale, title: str, about: Mapping[str, Any]) -> Picture:
        """The strips: a row for each picture, a tile for each drawing."""
        assert self.probes is not None  # asked for only when something is followed
        drawn = strip(
            self.history, self.probes, scale, moment=moment, title=title, legend=LEGEND, about=about, side=SIDE,
            budget=BUDGET,
        )  # fmt: skip
        return drawn.picture()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state(self, *, images: bool) -> dict[str, Any] | None:
        """Plain values; None without pictures, or with more of them than a checkpoint should hold."""
        plain = None if self.probes is None or not images else memory.packed(self.probes)
        if plain is None:
            return None
        return {"probes": plain, "frames": self.history.state()}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on following what an earlier run did."""
        if state is not None:
            self.probes = memory.unpacked(state["probes"])
            self.history.restore(state["frames"])


def _appended(seen: Evidence, new: Evidence, probes: Probes) -> Evidence:
    """Both in one; the pictures are those that `probes` has joined already."""
    from lightning_convviz.cams import ForwardResult

    logits = [each.look.logits for each in (seen, new) if each.look.logits is not None]
    maps = [torch.cat(pair) for pair in zip(seen.look.maps, new.look.maps, strict=True)]
    return Evidence(probes, ForwardResult(torch.cat(logits), {}, maps, seen.look.uniform_gradient))


def remembered(facts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What a strip keeps of what the net said of each picture."""
    return [{key: item.get(key) for key in ("predicted", "p_true", "right")} for item in facts]


def strip(
    history: History,
    probes: Probes,
    scale: Scale,
    *,
    moment: Moment,
    title: str,
    legend: str,
    about: Mapping[str, Any],
    side: int,
    budget: int,
) -> Strip:
    """The drawings that are kept, a row for each picture: evidence over it, and what was said of it.

    Args:
        history: maps, with what `remembered` keeps; early frames may lack the last pictures.
        probes: the pictures.
        scale: of all maps.
        moment: which network this is now.
        title: of the page.
        legend: how to read it.
        about: facts that travel with the file.
        side: about how wide a tile is, in pixels.
        budget: bytes of the file.
    """
    frames, photos = history.frames, resize_photos(probes.display().cpu(), side)
    past = [[frame.facts[row] if row < len(frame.facts) else None for frame in frames] for row in range(len(probes))]
    names = [
        None if probes.labels is None else probes.name(int(torch.as_tensor(probes.labels)[row]))
        for row in range(len(probes))
    ]
    ends = {scale.title: [0.0, scale.high, scale.unit]}
    items = [{"true": name, "drawings": said} for name, said in zip(names, past, strict=True)]
    return Strip(
        title=title, lines=[f"{moment.caption} · below: p(true class) in %"], columns=history.titles(),
        places=history.limit, inputs=rgb(photos),
        rows=[_story(probes, row, names[row], past[row]) for row in range(len(probes))],
        tiles=torch.stack([_tiles(photos, frame, scale) for frame in frames], 1),
        below=[[_said(item) for item in said] for said in past], scale=partial(colorbar, scale=scale), colormap=None,
        ids=list(probes.ids or ()), legend=legend, about={**about, "items": items, "scale": ends}, budget=budget,
    )  # fmt: skip


def _tiles(photos: Tensor, frame: Frame, scale: Scale) -> Tensor:
    maps = frame.maps()
    shown = overlay_maps(photos[: len(maps)], maps, scale)
    blank = shown.new_full((len(photos) - len(maps), *shown.shape[1:]), 255)  # not followed yet
    return torch.cat([shown, blank])


def _said(item: Mapping[str, Any] | None) -> Words | None:
    """The probability of the true class, and whether it won."""
    if item is None or item["right"] is None:
        return None
    mark, color = MARKS[item["right"]]
    return f"{mark}{'' if item['p_true'] is None else percent(item['p_true'])[:-1]}", color


def _story(probes: Probes, row: int, true: str | None, past: Sequence[Mapping[str, Any] | None]) -> str:
    """The true class, and what the net said in the drawings shown."""
    said = [item["predicted"] or "not a number" for item in past if item is not None]
    runs = [(name, len(list(group))) for name, group in groupby(said)]
    story = [cut(name, 14) if times == 1 else f"{cut(name, 14)} ({times}x)" for name, times in runs]
    head = f"{called((probes.ids or ())[row])}" + ("" if true is None else f", truth {cut(true, 14)}") + "; said "
    while len(story) > 2 and len(head + ", ".join(story)) > WIDTH + 6:
        story = ["…", *story[2:]]  # the end counts
    return head + ", ".join(story)
