"""The only place that imports Lightning, in whichever of its two namespaces are installed."""

import importlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_warn
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

__all__ = ["Callback", "LightningModule", "Trainer", "rank_zero_warn"]

SHARDED = frozenset({"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"})


def fitting(trainer: Trainer) -> bool:
    """Whether this is `fit`, and not a stand-alone `validate` or `test`."""
    return trainer.state.fn == "fit"


def is_last_batch(trainer: Trainer) -> bool:
    """Whether the validation batch that just passed is the last of this validation, over all loaders."""
    return bool(trainer.fit_loop.epoch_loop.val_loop.batch_progress.is_last_batch)


def is_sharded(trainer: Trainer) -> bool:
    """Whether no rank holds the whole model, so that none can run it alone."""
    return any(base.__name__ in SHARDED for base in type(trainer.strategy).__mro__)


def is_compiled(module: nn.Module) -> bool:
    """Whether the module as a whole was given to the Trainer compiled."""
    return getattr(module, "_compiler_ctx", None) is not None


def has_forward(module: nn.Module) -> bool:
    """Whether the user wrote a `forward`: the one that is inherited calls nothing."""
    owner = next(base for base in type(module).__mro__ if "forward" in vars(base))
    return owner is not nn.Module and owner.__name__ != "LightningModule"


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
