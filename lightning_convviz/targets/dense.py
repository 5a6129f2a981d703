"""Targets of outputs that are not logits of classes: segmentation maps (n, k, *yx), embeddings (n, d)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lightning_convviz.targets.base import Target, cut, index

Mask = Bool[Tensor, "m *yx"] | Float[Tensor, "m *yx"]


@dataclass(frozen=True, eq=False)
class _Region:
    """See `region`."""

    classes: int | Int[Tensor, "..."] | None
    mask: Mask | None

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        classes, mask = self._choose(logits)
        return (logits.gather(1, _places(classes, logits))[:, 0] * mask).flatten(1).sum(1)

    def rows(self, rows: slice, count: int) -> Target:
        classes, mask = self.classes, self.mask
        if isinstance(classes, Tensor) and classes.ndim:
            classes = cut(classes, rows, count, "classes", "class")
        if mask is not None and len(mask) != 1:
            mask = cut(mask, rows, count, "mask", "own, or all of them one: (1, *yx)")
        return _Region(classes, mask)

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        return _Region(*self._choose(logits))

    def _choose(self, logits: Tensor) -> tuple[Int[Tensor, " n"], Float[Tensor, "m *yx"]]:
        if logits.ndim < 3:
            raise ValueError(f"the model returned shape {tuple(logits.shape)}. `region` needs logits (n, k, *yx).")
        mask = self._mask(logits)
        won = _won(logits.detach())
        if self.classes is None:
            classes = (won if mask is None else won * mask[:, None]).flatten(2).sum(2).argmax(1)
        else:
            classes = index(self.classes, logits)
        own = won.gather(1, _places(classes, logits))[:, 0].to(logits.dtype)
        return classes, own if mask is None else mask

    def _mask(self, logits: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        each, one = (len(logits), *logits.shape[2:]), (1, *logits.shape[2:])
        if self.mask.shape not in (each, one):
            raise ValueError(
                f"`mask` has shape {tuple(self.mask.shape)} for logits of shape {tuple(logits.shape)}. Give one of "
                f"shape {each}, or {one} for all images."
            )
        return self.mask.to(logits.device, logits.dtype)


def _won(logits: Float[Tensor, "n k ..."]) -> Bool[Tensor, "n k ..."]:
    """At each position the class that is predicted; the only class of a model is where its logit is positive."""
    if logits.shape[1] == 1:
        return logits > 0
    names = torch.arange(logits.shape[1], device=logits.device).reshape(-1, *[1] * (logits.ndim - 2))
    return logits.argmax(1, keepdim=True) == names


def _places(classes: Int[Tensor, " n"], logits: Float[Tensor, "n k ..."]) -> Int[Tensor, "n 1 ..."]:
    return classes.reshape(-1, *[1] * (logits.ndim - 1)).expand(-1, 1, *logits.shape[2:])


def region(classes: int | Int[Tensor, "..."] | None = None, mask: Mask | None = None) -> Target:
    """A class's logits summed over a region, for the outputs (n, k, *yx) of segmentation models (Seg-Grad-CAM).

    `S = Σ_{yx in M} y_c[y, x]`. Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434. Where no position is in the
    region, the score is 0, and so is the map.

    Args:
        classes: `c`, for all images or each; default: the one that wins the largest part of `mask`, or of the image.
        mask: `M` at the resolution of the logits, (n, *yx) or (1, *yx) for all images, Boolean or weights; default:
            where the class wins (the only class of a model: where its logit is positive).

    Example:
        >>> logits = torch.tensor([[[[1.0, 2.0, 5.0]], [[3.0, 4.0, 0.0]]]])  # two classes at 1 x 3 positions
        >>> region()(logits), region(0)(logits), region(0, torch.tensor([[[True, True, False]]]))(logits)
        (tensor([7.]), tensor([5.]), tensor([3.]))
    """
    return _Region(classes, mask)


@dataclass(frozen=True, eq=False)
class _Similarity:
    """See `similarity`."""

    reference: Float[Tensor, "... d"]

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        embedding, reference = logits.flatten(1), self.reference.to(logits)
        if reference.shape not in (embedding.shape, embedding.shape[1:]):
            raise ValueError(
                f"`reference` has shape {tuple(reference.shape)} for embeddings of shape {tuple(embedding.shape)}. "
                "Give one for all, (d,), or for each, (n, d)."
            )
        return F.cosine_similarity(embedding, reference.expand_as(embedding), dim=1)

    def rows(self, rows: slice, count: int) -> Target:
        if self.reference.ndim == 1:
            return self
        return _Similarity(cut(self.reference, rows, count, "reference", "own, or all of them one: (d,)"))


def similarity(reference: Float[Tensor, "... d"]) -> Target:
    """Cosine similarity of an embedding (n, d) to a reference: why these two are alike.

    `S = e · r / (|e| |r|)`, within [-1, 1]; 0 for an embedding of zeros.

    Args:
        reference: `r`, (d,) for all images or (n, d), one for each; no gradient flows into it.

    Example:
        >>> similarity(torch.tensor([1.0, 0.0]))(torch.tensor([[2.0, 0.0], [3.0, 4.0]]))
        tensor([1.0000, 0.6000])
    """
    return _Similarity(reference.detach())
