"""Which validations are drawn, at which step, and what the network of that moment is called."""

import re
from collections.abc import Mapping
from typing import Literal

from lightning_convviz import _lightning
from lightning_convviz._lightning import Trainer
from lightning_convviz.history import Snapshot


class Schedule:
    """Counts validations over the whole training, resumed runs included.

    Example:
        >>> schedule = Schedule("log")
        >>> [schedule.is_due(epoch) for epoch in range(5)]
        [True, True, False, True, False]
        >>> [schedule.next_step(step) for step in (0, 0, 7)]  # steps of a tag never fall or repeat
        [0, 1, 7]
    """

    def __init__(self, every_n_epochs: int | Literal["log"]) -> None:
        self.every_n_epochs = every_n_epochs
        self.validations = 0
        self.last_step = -1

    def is_due(self, epoch: int) -> bool:
        """Count one more validation, in `epoch` (from 0); whether it is to be drawn."""
        self.validations += 1
        if self.every_n_epochs == "log":
            return self.validations & (self.validations - 1) == 0
        return (epoch + 1) % self.every_n_epochs == 0

    def next_step(self, step: int) -> int:
        """The step to log a drawing at: `step`, or where that is taken or past, the one after the last."""
        self.last_step = max(step, self.last_step + 1)
        return self.last_step

    def state_dict(self) -> dict[str, int]:
        """What is to be known when the run is resumed."""
        return {"validations": self.validations, "last_step": self.last_step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where a run stopped; steps that this process has logged since then stay taken."""
        self.validations = int(state["validations"])
        self.last_step = max(self.last_step, int(state["last_step"]))


def take_snapshot(trainer: Trainer, loaded: tuple[int, int] | None, *, initial: bool) -> Snapshot:
    """Which network is looked at now; `loaded` are epoch and step of the checkpoint, if one was loaded."""
    epoch, step = trainer.current_epoch, _lightning.batches_stepped(trainer)
    if _lightning.is_fit(trainer):
        return Snapshot(epoch, step, "initial network" if initial else f"epoch {epoch} · step {step}", initial)
    if trainer.ckpt_path:
        epoch, step = loaded or (epoch, step)
        name = re.split(r"[/\\]", str(trainer.ckpt_path))[-1]
        when = "" if loaded is None else f"epoch {epoch} · step {step}"
        network = " · ".join(filter(None, [when, name]))
    elif step:
        epoch = max(epoch - 1, 0)  # after a fit the trainer counts the epoch that would come
        network = f"epoch {epoch} · step {step}"
    else:
        network = "the weights as given"
    return Snapshot(epoch, step, f"{_lightning.stage(trainer)} · {network}", initial, training=False)
