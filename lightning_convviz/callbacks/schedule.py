"""When a callback draws, and what becomes of it when it fails."""

import re
from collections.abc import Mapping
from typing import Any, Literal

from lightning_convviz import _lightning
from lightning_convviz.callbacks.outbox import Once
from lightning_convviz.callbacks.scene import Moment

FAILURES = 3  # in a row, after which a callback switches itself off


class Schedule:
    """Which validations are drawn, counted over the whole training, resumed runs included."""

    def __init__(self, every_n_epochs: int | Literal["log"]) -> None:
        self.every_n_epochs = every_n_epochs
        self.validations = 0
        self.last_step = -1

    def count(self, epoch: int, step: int) -> bool:
        """One more validation, in `epoch` (from 0) at `step`; whether it is to be drawn."""
        self.validations += 1
        if step <= self.last_step:  # steps of a tag never repeat, nor fall
            return False
        if self.every_n_epochs == "log":
            return self.validations & (self.validations - 1) == 0
        return (epoch + 1) % self.every_n_epochs == 0

    def state(self) -> dict[str, int]:
        """What is to be known when the run is resumed."""
        return {"validations": self.validations, "last_step": self.last_step}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on where a run stopped; what this process has drawn since then stays drawn."""
        self.validations = int(state["validations"])
        self.last_step = max(self.last_step, int(state["last_step"]))


class Failures:
    """Counts what went wrong in mid-run, and tells each kind once."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.in_a_row = 0
        self._once = Once()

    @property
    def too_many(self) -> bool:
        """Whether the callback is switched off."""
        return self.in_a_row >= FAILURES

    def add(self, error: BaseException) -> None:
        """One more."""
        self.in_a_row += 1
        kind = type(error).__name__
        self._once.tell(
            f"{self.who} could not draw ({kind}: {error}). Training goes on; the next drawing is tried.", once=kind
        )
        if self.in_a_row == FAILURES:
            _lightning.rank_zero_warn(f"{self.who} failed {FAILURES} times in a row and is switched off.")

    def tell(self, doing: str, error: BaseException) -> None:
        """Warn of something beside the drawings."""
        self._once.tell(f"{self.who} could not {doing} ({type(error).__name__}: {error}).", once=doing)


def moment(trainer: Any, loaded: tuple[int, int] | None, initial: bool) -> Moment:
    """Which network is looked at; `loaded` are epoch and step of the checkpoint, if one was loaded."""
    epoch, step = trainer.current_epoch, trainer.global_step
    if _lightning.is_fit(trainer):
        return Moment(epoch, step, "initial network" if initial else f"epoch {epoch} · step {step}", initial)
    if trainer.ckpt_path:
        epoch, step = loaded or (epoch, step)
        name = re.split(r"[/\\]", str(trainer.ckpt_path))[-1]
        when = "" if loaded is None else f"epoch {epoch} · step {step}"
        told = bool(when) and re.fullmatch(r"epoch=\d+-step=\d+\.ckpt", name)  # Lightning's own way to say the same
        network = " · ".join(filter(None, [when, "" if told else name]))
    elif step:
        epoch = max(epoch - 1, 0)  # after a fit the trainer counts the epoch that would come
        network = f"epoch {epoch} · step {step}"
    else:
        network = "the weights as given"
    return Moment(epoch, step, f"{_lightning.stage(trainer)} · {network}", initial, training=False)
