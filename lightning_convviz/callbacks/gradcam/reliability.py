"""How far the probes' heatmaps can be believed, as numbers beside the pictures."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz import heatmap_metrics, outputs
from lightning_convviz.cams.fusion import resize_maps
from lightning_convviz.engine.contract import DrawContext

CELLS = 32
STEPS = 2  # of deletion and insertion: six forwards of the probes in all


class ReliabilityTracker:
    """The probes' maps in the initial network and in the last drawing, to compare the current ones with."""

    def __init__(self) -> None:
        self._initial: UInt8[Tensor, "n y x"] | None = None
        self._last: UInt8[Tensor, "n y x"] | None = None

    def measure(
        self, context: DrawContext, classes: Int[Tensor, " n"] | None, output: Callable[..., Any] | None
    ) -> dict[str, float]:
        """Means over the probes, of the maps for the first target; what is defined for none of them is left out.

        Args:
            context: of the drawing.
            classes: that the maps explain; None where they explain none, and no probability can be measured.
            output: what the model returns -> logits, see `outputs.logits`.
        """
        maps, images = context.result.maps[0].detach(), context.probes.images
        heat = _heat(maps, images)
        masks = context.probes.masks
        with torch.no_grad():
            report = heatmap_metrics.report(
                None if classes is None else partial(_logits, context, output),
                images,
                heat,
                torch.zeros(len(images), dtype=torch.long) if classes is None else classes,
                steps=STEPS,
                masks=None if masks is None else masks.to(heat.device),
                chunk=len(images),
                before=_heat_of_codes(self._last, maps, images),
                initial=_heat_of_codes(self._initial, maps, images),
            )
        if context.snapshot.initial:
            self._initial = _codes(maps)
        if context.snapshot.training:
            self._last = None if context.snapshot.initial else _codes(maps)
        return {name: value for name, value in heatmap_metrics.mean(report).items() if math.isfinite(value)}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, or None where nothing was drawn yet."""
        return {"initial": self._initial, "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the maps of an earlier run."""
        self._initial, self._last = state["initial"], state["last"]


def _heat(maps: Float[Tensor, "n y x"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The evidence for the target at the size of the images: cut off at 0 first, then enlarged, as it is drawn."""
    return resize_maps(maps.clamp(min=0), tuple(images.shape[2:]))


def _heat_of_codes(
    codes: UInt8[Tensor, "n y x"] | None, maps: Float[Tensor, "n y x"], images: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n h w"] | None:
    """The heat of another drawing; None where number or size tell that its maps are of something else."""
    if codes is None or codes.shape != _codes(maps).shape:
        return None
    return _heat(codes.to(maps), images)


def _codes(maps: Float[Tensor, "n y x"]) -> UInt8[Tensor, "n y x"]:
    """Maps as 256 levels of at most 32 x 32, in main memory: what they are compared by is the order of their values."""
    maps = maps.detach().float().nan_to_num(0, 0, 0).clamp(min=0)
    if maps.shape[1] > CELLS or maps.shape[2] > CELLS:
        maps = F.adaptive_avg_pool2d(maps, (min(maps.shape[1], CELLS), min(maps.shape[2], CELLS)))
    peak = maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return (maps * (255 / peak)).round().to(torch.uint8).cpu()


def _logits(context: DrawContext, output: Callable[..., Any] | None, images: Tensor) -> Tensor:
    """Logits of altered copies of the probes."""
    return outputs.logits(context.forward_repeated(images), output)
