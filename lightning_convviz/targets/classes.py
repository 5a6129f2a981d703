"""Targets of class logits (n, k)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_convviz.targets.base import Choosing, Target, check_classes, cut, index, of_rows, pick


def predicted(logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """The logit of the class with the largest one.

    The logit and not the probability: a probability also rises where evidence for other classes falls
    (Olah et al. 2017, "Feature Visualization", on optimization objectives, https://distill.pub/2017/feature-visualization).

    >>> predicted(torch.tensor([[1.0, 3.0], [0.5, -2.0]]))
    tensor([3.0000, 0.5000])
    """
    return pick(logits, _best(logits, 1)[:, 0])


def runner_up(logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """The logit of the second-best class: what else the model considered.

    >>> runner_up(torch.tensor([[1.0, 3.0, 2.5], [0.5, -2.0, -1.0]]))
    tensor([ 2.5000, -1.0000])
    """
    return pick(logits, _best(logits, 2)[:, 1])


def _best(logits: Tensor, count: int) -> Int[Tensor, "n t"]:
    check_classes(logits, at_least=count)
    falling = torch.sort(logits.detach(), dim=1, descending=True, stable=True)  # of ties the lower class first
    return falling.indices[:, :count]


def freeze(target: Target, logits: Float[Tensor, "n ..."]) -> Target:
    """`target` with the choice of classes that these logits lead to, for other logits of the same images.

    What was predicted for the images stays what is explained, whatever the model says of altered ones.

    >>> freeze(predicted, torch.tensor([[1.0, 3.0]]))(torch.tensor([[5.0, 2.0]]))
    tensor([2.])
    """
    if target is predicted or target is runner_up:
        return _OfClass(_best(logits, 2)[:, 1] if target is runner_up else _best(logits, 1)[:, 0])
    return target.freeze(logits) if isinstance(target, Choosing) else target


@dataclass(frozen=True, eq=False)
class _OfClass:
    """See `of_class`."""

    classes: int | Int[Tensor, "..."]

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        check_classes(logits)
        return pick(logits, index(self.classes, logits))

    def rows(self, rows: slice, count: int) -> Target:
        return _OfClass(_cut(self.classes, rows, count))


def of_class(classes: int | Int[Tensor, "..."]) -> Target:
    """The logit of one class for all images, or of each image's own.

    >>> of_class(torch.tensor([0, 1]))(torch.tensor([[1.0, 3.0], [0.5, -2.0]]))
    tensor([ 1., -2.])
    """
    return _OfClass(classes)


@dataclass(frozen=True, eq=False)
class _TrueOrRunnerUp:
    """See `true_or_runner_up`."""

    labels: int | Int[Tensor, "..."]

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        return self.freeze(logits)(logits)

    def rows(self, rows: slice, count: int) -> Target:
        return _TrueOrRunnerUp(_cut(self.labels, rows, count))

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        winner, runner_up = _best(logits, 2).unbind(1)
        labels = index(self.labels, logits)
        return _OfClass(torch.where(winner == labels, runner_up, labels))


def true_or_runner_up(labels: int | Int[Tensor, "..."]) -> Target:
    """The logit of the true class where the model errs, of the second-best one where it is right.

    Beside `predicted` it shows in both cases what the prediction was up against.

    >>> true_or_runner_up(torch.tensor([0, 0]))(torch.tensor([[1.0, 3.0, 2.0], [0.5, -2.0, -1.0]]))  # wrong, right
    tensor([ 1., -1.])
    """
    return _TrueOrRunnerUp(labels)


@dataclass(frozen=True, eq=False)
class _Contrast:
    """See `contrast`."""

    for_: Target
    against: Target

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        return self.for_(logits) - self.against(logits)

    def rows(self, rows: slice, count: int) -> Target:
        return _Contrast(of_rows(self.for_, rows, count), of_rows(self.against, rows, count))

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        return _Contrast(freeze(self.for_, logits), freeze(self.against, logits))


def contrast(for_: Target, against: Target) -> Target:
    """How much more one target scores than another: why this class rather than that.

    >>> contrast(predicted, of_class(0))(torch.tensor([[1.0, 3.0]]))
    tensor([2.])
    """
    return _Contrast(for_, against)


@dataclass(frozen=True, eq=False)
class _FinerCAM:
    """See `finercam`."""

    classes: int | Int[Tensor, "..."] | None
    count: int
    gamma: float
    rivals: Int[Tensor, "n t"] | None = None

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        own, rivals = self._choose(logits)
        return pick(logits, own) - self.gamma * logits.gather(1, rivals).mean(1)

    def rows(self, rows: slice, count: int) -> Target:
        classes = None if self.classes is None else _cut(self.classes, rows, count)
        rivals = None if self.rivals is None else cut(self.rivals, rows, count, "target", "similar classes")
        return replace(self, classes=classes, rivals=rivals)

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        own, rivals = self._choose(logits)
        return replace(self, classes=own, rivals=rivals)

    def _choose(self, logits: Tensor) -> tuple[Int[Tensor, " n"], Int[Tensor, "n t"]]:
        winners = _best(logits, 2)[:, 0]
        own = winners if self.classes is None else index(self.classes, logits)
        if self.rivals is not None:
            return own, self.rivals
        values = logits.detach()
        apart = (values - pick(values, own)[:, None]).abs()
        apart = apart.scatter(1, own[:, None], torch.inf)  # no class is its own rival, also where logits tie
        return own, torch.sort(apart, dim=1, stable=True).indices[:, : min(self.count, logits.shape[1] - 1)]


def finercam(target_class: int | Int[Tensor, "..."] | None = None, *, count: int = 3, gamma: float = 0.6) -> Target:
    """What sets a class apart from those most similar to it (Finer-CAM).

    `S = y_c - γ mean_t y_{d_t}` over the `count` classes `d_t` most similar to `c`: those whose logits are closest to
    its own, as in the authors' code (https://github.com/Imageomics/Finer-CAM), so for the predicted class the next best
    ones. Zhang et al. 2025, https://arxiv.org/abs/2501.11309. They also weigh the classes by their probabilities in
    that code; here all count the same.

    Args:
        target_class: `c`, for all images or each; default: the predicted one.
        count: how many similar classes; all others where there are fewer.
        gamma: `γ`: 0 explains the class alone, 1 only what is different. With three
            classes torch-cam takes 0.6.

    Raises:
        ValueError: for a `count` below 1.

    Example:
        >>> finercam(gamma=0.5, count=2)(torch.tensor([[4.0, 3.0, 1.0, -9.0]]))  # 4 - 0.5 (3 + 1) / 2
        tensor([3.])
    """
    if count < 1:
        raise ValueError(f"`count` is {count}. Give at least 1 class to compare with.")
    return _FinerCAM(target_class, count, gamma)


@dataclass(frozen=True, eq=False)
class _PerImage:
    """See `per_image`."""

    targets: tuple[Target, ...]

    def __call__(self, logits: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        scores = [target(logits[i : i + 1]) for i, target in enumerate(self.targets)]
        for score in scores:
            if score.shape != (1,):
                raise ValueError(f"`target` returned shape {tuple(score.shape)} for one image. Return (1,).")
        return torch.cat(scores)

    def rows(self, rows: slice, count: int) -> Target:
        if len(self.targets) != count:
            raise ValueError(f"`target` lists {len(self.targets)} for {count} images. Give each image its own.")
        return _PerImage(self.targets[rows])

    def freeze(self, logits: Float[Tensor, "n ..."]) -> Target:
        return _PerImage(tuple(freeze(target, logits[i : i + 1]) for i, target in enumerate(self.targets)))


def per_image(targets: Sequence[Target]) -> Target:
    """A target for each image.

    >>> per_image([predicted, of_class(0)])(torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    tensor([3., 1.])
    """
    return _PerImage(tuple(targets))


def _cut(classes: int | Tensor, rows: slice, count: int) -> int | Tensor:
    if not isinstance(classes, Tensor) or classes.ndim == 0:
        return classes
    return cut(classes, rows, count, "target", "class")
