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
        super().__init__(on_error="raise", num_probes=3, num_mistakes=0, name="seen", **arguments)
        self.seen = []

    def draw(self, context, parts):
        self.seen.append(context.probes.images.clone())
        return super().draw(context, parts)


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
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [4, 9, 19]


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_loader_that_is_not_there_is_told_of_before_training(fit, sanity):
    watcher = Sees(dataloader_idx=2)
    with pytest.raises(ValueError, match="`dataloader_idx` is 2, and there are 2 loaders, 0 to 1"):
        fit([watcher], val=two(), num_sanity_val_steps=sanity)
    assert not watcher.seen


def test_a_test_on_fewer_loaders_goes_on(fit, tiny):
    class Module(Watched):
        test_step = Watched.validation_step

    watcher = Sees(dataloader_idx=1)
    trainer = fit([watcher], module=Module(tiny()), val=two())
    trainer.test(trainer.lightning_module, two()[0], verbose=False)
    assert torch.equal(watcher.seen[-1], watcher.seen[0])  # the probes of the training


def test_inputs_of_another_length_are_left_out_of_the_probes(fit, tiny):
    class Module(Watched):
        def forward(self, images, tokens):
            return self.net(images) + tokens.sum(1, keepdim=True)

        def training_step(self, batch, batch_idx):
            return torch.nn.functional.cross_entropy(self(batch[0], batch[2]), batch[1])

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.training_step(batch, batch_idx)

    images, labels = data(20, seed=1).tensors
    loader = [(images[i : i + 4], labels[i : i + 4], torch.zeros(4, 2 + i)) for i in range(0, 20, 4)]
    loader = DataLoader(loader, batch_size=None)
    trainer = fit(three(num_probes=8, every_n_epochs=3), module=Module(tiny()), train=loader, val=loader, max_epochs=6)
    events = Events(trainer.logger.log_dir)
    assert {tuple(events.steps(tag)) for tag in events.tags} == {(14, 29)}
