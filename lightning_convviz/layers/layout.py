"""How a layer's output is laid out as maps: channels first, channels last, or a sequence of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, floor, log, prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Order = Literal["channels first", "channels last", "tokens", "tokens first"]

# Numbers of tokens in front of the patches, and how far-fetched each is: none or a class token; a distillation token
# beside it (https://arxiv.org/abs/2012.12877), four registers (https://arxiv.org/abs/2309.16588) without or with it;
# anything else.
PREFIXES = {0: 0.0, 1: 0.0, 2: 0.5, 4: 0.5, 5: 0.5, 3: 1.5, 6: 1.5, 7: 1.5, 8: 1.5}

SKEW = log(2)  # maps whose strides along y and x differ by more are none: (n, heads, tokens, c), say

_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.GroupNorm,
    nn.Upsample,
    nn.PixelShuffle,
)


@dataclass(frozen=True)
class Layout:
    """How a layer's output is laid out as maps.

    Attributes:
        size: positions of a map: (y, x), for sequences (x,), for volumes (z, y, x).
        order: where the channels are; `"tokens"` (n, t, c) and `"tokens first"` (t, n, c) have one row of positions.
        prefix: how many tokens come before those of the map: class, distillation and register tokens.

    Example:
        >>> tokens = torch.arange(5.0).reshape(1, 5, 1)  # a class token, then 2 x 2 patches
        >>> Layout((2, 2), "tokens", prefix=1)(tokens)
        tensor([[[[1., 2.],
                  [3., 4.]]]])
    """

    size: tuple[int, ...]
    order: Order
    prefix: int = 0

    def __call__(self, output: Float[Tensor, "..."]) -> Float[Tensor, "n c *yx"]:
        """The maps in a layer's output, or in a gradient of the same shape: a view."""
        if self.order == "channels first":
            return output
        if self.order == "channels last":
            return output.movedim(-1, 1)
        tokens = output if self.order == "tokens" else output.transpose(0, 1)
        return torch.unflatten(tokens[:, self.prefix :].movedim(-1, 1), -1, self.size)

    def __str__(self) -> str:
        """In words, for captions and messages.

        >>> print(Layout((14, 14), "tokens", prefix=5))
        14 x 14 tokens after 5 others
        """
        size = " x ".join(map(str, self.size))
        kind = "tokens" if self.order.startswith("tokens") else f"maps, {self.order}"
        return f"{size} {kind}" + (f" after {self.prefix} others" if self.prefix else "")


def layout(shape: Sequence[int], image: Sequence[int], *, module: nn.Module | None = None) -> Layout | None:
    """How an output of `shape` can be read as maps of images of shape `image`; None where it can't.

    Maps have as many axes as images. Which of them holds the channels is told by the module's type (convolutions,
    pooling, BatchNorm: the first; linear layers, LayerNorm: the last), else by the strides: the last where `h / y` and
    `w / x` differ less that way and are rather one integer. Where both fit, (n, 7, 7, 7) say, the parts of a container
    decide, and then the custom: channels first. A map need not fit the image: what has its axes counts as such.

    Tokens have three axes, (n, t, c) or (t, n, c), and are a grid with 0 to 8 others in front. A grid that one integer
    stride makes of the image without a rest counts more than one with a rest, and the usual numbers of others more
    than unusual ones: of 64 x 64 pixels, 20 tokens are 4 x 4 and four registers.

    Args:
        shape: of the layer's output.
        image: of the images, (n, c, h, w), (n, c, w) or (n, c, d, h, w).
        module: the layer, for what its type tells.

    Returns:
        The layout. None for outputs of other axes, for more rows than images (as within the windows of a Swin), for
        what is as long as no grid, and for vectors that a linear layer gives heads, (n, heads, t, c).

    Example:
        >>> print(layout((1, 197, 192), (1, 3, 224, 224)))
        14 x 14 tokens after 1 others
        >>> print(layout((1, 6, 8, 96), (1, 3, 192, 256)), "|", layout((1, 96, 6, 8), (1, 3, 192, 256)))
        6 x 8 maps, channels last | 6 x 8 maps, channels first
        >>> layout((1, 1000), (1, 3, 224, 224))
    """
    shape, image, sequence = tuple(shape), tuple(image), len(image) == 3
    order = _order(module, sequence=sequence)
    if len(shape) == len(image) and not (sequence and order == "channels last"):
        return _as_maps(shape, image, order, module) if shape[0] <= image[0] and min(shape) > 0 else None
    if len(shape) == 3 and order != "channels first" and shape[-1] > 1:
        return _as_tokens(shape, image)
    return None


