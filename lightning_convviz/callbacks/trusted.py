"""How far the probes' heatmaps can be believed, as numbers beside the pictures."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz import heatmap_metrics, outputs
from lightning_convviz.callbacks.scene import View
from lightning_convviz.cams.fusion import resize_maps

if TYPE_CHECKING:
    from lightning_convviz.callbacks.lens import Lens

CELLS = 32
STEPS = 2  # of deletion and insertion: six forwards of the probes in all


class Trusted:
    """The probes' maps in the initial network and in the last drawing, to compare with."""

    def __init__(self) -> None:
        self._initial: Tensor | None = None
        self._before: Tensor | None = None

    def measure(self, view: View, lens: "Lens", output: Callable[..., Any] | None) -> dict[str, float]:
        """Means over the probes, of the maps for the first target; what is defined for none of them is left out."""
        own, images = view.look.maps[0].detach(), view.probes.images
        assert view.look.logits is not None  # explanations read them
        heat = self._heat(own, images)
        classes = lens.classes(view.look.logits, view.probes)
        forward = None if classes is None else partial(_answers, view, output)
        given = view.probes.masks
        masks = None if given is None else given.to(heat.device)
        classes = torch.zeros(len(images), dtype=torch.long) if classes is None else classes
        with torch.no_grad():
            found = heatmap_metrics.report(
                forward, images, heat, classes, steps=STEPS, masks=masks, chunk=len(images),
                before=self._like(self._before, own, images), initial=self._like(self._initial, own, images),
            )  # fmt: skip
        if view.moment.initial:
            self._initial = _small(own)
        if view.moment.training:
            self._before = None if view.moment.initial else _small(own)
        return {name: value for name, value in heatmap_metrics.mean(found).items() if math.isfinite(value)}

    def _like(self, kept: Tensor | None, own: Tensor, images: Tensor) -> Tensor | None:
        """Maps of another drawing as heat; none where their number or size tells that they are of something else."""
        fits = kept is not None and kept.shape == _small(own).shape
        return self._heat(kept.to(own), images) if fits and kept is not None else None

    @staticmethod
    def _heat(maps: Tensor, images: Tensor) -> Tensor:
        return resize_maps(maps, tuple(images.shape[2:])).clamp(min=0)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def kept(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"initial": self._initial, "before": self._before}

    def keep(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run kept."""
        self._initial, self._before = state["initial"], state["before"]


def _small(maps: Tensor) -> Tensor:
    """Maps as 256 levels of at most 32 x 32, in main memory: what they are compared by is the order of their values."""
    maps = maps.detach().float().nan_to_num(0, 0, 0).clamp(min=0)
    if maps.shape[1] > CELLS or maps.shape[2] > CELLS:
        maps = F.adaptive_avg_pool2d(maps, (min(maps.shape[1], CELLS), min(maps.shape[2], CELLS)))
    peak = maps.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return (maps * (255 / peak)).round().to(torch.uint8).cpu()


def _answers(view: View, output: Callable[..., Any] | None, images: Tensor) -> Tensor:
    return outputs.logits(view.again(images), output)
