"""WHAT to explain: functions from logits (n, k) to one score for each image (n,).

Targets for classes stand in `classes`; those for segmentation masks and embeddings in `dense`.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lightning_convviz.targets.base import Target, check_classes, of_rows
from lightning_convviz.targets.classes import (
    contrast,
    finercam,
    freeze,
    of_class,
    per_image,
    predicted,
    runner_up,
    true_or_runner_up,
)
from lightning_convviz.targets.dense import region, similarity
from lightning_convviz.targets.joined import Concatenated

__all__ = [
    "TARGETS",
    "Target",
    "check_classes",
    "concatenate",
    "contrast",
    "finercam",
    "freeze",
    "of_class",
    "per_image",
    "predicted",
    "region",
    "resolve",
    "runner_up",
    "similarity",
    "true_or_runner_up",
]  # fmt: skip

# The one table of names; add a target here and a row in the tests.
TARGETS: dict[str, Target] = {"predicted": predicted, "runner_up": runner_up, "finercam": finercam()}


def resolve(target: str | int | Int[Tensor, "..."] | Target | Sequence[Any], count: int) -> Callable[[slice], Target]:
    """The target for any slice of a batch of `count` images.

    Args:
        target: a name in `TARGETS`, a class for all images, a tensor of `count` classes, a function logits -> scores
            (n,), or a list with one of these for each image.
        count: the number of images.

    Raises:
        ValueError: for an unknown name or a wrong number of classes, masks or references.
        TypeError: for anything else.

    Example:
        >>> score = resolve(["runner_up", 0], 2)(slice(0, 2))
        >>> score(torch.tensor([[1.0, 3.0, 2.5], [0.5, -2.0, -1.0]]))
        tensor([2.5000, 0.5000])
    """
    if isinstance(target, str):
        return _named(target)
    if isinstance(target, list | tuple):
        target = _listed(target, count)
    if isinstance(target, Tensor):
        target = _classes(target, count)
    elif isinstance(target, Integral) and not isinstance(target, bool):
        target = of_class(int(target))
    if not callable(target):
        raise TypeError(f"`target` is a {type(target).__name__}. {_CHOICES}.")
    of_rows(target, slice(0, count), count)  # what does not fit is known now and not in a later part of the batch
    return lambda rows: of_rows(target, rows, count)


def concatenate(targets: Sequence[Any], counts: Sequence[int]) -> Target:
    """One target for several sets of images, one after the other, each with its own target as `resolve` takes it.

    >>> both = concatenate(["predicted", 0], [1, 2])
    >>> both(torch.tensor([[1.0, 3.0], [2.0, 0.0], [5.0, 6.0]]))
    tensor([3., 2., 5.])
    """
    return Concatenated.of(targets, counts, resolve)


_CHOICES = f"It can be {sorted(TARGETS)}, a class, n classes, a function, or a list of one of these for each image"


def _named(name: str) -> Callable[[slice], Target]:
    if name not in TARGETS:
        close = get_close_matches(name, TARGETS, n=1)
        raise ValueError(f"`target` is {name!r}. {_CHOICES}.{f' Did you mean {close[0]!r}?' if close else ''}")
    return lambda rows: TARGETS[name]


def _classes(classes: Tensor, count: int) -> Target:
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise TypeError(f"`target` holds {classes.dtype}. Classes are whole numbers.")
    if classes.ndim > 0 and classes.shape != (count,):
        raise ValueError(f"`target` has shape {tuple(classes.shape)} for {count} images. Give each image its class.")
    return of_class(classes if classes.ndim > 0 else int(classes))


def _listed(wanted: Sequence[Any], count: int) -> Target:
    if len(wanted) != count:
        raise ValueError(f"`target` lists {len(wanted)} for {count} images. Give each image its own.")
    if all(isinstance(one, Integral) and not isinstance(one, bool) for one in wanted):
        return of_class(torch.tensor([int(one) for one in wanted]))
    return per_image([resolve(one, 1)(slice(0, 1)) for one in wanted])
