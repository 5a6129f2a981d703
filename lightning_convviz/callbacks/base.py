"""What all callbacks have in common: when to draw, on what, where to, and how to fail without harm."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_convviz import _lightning, sinks
from lightning_convviz.callbacks import memory
from lightning_convviz.callbacks.arguments import Forward, check_common
from lightning_convviz.callbacks.scene import Scene, View, Wants
from lightning_convviz.callbacks.session import Session
from lightning_convviz.callbacks.turn import Turn
from lightning_convviz.probes import Probes, ProbesLike, as_probes
from lightning_convviz.render import Drawable
from lightning_convviz.render.strips import Strip


class Watcher(_lightning.Callback):
    """A callback that draws the live network at validations. Abstract; a subclass is final.

    It says which layers it draws (`resolve`), what it needs of the shared forward (`wants`), what else it computes with
    the model (`compute`), what it draws (`draw`), and what outlives the run (`kept`, `keep`); if it also watches the
    validation batches that pass, what it takes from them (`observers`, `passed`).
    """

    name: str
    output: Callable[..., Any] | None = None  # what the model returns -> logits
    reshape: Callable[..., Any] | None = None  # a layer's output -> maps
    logits: Callable[..., Any] | None = None  # what `validation_step` returns -> logits
    # What of `kept` goes where a checkpoint would grow too large: what it is, and which argument makes it smaller.
    spare: ClassVar[Mapping[str, tuple[str, str]]] = {}
    classifies: bool = True  # whether what the model returns are logits of classes
    hears: bool = False  # whether `hear` wants the logits of the validation
    shares: bool = False  # whether `compute` can be divided over ranks

    def __init__(
        self,
        *,
        probes: ProbesLike,
        num_probes: int,
        dataloader_idx: int,
        every_n_epochs: int | Literal["log"],
        forward: Forward,
        name: str | None,
        save_dir: str | Path | None,
        save_images: bool,
        on_error: Literal["warn", "raise"],
        initial: bool,
    ) -> None:
        super().__init__()
        check_common(
            num_probes=num_probes, dataloader_idx=dataloader_idx, every_n_epochs=every_n_epochs, forward=forward,
            name=name, save_dir=save_dir, save_images=save_images, on_error=on_error, initial=initial,
        )  # fmt: skip
        self.given: Probes | None = None if probes is None else as_probes(probes)
        self.num_probes = num_probes
        self.dataloader_idx = dataloader_idx
        self.every_n_epochs = every_n_epochs
        self.forward_ = forward
        self.name = name or type(self).name
        self.save_dir = None if save_dir is None else Path(save_dir)
        self.save_images = save_images
        self.on_error = on_error
        self.initial = initial
        self.turn = Turn(self, Session())
        self.begin()

    def __getstate__(self) -> dict[str, Any]:
        # Spawned processes get a copy of the callback: each begins a session of its own, with its own lock and thread.
        return {name: value for name, value in self.__dict__.items() if name != "turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.turn = Turn(self, Session())

    @property
    def initial_pictures(self) -> dict[str, Drawable]:
        """What the dry run before training drew, by tag."""
        return self.turn.initial_pictures

    def failed(self, error: Exception) -> None:
        """Count a failure that harms nobody; after three in a row the callback is switched off."""
        self.turn.failures.add(error)

    # -- what a subclass says ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new run: nothing is chosen yet."""

    def check(self, model: nn.Module) -> None:
        """Before anything runs: complain about layers that the model does not have."""

    @abstractmethod
    def resolve(self, model: nn.Module, scene: Scene) -> None:
        """Choose the layers, once, from those that ran (`scene.runs`)."""

    @abstractmethod
    def wants(self, probes: Probes) -> Wants:
        """What to record in the shared forward of the probes."""

    def compute(self, view: View, mine: slice) -> Any:
        """What else the drawing needs of the model, which is isolated while this runs; `mine` is this rank's share."""

    @abstractmethod
    def draw(self, view: View, parts: list[Any]) -> dict[str, Drawable]:
        """The pictures by tag, tags always the same, from what every rank computed, in their order."""

    def scalars(self) -> Mapping[str, float]:
        """Numbers to log beside the pictures that `draw` made last, by the end of their tags."""
        return {}

    def text(self) -> str:
        """What there is to tell a person about the last drawing, in Markdown; empty where there is nothing."""
        return ""

    def strips(self) -> Mapping[str, Strip]:
        """The film strips of the last drawing, by name: at the end of the fit they become animations."""
        return {}

    def chosen(self) -> dict[str, Any]:
        """What the dry run chose, as plain values, for ranks that had none."""
        return {}

    def choose(self, chosen: Mapping[str, Any]) -> None:
        """Take what rank 0 chose in its dry run."""

    def kept(self) -> dict[str, Any]:
        """What a resumed run goes on with: tensors, strings, numbers, lists and dicts."""
        return {}

    def keep(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run kept."""

    def observers(self) -> Mapping[str, Callable[[Tensor], None]]:
        """Layers of the user's own validation forward to observe, with a function of the output.

        The function runs inside that forward, where a drawing is due: it must reduce only, and not wait for the device.
        """
        return {}

    def passed(self, images: Tensor | None) -> None:
        """Take the images of the batch that was observed, if it was one of this callback's loader.

        Must not wait for the device.
        """

    def opened(self) -> None:
        """A validation begins."""

    def hear(self, images: Tensor, labels: Tensor, logits: Tensor, extra_inputs: Mapping[str | int, Tensor]) -> None:
        """Take a validation batch and what the user's own step said of it; must not wait for the device."""

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, stage: str) -> None:
        if stage != "predict":
            self._join(trainer, pl_module)

    def _join(self, trainer: Any, module: Any) -> None:
        """Share the session of the trainer's other watchers; where there is none yet for this model, begin one."""
        if reason := _lightning.unfit(trainer.strategy):
            raise ValueError(f"`strategy`: {reason}, or leave {type(self).__name__} out.")
        sessions = [peer.turn.session for peer in trainer.callbacks if isinstance(peer, Watcher)]
        session = next((each for each in sessions if each.serves(trainer, module)), None) or Session(trainer, module)
        session.begin(trainer)
        self.turn.loaded = None
        if self in session.watchers:
            return
        if self.name in [watcher.name for watcher in session.watchers]:
            raise ValueError(
                f"`callbacks` holds two callbacks named {self.name!r}, and their tags would collide. Give one of them "
                "another `name=`."
            )
        session.watchers.append(self)
        self.turn = Turn(self, session)
        self.begin()
        if self.turn.leads:
            sinks.announce(trainer.loggers, self.save_dir)

    @override
    def on_fit_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.check(pl_module)
        if self.turn.leads and not trainer.enable_validation:
            _lightning.rank_zero_warn(
                "lightning_convviz draws at validations, and this run has none (`limit_val_batches=0`, or no "
                "`validation_step` or validation data): there will be no pictures."
            )

    @override
    def on_sanity_check_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.agree(trainer)

    @override
    def on_train_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.start(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.open(trainer, pl_module)

    @override
    def on_validation_batch_start(
        self,
        trainer: _lightning.Trainer,
        pl_module: _lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.turn.before(trainer, pl_module, batch, first=batch_idx == 0 and dataloader_idx == 0)

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
        self.turn.after(trainer, pl_module, outputs, batch, dataloader_idx)

    @override
    def on_validation_epoch_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.meet(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.session.end(trainer)

    @override
    def on_fit_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        self.turn.conclude(trainer)

    # A stand-alone test is a validation under another tag.
    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
    on_test_end = on_validation_end

    @override
    def on_exception(
        self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, exception: BaseException
    ) -> None:
        self.turn.hand_over()
        self.turn.session.finish(trainer)

    @override
    def teardown(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, stage: str) -> None:
        self.turn.session.finish(trainer)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint, which tells instances apart by name."""
        return f"{type(self).__qualname__}{{'name': {self.name!r}}}"

    @override
    def on_save_checkpoint(
        self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Not `state_dict`: for two instances of one name Lightning would raise an error of its own, which knows nothing
        # of `name=`, before ours. An error here would cost the checkpoint.
        try:
            checkpoint.setdefault("callbacks", {})[self.state_key] = memory.state(self)
        except Exception as error:
            self.turn.failures.tell("save its state", error)

    @override
    def on_load_checkpoint(
        self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.turn.loaded = int(checkpoint.get("epoch", 0)), int(checkpoint.get("global_step", 0))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            memory.restore(self, state_dict)
        except Exception as error:
            self.turn.failures.tell("read its state in the checkpoint, and begins anew", error)
