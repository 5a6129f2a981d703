"""Lightning's hooks, handed on to the engine: a `Visualizer` that a Trainer takes as a callback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from typing_extensions import override

from lightning_convviz import _lightning
from lightning_convviz.callbacks.options import check_common
from lightning_convviz.engine.contract import Forward, Settings, Visualizer
from lightning_convviz.engine.coordinator import Coordinator
from lightning_convviz.probes import ProbesLike, as_probes
from lightning_convviz.render import Drawable


class VisualizationCallback(_lightning.Callback, Visualizer):
    """A callback that draws the live network at validations. Abstract; a subclass is final.

    A subclass has a `name`, the first part of its tags, and says what is to be seen: `draw` at least, and of the other
    methods of `Visualizer` what it needs. When to draw, on which pictures and ranks, where to, and what happens when it
    fails, is the engine's.

    Args:
        probes: the images to watch: Probes, a tensor of model inputs, (images, labels), (data set, indices) or the
            path of a folder. By default some of the first validation batches, with as many classes as possible.
        num_probes: how many of them to take.
        dataloader_idx: from which validation loader to take them, where there are several.
        every_n_epochs: draw in every n-th epoch; `"log"` draws at validations 1, 2, 4, 8, and so on.
        forward: how to get from the images to the model's output: the name of a sub-module, or a function
            (model, images) -> output. By default the module's own `forward`.
        output: a function from what the model returns to logits (n, k), where they can't be found in it.
        reshape: a function from a layer's output to maps (n, c, y, x), where `layers.layout` can't tell.
        logits: a function from what `validation_step` returns to logits (n, k).
        name: the first part of the tags, by default the class's `name`, or else that of the class itself; tells several
            callbacks of a kind apart.
        save_dir: a local folder for pictures as files, in folders by tag and step, beside what the loggers take.
        save_images: keep the probes from the validation data in checkpoints, so that a resumed run shows the same
            ones; False for private data.
        on_error: `"warn"`: a drawing that fails warns, and training goes on; `"raise"` is for tests.
        initial: try a drawing before training, so that what does not fit fails at once; it is logged at step 0.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for an argument out of range.

    Example:
        >>> from lightning_convviz import render
        >>> from lightning_convviz.engine.contract import DrawResult
        >>> class Inputs(VisualizationCallback):
        ...     name = "inputs"
        ...     def draw(self, context, parts):
        ...         page = render.picture_grid(context.photos, context.probes.ids, title=context.snapshot.caption)
        ...         return DrawResult({f"{self.name}/probes": page})
        >>> Inputs(num_probes=4).settings.num_probes
        4
    """

    name: str

    def __init__(
        self,
        *,
        probes: ProbesLike = None,
        num_probes: int = 8,
        dataloader_idx: int = 0,
        every_n_epochs: int | Literal["log"] = 1,
        forward: Forward = None,
        output: Callable[..., Any] | None = None,
        reshape: Callable[..., Any] | None = None,
        logits: Callable[..., Any] | None = None,
        name: str | None = None,
        save_dir: str | Path | None = None,
        save_images: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        initial: bool = True,
    ) -> None:
        super().__init__()
        check_common(
            num_probes=num_probes,
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            forward=forward,
            output=output,
            reshape=reshape,
            logits=logits,
            name=name,
            save_dir=save_dir,
            save_images=save_images,
            on_error=on_error,
            initial=initial,
        )
        self.settings = Settings(
            name=name or getattr(type(self), "name", "") or type(self).__name__.lower(),
            probes=None if probes is None else as_probes(probes),
            num_probes=num_probes,
            dataloader_idx=dataloader_idx,
            every_n_epochs=every_n_epochs,
            forward=forward,
            output=output,
            reshape=reshape,
            logits=logits,
            save_dir=None if save_dir is None else Path(save_dir),
            save_images=save_images,
            on_error=on_error,
            initial=initial,
        )
        self.name = self.settings.name
        self._coordinator = Coordinator()

    def __getstate__(self) -> dict[str, Any]:
        # Spawned processes get a copy of the callback: each begins with a coordinator of its own, its lock and thread.
        return {name: value for name, value in self.__dict__.items() if name != "_coordinator"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._coordinator = Coordinator()

    @property
    def initial_pictures(self) -> dict[str, Drawable]:
        """What the drawing before training shows, by tag; empty before it and where there was none."""
        participant = self._coordinator.participant(self)
        return {} if participant is None else participant.initial_pictures

    # -- Lightning's hooks: the first of our callbacks acts for all ----------------------------------------------------

    @property
    def _drives(self) -> bool:
        return self._coordinator.is_driven_by(self)

    @override
    def setup(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        if reason := _lightning.unfit(trainer.strategy):
            raise ValueError(f"`strategy`: {reason}, or leave {type(self).__name__} out.")
        ours = [each for each in _lightning.callbacks(trainer) if isinstance(each, VisualizationCallback)]
        peers = [each._coordinator for each in ours]
        known = next((each for each in peers if each.belongs_to(trainer, pl_module)), None)
        self._coordinator = known or Coordinator(trainer, pl_module)
        self._coordinator.begin(trainer)
        self._coordinator.join(self, trainer)

    @override
    def on_fit_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_fit_start(trainer, pl_module)

    @override
    def on_sanity_check_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_sanity_check_end(trainer)

    @override
    def on_train_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_train_start(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_validation_start(trainer, pl_module)

    @override
    def on_validation_batch_start(
        self,
        trainer: _lightning.Trainer,
        pl_module: _lightning.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._drives:
            self._coordinator.on_validation_batch_start(trainer, pl_module, batch)

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
        if self._drives:
            self._coordinator.on_validation_batch_end(trainer, pl_module, outputs, dataloader_idx)

    @override
    def on_validation_epoch_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_validation_epoch_end(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_validation_end(trainer)

    @override
    def on_fit_end(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule) -> None:
        if self._drives:
            self._coordinator.on_fit_end(trainer)

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
        if self._drives:
            self._coordinator.finish(trainer)

    @override
    def teardown(self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, stage: str) -> None:
        if self._drives:
            self._coordinator.finish(trainer)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

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
        participant = self._coordinator.participant(self)
        if participant is None:
            return
        try:
            checkpoint.setdefault("callbacks", {})[self.state_key] = self._coordinator.state_of(participant)
        except Exception as error:
            participant.failures.warn("save its state", error)

    @override
    def on_load_checkpoint(
        self, trainer: _lightning.Trainer, pl_module: _lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        participant = self._coordinator.participant(self)
        if participant is not None:
            participant.loaded = int(checkpoint.get("epoch", 0)), _lightning.saved_step(checkpoint)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        participant = self._coordinator.participant(self)
        if participant is None:
            return
        try:
            self._coordinator.restore(participant, state_dict)
        except Exception as error:
            self.reset()  # a part of it may have been taken
            participant.failures.warn("read its state in the checkpoint, and begins anew", error)
