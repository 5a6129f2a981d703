"""Drawings on their way to the loggers, and what there is to tell about that."""

from pathlib import Path

from lightning_convviz import _lightning, sinks
from lightning_convviz._lightning import Trainer
from lightning_convviz.engine.failures import WarnOnce


class PictureQueue:
    """The drawings of all callbacks of a trainer, and the one thread that writes them.

    Attributes:
        once: warns of each thing once, for all callbacks.
    """

    def __init__(self) -> None:
        self.once = WarnOnce()
        self._writer = sinks.Writer()
        self._pending: list[tuple[sinks.LoggedDrawing, Path | None]] = []
        self._given_up = False

    def begin(self) -> None:
        """A fit, a validation or a test begins: its end waits for its own pictures."""
        self._given_up = False

    def put(self, drawing: sinks.LoggedDrawing, folder: Path | None) -> None:
        """Take a drawing, for the loggers and for a folder of the callback's own."""
        self._pending.append((drawing, folder))

    def flush(self, trainer: Trainer, *, patient: bool = False) -> None:
        """Hand what was drawn to the writer, and warn of what it could not write.

        Where the run is `patient`, at its end, nothing that waits is dropped for what is new.
        """
        if self._pending:
            known = sinks.destinations(trainer.loggers)
            handed = [(drawing, sinks.with_folder(known, own)) for drawing, own in self._pending]
            self._writer.submit(handed, patient=patient)
            self._pending = []
        for reason in self._writer.new_errors():
            self.once.warn(f"lightning_convviz could not write everything: {reason}.")

    def finish(self, trainer: Trainer) -> None:
        """At the end of the run, also a broken one: write everything."""
        self.flush(trainer, patient=True)
        if not self._given_up and not self._writer.drain():
            self._given_up = True  # `on_exception` and `teardown` both come by here; one wait is enough
            _lightning.rank_zero_warn(
                f"lightning_convviz: the last pictures were not written within {sinks.writer.PATIENCE:.0f} s "
                "and may be lost."
            )
        self.flush(trainer, patient=True)
        for count, reason in self._writer.remaining_errors():
            _lightning.rank_zero_info(f"lightning_convviz: {count} more drawings were not written ({reason}).")
