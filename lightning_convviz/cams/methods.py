"""One function for each paper: (activations, gradients) -> signed map.

Signed, because a difference of two maps is only exact before negative evidence is cut off; `heatmaps` clamps last.
"""

from collections.abc import Callable
from typing import Any

import torch  # noqa: F401  (the doctests name it)
from jaxtyping import Float
from torch import Tensor

Cam = Callable[[Float[Tensor, "n c y x"], Float[Tensor, "n c y x"]], Float[Tensor, "n y x"]]


def gradcam(activations: Float[Tensor, "n c y x"], gradients: Float[Tensor, "n c y x"]) -> Float[Tensor, "n y x"]:
    """Weigh each channel by its mean gradient (Grad-CAM).

    `L[y, x] = Σ_c w_c A[c, y, x]` with `w_c = mean_yx ∂S/∂A[c, y, x]`, where `A` are the activations and `S` is the
    score. Selvaraju et al. 2017, eqs. 1 and 2 without the ReLU, https://arxiv.org/abs/1610.02391

    Args:
        activations: `A`, what the layer returned.
        gradients: `∂S/∂A`, same shape.

    Returns:
        Signed maps at the layer's resolution, in units of the score.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> gradcam(A, G)  # the weights are 1 and -0.25
        tensor([[[0.2500, 1.0000]]])
    """
    weights = gradients.mean((-2, -1), keepdim=True)
    return (weights * activations).sum(1)


def hirescam(activations: Float[Tensor, "n c y x"], gradients: Float[Tensor, "n c y x"]) -> Float[Tensor, "n y x"]:
    """Weigh each position of each channel by its own gradient (HiResCAM).

    `L[y, x] = Σ_c ∂S/∂A[c, y, x] A[c, y, x]`. Where the rest of the net is linear without bias, the map sums to the
    score. Draelos and Carin 2020, eq. 5, https://arxiv.org/abs/2011.08891

    Args:
        activations: `A`, what the layer returned.
        gradients: `∂S/∂A`, same shape.

    Returns:
        Signed maps at the layer's resolution, in units of the score.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> hirescam(A, G)
        tensor([[[-0.5000,  2.0000]]])
    """
    return (gradients * activations).sum(1)


# The one table of names; add a method here and a row in the tests.
METHODS: dict[str, Cam] = {"gradcam": gradcam, "hirescam": hirescam}


def resolve(method: str | Cam) -> Cam:
    """The function behind a name; a function passes through.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something that can't be called.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(_unknown(method))
        return METHODS[method]
    if not callable(method):
        raise TypeError(f"`method` is a {type(method).__name__}. It can be {sorted(METHODS)} or a function.")
    return method


def _unknown(method: Any) -> str:
    import difflib

    close = difflib.get_close_matches(method, METHODS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"`method` is {method!r}. It can be {sorted(METHODS)} or a function.{hint}"
