"""All numbers at once, in one forward."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lightning_convviz.heatmap_metrics.localization import correlation, defined, energy_inside, entropy, pointing
from lightning_convviz.heatmap_metrics.masking import Baseline, blurred
from lightning_convviz.heatmap_metrics.perturbation import (
    Forward,
    area,
    check,
    drops,
    probabilities,
    soft_masks,
    step_masks,
)


def report(
    forward: Forward | None,
    images: Float[Tensor, "n c h w"],
    heat: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    before: Float[Tensor, "n h w"] | None = None,
    initial: Float[Tensor, "n h w"] | None = None,
    masks: Bool[Tensor, "n h w"] | None = None,
    steps: int = 4,
    baseline: Baseline = blurred,
    chunk: int | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """All of these at once; the pictures that the net has to see, 2 + 2 `steps` for each image, in one forward.

    Args:
        forward: as in `confidence`; it sees variant 0 of all images, then variant 1, ... None leaves out what needs it.
        images: model input.
        heat: heatmaps, not negative.
        classes: of the logits, the one that each map explains.
        before: the maps of the last drawing; `stability` is the correlation with them.
        initial: the maps of the initial net; `initial` is the correlation with them.
        masks: where the objects are; for `pointing` and `energy_inside`.
        steps: of `deletion` and `insertion`.
        baseline: images -> what is shown in place of them.
        chunk: the most images at once; default all.

    Returns:
        Name -> a number for each image, NaN where it is not defined; `mean` makes one number of each.

    Raises:
        ValueError: for less than one step, or sizes that don't fit.
    """
    check(images, heat, steps)
    found = {"entropy": entropy(heat)}
    if forward is not None:
        deleted, inserted = step_masks(heat, steps)
        p = probabilities(forward, images, soft_masks(heat) + deleted + inserted, classes, baseline, chunk)
        found |= drops(p, heat)
        found["deletion"] = defined(area(p[0], p[4 : 3 + steps], p[1]), heat)
        found["insertion"] = defined(area(p[1], p[3 + steps :], p[0]), heat)
    others = {"stability": before, "initial": initial}
    found |= {name: correlation(heat, other) for name, other in others.items() if other is not None}
    if masks is not None:
        found |= {"pointing": pointing(heat, masks), "energy_inside": energy_inside(heat, masks)}
    return found


def mean(report: Mapping[str, Float[Tensor, " n"]]) -> dict[str, float]:
    """The mean of each number over the images for which it is defined; NaN where there are none. Waits once.

    >>> mean({"entropy": torch.tensor([0.5, float("nan"), 1.0])})
    {'entropy': 0.75}
    """
    if not report:
        return {}
    return dict(zip(report, torch.stack([each.nanmean() for each in report.values()]).tolist(), strict=True))
