"""When and on what pictures are drawn: loaders of all kinds, and how often."""

import pytest
import torch
from fits import Events, Watched, data, facts, three
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from lightning_convviz import GradCAMLogger


class Sees(GradCAMLogger):
    """Keeps the probes of its drawings."""

    def __init__(self, **arguments):
        super().__init__(on_error="raise", num_probes=3, name="seen", **arguments)
        self.seen = []

    def draw(self, view, parts):
        self.seen.append(view.probes.images.clone())
        return super().draw(view, parts)


def two():
    return [DataLoader(data(20, seed=1), batch_size=8), DataLoader(data(12, seed=2), batch_size=4)]


@pytest.mark.parametrize("loader", [0, 1])
def test_which_loader_the_probes_come_from_is_a_choice(fit, loader):
    watcher = Sees(dataloader_idx=loader)
    fit([*three(), watcher], val=two())
    own = {tuple(image.flatten().tolist()) for image in data((20, 12)[loader], seed=1 + loader).tensors[0]}
    assert all(tuple(image.flatten().tolist()) in own for image in torch.cat(watcher.seen))
    assert len(watcher.seen) == 3


@pytest.mark.parametrize("mode", ["max_size_cycle", "min_size"])
@pytest.mark.parametrize("kind", [list, lambda loaders: {"clean": loaders[0], "noisy": loaders[1]}])
@pytest.mark.filterwarnings("ignore:The `batch_idx` argument")
def test_loaders_side_by_side(fit, tiny, mode, kind):
    class Module(Watched):
        def validation_step(self, batch, batch_idx):
            parts = list(batch.values()) if isinstance(batch, dict) else batch
            for part in parts:
                super().validation_step(part, batch_idx)

    watcher = Sees(dataloader_idx=1)
    fit([watcher], module=Module(tiny()), val=CombinedLoader(kind(two()), mode))
    own = {tuple(image.flatten().tolist()) for image in data(12, seed=2).tensors[0]}
    assert all(tuple(image.flatten().tolist()) in own for image in watcher.seen[-1])


@pytest.mark.parametrize(
    ("every", "arguments", "epochs"),
    [
        (1, {}, [0, 1, 2, 3, 4, 5]),
        (3, {}, [2, 5]),
        ("log", {}, [0, 1, 3]),
        (2, {"val_check_interval": 0.5}, [1, 1, 3, 3, 5, 5]),
        ("log", {"val_check_interval": 0.5}, [0, 0, 1, 3]),
        (1, {"check_val_every_n_epoch": 2}, [1, 3, 5]),
    ],
)
def test_how_often(fit, every, arguments, epochs):
    trainer = fit([GradCAMLogger(every_n_epochs=every, on_error="raise")], max_epochs=6, **arguments)
    events = Events(trainer.logger.log_dir)
    assert [facts(image)["epoch"] for image in events.images("gradcam/probes")] == epochs
    assert [row["epoch"] for row in events.epochs("gradcam")] == epochs


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
def test_a_run_without_end_of_epochs(fit):
    """Epoch 0 never ends: `every_n_epochs` of 1 and "log" draw, and the steps tell them apart."""
    from settings import stream

    trainer = fit(
        [GradCAMLogger(every_n_epochs="log", on_error="raise")], train=stream(None, seed=0)(), val=stream(10)(),
        max_epochs=-1, max_steps=20, val_check_interval=5, check_val_every_n_epoch=None,
    )  # fmt: skip
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 10, 20]
