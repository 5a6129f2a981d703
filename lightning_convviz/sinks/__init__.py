"""Where pictures go: one function for each kind of logger, and the background thread that encodes and writes.

Bytes are the cost: TensorBoard's writer checksums in Python, holding the interpreter's lock, and Lightning waits for it
after each metric. So pictures are small, and encoded by one thread that lives only while something waits for it.
"""

from lightning_convviz.sinks.loggers import comet, folder, mlflow, tensorboard, wandb
from lightning_convviz.sinks.table import (
    SINKS,
    EncodedDrawing,
    Folder,
    LoggedDrawing,
    announce,
    destinations,
    find,
    has_sink,
    next_step,
    register,
    with_folder,
    write,
)
from lightning_convviz.sinks.writer import Writer

__all__ = [
    "SINKS",
    "EncodedDrawing",
    "Folder",
    "LoggedDrawing",
    "Writer",
    "announce",
    "comet",
    "destinations",
    "find",
    "folder",
    "has_sink",
    "mlflow",
    "next_step",
    "register",
    "tensorboard",
    "wandb",
    "with_folder",
    "write",
]
