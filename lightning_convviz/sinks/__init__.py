"""Where pictures go: one function for each kind of logger, and the background thread that encodes and writes.

Bytes are the cost: TensorBoard's writer checksums in Python, holding the interpreter's lock, and Lightning waits for it
after each metric. So pictures are small, and encoded by one thread that lives only while something waits for it.
"""

from lightning_convviz.sinks.loggers import comet, folder, mlflow, tensorboard, wandb
from lightning_convviz.sinks.table import (
    SINKS,
    Drawing,
    Files,
    Folder,
    find,
    heard,
    later,
    places,
    register,
    tell,
    with_folder,
    write,
)
from lightning_convviz.sinks.writer import Writer

__all__ = [
    "SINKS",
    "Drawing",
    "Files",
    "Folder",
    "Writer",
    "comet",
    "find",
    "folder",
    "heard",
    "later",
    "mlflow",
    "places",
    "register",
    "tell",
    "tensorboard",
    "wandb",
    "with_folder",
    "write",
]
