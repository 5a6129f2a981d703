"""What goes wrong in mid-run is told once for its kind, and costs drawings, never the training."""

from lightning_convviz import _lightning

LIMIT = 3  # failures in a row, after which a callback switches itself off


class WarnOnce:
    """Warns of each thing once, on rank 0."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def warn(self, message: str, *, key: str | None = None) -> None:
        """Warn, the first time; `key` tells things apart, where the words of one may differ."""
        if (key or message) not in self._known:
            self._known.add(key or message)
            _lightning.rank_zero_warn(message)


class Failures:
    """Counts the drawings of one callback that failed.

    Attributes:
        owner: the callback's class, for messages.
        in_a_row: failures since the last drawing that worked.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.in_a_row = 0
        self._once = WarnOnce()

    @property
    def too_many(self) -> bool:
        """Whether the callback is switched off."""
        return self.in_a_row >= LIMIT

    def add(self, error: BaseException) -> None:
        """One more drawing failed."""
        self.in_a_row += 1
        kind = type(error).__name__
        self._once.warn(
            f"{self.owner} could not draw ({kind}: {error}). Training goes on; the next drawing is tried.", key=kind
        )
        if self.in_a_row == LIMIT:
            _lightning.rank_zero_warn(f"{self.owner} failed {LIMIT} times in a row and is switched off.")

    def warn(self, doing: str, error: BaseException) -> None:
        """Warn, once, of something that costs a part of the drawings."""
        self._once.warn(f"{self.owner} could not {doing} ({type(error).__name__}: {error}).", key=doing)
