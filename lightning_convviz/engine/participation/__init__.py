"""The ways in which the processes of a run take part in a drawing: a class each, with the same few methods.

`solo`: rank 0 draws alone, and nobody waits for it: one process, and strategies that are not known here. `shared`:
every rank holds the whole model (DDP), and work that can be divided is. `lockstep`: each rank holds a part of the model
(FSDP2, tensor parallelism), and every rank runs every forward with rank 0's probes.
"""

from lightning_convviz.engine.participation.base import Participation, Plan
from lightning_convviz.engine.participation.lockstep import Lockstep
from lightning_convviz.engine.participation.shared import Shared, can_share
from lightning_convviz.engine.participation.solo import Solo

__all__ = ["Lockstep", "Participation", "Plan", "Shared", "Solo", "can_share"]
