"""Check the arguments that the callbacks share: an error names the argument, what came, and what would be right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

# Functions first: a command line tries the types of a union in their order, and everything is a string.
Forward = Callable[..., Any] | str | None


def check_common(
    *,
    num_probes: Any,
    dataloader_idx: Any,
    every_n_epochs: Any,
    forward: Any,
    name: Any,
    save_dir: Any,
    save_images: Any,
    on_error: Any,
    initial: Any,
) -> None:
    """Check what all callbacks take.

    Raises:
        TypeError: for a wrong type.
        ValueError: for a value out of range.
    """
    at_least("num_probes", num_probes, 1)
    at_least("dataloader_idx", dataloader_idx, 0)
    if every_n_epochs != "log":
        at_least("every_n_epochs", every_n_epochs, 1, alternative=", or 'log'")
    if forward is not None and not isinstance(forward, str) and not callable(forward):
        raise TypeError(
            f"`forward` is a {type(forward).__name__}. It can be the name of a sub-module or a function "
            "(model, images) -> logits."
        )
    if name is not None and (not isinstance(name, str) or not name.strip("/ ")):
        raise ValueError(f"`name` is {name!r}. It must be a word for the tags, or None.")
    if save_dir is not None and (not isinstance(save_dir, str | Path) or "://" in str(save_dir)):
        raise ValueError(f"`save_dir` is {save_dir!r}. It must be the path of a local folder, or None.")
    for argument, value in {"save_images": save_images, "initial": initial}.items():
        if not isinstance(value, bool):
            raise TypeError(f"`{argument}` is {value!r}. It must be True or False.")
    if on_error not in ("warn", "raise"):
        raise ValueError(f"`on_error` is {on_error!r}. It can be 'warn' or 'raise'.")


def at_least(argument: str, value: Any, lowest: int, *, alternative: str = "") -> None:
    """Check an integer argument.

    Raises:
        TypeError: where it is no integer.
        ValueError: where it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{argument}` is {value!r}. It must be an integer of at least {lowest}{alternative}.")
    if value < lowest:
        raise ValueError(f"`{argument}` is {value}. It must be at least {lowest}{alternative}.")


def check_layers(layers: Any) -> None:
    """Check what an argument `layers` may be.

    Raises:
        TypeError: where it is not names, globs or module classes.
        ValueError: where it is an empty list.
    """
    items = list(layers) if isinstance(layers, list | tuple) else [layers]
    for item in items:
        if not isinstance(item, str | type):
            raise TypeError(f"`layers` is {layers!r}. It can be names, globs, module classes, or a list of these.")
    if not items:
        raise ValueError("`layers` is empty. Name a layer, or leave it 'auto'.")
