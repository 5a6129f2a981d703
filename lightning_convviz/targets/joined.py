"""One target for several sets of images that go through a model together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_convviz.targets.base import Target, of_rows
from lightning_convviz.targets.classes import freeze

Scores = Callable[[slice], Target]  # a part of a set -> the target for it


@dataclass(frozen=True, eq=False)
class Concatenated:
    """Each set's own target, for the rows of all sets, one after the other.

    Attributes:
        parts: for each set its target for any slice of it, and the slice that is here.

    Example:
        >>> best = Concatenated([(lambda rows: lambda logits: logits[:, 0], slice(0, 1)),
        ...                      (lambda rows: lambda logits: logits[:, 1], slice(0, 2))])
        >>> best(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        tensor([1., 4., 6.])
    """

    parts: Sequence[tuple[Scores, slice]]

    @classmethod
    def of(cls, targets: Sequence[Any], counts: Sequence[int], resolve: Callable[[Any, int], Scores]) -> "Concatenated":
        """The targets of sets with these numbers of images, each as `targets.resolve` takes it."""
        return cls([(resolve(target, n), slice(0, n)) for target, n in zip(targets, counts, strict=True)])

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        """One score for each image."""
        return torch.cat([target(part) for target, part in self._split(logits)])

    def rows(self, rows: slice, count: int) -> Target:
        """The same target for these rows of all."""
        start, stop, _ = rows.indices(count)
        kept, offset = [], 0
        for scores, own in self.parts:
            n = own.stop - own.start
            first, last = max(0, start - offset), min(n, stop - offset)
            if first < last:
                kept.append((scores, slice(own.start + first, own.start + last)))
            offset += n
        return Concatenated(kept)

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        """The same target with the choices that these logits lead to, for other logits of the same images."""
        return Concatenated(
            [(_of_slice(freeze(target, part), len(part)), slice(0, len(part))) for target, part in self._split(logits)]
        )

    def _split(self, logits: Tensor) -> list[tuple[Target, Tensor]]:
        sizes = [own.stop - own.start for _, own in self.parts]
        return [(scores(own), part) for (scores, own), part in zip(self.parts, torch.split(logits, sizes), strict=True)]


def _of_slice(target: Target, count: int) -> Scores:
    return lambda rows: of_rows(target, rows, count)
