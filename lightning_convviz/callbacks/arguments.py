"""Check the arguments that the callbacks share: an error names the argument, what came, and what would be right."""

from collections.abc import Callable
from typing import Any

Forward = str | Callable[..., Any] | None


def check_common(*, num_probes: Any, every_n_epochs: Any, forward: Any, on_error: Any) -> None:
    """Check what all callbacks take.

    Raises:
        TypeError: for a wrong type.
        ValueError: for a value out of range.
    """
    at_least("num_probes", num_probes, 1)
    if every_n_epochs != "log":
        at_least("every_n_epochs", every_n_epochs, 1)
    if forward is not None and not isinstance(forward, str) and not callable(forward):
        raise TypeError(
            f"`forward` is a {type(forward).__name__}. It can be the name of a sub-module or a function "
            "(model, images) -> logits."
        )
    if on_error not in ("warn", "raise"):
        raise ValueError(f"`on_error` is {on_error!r}. It can be 'warn' or 'raise'.")


def at_least(argument: str, value: Any, lowest: int) -> None:
    """Check an integer argument.

    Raises:
        TypeError: where it is no integer.
        ValueError: where it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{argument}` is {value!r}. It must be an integer of at least {lowest}.")
    if value < lowest:
        raise ValueError(f"`{argument}` is {value}. It must be at least {lowest}.")


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
