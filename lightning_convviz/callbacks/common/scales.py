"""The ends of color scales, kept from drawing to drawing: only under one scale can epochs be compared."""

from collections.abc import Mapping
from typing import Any

from lightning_convviz.history import Snapshot


class Scales:
    """The ends of a callback's scales, by name, and when each was last changed.

    Example:
        >>> scales = Scales()
        >>> snapshots = [Snapshot(epoch, 100 * epoch, "") for epoch in range(6)]
        >>> values = (1.0, 1.9, 0.6, 2.1, 1.5, 0.0)
        >>> [scales.hold("layer1", value, when) for value, when in zip(values, snapshots)]
        [1.0, 1.0, 1.0, 2.1, 2.1, 2.1]
        >>> scales.change_note("layer1")
        'changed in ep. 3: before, 1'
    """

    def __init__(self) -> None:
        self._ends: dict[str, float] = {}
        self._changes: dict[str, str] = {}

    def hold(self, name: str, high: float, snapshot: Snapshot) -> float:
        """The end of a scale, which stays as it is until the values' own, `high`, leaves it by a factor of two.

        What is drawn of the initial network, or of one that is not being trained, changes nothing for the drawings of
        the training.
        """
        kept, end = self._ends.get(name), float(f"{high:.2g}")
        if not high > 0 or (kept is not None and kept / 2 <= high <= kept * 2):
            return 1.0 if kept is None else kept
        if snapshot.training and not snapshot.initial:
            if kept is not None:
                self._changes[name] = f"changed in {snapshot.short}: before, {kept:.2g}"
            self._ends[name] = end
        return end

    def change_note(self, name: str) -> str:
        """When a scale was last changed, and from what; empty where it never was."""
        return self._changes.get(name, "")

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"ends": dict(self._ends), "changes": dict(self._changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the scales of an earlier run."""
        self._ends, self._changes = dict(state["ends"]), dict(state["changes"])
