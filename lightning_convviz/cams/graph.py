"""What one forward left behind, for the methods that need more of it than activations and gradients."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_convviz.isolation import gradients
from lightning_convviz.targets import Target


@dataclass(frozen=True)
class BackwardContext:
    """One layer and one target of a forward whose graph is still there.

    Attributes:
        images: what the model was given, (n, c, h, w).
        output: what the layer returned, a node of the graph.
        logits: (n, k), in the graph.
        target: logits -> one score for each image.
        maps: lays tensors of the layer's output out as maps (n, c, y, x).
        forward: other images -> their logits, without a graph.
    """

    images: Float[Tensor, "n *chw"]
    output: Tensor
    logits: Float[Tensor, "n ..."]
    target: Target
    maps: Callable[[Tensor], Float[Tensor, "n c *yx"]]
    forward: Callable[[Tensor], Tensor]

    @property
    def activations(self) -> Float[Tensor, "n c *yx"]:
        """`A`, detached, at least in float32."""
        return at_least_float32(self.maps(self.output.detach()))

    def gradient(self, target: Target | None = None, *, create_graph: bool = False) -> Tensor:
        """`∂S/∂A` for the explanation's target or another, in the shape of the layer's output.

        Raises:
            ValueError: where the layer does not lead to the score.
        """
        with torch.enable_grad():
            total = (target or self.target)(self.logits).sum()
        found = None
        if total.requires_grad:
            options = {"retain_graph": True, "create_graph": create_graph, "allow_unused": True}
            (found,) = gradients(total, [self.output], **options)
        if found is None:
            raise ValueError("the layer does not lead to the score. Choose one that does.")
        return found


def at_least_float32(tensor: Tensor) -> Tensor:
    """At least float32: sums of half precision lose what the maps are about."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


GraphCam = Callable[[BackwardContext], Float[Tensor, "n *yx"]]
