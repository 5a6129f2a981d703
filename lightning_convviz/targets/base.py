"""What all targets share: their type, and how those with something for each image follow a part of the batch."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Target = Callable[[Float[Tensor, "n ..."]], Float[Tensor, " n"]]


@runtime_checkable
class Rowwise(Protocol):
    """A target that holds something for each image: classes, masks, references."""

    def rows(self, rows: slice, count: int) -> Target:
        """The same target for these rows of a batch of `count` images."""


@runtime_checkable
class Choosing(Protocol):
    """A target whose classes or places depend on the logits."""

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        """The same target with the choice that these logits lead to, for other logits of the same images."""


def of_rows(target: Target, rows: slice, count: int) -> Target:
    """A target for these rows of a batch of `count` images.

    Raises:
        ValueError: where it holds something for another number of images.
    """
    return target.rows(rows, count) if isinstance(target, Rowwise) else target


def cut(values: Tensor, rows: slice, count: int, name: str, each: str) -> Tensor:
    """The rows of what a target holds for each of `count` images.

    Raises:
        ValueError: where it holds another number.
    """
    if values.ndim == 0 or len(values) != count:
        raise ValueError(f"`{name}` has shape {tuple(values.shape)} for {count} images. Give each image its {each}.")
    return values[rows]


def check_classes(logits: Float[Tensor, "n ..."], *, at_least: int = 1) -> None:
    """For targets of classes.

    Raises:
        ValueError: where the logits are not those of classes, (n, k), or of too few.
    """
    if logits.ndim != 2:
        raise ValueError(
            f"the model returned shape {tuple(logits.shape)}, where this target needs class logits (n, k). For "
            "segmentation there is `targets.region`, for embeddings `targets.similarity`."
        )
    if logits.shape[1] < at_least:
        raise ValueError(f"the model has {logits.shape[1]} class, where this target needs {at_least}.")


def index(classes: int | Int[Tensor, "..."], logits: Float[Tensor, "n k ..."]) -> Int[Tensor, " n"]:
    """A class for each row of the logits, from one for all or one for each.

    Raises:
        ValueError: for a class that the model lacks, or another number of classes than of rows.
    """
    if isinstance(classes, Tensor) and classes.shape not in ((), (len(logits),)):
        raise ValueError(
            f"`target` has shape {tuple(classes.shape)} for {len(logits)} images. Give each image its class."
        )
    bounds = (int(classes.min()), int(classes.max())) if isinstance(classes, Tensor) else (classes, classes)
    wrong = [each for each in bounds if not 0 <= each < logits.shape[1]]
    if wrong:
        raise ValueError(f"`target` holds class {wrong[0]}; the model has classes 0 to {logits.shape[1] - 1}.")
    return torch.as_tensor(classes, device=logits.device).long().expand(len(logits))


def pick(logits: Float[Tensor, "n k"], classes: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In each row the logit of its class.

    >>> pick(torch.tensor([[1.0, 3.0], [0.5, -2.0]]), torch.tensor([0, 1]))
    tensor([ 1., -2.])
    """
    return logits.gather(1, classes[:, None])[:, 0]
