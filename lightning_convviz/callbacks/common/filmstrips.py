"""A callback's film strips: what it keeps of past drawings, and the strips that were drawn last."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lightning_convviz.history import KEPT, History, Snapshot
from lightning_convviz.pages.filmstrip import Filmstrip
from lightning_convviz.render import Drawable


class Filmstrips:
    """Histories by what they show, and the strips that were drawn last.

    Attributes:
        drawn: the last drawing's strips, by the part of their tags that follows `evolution/`.
    """

    def __init__(self) -> None:
        self._histories: dict[str, History] = {}
        self.drawn: dict[str, Filmstrip] = {}

    def append(
        self, name: str, maps: Float[Tensor, "n ..."], facts: Sequence[Mapping[str, Any]], snapshot: Snapshot
    ) -> History:
        """Add a drawing to the history of what has this name, and return it."""
        history = self._histories.setdefault(name, History(KEPT))
        last = history.frames[-1] if history.frames else None
        if last is not None and (last.codes.shape[1:] != maps.shape[1:] or _channels(last.facts) != _channels(facts)):
            history.frames = []  # other maps than those before, or of other channels
        history.append(maps, facts, snapshot)
        return history

    def keep_rows(self, name: str, rows: Sequence[int]) -> None:
        """Keep only some rows of the drawings so far."""
        for history in [self._histories[name]] if name in self._histories else []:
            history.frames = [frame.take(rows) for frame in history.frames]

    def animations(self) -> dict[str, Callable[[], Drawable]]:
        """What makes the same strips into animations, by tag, `animation/...`; of one drawing there is none."""
        return {f"animation/{tag}": strip.animation for tag, strip in self.drawn.items() if len(strip.columns) > 1}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {name: history.state_dict() for name, history in self._histories.items()}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the drawings of an earlier run; None where a checkpoint had no room for them."""
        for name, frames in (state or {}).items():
            self._histories[name] = History(KEPT)
            self._histories[name].load_state_dict(frames)


def _channels(facts: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [item.get("channel") for item in facts]
