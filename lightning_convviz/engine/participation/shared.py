"""All ranks hold the whole model, and divide the work of a drawing."""

import math
from typing import Any

from torch import nn

from lightning_convviz import _lightning
from lightning_convviz._lightning import Trainer
from lightning_convviz.engine.contract import Needs
from lightning_convviz.engine.participation.base import Participation, Plan
from lightning_convviz.engine.processes import Processes, load_buffers


class Shared(Participation):
    """Each rank observes its share of the validation and computes its share of the work; rank 0 gathers and draws."""

    mode = "shared"
    # Not at the start of the validation: a callback that validates averaged weights has them in place only afterwards,
    # wherever it stands in the list, and the plan holds rank 0's running statistics.
    plans_at = "first batch"
    is_divided = True

    @property
    def share(self) -> slice:
        """Every n-th item."""
        return slice(self.processes.rank, None, self.processes.world_size)

    def admits(self, needs: Needs, *, probes_are_final: bool) -> bool:
        """What can be divided, once all ranks can have the same probes."""
        return needs.divisible and probes_are_final

    def prepare(self, module: nn.Module, plan: Plan) -> None:
        """Work for rank 0 with its running statistics, in which ranks differ."""
        if not self.processes.is_rank_zero:
            load_buffers(module, dict(plan.buffers))

    def gather(self, part: Any) -> list[Any] | None:
        """A collective: all ranks that were in the plan come here, whatever became of their part."""
        parts = self.processes.gather(part)
        return parts if self.processes.is_rank_zero else None


def can_share(processes: Processes, trainer: Trainer) -> bool:
    """Whether every rank will see every validation; call it on all ranks, when training starts.

    A rank without validation batches runs no validation at all, and would leave the others waiting for it.
    """
    if not processes.are_connected or not processes.is_replicated:
        return False
    counts = _lightning.batches(trainer)
    fine = bool(counts) and all(math.isfinite(count) and count > 0 for count in counts)
    return all(processes.gather(fine and not _lightning.reloads_loaders(trainer)))
