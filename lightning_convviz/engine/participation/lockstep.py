"""Each rank holds a part of the model: all of them run every forward, in the same order."""

from lightning_convviz.engine.contract import Needs
from lightning_convviz.engine.participation.base import Participation


class Lockstep(Participation):
    """All ranks compute the whole drawing with rank 0's probes; rank 0 keeps what comes out."""

    mode = "lockstep"
    plans_at = "epoch end"
    tries_again = False

    def admits(self, needs: Needs, *, probes_are_final: bool) -> bool:
        """Every drawing takes all ranks."""
        return True

    def must_raise(self, error: Exception) -> bool:
        """Unless it is one that every rank meets alike: bad arguments, checked before anything runs.

        The collectives of the training would meet those of the drawing that this rank left.
        """
        return not isinstance(error, ValueError)
