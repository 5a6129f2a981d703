"""What filters answer to the validation images that pass, in the user's own forward."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from lightning_convviz.statistics import Responses, Seen


class Overheard:
    """The answers of some channels of some modules in one validation; nothing here waits for the device."""

    def __init__(self) -> None:
        self._responses: dict[str, Responses] = {}
        self._batch: dict[str, tuple[Tensor, tuple[int, int]]] = {}

    def begin(self, channels: Mapping[str, Sequence[int]]) -> None:
        """A validation begins: module -> channels."""
        self._batch.clear()
        for name, each in channels.items():
            if name not in self._responses or self._responses[name].channels != list(each):
                self._responses[name] = Responses(each)
            self._responses[name].clear()

    def observers(self, names: Sequence[str]) -> dict[str, Callable[[Tensor], Tensor]]:
        """For each module what to do with its output."""
        return {name: partial(self._reduce, name) for name in names}

    def _reduce(self, name: str, output: Tensor) -> Tensor:
        if name not in self._batch:  # the first call in a batch is taken for that of its images
            self._batch[name] = self._responses[name].reduce(output), (output.shape[2], output.shape[3])
        return self._batch[name][0]

    def passed(self, images: Tensor | None) -> None:
        """The images of the batch that was observed; None where it was none of these."""
        for name, (figures, size) in self._batch.items():
            if images is not None and len(figures) == len(images):
                self._responses[name].add(figures, images, size)
        self._batch.clear()

    def seen(self, name: str, channels: Sequence[int]) -> Seen | None:
        """What these channels of a module answered; None where nothing passed, or others were observed."""
        responses = self._responses.get(name)
        return responses.seen() if responses is not None and responses.channels == list(channels) else None

    def clear(self) -> None:
        """Nothing stays on the device while training goes on."""
        self._batch.clear()
        for responses in self._responses.values():
            responses.clear()
