"""How the processes of a run take part in a drawing: a collective is entered by all of them or by none.

Alone, and under strategies that are not known here, rank 0 draws and nobody waits for it. Where every rank holds the
whole model (DDP), work that can be divided is shared out. Where the model is in pieces (FSDP2, tensor parallelism)
every rank runs every forward, with rank 0's probes, and rank 0 keeps what comes out.
"""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_convviz import _lightning

T = TypeVar("T")

# Larger buffers are tables that do not differ from rank to rank; smaller ones are BatchNorm's running statistics.
LARGEST_BUFFER = 65_536


class Ranks:
    """What this process knows of the others.

    Attributes:
        rank: of this process.
        world: how many there are.
        sharded: whether all have to run every forward together.
        replicated: whether each has the whole model, and a share of the data.
        sharing: whether all take part of the work; agreed upon when training starts.
    """

    def __init__(self, trainer: Any = None) -> None:
        self.rank: int = 0 if trainer is None else trainer.global_rank
        self.world: int = 1 if trainer is None else trainer.world_size
        self.sharded = trainer is not None and self.world > 1 and _lightning.is_sharded(trainer.strategy)
        # Each rank validates a share of the data, every `world`-th picture, as Lightning's sampler deals them out.
        self.replicated = trainer is not None and self.world > 1 and _lightning.is_replicated(trainer.strategy)
        self.sharing = False

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which decides, draws and writes."""
        return self.rank == 0

    def agree_to_share(self, trainer: Any) -> None:
        """Share work only where every rank will see every validation; call it on all ranks.

        A rank without validation batches runs no validation at all, and would leave the others waiting for it.
        """
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self.world == 1 or not connected or not _lightning.is_replicated(trainer.strategy):
            return
        counts = _lightning.batches(trainer)
        fine = bool(counts) and all(math.isfinite(count) and count > 0 for count in counts)
        fine = fine and not trainer.reload_dataloaders_every_n_epochs
        self.sharing = all(self.gather(fine))

    def broadcast(self, trainer: Any, value: T) -> T:
        """Rank 0's value, on all ranks."""
        if self.world == 1:
            return value
        told: T = trainer.strategy.broadcast(value)
        return told

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in their order, on all ranks."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def share(self) -> slice:
        """Which of a list's items are this rank's to work on."""
        return slice(self.rank, None, self.world)


def statistics(module: nn.Module) -> dict[str, Tensor]:
    """Buffers in which ranks differ, though their parameters are the same: DDP copies rank 0's only before training."""
    return {
        name: buffer.detach().cpu()
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point() and 0 < buffer.numel() <= LARGEST_BUFFER and buffer.device.type != "meta"
    }


def adopt(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Give the module another rank's buffers; inside `isolated`, which puts its own back."""
    own = dict(module.named_buffers())
    for name, value in buffers.items():
        if name in own and own[name].shape == value.shape:  # a cache may have the size of a batch
            own[name].data.copy_(value)
