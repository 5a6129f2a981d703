"""What probes may be made of, and what is said about the rest."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


def check_images(images: Any) -> None:
    """Refuse all but a batch of floating-point images."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        came = f"a {images.dtype} tensor" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise TypeError(f"`images` is {came}. Give a floating-point tensor (n, c, h, w), normalized as in training.")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"`images` has shape {tuple(images.shape)}. It must be (n, c, h, w) with n of at least 1.")


def check_numbers(argument: str, numbers: Any) -> None:
    """Refuse all but finite numbers, one a channel."""
    listed = numbers.tolist() if isinstance(numbers, Tensor) else numbers
    if (
        not isinstance(listed, Sequence)
        or not all(isinstance(each, Real) for each in listed)
        or isinstance(listed, bytes)
    ):
        raise TypeError(f"`{argument}` is {numbers!r}. Give a list with a number for each channel.")
    if not all(math.isfinite(each) for each in listed):
        raise ValueError(f"`{argument}` is {numbers!r}. Each must be finite.")


def checked_class_names(given: Any) -> list[str] | None:
    """Names by class, each in one line, from a list, an array of strings, or a dictionary {class: name}.

    A class without a name is called by its number.

    >>> checked_class_names({0: "ant", 2: " great  ape"})
    ['ant', 'class 1', 'great ape']
    """
    if given is None:
        return None
    names = given.tolist() if isinstance(given, np.ndarray | Tensor) else given
    if isinstance(names, Mapping):
        if not all(is_index(label) and label >= 0 for label in names):
            raise TypeError(f"`class_names` is {given!r}. {_CLASS_NAMES}")
        known = {int(label): name for label, name in names.items()}
        names = [known.get(label, "") for label in range(max(known, default=-1) + 1)]
    if not (isinstance(names, Sequence) and not isinstance(names, str | bytes)):
        raise TypeError(f"`class_names` is {given!r}. {_CLASS_NAMES}")
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"`class_names` is {given!r}. {_CLASS_NAMES}")
    return [one_line(name) or unnamed(label) for label, name in enumerate(names)]


_CLASS_NAMES = "Give a list of names, one for each class, or a dictionary {class: name}."


def unnamed(label: int) -> str:
    """What a class is called that has no name."""
    return f"class {label}"


def one_line(name: str) -> str:
    """A name without line breaks, which no caption can hold, and other stray white space."""
    return " ".join(name.split())


def check_ids(ids: Any, extra_inputs: Any) -> None:
    """Refuse ids that are no names, and extra inputs that are no tensors with a row for each image."""
    if ids is not None and not (
        isinstance(ids, Sequence) and all(isinstance(item, str) or is_index(item) for item in ids)
    ):
        raise TypeError(f"`ids` is {ids!r}. Give a list of integers or names, one an image.")
    if not isinstance(extra_inputs, Mapping):
        raise TypeError(
            f"`extra_inputs` is a {type(extra_inputs).__name__}. Give a dictionary of tensors with a row for each "
            "image."
        )
    for key, value in extra_inputs.items():
        if not isinstance(value, Tensor) or not value.ndim:
            came = type(value).__name__
            raise TypeError(f"`extra_inputs[{key!r}]` is a {came}. Give a tensor with a row for each image.")


def is_index(index: Any) -> bool:
    """Whether this is an integer of Python, NumPy or torch."""
    whole = isinstance(index, int | np.integer) and not isinstance(index, bool)
    return whole or (isinstance(index, Tensor) and index.ndim == 0 and not index.is_floating_point())


def checked_labels(labels: Any, count: int, class_names: Sequence[str] | None) -> Tensor:
    """Labels as (n,) integers in main memory."""
    try:
        checked = torch.as_tensor(labels).detach().cpu()
    except (ValueError, TypeError, RuntimeError):
        raise TypeError(f"`labels` is {labels!r}. Give {count} integers, one an image.") from None
    if checked.shape != (count,) or checked.is_floating_point() or checked.dtype == torch.bool:
        raise ValueError(
            f"`labels` has shape {tuple(checked.shape)} and type {checked.dtype}. Give {count} integers, one an image."
        )
    if int(checked.min()) < 0:
        raise ValueError(f"`labels` holds {checked.tolist()}. Labels count from 0.")
    if class_names is not None and int(checked.max()) >= len(class_names):
        raise ValueError(
            f"`class_names` has {len(class_names)} names, but `labels` holds {int(checked.max())}. Name every class."
        )
    return checked.long()


def checked_masks(masks: Any, size: tuple[int, int, int]) -> Bool[Tensor, "n h w"]:
    """Masks, where they are some for these images: `size` is (n, h, w)."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"`masks` is a {type(masks).__name__}. Give booleans {size}, True on the object.")
    if tuple(masks.shape) != size or masks.dtype != torch.bool:
        raise ValueError(
            f"`masks` has shape {tuple(masks.shape)} and type {masks.dtype}. Give booleans {size}, True on the object."
        )
    return masks


def masks_of(boxes: Any, size: tuple[int, int, int]) -> Bool[Tensor, "n h w"]:
    """Boxes as masks: True on pixels whose center lies in a box of the image; `size` is (n, h, w).

    >>> masks_of(torch.tensor([[1, 0, 3, 1]]), (1, 2, 4))
    tensor([[[False,  True,  True, False],
             [False, False, False, False]]])
    """
    n, h, w = size
    if not isinstance(boxes, Tensor | Sequence) or isinstance(boxes, str):
        raise TypeError(f"`boxes` is a {type(boxes).__name__}. {_BOXES}")
    if len(boxes) != n:
        raise ValueError(f"`boxes` has {len(boxes)} items for {n} images. {_BOXES}")
    return torch.stack([_filled(_corners(own, row), row, h, w) for row, own in enumerate(boxes)])


_BOXES = "Give a tensor (n, 4), or for each image a list of boxes (x0, y0, x1, y1) in pixels."


def _corners(own: Any, row: int) -> Float[Tensor, "m 4"]:
    try:
        corners = torch.as_tensor(own).detach().cpu().double()
    except (ValueError, TypeError, RuntimeError):
        corners = torch.full((1,), torch.nan)
    corners = corners.reshape(0, 4) if not corners.numel() else corners[None] if corners.ndim == 1 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"`boxes` holds {own!r} for image {row}. {_BOXES}")
    return corners


def _filled(corners: Float[Tensor, "m 4"], row: int, h: int, w: int) -> Bool[Tensor, "h w"]:
    x0, y0, x1, y1 = corners.T[..., None]
    x, y = torch.arange(w) + 0.5, torch.arange(h) + 0.5
    inside = ((y >= y0) & (y < y1))[:, :, None] & ((x >= x0) & (x < x1))[:, None]
    outside = ~((x0 >= 0) & (y0 >= 0) & (x1 <= w) & (y1 <= h))[:, 0]
    shares = (corners <= 1).all(1) & (corners != corners.round()).any(1)  # parts of the image's size, not pixels
    for box in corners[outside | shares | ~inside.any(2).any(1)].tolist():
        raise ValueError(
            f"`boxes` holds {tuple(box)} for image {row} of {w} x {h} pixels. Give 0 <= x0 < x1 <= {w} and "
            f"0 <= y0 < y1 <= {h}, in pixels from the upper left corner."
        )
    filled: Tensor = inside.any(0)
    return filled
