"""The only place that imports Lightning, in whichever of its two namespaces are installed."""

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:

    def _callback_classes() -> tuple[type, ...]:
        found = []
        for namespace in ("pytorch_lightning", "lightning.pytorch"):
            try:
                found.append(importlib.import_module(namespace).Callback)
            except ImportError:
                continue
        return tuple(found)

    # The class tree exists twice, and a Trainer takes callbacks of its own tree only
    # (https://github.com/Lightning-AI/pytorch-lightning/issues/17485): ours belong to both.
    Callback = type("Callback", _callback_classes(), {})
    LightningModule = Trainer = Any

__all__ = ["Callback", "LightningModule", "Trainer", "rank_zero_info", "rank_zero_warn"]

# By name, since every class exists in two namespaces. DeepSpeed's and FSDP's strategies look replicated or inherit from
# one that is, so they are asked about first.
UNFIT = {
    "FSDPStrategy": "keeps its parameters in pieces. Use ModelParallelStrategy (FSDP2)",
    "DeepSpeedStrategy": "has the parameters in its own hands. Use DDP, or ModelParallelStrategy (FSDP2)",
    "XLAFSDPStrategy": "keeps its parameters in pieces. Use another strategy",
}
SHARDED = frozenset({"ModelParallelStrategy"})
REPLICATED = frozenset({"DDPStrategy"})


def is_fit(trainer: Trainer) -> bool:
    """Whether this is `fit`, and not a stand-alone `validate` or `test`."""
    return trainer.state.fn == "fit"


def stage(trainer: Trainer) -> str:
    """What the trainer was asked to do: "fit", "validate" or "test"."""
    return getattr(trainer.state.fn, "value", "")


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the validation batch that just passed is the last of this validation, over all loaders."""
    return bool(_loop(trainer).batch_progress.is_last_batch)


def _loop(trainer: Trainer) -> Any:
    if is_fit(trainer):
        return trainer.fit_loop.epoch_loop.val_loop
    return trainer.test_loop if trainer.state.fn == "test" else trainer.validate_loop


def batches_stepped(trainer: Trainer) -> int:
    """The step at which Lightning logs metrics: batches after which an optimizer stepped.

    `global_step` counts every optimizer's steps, and is one higher at a validation within an epoch.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def metrics_step(trainer: Trainer) -> int:
    """The step at which Lightning has logged the metrics of the validation that ended just now.

    Where a user logs a metric named "step", Lightning takes that (`_LoggerConnector.log_metrics`).
    """
    results = getattr(trainer, "_results", None) or {}
    if any(str(key).rpartition(".")[2] == "step" for key in results):
        own = trainer.logged_metrics.get("step")
        if own is not None:
            return int(own)
    return batches_stepped(trainer)


def saved_step(checkpoint: Mapping[str, Any]) -> int:
    """The same of the training that a checkpoint was saved in."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"])
    except (KeyError, TypeError):
        return int(checkpoint.get("global_step", 0))


def callbacks(trainer: Trainer) -> list[Any]:
    """All callbacks of a trainer, in its order."""
    found: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set by one of its connectors
    return found


def reloads_loaders(trainer: Trainer) -> bool:
    """Whether the loaders may change while the training goes on."""
    return bool(trainer.reload_dataloaders_every_n_epochs)  # type: ignore[attr-defined]  # as above


def loaders(trainer: Trainer) -> list[Any]:
    """The validation (or test) loaders, untouched."""
    given = trainer.test_dataloaders if trainer.state.fn == "test" else trainer.val_dataloaders
    if isinstance(given, Mapping):
        return list(given.values())
    return list(given) if isinstance(given, list | tuple) else [given]


def batches(trainer: Trainer) -> list[int | float]:
    """How many batches each validation (or test) loader gives; empty before they are set up."""
    found = trainer.num_test_batches if trainer.state.fn == "test" else trainer.num_val_batches
    return list(found) if isinstance(found, list | tuple) else [found]


def of_loader(trainer: Trainer, batch: Any, loader: int) -> Any:
    """One loader's part of a batch, where loaders are combined side by side (`CombinedLoader`) and not in turn."""
    if _loop(trainer)._is_sequential:
        return batch
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    return parts[loader]


def is_sequential(trainer: Trainer) -> bool:
    """Whether several loaders come one after the other, each batch with its loader's index."""
    return bool(_loop(trainer)._is_sequential)


def unfit(strategy: Any) -> str | None:
    """Why a strategy can't be watched, and what to do; None where it can."""
    for base in type(strategy).__mro__:
        if base.__name__ in UNFIT:
            return f"{type(strategy).__name__} {UNFIT[base.__name__]}"
    return None


def is_sharded(strategy: Any) -> bool:
    """Whether no rank holds the whole model: then all of them have to run it together."""
    return any(base.__name__ in SHARDED for base in type(strategy).__mro__)


def is_replicated(strategy: Any) -> bool:
    """Whether every rank holds the same whole model."""
    return unfit(strategy) is None and any(base.__name__ in REPLICATED for base in type(strategy).__mro__)


def is_compiled(module: nn.Module) -> bool:
    """Whether the module as a whole was given to the Trainer compiled."""
    return getattr(module, "_compiler_ctx", None) is not None


def has_forward(module: nn.Module) -> bool:
    """Whether the user wrote a `forward`: the one that is inherited calls nothing."""
    return type(module).forward.__qualname__ not in ("LightningModule.forward", "_forward_unimplemented")


def precision(trainer: Trainer) -> AbstractContextManager[Any]:
    """The run's own autocast and default dtype, which are off in hooks."""
    context: AbstractContextManager[Any] = trainer.precision_plugin.forward_context()
    return context


def as_input(trainer: Trainer, tensor: Tensor) -> Tensor:
    """A tensor of images as the run's precision wants it."""
    converted: Tensor = trainer.precision_plugin.convert_input(tensor)
    return converted


def is_dummy(logger: Any) -> bool:
    """Whether a logger swallows everything, as in `fast_dev_run`."""
    return any(base.__name__ == "DummyLogger" for base in type(logger).__mro__)
