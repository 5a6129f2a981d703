"""The weights of the first layer as pictures, and below what changed since the last drawing."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lightning_convviz.history import Snapshot
from lightning_convviz.layers import evenly_spaced
from lightning_convviz.render.color import rgb
from lightning_convviz.render.layout import GAP, MARGIN, PageLayout, Picture, TileGrid, near_square, zoom_for

MOST_KERNELS = 64
BUDGET = 400_000  # bytes, never reached: of few flat tiles a PNG is small, but it has to be tried

LEGEND = """**Kernels**: the weights of the first convolution as pictures: gray is 0, bright positive, dark negative,
all on one scale that stays until the weights leave it by a factor of two. Below, what changed since the last
drawing."""


def kernel_range(weights: Float[Tensor, "n c h w"]) -> float:
    """The weight that would be brightest if the scale were this drawing's own: few are larger.

    >>> kernel_range(torch.tensor([-2.0, 1.0]).reshape(1, 2, 1, 1))
    1.9950000047683716
    """
    magnitudes = weights[_shown(len(weights))].abs().flatten()
    return float(magnitudes.nan_to_num(0, 0, 0).quantile(0.995))


def kernel_page(
    weights: Float[Tensor, "n c h w"],
    before: Float[Tensor, "n c h w"] | None,
    *,
    layer: str,
    snapshot: Snapshot,
    high: float,
    change_note: str = "",
) -> Picture:
    """The weights of the first layer as pictures, and below what changed since the last drawing.

    Args:
        weights: of all filters; up to 64 of them are shown.
        before: the same at the last drawing, if there was one.
        layer: its name.
        snapshot: which network this is.
        high: the weight that is shown brightest.
        change_note: when the scale was last changed.
    """
    channels = _shown(len(weights))
    _, c, h, w = weights.shape
    columns = near_square(len(channels))
    zoom = zoom_for(max(h, w), columns)
    page = PageLayout(2 * MARGIN + columns * (w * zoom + GAP))
    page.write(f"Weights of {layer}", bold=True)
    page.write(snapshot.caption)
    colors = ", the first three of them as colors" if c > 3 else ""
    page.write(f"{len(channels)} of {len(weights)} filters in order of number, {h} × {w}, {c} channels{colors}")
    if change_note:
        page.write(f"scale {change_note}")
    page.scale_bar(f"-{high:.2g}", f"{high:.2g}", note="gray: 0", ramp=_ramp())
    kernels = page.tiles(rgb(_as_gray(weights[channels], high)), columns=columns, zoom=zoom)
    items: list[dict[str, float | None]] = [{} for _ in channels]
    if before is not None:
        changes = _write_change(page, weights[channels], before[channels], channels, kernels)
        items = [{"change": round(share, 4) if math.isfinite(share) else None} for share in changes]
    about = {
        "kind": "kernels",
        "layer": layer,
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "scale": [-high, high],
        "rows": ["kernel"],
        "columns": channels,
        "items": items,
    }
    return page.picture(main=kernels, colormap=None, legend=LEGEND, budget=BUDGET, about=about)


def _write_change(
    page: PageLayout,
    weights: Float[Tensor, "n c h w"],
    before: Float[Tensor, "n c h w"],
    channels: Sequence[int],
    kernels: TileGrid,
) -> list[float]:
    """The second half of the page; returns each filter's change as a share of its norm."""
    change = weights - before
    norms = before.flatten(1).norm(dim=1).clamp(min=1e-12)
    shares: list[float] = (change.flatten(1).norm(dim=1) / norms).tolist()
    largest = sorted(range(len(shares)), key=lambda row: -shares[row])[:3]
    most = float(change.abs().max())
    page.y += MARGIN
    page.write("Change since the last drawing", bold=True)
    page.write(
        "most: " + ", ".join(f"#{channels[row]} {shares[row]:.0%}" for row in largest) + " of its norm; gray: none"
    )
    page.scale_bar(f"-{most:.2g}", f"{most:.2g}", ramp=_ramp())
    page.tiles(rgb(_as_gray(change, max(most, 1e-12))), columns=kernels.columns, zoom=kernels.zoom)
    return shares


def _shown(count: int) -> list[int]:
    return evenly_spaced(range(count), MOST_KERNELS)


def _ramp() -> UInt8[Tensor, "x 3"]:
    """The colors of the scale's bar, from dark to bright."""
    return rgb(torch.linspace(0, 1, 176).expand(1, 3, 1, -1))[0, 0]


def _as_gray(values: Float[Tensor, "n c h w"], high: float) -> Float[Tensor, "n 3 h w"]:
    """Values as colors, a channel each, 0 in the middle; one channel in gray, of more than three the first three."""
    shown = (values.float() / (2 * high) + 0.5).clamp(0, 1).nan_to_num(0.5)
    if shown.shape[1] == 1:
        return shown.expand(-1, 3, -1, -1)
    if shown.shape[1] == 2:
        return torch.cat([shown, torch.full_like(shown[:, :1], 0.5)], 1)
    return shown[:, :3]
