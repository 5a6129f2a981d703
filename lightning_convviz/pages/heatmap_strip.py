"""Heatmaps over time: the probes' film strip, and the mistakes that are pinned when they are first found."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_convviz.history import Frame, History
from lightning_convviz.pages.captions import MARKS, WIDTH, display_name, percent, truncate
from lightning_convviz.pages.explained import Prediction
from lightning_convviz.pages.filmstrip import LEGEND as FILMSTRIP_LEGEND
from lightning_convviz.pages.filmstrip import Caption, Filmstrip
from lightning_convviz.pages.heatmaps import BUDGET, HeatmapInfo, MapScale, resize_photos
from lightning_convviz.probes import Probes
from lightning_convviz.render import rgb

PROBES_SIDE = 36  # about how wide a tile of the probes' strip is, in pixels
PROBES_BUDGET = 40_000  # bytes of its file
TRACKED_SIDE = 56  # the same of tracked mistakes, which have the budget of a page
LONGEST = 14  # letters of a class's name above a row

TRACKED = """**Followed mistakes**: the first mistakes that were found, pinned, a row each. On the left the picture, and
then one tile for each drawing, oldest first: over the gray picture the evidence for the class that was predicted then,
all on one scale. Below each tile the probability of the true class, green with ✓ where it won. The line above a row
names the true class and, after the colon, what was predicted in the drawings shown."""


def strip_facts(predictions: Sequence[Prediction], count: int) -> list[dict[str, Any]]:
    """What a strip keeps of each image in one drawing; of images without predictions nothing."""
    if not predictions:
        return [{} for _ in range(count)]
    return [{"predicted": each.predicted, "p_true": each.p_true, "right": each.right} for each in predictions[:count]]


def probes_strip(info: HeatmapInfo, probes: Probes, photos: Float[Tensor, "n 3 h w"], history: History) -> Filmstrip:
    """`evolution/gradcam/probes`: a row for each probe, a tile for each drawing.

    Args:
        info: what the maps are of.
        probes: those that are shown.
        photos: the same for display, in [0, 1].
        history: maps, with what `strip_facts` keeps.
    """
    what = "predicted class" if info.has_classes else "score"
    return _strip(
        info,
        probes,
        resize_photos(photos.cpu(), PROBES_SIDE),
        history,
        title=f"Evidence for the {what}, over time {info.place(history.frames[-1].codes)}",
        legend=FILMSTRIP_LEGEND.format(row="probe"),
        kind="evolution",
        budget=PROBES_BUDGET,
    )


def tracked_strip(info: HeatmapInfo, probes: Probes, history: History) -> Filmstrip:
    """`gradcam/followed`: a row for each mistake that is pinned, a tile for each drawing.

    Args:
        info: what the maps are of.
        probes: the mistakes.
        history: maps, with what `strip_facts` keeps; early frames may lack the last images.
    """
    return _strip(
        info,
        probes,
        resize_photos(probes.display().cpu(), TRACKED_SIDE),
        history,
        title=f"Mistakes followed {info.place(history.frames[-1].codes)}: evidence for the class predicted then",
        legend=TRACKED,
        kind="followed",
        budget=BUDGET,
    )


def _strip(
    info: HeatmapInfo,
    probes: Probes,
    photos: Float[Tensor, "n 3 h w"],
    history: History,
    *,
    title: str,
    legend: str,
    kind: str,
    budget: int,
) -> Filmstrip:
    frames, rows = history.frames, range(len(probes))
    # A history keeps no evidence against a class, so that the scale begins at 0.
    scale = MapScale(info.evidence.title, info.evidence.high, info.evidence.unit)
    past = [[frame.facts[row] if row < len(frame.facts) else None for frame in frames] for row in rows]
    true = [None if probes.labels is None else probes.name(int(probes.labels[row])) for row in rows]
    below = [[_probability(item) for item in items] for items in past]
    words = " · below: p(true class) in %" if any(caption for items in below for caption in items) else ""
    ids = list(probes.ids or ())
    return Filmstrip(
        title=title,
        lines=[info.snapshot.caption + words],
        rows=[_story(ids[row], true[row], past[row]) for row in rows],
        columns=history.titles(),
        tiles=torch.stack([_tiles(photos, frame, scale) for frame in frames], 1),
        scale=scale.write_bar,
        colormap=None,
        legend=legend,
        about={
            **info.facts(kind),
            "items": [{"true": name, "drawings": items} for name, items in zip(true, past, strict=True)],
            "scale": {scale.title: scale.ends()},
        },
        budget=budget,
        inputs=rgb(photos),
        below=below,
        places=history.limit,
        ids=ids,
    )


def _tiles(photos: Float[Tensor, "n 3 h w"], frame: Frame, scale: MapScale) -> UInt8[Tensor, "n h w 3"]:
    maps = frame.maps()
    shown = scale.overlay(photos[: len(maps)], maps)
    blank = shown.new_full((len(photos) - len(maps), *shown.shape[1:]), 255)  # not pinned yet
    return torch.cat([shown, blank])


def _probability(item: Mapping[str, Any] | None) -> Caption | None:
    """The probability of the true class, and whether it won."""
    right = None if item is None else item.get("right")
    if item is None or right is None:
        return None
    mark, color = MARKS[right]
    return f"{mark}{percent(item['p_true'])[:-1]}", color


def _story(name: int | str, true: str | None, past: Sequence[Mapping[str, Any] | None]) -> str:
    """The true class, and what was predicted in the drawings shown."""
    head = display_name(name) + ("" if true is None else f", truth {truncate(true, LONGEST)}")
    predicted = [item["predicted"] or "not a number" for item in past if item]
    if not predicted:
        return head
    runs = [(each, len(list(group))) for each, group in groupby(predicted)]
    story = [truncate(each, LONGEST) + (f" ({times}x)" if times > 1 else "") for each, times in runs]
    head += ": "
    while len(story) > 2 and len(head + ", ".join(story)) > WIDTH + 6:
        story = ["…", *story[2:]]  # the end counts
    return head + ", ".join(story)
