"""The processes of a run: a collective is entered by all of them or by none."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_convviz import _lightning
from lightning_convviz._lightning import Trainer

T = TypeVar("T")

# Larger buffers are tables that do not differ from rank to rank; smaller ones are BatchNorm's running statistics.
LARGEST_BUFFER = 65_536


class Processes:
    """What this process knows of the others.

    Attributes:
        rank: of this process.
        world_size: how many there are.
        is_sharded: whether each holds a part of the model, so that all have to run every forward together.
        is_replicated: whether each holds the whole model, and validates a share of the data: every `world_size`-th
            picture, as Lightning's sampler deals them out.
    """

    def __init__(self, trainer: Trainer | None = None) -> None:
        self.rank: int = 0 if trainer is None else trainer.global_rank
        self.world_size: int = 1 if trainer is None else trainer.world_size
        strategy = None if trainer is None or self.world_size == 1 else trainer.strategy
        self.is_sharded = strategy is not None and _lightning.is_sharded(strategy)
        self.is_replicated = strategy is not None and _lightning.is_replicated(strategy)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that decides, draws and writes."""
        return self.rank == 0

    @property
    def are_connected(self) -> bool:
        """Whether there are others, and collectives reach them."""
        return self.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized()

    def broadcast(self, trainer: Trainer, value: T) -> T:
        """Rank 0's value, on all ranks."""
        if self.world_size == 1:
            return value
        received: T = trainer.strategy.broadcast(value)
        return received

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in their order, on all ranks."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def positions(self, seen: int, count: int) -> range:
        """Which images of the data `count` more are, after this rank has seen `seen` of them."""
        if not self.is_replicated:
            return range(seen, seen + count)
        first = seen * self.world_size + self.rank
        return range(first, first + count * self.world_size, self.world_size)


def rank_local_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers in which ranks differ, though their parameters are the same: DDP copies rank 0's only before training."""
    return {
        name: buffer.detach().cpu()
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point() and 0 < buffer.numel() <= LARGEST_BUFFER and buffer.device.type != "meta"
    }


def load_buffers(module: nn.Module, buffers: dict[str, Tensor]) -> None:
    """Give the module another rank's buffers; inside `isolated`, which puts its own back."""
    own = dict(module.named_buffers())
    for name, value in buffers.items():
        if name in own and own[name].shape == value.shape:  # a cache may have the size of a batch
            own[name].data.copy_(value)
