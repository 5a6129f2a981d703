"""Fits to which something happens, started by `test_kills.py`: `kills.py FOLDER CASE/watched CASE/bare ...`.

Each runs in a process of its own, with the callbacks or without, and ends as a program ends. The processes are forked
from this one, since what it imports takes longer than a fit. What is left of each is in FOLDER/CASE/watched.
"""

import gc
import hashlib
import os
import random
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pytorch_lightning as L
import torch
from conftest import TinyNet
from fits import Watched, data, three
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_convviz import FilterPatternLogger, GradCAMLogger, sinks

LIMIT = 40  # seconds that one of the processes may take: less than the writer's own `PATIENCE`
AT_ONCE = 2
EPOCHS = 4  # of 6 steps each: drawings are due at steps 5, 11, 17 and 23
MIDDLE = 3  # the batch in whose training step a signal comes


class Net(TinyNet):
    """A net whose last convolution can go."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Conv2d(6, 6, 1)

    def features(self, images: Tensor) -> Tensor:
        maps = super().features(images)
        return self.late(maps) if hasattr(self, "late") else maps


class Module(Watched):
    """What happens in the user's own code."""

    def __init__(self, case: str) -> None:
        super().__init__(Net())
        self.case = case
        self.stepping = False

    def forward(self, images: Tensor) -> Tensor:
        if self.case == "out_of_memory" and self.current_epoch == 1 and not self.stepping:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images + 0.01 * torch.randn_like(images))  # for a drawing, too: it must show in nothing

    def on_train_epoch_start(self) -> None:
        if self.case in ("nan", "inf") and self.current_epoch == 1:
            self.net.conv1.weight.data.fill_(float(self.case))
        if self.case == "layer_gone" and self.current_epoch == 2:
            del self.net.late

    def on_train_start(self) -> None:
        if self.case == "unwritable":  # a file comes where the folder was
            folder = Path(self.trainer.default_root_dir, "pictures")
            shutil.rmtree(folder, ignore_errors=True)
            folder.touch()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == MIDDLE:
            self._signal()
        self.stepping = True
        loss = super().training_step(batch, batch_idx)
        self.stepping = False
        return loss

    def _signal(self) -> None:
        if self.case == "interrupt" and self.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)
        if self.case == "terminated" and self.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # Lightning ends the run after this batch
        if self.case in ("killed", "terminated_at_once") and self.current_epoch == 3:
            for thread in writers():
                thread.join()  # what was drawn half an epoch ago is written: nothing may be left to do for it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGKILL if self.case == "killed" else signal.SIGTERM)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if self.case == "user_error" and self.current_epoch == 2 and batch_idx == 1:
            raise RuntimeError("the user's own error")
        self.stepping = True
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.stepping = False


class UnspeakableError(Exception):
    """An error that can't even be told."""

    def __str__(self) -> str:
        raise UnspeakableError


def watchers(folder: Path, case: str, module: Module) -> list[Any]:
    arguments: dict[str, Any] = {"on_error": "warn"}
    if case == "unwritable":
        arguments["save_dir"] = Path(folder, "pictures")
    found = three(**arguments)
    if case == "drawing_error":

        def method(activations: Tensor, gradients: Tensor) -> Tensor:
            if module.current_epoch > 0:
                raise RuntimeError("the brush broke")
            return activations.mean(1)

        found[-1] = GradCAMLogger(method=method, num_probes=4)
    if case == "layer_gone":
        found[1:] = [
            FilterPatternLogger("net.late", num_filters=3, steps=2, cold_steps=3),
            GradCAMLogger("net.late", num_probes=4),
        ]
    return found


def sabotage(case: str) -> None:
    """What happens behind the writer."""
    written = sinks.table.SINKS["TensorBoardLogger"]

    def sink(logger: Any, files: sinks.EncodedDrawing) -> None:
        first = files.drawing.name == "activations" and files.drawing.step == 11
        if case == "blocked_disk":
            threading.Event().wait()
        if case == "exit_in_thread" and first:
            raise SystemExit("a logger's client gave up")
        if case == "dead_thread" and first:
            raise UnspeakableError
        written(logger, files)

    sinks.register("TensorBoardLogger")(sink)
    if case == "blocked_disk":
        sinks.writer.PATIENCE = 1
    if case == "full_disk":
        shutil.disk_usage = lambda path: SimpleNamespace(total=10**9, used=10**9 - 10**6, free=10**6)


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "convviz" in thread.name]


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in dicts, lists and tuples; numbers too."""
    if isinstance(value, Tensor | int | float):
        yield torch.as_tensor(value)
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def digest(trainer: L.Trainer, module: L.LightningModule) -> str:
    """Of weights, optimizer state, metrics and random number generators."""
    found = hashlib.sha256()
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    for value in tensors([module.state_dict(), optimizers, dict(trainer.callback_metrics), trainer.global_step]):
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    found.update(torch.get_rng_state().numpy().tobytes())
    found.update(repr((random.getstate(), np.random.get_state(legacy=False))).encode())
    return found.hexdigest()


def tell(message: Any, category: type[Warning], *place: Any) -> None:
    print("WARNING", category.__name__, " ".join(str(message).split()), file=sys.stderr, flush=True)


def fit(folder: Path, case: str, who: str) -> None:
    warnings.simplefilter("always")
    warnings.showwarning = tell
    L.seed_everything(1, verbose=False)
    module = Module(case)
    sabotage(case)
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", default_root_dir=folder,
        logger=False if case == "unwritable" else TensorBoardLogger(folder, name=None, version=0),
        callbacks=[ModelCheckpoint(folder / "checkpoints", save_last=True)]
        + (watchers(folder, case, module) if who == "watched" else []),
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    try:
        trainer.fit(module, DataLoader(data(), 8, shuffle=True), DataLoader(data(20, seed=1), 8))
    finally:
        (folder / "digest").write_text(digest(trainer, module))
        print("threads:", *sorted(thread.name for thread in threading.enumerate()), flush=True)


def forked(folder: Path) -> int:
    """Go on in a new process, which writes into a folder; its id, which is 0 in the new one."""
    folder.mkdir(parents=True)
    process = os.fork()
    if process == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), stream)
    return process


def main(folder: str, *runs: str) -> None:
    gc.freeze()  # else each process goes through all that was imported once more before it ends: seconds
    waiting, running = list(runs), {}
    while waiting or running:
        if waiting and len(running) < AT_ONCE:
            run = waiting.pop(0)
            process = forked(Path(folder, run))
            if process == 0:
                fit(Path(folder, run), *run.split("/"))
                return
            running[process] = run, time.monotonic() + LIMIT
        for process, (run, limit) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            hangs = not ended and time.monotonic() > limit
            if hangs:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            if ended or hangs:
                Path(folder, run, "code").write_text("hangs" if hangs else str(os.waitstatus_to_exitcode(status)))
                del running[process]
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
