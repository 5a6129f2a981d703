"""How alike two layers, or one layer at two times, see the same images."""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

PIXELS = 256  # values of an image at most that its print is made of
APART = 1e-4  # of the largest print: beyond rounding, below what another crop or a little noise makes


def cka(x: Float[Tensor, "m c"], y: Float[Tensor, "_ d"]) -> float:
    """Linear centered kernel alignment of two sets of features of the same m images, in [0, 1].

        CKA = ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F), columns of X and Y centered

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (https://arxiv.org/abs/1905.00414),
    section 3. Rotations and one scale for all channels change nothing. A few outliers may decide it (Davari et al.
    2022, https://arxiv.org/abs/2210.16156), and it comes out high where there are few images for many channels.

    Args:
        x: mean-pooled features, one row for each image.
        y: others of the same images in the same order; the number of channels may differ.

    Returns:
        In float64. NaN where features don't vary, or are not finite.

    Raises:
        ValueError: The numbers of images differ.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [3.0, 3.0]])
        >>> round(cka(x, 5 * x.flip(1)), 6), round(cka(x, x[:, :1]), 6)
        (1.0, 0.790569)
    """
    if len(x) != len(y):
        raise ValueError(f"`y` is features of {len(y)} images. As many as in `x`, {len(x)}, would be right.")
    kernels = [_kernel(each.detach().cpu().double()) for each in (x, y)]
    scale = math.prod(float(kernel.norm()) for kernel in kernels)
    return min(float((kernels[0] * kernels[1]).sum()) / scale, 1.0) if scale > 0 else math.nan


def _kernel(features: Float[Tensor, "m c"]) -> Float[Tensor, "m m"]:
    # ‖YᵀX‖²_F is the inner product of XXᵀ and YYᵀ, which are small: images are few.
    centered = features - features.mean(0)
    rounding = features.abs().amax(0) * len(features) * torch.finfo(torch.float64).eps
    centered = torch.where(centered.abs().amax(0) <= rounding, 0.0, centered)  # constant but for rounding is constant
    return centered @ centered.T


def fingerprints(images: Num[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """A fingerprint of each image: a sum of up to 256 of its values with fixed irregular weights.

    It changes with the pixels, their order included, and doesn't depend on the other images of the batch. Nothing waits
    for the device.

    >>> pair = torch.eye(3)[None].repeat(2, 1, 1)
    >>> pair[1] = pair[1].flip(0)
    >>> fingerprints(pair)
    tensor([-0.1187, -0.0640])
    """
    if images.ndim > 3:  # thinned out before anything is copied, whatever the memory order
        step = math.ceil(math.sqrt(images[0].numel() / PIXELS)) if len(images) else 1
        images = images[..., :: max(1, step), :: max(1, step)]
    flat = images.flatten(1)
    values = flat[:, :: max(1, -(-flat.shape[1] // PIXELS))].float()
    place = torch.arange(1, values.shape[1] + 1, device=values.device)
    weights = (place * place * 40503 % 65521).float() / 65521 - 0.5  # squares of places: a mirrored picture differs
    return (values * weights).sum(1) / math.sqrt(values.shape[1])


def same(x: Float[Tensor, " m"], y: Float[Tensor, " _"]) -> bool:
    """Whether fingerprints are those of the same images in the same order, so that `cka` compares networks.

    They may differ by rounding (1e-4 of the largest): an image that was normalized on another device is the same one.
    Waits for the device.

    >>> same(torch.tensor([0.5, -0.25]), torch.tensor([0.50001, -0.25])), same(torch.tensor([0.5]), torch.tensor([0.4]))
    (True, False)
    """
    return x.shape == y.shape and bool((x - y).abs().amax() <= APART * x.abs().amax())
