"""Real fits of a tiny module, and the pictures that they leave in their event files."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as L
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger


class Watched(L.LightningModule):
    """A classifier with BatchNorm, Dropout, an in-place ReLU and random numbers in its training step."""

    def __init__(self, net: nn.Module, *, logs_in_forward: bool = False) -> None:
        super().__init__()
        self.net = net
        self.logs_in_forward = logs_in_forward

    def forward(self, images: Tensor) -> Tensor:
        logits = self.net(images)
        if self.logs_in_forward and not self.training:
            self.log("mean_logit", logits.mean())
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images + 0.1 * torch.randn_like(images)), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        self.log("val_loss", F.cross_entropy(self(images), labels), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def data(count: int = 48, *, seed: int = 0, channels: int = 3) -> TensorDataset:
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (count,), generator=stream)
    images = torch.randn(count, channels, 12, 16, generator=stream) + labels[:, None, None, None] / 5
    return TensorDataset(images, labels)


def three(**arguments: Any) -> list[Any]:
    """The three callbacks, so set that they are quick and that an error of theirs is an error of the test."""
    arguments = {"on_error": "raise", "num_probes": 4} | arguments
    patterns = FilterPatternLogger(num_filters=3, steps=2, cold_steps=3, **arguments)
    return [ActivationLogger(**arguments), patterns, GradCAMLogger(**arguments)]


@pytest.fixture
def fit(tmp_path: Path, tiny: type[nn.Module]) -> Callable[..., L.Trainer]:
    """Fit a tiny module: `fit(callbacks, module=..., batch_size=..., **trainer arguments)`."""

    def run(
        callbacks: Any = (), *, module: Any = None, train: Any = None, val: Any = None, loaders: bool = True,
        **arguments: Any,
    ) -> Any:  # fmt: skip
        L.seed_everything(1, verbose=False)
        arguments = {
            "max_epochs": 2, "accelerator": "cpu", "logger": TensorBoardLogger(tmp_path, name=None),
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
            "log_every_n_steps": 1,
        } | arguments  # fmt: skip
        trainer = L.Trainer(callbacks=list(callbacks), **arguments)
        module = Watched(tiny()) if module is None else module
        if not loaders:  # the module has its own
            trainer.fit(module)
            return trainer
        train = DataLoader(data(), batch_size=8, shuffle=True) if train is None else train
        trainer.fit(module, train, DataLoader(data(20, seed=1), batch_size=8) if val is None else val)
        return trainer

    return run


class Events:
    """What an event folder holds; pictures of the initial network, which stand at step 0, only where asked for."""

    def __init__(self, folder: str | Path) -> None:
        self._all = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
        self._all.Reload()
        self.every = set(self._all.Tags()["images"])
        self.over_time = {tag for tag in self.every if tag.split("/")[0] in ("evolution", "animation", "layer_stats")}
        self.tags = self.every - self.over_time
        self.scalars = set(self._all.Tags()["scalars"])

    @property
    def has_initial(self) -> bool:
        """Whether the initial network was drawn."""
        return any(event.step == 0 for tag in self.tags for event in self._all.Images(tag))

    def metric(self, tag: str) -> list[int]:
        """The steps at which a metric of the user's own was logged; of several loaders, for the first one."""
        known = tag if tag in self.scalars else f"{tag}/dataloader_idx_0"
        return [event.step for event in self._all.Scalars(known)]

    def _events(self, tag: str, *, initial: bool = False) -> list[Any]:
        alone = tag.startswith(("validate/", "test/"))
        return [event for event in self._all.Images(tag) if alone or initial == (event.step == 0)]

    def steps(self, tag: str) -> list[int]:
        return [event.step for event in self._events(tag)]

    def images(self, tag: str, *, initial: bool = False) -> list[Image.Image]:
        return [Image.open(io.BytesIO(event.encoded_image_string)) for event in self._events(tag, initial=initial)]

    def sizes(self) -> dict[str, int]:
        """The largest file of each tag of a drawing; animations come once, at the end."""
        drawn = {tag for tag in self.every if not tag.startswith("animation/")}
        return {tag: max(len(event.encoded_image_string) for event in self._all.Images(tag)) for tag in drawn}

    def epochs(self, name: str) -> list[dict[str, Any]]:
        events = [event for event in self._all.Tensors(f"convviz/{name}") if event.step]
        return [json.loads(event.tensor_proto.string_val[0]) for event in events]

    def scalar(self, tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in self._all.Scalars(tag) if event.step]


def facts(image: Image.Image) -> dict[str, Any]:
    """The data that a picture carries."""
    carried = image.info["convviz"] if image.format == "PNG" else image.info["comment"].decode()
    return json.loads(carried)


def tile(image: Image.Image, geometry: dict[str, int], index: int) -> Image.Image:
    x = geometry["x"] + index % geometry["cols"] * geometry["dx"]
    y = geometry["y"] + index // geometry["cols"] * geometry["dy"]
    return image.crop((x, y, x + geometry["w"], y + geometry["h"]))
