"""WHAT to explain: functions from logits (n, k) to one score for each image (n,)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Target = Callable[[Float[Tensor, "n k"]], Float[Tensor, " n"]]


def predicted(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The logit of the class with the largest one.

    The logit and not the probability: a probability also rises where evidence for other classes falls
    (Olah et al. 2017, "Feature Visualization", on optimization objectives, https://distill.pub/2017/feature-visualization).

    >>> predicted(torch.tensor([[1.0, 3.0], [0.5, -2.0]]))
    tensor([3.0000, 0.5000])
    """
    return logits.amax(1)


def label(classes: int | Int[Tensor, " n"]) -> Target:
    """The logit of one class for all images, or of each image's own.

    >>> label(torch.tensor([0, 1]))(torch.tensor([[1.0, 3.0], [0.5, -2.0]]))
    tensor([ 1., -2.])
    """

    def score(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        index = torch.as_tensor(classes, device=logits.device).expand(logits.shape[0])
        _check_range(index, logits.shape[1])
        return logits.gather(1, index[:, None])[:, 0]

    return score


def contrast(for_: Target, against: Target) -> Target:
    """How much more one target scores than another: why this class rather than that.

    >>> contrast(predicted, label(0))(torch.tensor([[1.0, 3.0]]))
    tensor([2.])
    """
    return lambda logits: for_(logits) - against(logits)


# The one table of names; add a target here and a row in the tests.
TARGETS: dict[str, Target] = {"predicted": predicted}


def resolve(target: str | int | Int[Tensor, "..."] | Target, count: int) -> Callable[[slice], Target]:
    """The target for any slice of a batch of `count` images.

    Args:
        target: `"predicted"`, a class for all images, a tensor of `count` classes, or a function
            logits (n, k) -> scores (n,).
        count: the number of images.

    Raises:
        ValueError: for an unknown name or a wrong number of classes.
        TypeError: for anything else.
    """
    if isinstance(target, str):
        if target not in TARGETS:
            raise ValueError(f"`target` is {target!r}. It can be {sorted(TARGETS)}, a class, n classes or a function.")
        return lambda rows: TARGETS[target]
    if isinstance(target, Tensor) and target.ndim > 0:
        if target.shape != (count,):
            raise ValueError(f"`target` has shape {tuple(target.shape)} for {count} images. Give each image its class.")
        return lambda rows: label(target.long()[rows])
    if isinstance(target, int | Tensor) and not isinstance(target, bool):
        return lambda rows: label(int(target))
    if callable(target):
        return lambda rows: target
    raise TypeError(f"`target` is a {type(target).__name__}. It can be a name, a class, n classes or a function.")


def _check_range(index: Tensor, classes: int) -> None:
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= classes:
        raise ValueError(f"`target` holds class {low if low < 0 else high}; the model has classes 0 to {classes - 1}.")
