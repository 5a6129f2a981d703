"""One function for each paper: (activations, gradients) -> signed map, for maps of one, two or three axes.

Signed, because a difference of two maps is only exact before negative evidence is cut off; `heatmaps` does that last,
before it enlarges the map.
In all formulas `A` are the activations, `S` is the score, `g = ∂S/∂A` its gradient, and `p` a position `[y, x]`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Cam = Callable[[Float[Tensor, "n c *yx"], Float[Tensor, "n c *yx"]], Float[Tensor, "n *yx"]]


def gradcam(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """Weigh each channel by its mean gradient (Grad-CAM).

    `L[p] = Σ_c w_c A[c, p]` with `w_c = mean_p g[c, p]`. Linear in the score.
    Selvaraju et al. 2017, eqs. 1 and 2 without the ReLU, https://arxiv.org/abs/1610.02391

    Args:
        activations: `A`, what the layer returned.
        gradients: `g`, same shape.

    Returns:
        Signed maps at the layer's resolution, in units of the score.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> gradcam(A, G)  # the weights are 1 and -0.25
        tensor([[[0.2500, 1.0000]]])
    """
    return _weighted(gradients.mean(_positions(gradients)), activations)


def hirescam(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """Weigh each position of each channel by its own gradient (HiResCAM).

    `L[p] = Σ_c g[c, p] A[c, p]`. Linear in the score. Where the rest of the net is linear without bias, the map sums to
    the score. Draelos and Carin 2020, eq. 5, https://arxiv.org/abs/2011.08891

    Args:
        activations: `A`, what the layer returned.
        gradients: `g`, same shape.

    Returns:
        Signed maps at the layer's resolution, in units of the score.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> hirescam(A, G)
        tensor([[[-0.5000,  2.0000]]])
    """
    return (gradients * activations).sum(1)


def layercam(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """Weigh each position of each channel by its own gradient where that is positive (LayerCAM).

    `L[p] = Σ_c max(0, g[c, p]) A[c, p]`. Jiang et al. 2021, without the outer ReLU,
    https://doi.org/10.1109/TIP.2021.3089943

    Args:
        activations: `A`, what the layer returned.
        gradients: `g`, same shape.

    Returns:
        Maps at the layer's resolution, in units of the score; negative only where activations are.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> layercam(A, G)
        tensor([[[1., 2.]]])
    """
    return (gradients.clamp(min=0) * activations).sum(1)


def gradcampp(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """Weigh each channel by its positive gradients, those of weak channels more (Grad-CAM++).

    `L[p] = Σ_c w_c A[c, p]` with `w_c = Σ_p α[c, p] max(0, g[c, p])` and `α[c, p] = g² / (2 g² + g³ Σ_q A[c, q])`,
    where `q` runs over all positions. Chattopadhay et al. 2018, eq. 19, https://arxiv.org/abs/1710.11063, without their
    factor `exp(S)`, which is the same for the whole image. Computed as `α = 1 / (2 + g Σ_q A[c, q])`: `g³` underflows.
    Not homogeneous in the gradient: with twice the score the map is not twice as high.

    Args:
        activations: `A`, what the layer returned.
        gradients: `g`, same shape.

    Returns:
        Signed maps at the layer's resolution, in units of their own. Where `α` is divided by 0, it is 0.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> gradcampp(A, G)  # the weights are 1/5 + 1/5 and 0
        tensor([[[0.4000, 0.8000]]])
    """
    positions = _positions(activations)
    below = 2 + gradients * activations.sum(positions, keepdim=True)
    shares = torch.where(below == 0, 0, gradients.clamp(min=0) / torch.where(below == 0, 1, below))
    return _weighted(shares.sum(positions), activations)


def xgradcam(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """Weigh each channel by its gradient, averaged where it is active (XGrad-CAM).

    `L[p] = Σ_c w_c A[c, p]` with `w_c = Σ_p g[c, p] A[c, p] / Σ_p A[c, p]`. Linear in the score; sums to the same as
    HiResCAM. Fu et al. 2020, https://arxiv.org/abs/2008.02312

    Args:
        activations: `A`, what the layer returned.
        gradients: `g`, same shape.

    Returns:
        Signed maps at the layer's resolution, in units of the score. A channel whose sum is 0 within rounding has
        weight 0: of a dead one nothing is lost.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> xgradcam(A, G)  # the weights are 1 and -1.5 / 7
        tensor([[[0.3571, 1.1429]]])
    """
    positions = _positions(activations)
    total, size = activations.sum(positions), activations.abs().sum(positions)
    noise = torch.finfo(activations.dtype).eps * activations[0, 0].numel() * size
    sums = (gradients * activations).sum(positions)
    weights = torch.where(total.abs() > noise, sums / torch.where(total == 0, 1, total), 0)
    return _weighted(weights, activations)


def elementwise(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """Sum what speaks for the score, channel by channel (element-wise Grad-CAM).

    `L[p] = Σ_c max(0, g[c, p] A[c, p])`: HiResCAM without anything that speaks against. No paper of its own;
    https://github.com/jacobgil/pytorch-grad-cam lists it as GradCAMElementWise.

    Args:
        activations: `A`, what the layer returned.
        gradients: `g`, same shape.

    Returns:
        Maps at the layer's resolution, in units of the score, not negative.

    Example:
        >>> A = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> G = torch.tensor([[[[1.0, 1.0]], [[-0.5, 0.0]]]])
        >>> elementwise(A, G)
        tensor([[[1., 2.]]])
    """
    return (gradients * activations).clamp(min=0).sum(1)


def eigencam(activations: Float[Tensor, "n c *yx"], gradients: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    """What the layer is about, whatever the score (Eigen-CAM).

    `L = O v`, where `O` are the activations as a matrix of positions by channels, and `v` is its first right singular
    vector. Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299. As in the paper the channels are not
    centered; other libraries do so. A singular vector has no sign: here the map's sum is not negative, and so is the
    whole map after a ReLU.

    Args:
        activations: `A`, what the layer returned.
        gradients: not used, so the map is the same for all classes.

    Returns:
        Signed maps at the layer's resolution, in units of the activations.

    Example:
        >>> A = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]])
        >>> eigencam(A, A)  # v is (0.6, 0.8)
        tensor([[[5., 0.]]])
    """
    flat = activations.flatten(2)
    if flat.shape[1] <= flat.shape[2]:
        maps = (_leading(flat @ flat.mT).mT @ flat)[:, 0]
    else:  # O v = |O^T u| u with the left singular vector u: the smaller matrix of the two
        left = _leading(flat.mT @ flat)
        maps = ((flat @ left).norm(dim=1, keepdim=True) * left)[:, :, 0]
    signs = torch.where(maps.sum(1, keepdim=True) < 0, -1, 1)
    return (signs * maps).reshape(activations.shape[:1] + activations.shape[2:])


def _leading(gram: Float[Tensor, "n m m"]) -> Float[Tensor, "n m 1"]:
    """The eigenvector of the largest eigenvalue, of a positive semidefinite matrix.

    By squaring: `eigh` would wait for the device, is not there on all of them, and raises for NaN.
    """
    for _ in range(30):  # ratios of eigenvalues are raised to the power 2^30
        largest = gram.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
        gram = gram / torch.where(largest == 0, 1, largest)
        gram = gram @ gram
    place = gram.diagonal(dim1=1, dim2=2).argmax(1)[:, None, None]
    column = gram.gather(2, place.expand(-1, gram.shape[1], 1))
    length = column.norm(dim=1, keepdim=True)
    return column / torch.where(length == 0, 1, length)


def _positions(maps: Tensor) -> tuple[int, ...]:
    return tuple(range(2, maps.ndim))


def _weighted(weights: Float[Tensor, "n c"], activations: Float[Tensor, "n c *yx"]) -> Float[Tensor, "n *yx"]:
    return (weights.reshape(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(1)


# The one table of names; add a method here and a row in the tests.
METHODS: dict[str, Cam] = {
    "gradcam": gradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "gradcam++": gradcampp,
    "xgradcam": xgradcam,
    "elementwise": elementwise,
    "eigencam": eigencam,
}
