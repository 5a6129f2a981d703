"""The pictures of a validation that excite chosen channels most, of several layers."""

from collections.abc import Iterable, Mapping, Sequence

from lightning_convviz.engine.contract import Observers
from lightning_convviz.layer_stats.top_images import TopImages, TopImagesAccumulator
from lightning_convviz.layers import evenly_spaced


class TopExamples:
    """The most exciting pictures for some channels of each layer, in one validation after the other.

    Args:
        channels: how many of each layer, evenly spread, or their numbers.
    """

    def __init__(self, channels: int | Sequence[int]) -> None:
        self.channels = channels
        self._accumulators: dict[str, TopImagesAccumulator] = {}

    def check(self, counts: Mapping[str, int]) -> None:
        """Before training, with the number of channels of each layer.

        Raises:
            ValueError: where a channel was asked for that a layer does not have.
        """
        if isinstance(self.channels, int):
            return
        for layer, count in counts.items():
            wrong = [channel for channel in self.channels if channel >= count]
            if wrong:
                raise ValueError(f"`exciting` holds {wrong[0]}; layer {layer!r} has channels 0 to {count - 1}.")

    def start_validation(self, sources: Iterable[str]) -> Observers:
        """What is to observe these modules in a validation that begins."""
        self._accumulators = {source: TopImagesAccumulator(self._choose) for source in sources}
        return list(self._accumulators.items())

    def compute(self) -> dict[str, TopImages | None]:
        """What this process has found, in main memory."""
        found = {source: accumulator.compute() for source, accumulator in self._accumulators.items()}
        return {source: None if each is None else each.cpu() for source, each in found.items()}

    def end_validation(self) -> None:
        """Nothing stays on the device while training goes on."""
        self._accumulators = {}

    def _choose(self, count: int) -> list[int]:
        """Which of a layer's channels are observed."""
        if isinstance(self.channels, int):
            return evenly_spaced(range(count), self.channels)
        return [channel for channel in self.channels if channel < count]
