"""What a way to take part in a drawing has to say."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lightning_convviz.engine.contract import Mode, Needs
from lightning_convviz.engine.processes import Processes
from lightning_convviz.probes import Probes


@dataclass(frozen=True)
class Plan:
    """What rank 0 tells the others before a drawing that all take part in.

    Attributes:
        names: of the callbacks that draw.
        probes: of those whose probes are new.
        buffers: rank 0's running statistics.
    """

    names: Sequence[str] = ()
    probes: Mapping[str, Probes] = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)


class Participation(ABC):
    """How this process takes part in a drawing.

    Attributes:
        mode: its name, as callbacks know it.
        plans_at: when all ranks agree on who draws: a moment that every rank comes by in every validation.
        is_divided: whether each rank computes a share, which rank 0 draws once all are gathered.
        tries_again: whether one rank alone may run a forward once more.
    """

    mode: ClassVar[Mode]
    plans_at: ClassVar[Literal["never", "first batch", "epoch end"]]
    is_divided: ClassVar[bool] = False
    tries_again: ClassVar[bool] = True

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    @property
    def share(self) -> slice:
        """Which items of a list are this rank's to work on."""
        return slice(None)

    @abstractmethod
    def admits(self, needs: Needs, *, probes_are_final: bool) -> bool:
        """Whether all ranks take part in a drawing of a callback with these needs."""

    def prepare(self, module: nn.Module, plan: Plan) -> None:  # noqa: B027  (most have nothing to prepare)
        """Make the model on this rank what it is on rank 0; inside `isolated`."""

    def gather(self, part: Any) -> list[Any] | None:
        """What all ranks computed, in their order, on rank 0; None on the others, which draw nothing."""
        return [part] if self.processes.is_rank_zero else None

    def must_raise(self, error: Exception) -> bool:
        """Whether an error in a forward has to end the run, since the other ranks would wait for this one."""
        return False
