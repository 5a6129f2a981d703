"""A callback's film strips: what it keeps of past drawings, and the pages that show them."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_convviz.callbacks.scene import Moment
from lightning_convviz.history import KEPT, History
from lightning_convviz.render.strips import Strip

LEGEND = """One picture of the whole run: a row for each {row}, a column for each drawing, oldest first: the initial
network, then drawings further and further apart, and on the right the current one. All drawings are colored by today's
scale."""


class Evolution:
    """Histories by what they show, and the strips that were drawn last.

    Attributes:
        strips: the last drawing's, by name.
    """

    def __init__(self) -> None:
        self._histories: dict[str, History] = {}
        self.strips: dict[str, Strip] = {}

    def note(
        self, name: str, maps: Float[Tensor, "n ..."], facts: Sequence[Mapping[str, Any]], moment: Moment
    ) -> History:
        """One more drawing of what has this name."""
        history = self._histories.setdefault(name, History(KEPT))
        last = history.frames[-1] if history.frames else None
        if last is not None and (last.codes.shape[1:] != maps.shape[1:] or _shown(last.facts) != _shown(facts)):
            history.frames = []  # other maps than those before, or of other channels
        history.note(maps, facts, epoch=moment.epoch, step=moment.step, initial=moment.initial)
        return history

    def choose(self, name: str, rows: Sequence[int]) -> None:
        """Keep only some rows of the drawings so far."""
        for history in [self._histories[name]] if name in self._histories else []:
            history.frames = [frame.take(rows) for frame in history.frames]

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {name: history.state() for name, history in self._histories.items()}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the drawings of an earlier run."""
        for name, frames in (state or {}).items():
            self._histories[name] = History(KEPT)
            self._histories[name].restore(frames)


def _shown(facts: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [item.get("channel") for item in facts]
