"""Law 6: memory, hooks, threads and open files after 200 epochs are those after a few."""

import ctypes
import gc
import os
import threading
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from fits import Watched, data, three
from torch.utils.data import DataLoader

pytestmark = pytest.mark.slow

EPOCHS = 200
EARLY = 100  # by then the strips are full; from there on 5 MB in 400 epochs were measured
MEGABYTES = 12  # of noise in what the system says of memory; a picture kept at each drawing would be 50


class Counts(L.Callback):
    """What the process holds, early and late."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, int]] = {}

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch + 1 not in (EARLY, EPOCHS):
            return
        for callback in trainer.callbacks:
            if hasattr(callback, "_coordinator"):
                callback._coordinator.queue._writer.drain()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free already is no growth
        self.found[trainer.current_epoch + 1] = {
            "tensors": sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()),
            "objects": len(gc.get_objects()) // 1000,
            "threads": threading.active_count(),
            "files": len(os.listdir("/proc/self/fd")),
            "hooks": sum(
                len(table) for part in pl_module.modules() for key, table in vars(part).items() if "hooks" in key
            ),
        }
        self.found[trainer.current_epoch + 1]["megabytes"] = _megabytes()


def _megabytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.filterwarnings("ignore:.*drawings were dropped")  # an epoch is two steps here, and writing takes longer
def test_nothing_grows_over_two_hundred_epochs(fit, tiny):
    grown = {}
    for name, watchers in {"bare": [], "watched": three(num_probes=8)}.items():
        counts = Counts()
        loader = DataLoader(data(16), batch_size=8)
        fit([*watchers, counts], module=Watched(tiny()), train=loader, val=loader, max_epochs=EPOCHS)
        early, late = counts.found[EARLY], counts.found[EPOCHS]
        grown[name] = {key: late[key] - early[key] for key in early}
    for key in ("tensors", "threads", "files", "hooks"):
        assert grown["watched"][key] == grown["bare"][key], grown
    assert grown["watched"]["objects"] <= grown["bare"]["objects"] + 1, grown
    assert grown["watched"]["megabytes"] <= grown["bare"]["megabytes"] + MEGABYTES, grown
