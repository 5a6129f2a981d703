"""What layers answer to the validation images that pass, in the user's own forward."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Listener(Protocol):
    """Running figures of one layer's output, see `layer_stats`; nothing in it waits for the device."""

    def reduce(self, output: Tensor) -> Any:
        """What to take of a batch's output, inside the user's forward."""

    def update(self, batch: Any, images: Tensor) -> None:
        """Take what `reduce` made of a batch, now that its images are known."""


class Overheard:
    """The listeners of one validation, by module.

    Attributes:
        listeners: as they were given.
    """

    def __init__(self) -> None:
        self.listeners: Mapping[str, Any] = {}
        self._batch: dict[str, tuple[Any, int]] = {}

    def begin(self, listeners: Mapping[str, Listener]) -> None:
        """A validation begins."""
        self._batch.clear()
        self.listeners = dict(listeners)

    def observers(self) -> dict[str, Callable[[Tensor], None]]:
        """For each module what to do with its output."""
        return {name: partial(self._reduce, name) for name in self.listeners}

    def _reduce(self, name: str, output: Tensor) -> None:
        if name not in self._batch:  # the first call in a batch is taken for that of its images
            self._batch[name] = self.listeners[name].reduce(output), len(output)

    def passed(self, images: Tensor | None) -> None:
        """The images of the batch that was observed; None where it was none of these."""
        for name, (batch, count) in self._batch.items():
            if images is not None and count == len(images):
                self.listeners[name].update(batch, images)
        self._batch.clear()

    def clear(self) -> None:
        """Nothing stays on the device while training goes on."""
        self._batch.clear()
        self.listeners = {}
