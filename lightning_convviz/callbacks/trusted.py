"""How far the probes' heatmaps can be believed, as numbers beside the pictures."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_convviz import outputs, trust
from lightning_convviz.callbacks.scene import View
from lightning_convviz.cams.fusion import enlarge

if TYPE_CHECKING:
    from lightning_convviz.callbacks.lens import Lens

STEPS = 4  # of deletion and insertion


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
        forward = partial(_answers, view, output) if lens.has_classes else None
        given = view.probes.masks
        masks = None if given is None else given.to(heat.device)
        with torch.no_grad():
            found = trust.report(
                forward, images, heat, view.look.logits.flatten(1).argmax(1), steps=STEPS, masks=masks,
                before=self._like(self._before, own, images), initial=self._like(self._initial, own, images),
            )  # fmt: skip
        if view.moment.initial:
            self._initial = own.cpu()
        self._before = None if view.moment.initial else own.cpu()
        return {name: value for name, value in trust.mean(found).items() if math.isfinite(value)}

    def _like(self, kept: Tensor | None, own: Tensor, images: Tensor) -> Tensor | None:
        """Maps of another drawing as heat; none where another layer was explained."""
        return None if kept is None or kept.shape != own.shape else self._heat(kept.to(own), images)

    @staticmethod
    def _heat(maps: Tensor, images: Tensor) -> Tensor:
        return enlarge(maps, tuple(images.shape[2:])).clamp(min=0)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def kept(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"initial": self._initial, "before": self._before}

    def keep(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run kept."""
        self._initial, self._before = state["initial"], state["before"]


def _answers(view: View, output: Callable[..., Any] | None, images: Tensor) -> Tensor:
    return outputs.logits(view.again(images), output)
