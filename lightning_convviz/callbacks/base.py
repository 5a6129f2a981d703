"""What all callbacks have in common: when to draw, on what, where to, and how to fail without harm."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import _lightning, layers, sinks
from lightning_convviz.callbacks.arguments import Forward, check_common
from lightning_convviz.callbacks.scene import View, Wants
from lightning_convviz.callbacks.session import Session
from lightning_convviz.isolation import isolated
from lightning_convviz.probes import Probes, ProbesLike, of
from lightning_convviz.render import Picture

FAILURES = 3  # in a row, after which a callback switches itself off


class Watcher(_lightning.Callback):
    """A callback that draws the live network at validations. Abstract; a subclass is final.

    It says which layers it draws (`resolve`), what it needs of the shared forward (`wants`), and what it draws
    (`draw`); if it also watches the validation batches that pass, what it takes from them (`observers`, `observe`).
    """

    name: str

    def __init__(
        self,
        *,
        probes: ProbesLike,
        num_probes: int,
        every_n_epochs: int | Literal["log"],
        forward: Forward,
        on_error: Literal["warn", "raise"],
        initial: bool,
    ) -> None:
        super().__init__()
        check_common(num_probes=num_probes, every_n_epochs=every_n_epochs, forward=forward, on_error=on_error)
        self.given: Probes | None = None if probes is None else of(probes)
        self.num_probes = num_probes
        self.every_n_epochs = every_n_epochs
        self.forward_ = forward
        self.on_error = on_error
        self.initial = bool(initial)
        self._session = Session()
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        # Spawned processes get a copy of the callback: each begins a session of its own, with its own lock and thread.
        return {name: value for name, value in self.__dict__.items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _session=Session())

    def _begin(self) -> None:
        """A new run: nothing drawn, nothing chosen."""
        self.initial_pictures: dict[str, Picture] = {}
        self.due = False
        self._drawn: sinks.Drawing | None = None
        self._validations = 0
        self._last_step = -1
        self._failures = 0
        self._misfit: Exception | None = None
        self._told: set[str] = set()

    # -- what a subclass says ----------------------------------------------------------------------------------------

    def check(self, model: nn.Module) -> None:
        """Before anything runs: complain about layers that the model does not have."""

    @abstractmethod
    def resolve(self, model: nn.Module, runs: Mapping[str, layers.Run]) -> None:
        """Choose the layers, once, from those that ran."""

    @abstractmethod
    def wants(self, probes: Probes) -> Wants:
        """What to record in the shared forward of the probes."""

    @abstractmethod
    def draw(self, view: View) -> dict[str, Picture]:
        """The pictures by tag, tags always the same. The model is isolated while this runs."""

    def observers(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Layers of the user's own validation forward to observe, with a function from the output to what is kept.

        The function runs inside that forward: it must reduce only, and not wait for the device.
        """
        return {}

    def observe(self, name: str, reduced: Tensor) -> None:
        """Take what an observer made of a layer's output for one batch."""

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if _lightning.is_sharded(trainer):
            raise ValueError(
                f"`strategy` is {type(trainer.strategy).__name__}, which spreads the model over the ranks. "
                f"{type(self).__name__} draws on one rank so far: use DDP, or leave it out."
            )
        self._join(trainer, pl_module)
        if self._leads:
            self._session.tell_about_loggers(trainer)

    @override
    def on_fit_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.check(pl_module)
        if isinstance(self.forward_, str):
            layers.find_one(pl_module, self.forward_, argument="forward")
        if self._leads and not trainer.enable_validation:
            _lightning.rank_zero_warn(
                "lightning_convviz draws at validations, and this run has none (`limit_val_batches=0`, or no "
                "`validation_step` or validation data): there will be no pictures."
            )

    @override
    def on_train_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        # Without a sanity check, given probes are tried here; probes from the data are not there yet.
        if self.initial and not self.initial_pictures and self.given is not None and trainer.global_step == 0:
            self.due = self._active(trainer)
            self._attempt(trainer, pl_module, initial=True)
            self._session.forget()
            self._agree(trainer)

    @override
    def on_validation_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if not _lightning.fitting(trainer):
            return
        self.due = self._is_due(trainer)
        if self._leads:
            self._safely(partial(self._session.open, pl_module))

    @override
    def on_validation_batch_start(
        self,
        trainer: _lightning.Trainer,
        pl_module: _lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if _lightning.fitting(trainer) and self._leads:
            self._safely(partial(self._session.before, batch))

    @override
    def on_validation_batch_end(
        self,
        trainer: _lightning.Trainer,
        pl_module: _lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not _lightning.fitting(trainer):
            return
        if self._leads and self._active(trainer):
            self._safely(partial(self._session.after, trainer, batch, dataloader_idx))
        # Here and not at the end of the epoch: a callback that validates averaged weights has them in place
        # now, wherever it stands in the list of callbacks.
        if self.due and _lightning.is_last_batch(trainer):
            self._attempt(trainer, pl_module, initial=trainer.sanity_checking)

    @override
    def on_validation_epoch_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if not _lightning.fitting(trainer):
            return
        if self.due:  # a loader that did not announce its last batch
            self._attempt(trainer, pl_module, initial=trainer.sanity_checking)
        if trainer.sanity_checking:
            self._agree(trainer)
        self._hand_over()

    @override
    def on_validation_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if _lightning.fitting(trainer):
            session = self._session
            session.close()
            session.forget()
            session.flush(trainer)

    @override
    def on_exception(
        self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, exception: BaseException
    ) -> None:
        self._hand_over()
        self._session.finish(trainer)

    @override
    def teardown(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, stage: str) -> None:
        self._session.finish(trainer)

    # -- how ---------------------------------------------------------------------------------------------------------

    def _join(self, trainer: Any, module: Any) -> None:
        """Share the session of the trainer's other watchers; where there is none yet for this model, begin one."""
        sessions = [peer._session for peer in trainer.callbacks if isinstance(peer, Watcher)]
        session = next((each for each in sessions if each.serves(trainer, module)), None) or Session(trainer, module)
        self._session = session
        if self not in session.watchers:
            if self.name in [watcher.name for watcher in session.watchers]:
                raise ValueError(f"`callbacks` holds {type(self).__name__} twice. Its tags would collide: keep one.")
            session.watchers.append(self)
            self._begin()

    @property
    def _leads(self) -> bool:
        """Whether this is the session's first callback, which does what is done once for all."""
        return self._session.watchers[:1] == [self]

    def _active(self, trainer: Any) -> bool:
        return bool(trainer.is_global_zero and self._failures < FAILURES and self._session.is_heard(trainer))

    def _is_due(self, trainer: Any) -> bool:
        if not self._active(trainer):
            return False
        if trainer.sanity_checking:
            return self.initial and trainer.global_step == 0
        self._validations += 1
        if trainer.global_step <= self._last_step:  # steps of a tag never repeat, nor fall
            return False
        if self.every_n_epochs == "log":
            return self._validations & (self._validations - 1) == 0
        return bool((trainer.current_epoch + 1) % self.every_n_epochs == 0)

    def _attempt(self, trainer: Any, module: Any, *, initial: bool) -> None:
        """Draw; what goes wrong before training is an error, what goes wrong in it is told and endured."""
        if not self.due:
            return
        self.due = False
        try:
            self._draw(trainer, module, initial)
        except Exception as error:
            if initial and not isinstance(error, torch.OutOfMemoryError):
                self._misfit = error
            elif self.on_error == "raise":
                raise
            else:
                self.failed(error)

    def _agree(self, trainer: Any) -> None:
        """After the dry run: what did not fit on the rank that drew ends the run on all of them.

        An error on one rank alone would leave the others waiting in their next collective.
        """
        misfit: Exception | None = trainer.strategy.broadcast(self._misfit)
        self._misfit = None
        if misfit is not None:
            raise misfit

    def _hand_over(self) -> None:
        if self._drawn is not None:
            self._session.pending.append(self._drawn)
            self._drawn = None

    def _draw(self, trainer: Any, module: Any, initial: bool) -> None:
        start = time.perf_counter()
        session = self._session
        session.close()  # the last batch has passed, and observers are not to see the probes
        with isolated(module), torch.no_grad():
            pictures = self.draw(session.view(self, trainer, module, initial=initial))
        pictures = {tag: picture.cpu() for tag, picture in pictures.items()}  # waits for the device: the time is whole
        seconds = time.perf_counter() - start
        self._failures = 0
        if initial:
            self.initial_pictures = pictures
            return
        session.settle()
        self._last_step = trainer.global_step
        scalars = {f"convviz/seconds/{self.name}": seconds}
        self._drawn = sinks.Drawing(self.name, trainer.current_epoch, trainer.global_step, pictures, scalars)

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if self.on_error == "raise":
                raise
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Count a failure, and tell each kind once."""
        self._failures += 1
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            _lightning.rank_zero_warn(
                f"{type(self).__name__} could not draw ({kind}: {error}). Training goes on; the next drawing is tried."
            )
        if self._failures == FAILURES:
            _lightning.rank_zero_warn(f"{type(self).__name__} failed {FAILURES} times in a row and is switched off.")
