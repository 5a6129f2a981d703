"""Where pictures go: one function for each kind of logger, and the background thread that encodes and writes.

Bytes are the cost: TensorBoard's writer checksums in Python, holding the interpreter's lock, and Lightning waits for it
after each metric. So pictures are small, and encoded by one thread that lives only while something waits for it.
"""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from lightning_convviz.render import Encoded, Picture, encode

# Two drawings wait at most: on a disk slower than the run, the oldest is dropped and counted.
WAITING = 2
PATIENCE = 60.0  # seconds that the end of a run waits for the writer


@dataclass(frozen=True)
class Drawing:
    """What one callback has to show at one moment of the run.

    Attributes:
        name: of the callback: a tag `convviz/<name>` tells its epochs.
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        pictures: by tag.
        scalars: by tag; numbers, or functions called when they are written.
    """

    name: str
    epoch: int
    step: int
    pictures: Mapping[str, Picture]
    scalars: Mapping[str, float | Callable[[], float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """A drawing as files: what a sink writes."""

    drawing: Drawing
    images: Mapping[str, Encoded]


Sink = Callable[[Any, Files], None]
SINKS: dict[str, Sink] = {}


def register(logger_class: str) -> Callable[[Sink], Sink]:
    """Let a function (logger, files) -> None write for loggers of a class, given by name, and of its subclasses.

    By name, since Lightning's classes exist in two namespaces. The function runs in the background thread.
    """

    def keep(sink: Sink) -> Sink:
        SINKS[logger_class] = sink
        return sink

    return keep


def find(logger: Any) -> Sink | None:
    """The function that writes for a logger; None where there is none."""
    return next((SINKS[base.__name__] for base in type(logger).__mro__ if base.__name__ in SINKS), None)


def write(logger: Any, files: Files) -> None:
    """Write for a logger, if there is a way."""
    sink = find(logger)
    if sink is not None:
        sink(logger, files)


# The tags that each writer has described: only a tag's first event carries metadata.
_described: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()


@register("TensorBoardLogger")
def tensorboard(logger: Any, files: Files) -> None:
    """Write through the logger's own writer: a second event file in its folder would hide the first."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.util.tensor_util import make_tensor_proto

    writer, drawing = logger.experiment, files.drawing
    described = _described.setdefault(writer, set())
    values = []
    for tag, image in files.images.items():
        value = Summary.Value(tag=tag, image=_image(image))
        if tag not in described:
            # Without the data class TensorBoard's default loader drops the description.
            value.metadata.CopyFrom(_metadata("images", "DATA_CLASS_BLOB_SEQUENCE", drawing.pictures[tag].legend))
        values.append(value)
    tag = f"convviz/{drawing.name}"
    epochs = json.dumps({"v": 1, "epoch": drawing.epoch, "step": drawing.step, "tags": list(files.images)})
    value = Summary.Value(tag=tag, tensor=make_tensor_proto(epochs))
    if tag not in described:
        value.metadata.CopyFrom(_metadata("convviz", "DATA_CLASS_TENSOR", "Which epoch each drawing belongs to."))
    described.update([*files.images, tag])
    for one in [*values, value]:
        writer._get_file_writer().add_summary(Summary(value=[one]), drawing.step)
    for tag, number in drawing.scalars.items():
        writer.add_scalar(tag, number() if callable(number) else number, drawing.step)


def _image(image: Encoded) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Image(height=image.height, width=image.width, colorspace=3, encoded_image_string=image.data)


def _metadata(plugin: str, data_class: str, description: str) -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin),
        summary_description=description,
        data_class=getattr(summary_pb2, data_class),
    )


class Writer:
    """Encodes and writes drawings in the order they come, in one thread, which ends when nothing waits any more."""

    def __init__(self) -> None:
        self.dropped = 0
        self.failures: list[str] = []
        self._waiting: deque[tuple[list[Any], list[Drawing]]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, loggers: Sequence[Any], drawings: Sequence[Drawing]) -> None:
        """Hand over the drawings of one moment; returns at once."""
        with self._lock:
            if len(self._waiting) >= WAITING:
                self.dropped += len(self._waiting.popleft()[1])
            self._waiting.append((list(loggers), list(drawings)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="convviz-writer", daemon=True)
                self._thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until everything is written; False where that takes over `timeout` seconds, by default `PATIENCE`."""
        thread = self._thread
        if thread is not None:
            thread.join(PATIENCE if timeout is None else timeout)
            return not thread.is_alive()
        return True

    def complaints(self) -> list[str]:
        """What was lost since the last call, in sentences."""
        with self._lock:
            told = list(dict.fromkeys(self.failures))
            if self.dropped:
                told.append(f"{self.dropped} drawings were dropped because writing was slower than drawing")
            self.failures, self.dropped = [], 0
        return told

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                loggers, drawings = self._waiting.popleft()
            for drawing in drawings:
                with self._excused(drawing):
                    files = Files(drawing, {tag: encode(picture) for tag, picture in drawing.pictures.items()})
                    for logger in loggers:
                        with self._excused(drawing):
                            write(logger, files)

    @contextmanager
    def _excused(self, drawing: Drawing) -> Iterator[None]:
        """What goes wrong is told by the training thread; nothing may end this one, nor keep another logger waiting."""
        try:
            yield
        except Exception as error:
            self.failures.append(f"{drawing.name} at step {drawing.step}: {type(error).__name__}: {error}")
