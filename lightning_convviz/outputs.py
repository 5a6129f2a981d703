"""Logits out of whatever a model returns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_NAMES = ("logits", "out", "output", "outputs", "y_hat", "preds", "pred")


def logits(output: Any, read: Callable[[Any], Any] | None = None, *, dense: bool = False) -> Float[Tensor, "n k *hw"]:
    """The class logits in a model's output, in float32 (float64 stays).

    Args:
        output: what the model returned.
        read: how to get logits out of it, where that is not as follows.
        dense: whether logits of every pixel, (n, k, h, w), will do where there are none of whole images.

    Understood are a tensor (n, k); a mapping or an object that holds one under `logits` (or `out`, `output`, `y_hat`,
    `preds`); a tuple or list whose first such tensor counts (auxiliary heads come after the main one). A head with one
    logit `z`, shape (n,) or (n, 1), becomes the two classes `(-z/2, z/2)`: their softmax is the sigmoid of `z`. Rows of
    probabilities `p` (not negative, with sum 1) become `log p`, whose softmax they are; log-softmax outputs stay.

    Raises:
        ValueError: where no logits can be read.

    Example:
        >>> logits({"logits": torch.tensor([[2.0, -1.0, 0.5]])})
        tensor([[ 2.0000, -1.0000,  0.5000]])
        >>> logits(torch.tensor([[3.0]])).softmax(-1)[0, 1]  # = sigmoid(3)
        tensor(0.9526)
    """
    returned = output if read is None else _read(read, output)
    found = _find(returned, 2)
    if found is None:
        found = _find(returned, 1)
    if found is None and dense:
        found = next((each for ndim in (4, 3, 5) if (each := _find(returned, ndim)) is not None), None)
        if found is not None:
            return found if found.dtype == torch.float64 else found.float()
    if found is None:
        who = "the model" if read is None else "`output`"
        raise ValueError(
            f"{who} returned {_describe(returned)}, where class logits of shape (n, k) were expected. "
            "Give `output=` a function (what the model returns) -> logits."
        )
    if found.ndim == 1 or found.shape[1] == 1:
        half = found.reshape(-1) / 2
        found = torch.stack([-half, half], dim=1)
    return _unsquashed(found if found.dtype == torch.float64 else found.float())


def _unsquashed(found: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Rows that are probabilities as their logarithms. Row by row: images don't mix."""
    squashed = (found >= 0).all(1) & ((found.sum(1) - 1).abs() < 1e-2)  # bfloat16 adds up to no better
    return torch.where(squashed[:, None], found.clamp(min=torch.finfo(found.dtype).tiny).log(), found)


def _read(read: Callable[[Any], Any], output: Any) -> Any:
    try:
        return read(output)
    except Exception as error:
        raise ValueError(
            f"`output` fails on {_describe(output)}: {type(error).__name__}: {error}. Give a function (what the model "
            "returns) -> logits."
        ) from error


def _find(output: Any, ndim: int) -> Tensor | None:
    """The first such tensor; those of two dimensions are asked for first: a loss for each image has one."""
    if isinstance(output, Tensor):
        return output if output.ndim == ndim and output.is_floating_point() and output.numel() else None
    if isinstance(output, Mapping):
        candidates = [output[name] for name in _NAMES if name in output]
    elif isinstance(output, tuple | list) and not hasattr(output, "logits"):
        candidates = list(output)
    else:
        candidates = [getattr(output, name) for name in _NAMES if hasattr(output, name)]
    return next((found for each in candidates if (found := _find(each, ndim)) is not None), None)


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {sorted(map(str, output))}"
    return f"a {type(output).__name__}"
