"""Images, labels and other inputs out of a batch, in whatever form a loader gives it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

IMAGE_KEYS = ("image", "images", "pixel_values", "x", "img", "input", "inputs")
LABEL_KEYS = ("label", "labels", "y", "target", "targets")


def read(batch: Any) -> tuple[Tensor, Tensor | None, dict[str | int, Tensor]]:
    """Images (n, c, h, w), labels (n,) and other inputs of a batch: a tensor, a tuple, a list or a mapping.

    Raises:
        ValueError: where no images can be found.
    """
    parts: dict[str | int, Any]
    if isinstance(batch, Mapping):
        parts = dict(batch.items())
    else:
        parts = dict(enumerate(batch)) if isinstance(batch, tuple | list) else {0: batch}
    tensors = {key: part for key, part in parts.items() if isinstance(part, Tensor)}
    image = next((key for key in _ordered(tensors, IMAGE_KEYS) if _is_images(tensors[key])), None)
    if image is None:
        raise ValueError(
            f"the validation batch is a {type(batch).__name__} without images (a floating-point tensor n, c, h, w). "
            "Give `probes=`."
        )
    images = tensors.pop(image)
    label = next((key for key in _ordered(tensors, LABEL_KEYS) if _is_label(tensors[key], len(images))), None)
    labels = None if label is None else tensors.pop(label).reshape(-1)
    extra_inputs = {key: part for key, part in tensors.items() if part.ndim and len(part) == len(images)}
    return images, labels, extra_inputs


def spread_classes(labels: Tensor | None, available: int, count: int) -> list[int]:
    """Which of a batch's images to watch: the first of each class, then the second of each, and so on.

    >>> spread_classes(torch.tensor([5, 5, 5, 2, 2, 7]), 6, 4)
    [0, 3, 5, 1]
    """
    if labels is None:
        return list(range(min(count, available)))
    seen: dict[int, int] = {}
    turns = []
    for row, label in enumerate(labels.tolist()):
        turns.append((seen.get(label, 0), row))
        seen[label] = seen.get(label, 0) + 1
    return [row for _, row in sorted(turns)[:count]]


def _ordered(tensors: Mapping[str | int, Tensor], first: tuple[str, ...]) -> list[str | int]:
    return [*(key for key in first if key in tensors), *tensors]


def _is_images(part: Tensor) -> bool:
    return part.ndim == 4 and part.is_floating_point()


def _is_label(part: Tensor, count: int) -> bool:
    whole = not part.is_floating_point() and part.dtype != torch.bool and not part.is_complex()
    return whole and part.shape in ((count,), (count, 1))


def as_batch(item: Any) -> Any:
    """One item of a data set as a batch of one."""
    if isinstance(item, Mapping):
        return {key: as_batch(part) for key, part in item.items()}
    if isinstance(item, tuple | list):
        return [as_batch(part) for part in item]
    if isinstance(item, Tensor):
        return item[None]
    return torch.as_tensor([item]) if isinstance(item, int | float | np.number) else item
