"""Mistakes that are pinned when they are first found, and how they fare from drawing to drawing."""

from collections.abc import Mapping
from typing import Any

from lightning_convviz.history import History, Snapshot
from lightning_convviz.pages.explained import ExplainedImages
from lightning_convviz.pages.heatmap_strip import strip_facts
from lightning_convviz.probes import Probes

DRAWINGS = 6  # in a strip


class TrackedMistakes:
    """The pinned images and their history.

    Attributes:
        count: how many are pinned at most.
        probes: the images, in main memory; None as long as no mistake was found.
        history: the drawings of them that are kept.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.probes: Probes | None = None
        self.history = History(DRAWINGS)

    def pin(self, mistakes: ExplainedImages | None, tracked: ExplainedImages | None) -> ExplainedImages | None:
        """Fill free places with mistakes that are not pinned yet.

        Args:
            mistakes: of the current validation.
            tracked: the images that are pinned already, as explained in this drawing.

        Returns:
            All images that are pinned now, as explained in this drawing; None where there are none.
        """
        pinned = set() if self.probes is None else set(self.probes.ids or ())
        free = self.count - len(pinned)
        if mistakes is None or free <= 0:
            return tracked
        if self.probes is not None and (tracked is None or not mistakes.fits(tracked)):
            return tracked
        fresh = [row for row, name in enumerate(mistakes.ids) if name not in pinned][:free]
        if not fresh:
            return tracked
        new = mistakes.select(fresh)
        found = new if tracked is None else ExplainedImages.concatenate([tracked, new])
        self.probes = found.probes
        return found

    def append(self, tracked: ExplainedImages, snapshot: Snapshot) -> History:
        """Add a drawing of the pinned images, and return the history."""
        self.history.append(tracked.result.maps[0], strip_facts(tracked.predictions, len(tracked)), snapshot)
        return self.history

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and plain values; None where nothing is pinned."""
        if self.probes is None:
            return None
        return {"probes": self.probes.state_dict(), "frames": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the images of an earlier run; None where its checkpoint has none."""
        if state is not None:
            self.probes = Probes.from_state_dict(state["probes"])
            self.history.load_state_dict(state["frames"])
