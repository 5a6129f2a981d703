"""What is raised: a layer's output -> one number for each image."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Objective = Callable[[Float[Tensor, "n c y x"]], Float[Tensor, " n"]]
# What makes an objective: the channel of each image, and what the layer answers to the blank image.
ObjectiveFactory = Callable[[Sequence[int], Float[Tensor, "1 c y x"]], Objective]

# Positions next to the edge see padding instead of picture; they are left out of the objective (Chollet, "Deep Learning
# with Python", 2nd ed., 9.4.2), where the map is large enough to do without.
BORDER = 2
FALL = 0.1  # how much places that fall count in `above_blank`


def mean(channels: Sequence[int], blank: Float[Tensor, "1 c y x"]) -> Objective:
    """Image `i` is to raise channel `channels[i]`: the mean of its map without the border.

    Of class logits, which have one position, it is the logit.

    >>> mean([1], torch.zeros(1, 2, 1, 1))(torch.tensor([[[[0.0]], [[3.0]]]]))
    tensor([3.])
    """
    index = _index(channels, blank)
    return lambda activations: _interior(own(activations, index)).mean((1, 2))


def above_blank(channels: Sequence[int], blank: Float[Tensor, "1 c y x"]) -> Objective:
    """Image `i` is to raise channel `channels[i]` above its response to the blank image, wherever it can.

    `mean_yx φ(A[y, x] - A_blank)` with `φ(a) = a` for `a > 0`, else `a / 10`: places that rise count ten times those
    that fall. A convolution at the input is linear, and the plain mean of its map shows nothing but its flat color;
    this shows its edges too.

    >>> above_blank([0], torch.zeros(1, 1, 1, 2))(torch.tensor([[[[1.0, -1.0]]]]))
    tensor([0.4500])
    """
    index = _index(channels, blank)
    level = _interior(blank[0, index]).mean((1, 2), keepdim=True)
    return lambda activations: F.leaky_relu(_interior(own(activations, index)) - level, FALL).mean((1, 2))


def neuron(channels: Sequence[int], blank: Float[Tensor, "1 c y x"]) -> Objective:
    """Image `i` is to raise channel `channels[i]` in the middle of its map: what a single unit looks for, and where.

    >>> neuron([0], torch.zeros(1, 1, 3, 3))(torch.arange(9.0).reshape(1, 1, 3, 3))
    tensor([4.])
    """
    index = _index(channels, blank)
    y, x = blank.shape[2] // 2, blank.shape[3] // 2
    return lambda activations: own(activations, index)[:, y, x]


def direction(vectors: Float[Tensor, "n c"] | Mapping[int, Tensor], *, power: float = 2.0) -> ObjectiveFactory:
    """Image `i` is to bring out the combination `vectors[i]` of all channels; the channels given beside are not used.

    `mean_yx (v · A[y, x]) max(cos(v, A[y, x]), 0.1)^power`: the cosine keeps a few strong channels from standing in for
    the whole direction. Olah et al. 2017, "Feature Visualization", "Interaction between neurons", and its code. All
    images have to fit in one batch, unless vectors are given by channel: a list can't tell which one is whose.

    Args:
        vectors: one for each image, with a number for each channel of the layer; or a dict, channel -> vector.
        power: how much the direction counts beside the size; 0 is the plain product.

    Raises:
        ValueError: where a vector has not one number for each channel, or there is not one vector for each image.

    Example:
        >>> factory = direction(torch.tensor([[1.0, 0.0]]))
        >>> factory([0], torch.zeros(1, 2, 1, 1))(torch.tensor([[[[3.0]], [[0.0]]]]))
        tensor([3.])
    """

    def factory(channels: Sequence[int], blank: Float[Tensor, "1 c y x"]) -> Objective:
        given = torch.stack([vectors[c] for c in channels]) if isinstance(vectors, Mapping) else vectors
        if given.shape != (len(channels), blank.shape[1]):
            raise ValueError(
                f"`vectors` has shape {tuple(given.shape)}. {len(channels)} images of a layer with {blank.shape[1]} "
                f"channels want ({len(channels)}, {blank.shape[1]})."
            )
        wanted = given.to(blank)

        def objective(activations: Float[Tensor, "n c y x"]) -> Float[Tensor, " n"]:
            product = torch.einsum("nc,ncyx->nyx", wanted, activations)
            sizes = activations.norm(dim=1) * wanted.norm(dim=1)[:, None, None]
            cosine = (product / sizes.clamp(min=1e-12)).clamp(min=0.1)
            return _interior(product * cosine**power).mean((1, 2))

        return objective

    return factory


def difference(others: Sequence[int] | Mapping[int, int]) -> ObjectiveFactory:
    """Image `i` is to tell its channel from channel `others[i]`: the mean of the one map minus that of the other.

    All images have to fit in one batch, unless the others are given as a dict, channel -> other, as for `direction`.

    Example:
        >>> difference([1])([0], torch.zeros(1, 2, 1, 1))(torch.tensor([[[[5.0]], [[3.0]]]]))
        tensor([2.])
    """

    def factory(channels: Sequence[int], blank: Float[Tensor, "1 c y x"]) -> Objective:
        opposed = [others[channel] for channel in channels] if isinstance(others, Mapping) else list(others)
        if len(opposed) != len(channels):
            raise ValueError(f"`others` has {len(opposed)} channels for {len(channels)} images. Give one for each.")
        one, other = mean(channels, blank), mean(opposed, blank)
        return lambda activations: one(activations) - other(activations)

    return factory


def diverse(weight: float = 1.0, factory: ObjectiveFactory = above_blank) -> ObjectiveFactory:
    """Images of one channel are to differ: name a channel several times to see the several things it answers to.

    `value_i (1 - weight · mean_j cos(G_i, G_j))` over the other images `j` of the same channel, with the Gram matrix
    `G = A Aᵀ` of the layer's channels over its positions: it knows textures, and not where they are. Olah et al. 2017,
    "Feature Visualization", "Diversity". The only objective in which images of a batch depend on each other.

    Args:
        weight: how much the likeness costs; 0 is `factory` alone.
        factory: what is raised beside.

    Example:
        >>> same = torch.ones(2, 1, 1, 1)
        >>> diverse(0.5, mean)([0, 0], same[:1])(same)
        tensor([0.5000, 0.5000])
    """

    def combined(channels: Sequence[int], blank: Float[Tensor, "1 c y x"]) -> Objective:
        value, index = factory(channels, blank), _index(channels, blank)
        peers = (index[:, None] == index[None]).to(blank).fill_diagonal_(0)
        peers = peers / peers.sum(1, keepdim=True).clamp(min=1)

        def objective(activations: Float[Tensor, "n c y x"]) -> Float[Tensor, " n"]:
            flat = activations.flatten(2)
            grams = F.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1)
            return value(activations) * (1 - weight * (peers * (grams @ grams.T)).sum(1))

        return objective

    return combined


# The one table of names; add an objective here and a row in the tests.
OBJECTIVES: dict[str, ObjectiveFactory] = {
    "mean": mean,
    "above_blank": above_blank,
    "neuron": neuron,
    "diverse": diverse(),
}


def resolve(objective: str | ObjectiveFactory) -> ObjectiveFactory:
    """The function behind an objective's name; a function passes through.

    Raises:
        ValueError: for an unknown name.
        TypeError: for something that can't be called.
    """
    if callable(objective):
        return objective
    if not isinstance(objective, str):
        raise TypeError(f"`objective` is a {type(objective).__name__}. It can be {sorted(OBJECTIVES)} or a function.")
    if objective not in OBJECTIVES:
        raise ValueError(f"`objective` is {objective!r}. It can be {sorted(OBJECTIVES)} or a function.")
    return OBJECTIVES[objective]


def own(activations: Float[Tensor, "n c y x"], index: Int[Tensor, " n"]) -> Float[Tensor, "n y x"]:
    """The map of each image's own channel."""
    return activations[torch.arange(len(index), device=activations.device), index]


def _index(channels: Sequence[int], blank: Tensor) -> Int[Tensor, " n"]:
    return torch.as_tensor(list(channels), device=blank.device)


def _interior(maps: Float[Tensor, "n y x"]) -> Float[Tensor, "n b a"]:
    y, x = maps.shape[-2:]
    border = BORDER if min(y, x) >= 4 * BORDER else 0
    return maps[:, border : y - border, border : x - border]
