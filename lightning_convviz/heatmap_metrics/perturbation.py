"""Numbers for which the net is asked again, about pictures with a part taken away."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_convviz.heatmap_metrics.localization import defined
from lightning_convviz.heatmap_metrics.masking import Baseline, blurred, mean_color, rank_pixels, relative  # noqa: F401  (doctests name one)

Forward = Callable[[Float[Tensor, "m c h w"]], Float[Tensor, "m k"]]


def confidence(
    forward: Forward,
    images: Float[Tensor, "n c h w"],
    heat: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    baseline: Baseline = blurred,
    chunk: int | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """What the class's probability `p` does when only the hot region is kept, and when it is removed.

    - `drop`: `max(0, p(x) - p(kept)) / p(x)`, its mean the paper's "average drop"; in [0, 1], low is good.
    - `increase`: whether `p(kept) > p(x)`, 0 or 1, its mean the "increase in confidence"; high is good.
    - `drop_removed`: the drop with `1 - m` in place of `m` ("drop in deletion"); high is good.

    `m = L / max L` is the mask (see `masked`) and `L` the heatmap. The paper's explanation map is `L ∘ x`, black where
    the map is cold; here the baseline is there. Chattopadhay et al. 2018 (Grad-CAM++),
    https://arxiv.org/abs/1710.11063; removal after Jung and Oh 2021, https://arxiv.org/abs/2102.05228

    Limits: a map that is warm everywhere keeps the image and so never drops. Read `drop` beside `entropy`.

    Args:
        forward: images -> logits, called once without gradients (in chunks, if those are given), in evaluation mode.
        images: model input.
        heat: heatmaps, not negative.
        classes: of the logits, the one that each map explains.
        baseline: images -> what is shown in place of them.
        chunk: the most images at once; default all.

    Returns:
        The three numbers for each image; NaN for maps of zeros.

    Raises:
        ValueError: for heatmaps that are not at input size.

    Example:
        >>> bright = torch.tensor([[[[0.0, 0.0, 4.0, 4.0]]]])
        >>> hot = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
        >>> def forward(images):
        ...     return torch.stack([images[..., 2:].mean((1, 2, 3)), torch.zeros(len(images))], dim=1)
        >>> found = confidence(forward, bright, hot, torch.tensor([0]), baseline=mean_color)
        >>> [round(value.item(), 3) for value in found.values()]  # 1 - sigmoid(2) / sigmoid(4) where it is removed
        [0.0, 0.0, 0.103]
    """
    check(images, heat)
    return drops(probabilities(forward, images, soft_masks(heat), classes, baseline, chunk), heat)


def deletion(
    forward: Forward,
    images: Float[Tensor, "n c h w"],
    heat: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    steps: int = 4,
    baseline: Baseline = blurred,
    chunk: int | None = None,
) -> Float[Tensor, " n"]:
    """The area under the class's probability while the hottest pixels are removed; in [0, 1], low is good.

    `Σ_j (p_j + p_{j+1}) / (2 J)`, where `p_j` is the probability without the hottest `j / J` of the pixels and `J` are
    the steps. Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421

    Limits: few steps are coarse: compare like with like. See `confidence` for the arguments.

    Raises:
        ValueError: for less than one step.
    """
    check(images, heat, steps)
    p = probabilities(
        forward, images, full_and_empty_masks(heat) + step_masks(heat, steps)[0], classes, baseline, chunk
    )
    return defined(area(p[0], p[2:], p[1]), heat)


def insertion(
    forward: Forward,
    images: Float[Tensor, "n c h w"],
    heat: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    steps: int = 4,
    baseline: Baseline = blurred,
    chunk: int | None = None,
) -> Float[Tensor, " n"]:
    """The area under the class's probability while the hottest pixels enter the baseline; in [0, 1], high is good.

    `deletion` the other way round: `p_j` is the probability with the hottest `j / J` of the pixels only.
    Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421

    Raises:
        ValueError: for less than one step.
    """
    check(images, heat, steps)
    p = probabilities(
        forward, images, full_and_empty_masks(heat) + step_masks(heat, steps)[1], classes, baseline, chunk
    )
    return defined(area(p[1], p[2:], p[0]), heat)


def probabilities(
    forward: Forward, images: Tensor, kept: list[Tensor], classes: Tensor, baseline: Baseline, chunk: int | None
) -> Float[Tensor, "v n"]:
    """The classes' probabilities on all variants, in one forward or in chunks."""
    n, masks = len(images), torch.cat(kept)
    size = chunk or len(masks)
    with torch.no_grad():
        blank, logits = baseline(images), []
        rows = torch.arange(len(masks), device=images.device) % n  # variant 0 of all images, then variant 1, ...
        for start in range(0, len(masks), size):
            row, mask = rows[start : start + size], masks[start : start + size]
            logits.append(forward(torch.lerp(blank[row], images[row], mask[:, None].to(images))))
        joined = torch.cat(logits)
        p = (joined if joined.dtype == torch.float64 else joined.float()).softmax(1)
        return p.gather(1, classes.to(p.device).long()[rows, None])[:, 0].view(-1, n)


def full_and_empty_masks(heat: Tensor) -> list[Tensor]:
    """All kept, nothing kept."""
    return [torch.ones_like(heat), torch.zeros_like(heat)]


def soft_masks(heat: Tensor) -> list[Tensor]:
    """All kept, nothing kept, the hot region kept, the hot region removed."""
    mask = relative(heat).nan_to_num(0, 0, 0)
    return [*full_and_empty_masks(heat), mask, 1 - mask]


def step_masks(heat: Tensor, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """What is kept between the two ends of deletion, and of insertion."""
    place = rank_pixels(heat)
    removed = [place < step / steps for step in range(1, steps)]
    return [(~hot).to(heat) for hot in removed], [hot.to(heat) for hot in removed]


def drops(p: Float[Tensor, "v n"], heat: Tensor) -> dict[str, Float[Tensor, " n"]]:
    """What `confidence` gives, from the probabilities of the variants that `soft_masks` makes."""
    whole, _, kept, removed = p[:4]
    found = {
        "drop": (whole - kept).clamp(min=0) / whole,
        "increase": (kept > whole).to(p),
        "drop_removed": (whole - removed).clamp(min=0) / whole,
    }
    return {name: defined(each, heat) for name, each in found.items()}


def area(first: Tensor, between: Tensor, last: Tensor) -> Float[Tensor, " n"]:
    """Under a curve over [0, 1], by the trapezoid rule."""
    return torch.trapezoid(torch.cat([first[None], between, last[None]]), dim=0) / (len(between) + 1)


def check(images: Tensor, heat: Tensor, steps: int = 1) -> None:
    """Refuse what does not fit."""
    if steps < 1:
        raise ValueError(f"`steps` is {steps}. Give 1 or more.")
    if heat.shape != (len(images), *images.shape[2:]):
        size = (len(images), *images.shape[2:])
        raise ValueError(f"`heat` has shape {tuple(heat.shape)}. For these images it must be {size}.")
