"""Fits on two processes, with and without the callbacks, for `test_ranks.py`: `ranks.py FOLDER CASE [gpu]`."""

import hashlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytorch_lightning as L
import torch
from conftest import TinyNet
from fits import Watched, data, three
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.utils.data import DataLoader, IterableDataset, Subset

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, ascent, layers
from lightning_convviz.callbacks.filters.optimizer import SHRINK
from lightning_convviz.callbacks.filters.tracking import TrackedPatterns
from lightning_convviz.isolation import isolated


def digest(module: Any, trainer: Any) -> str:
    """What training left: weights, optimizer state, metrics, and this rank's random numbers."""
    found = hashlib.sha1()
    states = [part for state in trainer.optimizers[0].state.values() for part in state.values()]
    for tensor in [*module.state_dict().values(), *states, *trainer.callback_metrics.values(), torch.get_rng_state()]:
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else torch.as_tensor(tensor)
        found.update(
            whole.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if whole.ndim
            else repr(whole).encode()
        )
    return found.hexdigest()[:12]


class Compared(FilterPatternLogger):
    """Notes how patterns that two ranks made compare with those of the pure function on rank 0 alone."""

    def __init__(self, folder: str, **arguments: Any) -> None:
        super().__init__(num_filters=3, steps=6, cold_steps=6, num_probes=4, on_error="raise", **arguments)
        self.folder = folder
        self._before: dict[str | None, torch.Tensor] = {}

    def draw(self, context: Any, parts: Any) -> Any:
        found = []
        is_initial = context.snapshot.initial
        for name, channels in self._selection.channels.items():
            source = self._selection.sources[name]
            alone = ascent.patterns_of_layers(
                context.model,
                {source: channels},
                like=context.probes.images,
                steps=self.steps,
                objective=self.objective,
                forward=context.forward_any,
                start={source: self._before[name]} if name in self._before and not is_initial else {},
                shrink=SHRINK,
            )[source]
            shared = TrackedPatterns.merge([part.patterns.get(name) for part in parts]).patterns
            for index in range(len(channels)):
                pair = torch.stack([shared.images[index].flatten(), alone.images[index].flatten()])
                correlation = float(torch.corrcoef(pair)[0, 1])
                found.append((correlation, float(shared.activations[index]), float(alone.activations[index])))
            if not is_initial:
                self._before[name] = shared.values.half().float()
        with Path(self.folder, "compared.jsonl").open("a") as file:
            file.write(json.dumps({"ranks": len(parts), "step": context.snapshot.step, "found": found}) + "\n")
        return super().draw(context, parts)


class Uneven(IterableDataset):
    """More validation data on rank 0 than on rank 1, and of unknown length."""

    def __init__(self, counts: tuple[int, int]) -> None:
        self.counts = counts

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        yield from (data(20, seed=1)[index] for index in range(self.counts[rank]))


class Sharded(Watched):
    """The net in pieces: FSDP2 over both processes."""

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard  # from torch 2.6 on

        if not type(self.net).__name__.startswith("FSDP"):
            for part in (self.net.conv1, self.net.conv2, self.net.head):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


class ShardedInside(Sharded):
    """The same, called from the steps: which part receives the images has to be found out on every rank."""

    forward = L.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), batch_size=len(batch[1]))


class Still(Watched):
    """The same network in every validation."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Data(L.LightningDataModule):
    """A validation set that is empty on rank 1."""

    def __init__(self) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def train_dataloader(self) -> Any:
        return DataLoader(data(), 8)

    def val_dataloader(self) -> Any:
        return DataLoader(Subset(data(20, seed=1), range(20 if self.trainer.global_rank == 0 else 0)), 8)


def watchers(case: str, folder: str) -> list[Any]:
    if case == "misfit":
        return [GradCAMLogger(probes=(torch.zeros(2, 3, 12, 16), [0, 7]))]
    if case == "figures":
        return [ActivationLogger("net.relu2", on_error="raise")]
    if case == "broken":
        return [Breaks(folder), GradCAMLogger(on_error="raise")]
    first, second, third = three()
    given = GradCAMLogger(probes=(torch.randn(2, 3, 12, 16), [0, 1]), name="given", on_error="raise")
    return [first, second if case in ("sharded", "inside") else Compared(folder), third, given]


class Breaks(Compared):
    """Fails on rank 1 alone."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.settings = replace(self.settings, on_error="warn")

    def compute(self, context: Any, share: slice) -> Any:
        if share.start == 1:
            raise RuntimeError("rank 1 has no luck")
        return super().compute(context, share)


def fit(folder: str, case: str, accelerator: str, watchers: list[Any]) -> None:
    backend = "gloo" if accelerator == "cpu" else "nccl"
    L.seed_everything(1, verbose=False)
    strategies = {
        "spawn": lambda: DDPStrategy(process_group_backend=backend, start_method="spawn"),
        "sharded": lambda: ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
        ),
    }
    strategies["inside"] = strategies["sharded"]
    # Without its buffers broadcast: then ranks differ in their statistics at validation, and an empty rank may go on.
    strategy = strategies.get(case, lambda: DDPStrategy(process_group_backend=backend, broadcast_buffers=False))()
    trainer = L.Trainer(
        max_epochs=3, accelerator=accelerator, devices=2, strategy=strategy, enable_checkpointing=False,
        logger=TensorBoardLogger(folder, name=None, version="watched" if watchers else "bare"),
        callbacks=[*watchers, Prints()], enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        use_distributed_sampler=case not in ("uneven", "empty"),
    )  # fmt: skip
    if case == "figures":
        for part in (module := Still(TinyNet())).modules():
            part.momentum = 0.0  # of the running statistics
        trainer.fit(module, DataLoader(data(), 8), DataLoader(data(40, seed=1), 4))
        if trainer.is_global_zero:
            with isolated(module), torch.no_grad(), layers.record(module, ["net.relu2"]) as outputs:
                module(data(40, seed=1).tensors[0])
            torch.save((outputs["net.relu2"].clone(), data(40, seed=1).tensors[0]), Path(folder, "maps.pt"))
        return
    module = {"sharded": Sharded, "inside": ShardedInside}.get(case, Watched)(TinyNet())
    val = DataLoader(Uneven((20, 9)) if case == "uneven" else data(20, seed=1), 4)
    try:
        if case == "empty":
            trainer.fit(module, datamodule=Data())
        else:
            trainer.fit(module, DataLoader(data(), 8), val)
    except ValueError as error:
        print(f"\nrank {trainer.global_rank}: {error}", flush=True)


def main(folder: str, case: str, accelerator: str = "cpu") -> None:
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", message=".*could not draw.*")
    fit(folder, case, accelerator, watchers(case, folder))
    if case in ("fits", "sharded", "inside", "spawn"):
        fit(folder, case, accelerator, [])


class Prints(L.Callback):
    """Says how training ended; under spawn only the process itself can."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        sys.stdout.write(f"\nrank {trainer.global_rank}: done {digest(pl_module, trainer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
