"""What was drawn, on its way to the loggers, and what there is to tell about that."""

from pathlib import Path

from lightning_convviz import _lightning, sinks


class Once:
    """Warns of each thing once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, message: str, *, once: str | None = None) -> None:
        """Warn, the first time; `once` is what is told, where the words may differ."""
        if (once or message) not in self._told:
            self._told.add(once or message)
            _lightning.rank_zero_warn(message)


class Outbox:
    """The drawings of all callbacks of a trainer, and the one thread that writes them."""

    def __init__(self) -> None:
        self.writer = sinks.Writer()
        self.once = Once()
        self._pending: list[tuple[sinks.LoggedDrawing, Path | None]] = []
        self._given_up = False

    def begin(self) -> None:
        """At the start of a fit, a validation or a test: it waits for its own pictures."""
        self._given_up = False

    def put(self, drawing: sinks.LoggedDrawing, folder: Path | None) -> None:
        """Take a drawing, for the loggers and for a folder of the callback's own."""
        self._pending.append((drawing, folder))

    def flush(self, trainer: _lightning.Trainer, *, patient: bool = False) -> None:
        """Hand what was drawn to the writer, and tell what it could not write.

        Where the run is `patient`, at its end, nothing that waits is dropped for what is new.
        """
        if self._pending:
            places = sinks.destinations(trainer.loggers)
            handed = [(drawing, sinks.with_folder(places, own)) for drawing, own in self._pending]
            self.writer.submit(handed, patient=patient)
            self._pending = []
        for complaint in self.writer.new_errors():
            self.once.tell(f"lightning_convviz could not write everything: {complaint}.")

    def finish(self, trainer: _lightning.Trainer) -> None:
        """At the end of the run, also a broken one: write everything."""
        self.flush(trainer, patient=True)
        if not self._given_up and not self.writer.drain():
            self._given_up = True  # each callback comes by here; one wait is enough
            _lightning.rank_zero_warn(
                f"lightning_convviz: the last pictures were not written within {sinks.writer.PATIENCE:.0f} s "
                "and may be lost."
            )
        self.flush(trainer, patient=True)
        for count, complaint in self.writer.remaining_errors():
            _lightning.rank_zero_info(f"lightning_convviz: {count} more drawings were not written ({complaint}).")
