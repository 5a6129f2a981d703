"""Rank 0 draws alone."""

from lightning_convviz.engine.contract import Needs
from lightning_convviz.engine.participation.base import Participation


class Solo(Participation):
    """Rank 0 draws what it has seen, and nobody waits for it."""

    mode = "solo"
    plans_at = "never"

    def admits(self, needs: Needs, *, probes_are_final: bool) -> bool:
        """Nobody else takes part."""
        return False