def skew(size: Sequence[int], image: Sequence[int]) -> float:
    """How much the strides of a map along y and x differ: `|log(h / y) - log(w / x)|`, 0 for sequences.

    >>> skew((7, 7), (1, 3, 224, 224)), round(skew((7, 14), (1, 3, 224, 224)), 3)
    (0.0, 0.693)
    """
    if len(size) < 2:
        return 0.0
    return abs(log(image[-2] / size[-2]) - log(image[-1] / size[-1]))


def _as_maps(
    shape: tuple[int, ...], image: tuple[int, ...], order: Order | None, module: nn.Module | None
) -> Layout | None:
    first, last = shape[2:], shape[1:-1]
    if order == "channels last" and skew(last, image) > SKEW:
        return None
    if order is None and len(first) > 1:  # a sequence has no aspect ratio
        gain = _oddity(first, image) - _oddity(last, image)
        order = _inside(module) if abs(gain) < 0.1 else "channels last" if gain > 0 else "channels first"
        far_fetched = last not in _grids(image[2:]).get(prod(last), {}) and _inside(module) == "channels first"
        order = "channels first" if far_fetched or skew(last, image) > SKEW else order
    return Layout(last, order) if order == "channels last" else Layout(first, "channels first")


def _oddity(size: tuple[int, ...], image: tuple[int, ...]) -> float:
    """How far a map is from one that a single integer stride makes of the image: its skew, and a little for a rest."""
    return skew(size, image) + 0.1 * min(2.0, _grids(image[2:]).get(prod(size), {}).get(size, 2.0))


def _as_tokens(shape: tuple[int, ...], image: tuple[int, ...]) -> Layout | None:
    rows = (shape[0] == image[0], shape[1] == image[0], shape[0] < image[0], shape[1] < image[0])
    if not any(rows):
        return None
    axis = 1 if rows.index(True) % 2 == 0 else 0  # the one that is not the images'
    known = _grids(image[2:])
    options = [
        (cost + rest + (prefix >= prod(size)), prefix, size)  # hardly more others than patches
        for prefix, cost in PREFIXES.items()
        for size, rest in known.get(shape[axis] - prefix, {}).items()
        if prod(size) > 1 or not prefix
    ]
    if not options:
        return None
    _, prefix, size = min(options)
    return Layout(size, "tokens" if axis == 1 else "tokens first", prefix)


@lru_cache(maxsize=64)
def _grids(image: tuple[int, ...]) -> dict[int, dict[tuple[int, ...], float]]:
    """Number of positions -> grids that one stride makes of the image -> 0, or 1 where the stride leaves a rest.

    Along the depth of a volume the stride may be another, which costs a little, but leaves no rest.
    """
    plane, grids = image[-2:], dict[int, dict[tuple[int, ...], float]]()
    for stride in range(max(plane), 0, -1):
        rounded = {tuple(rounding(side / stride) for side in plane) for rounding in (floor, ceil)}
        rest = int(any(side % stride for side in plane))
        for flat, (depth, cost) in product(rounded, _depths(image, stride)):
            if min(flat) > 0:
                size, known = depth + flat, grids.setdefault(prod(depth + flat), {})
                known[size] = min(rest + cost, known.get(size, 2.0))
    return grids


def _depths(image: tuple[int, ...], stride: int) -> list[tuple[tuple[int, ...], float]]:
    """Numbers of positions along the depth, and how unlike the plane's stride is the one that makes them."""
    if len(image) < 3:
        return [((), 0.0)]
    strides = [each for each in range(1, image[0] + 1) if image[0] % each == 0]
    return [((image[0] // each,), 0.1 * abs(log(each / stride))) for each in strides]


def _order(module: nn.Module | None, *, sequence: bool) -> Order | None:
    """What the module's type tells for certain; of a container that works on sequences, its last telling part."""
    if module is None:
        return None
    if isinstance(module, _FIRST):
        return "channels first"
    if type(module) in (nn.LayerNorm, nn.Linear):  # not their subclasses: some norms take maps, channels first
        return "channels last"
    return next((order for order in reversed(list(_parts(module))) if order is not None), None) if sequence else None


def _inside(module: nn.Module | None) -> Order:
    """The likelier order of a container: with convolutions channels first, with linear layers only channels last."""
    orders = [] if module is None else list(_parts(module))
    return "channels last" if "channels last" in orders and "channels first" not in orders else "channels first"


def _parts(module: nn.Module) -> Iterator[Order | None]:
    return (_order(part, sequence=False) for part in module.modules() if part is not module)
