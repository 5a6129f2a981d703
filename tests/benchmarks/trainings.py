"""Small trainings, healthy or made sick, and what their layers read at each validation: what `alarms.py` is made of."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import numpy as np
import pytorch_lightning as L
import torch
import torchvision
from shapes import Shapes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_convviz import layers
from lightning_convviz.diagnostics import Reading, noise
from lightning_convviz.layer_stats import LayerAccumulator, cka, figures, same

LAYERS = 5  # watched, as the callback has it

# -- nets ------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a short way around them (He et al. 2016, section 4.2, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2, self.stride, self.grown = nn.ReLU(), nn.ReLU(), stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        around = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grown // 2, self.grown // 2))
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + around)


def resnet20() -> nn.Module:
    sizes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Residual(*size) for size in sizes]
    net = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return net.to(memory_format=torch.channels_last)


def plain(width: int = 16, depth: int = 5, act: Callable[[], nn.Module] = nn.ReLU, inputs: int = 3) -> nn.Module:
    """No normalization, PyTorch's own initialization: what a first attempt looks like."""
    parts: list[nn.Module] = [nn.Conv2d(inputs, width, 5, 2, 2), act()]
    for index in range(1, depth):
        grown = width * (1 + index % 2)
        parts += [nn.Conv2d(width, grown, 3, 1 + index % 2, 1), act()]
        width = grown
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def demo() -> nn.Module:
    from train import ConvNet

    return ConvNet()


def pretrained(name: str, frozen: tuple[str, ...]) -> nn.Module:
    """A net with the weights of another task, parts of it frozen on purpose. CifarResNet's ReLUs are functions."""
    folder = Path(os.environ["CONVVIZ_DATA"]) / "weights"
    sys.path.insert(0, str(folder))
    from cifar_resnet import CifarResNet

    net = CifarResNet(20) if name == "cifar10_resnet20" else torchvision.models.squeezenet1_0()
    net.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    if isinstance(net, torchvision.models.SqueezeNet):
        net.classifier[1] = nn.Conv2d(512, 10, 1)
    else:
        net.linear = nn.Linear(64, 10)
    for part, parameter in net.named_parameters():
        parameter.requires_grad_(not part.startswith(frozen))
    return net


# -- data ------------------------------------------------------------------------------------------------------------


@lru_cache(1)
def pictures(name: str, seed: int, count: int) -> tuple[TensorDataset, TensorDataset]:
    """Training and validation set (1,000 pictures) in memory."""
    if name in ("shapes", "two shapes"):
        parts = [
            (s.images.float() / 255, s.labels) for s in (Shapes(count, seed=seed), Shapes(1000, seed=seed + 10**6))
        ]
        if name == "two shapes":  # red and blue crosses
            parts = [(images[labels // 2 == 2], labels[labels // 2 == 2] % 2) for images, labels in parts]
    elif name == "mnist":
        sets = [torchvision.datasets.MNIST(os.environ["CONVVIZ_DATA"], train=part) for part in (True, False)]
        rows = [
            torch.randperm(len(s), generator=torch.Generator().manual_seed(seed))[:n]
            for s, n in zip(sets, (count, 1000), strict=True)
        ]
        parts = [(s.data[r, None] / 255, s.targets[r]) for s, r in zip(sets, rows, strict=True)]
    else:
        folder, stream = Path(os.environ["CONVVIZ_DATA"]) / "cifar10", np.random.default_rng(seed)
        files = [np.load(folder / f"{part}.npz") for part in ("train", "test")]
        rows = [stream.permutation(len(f["labels"]))[:n] for f, n in zip(files, (count, 1000), strict=True)]
        raw = [(f["images"][r], f["labels"][r]) for f, r in zip(files, rows, strict=True)]
        parts = [(torch.from_numpy(i).permute(0, 3, 1, 2) / 255, torch.from_numpy(y).long()) for i, y in raw]
    mean, std = (f(parts[0][0], (0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    train, val = (TensorDataset((images - mean) / std, labels) for images, labels in parts)
    return train, val


# -- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training. `sick` names the alarms of which one is to come first; empty for a healthy run."""

    name: str
    net: Callable[[], nn.Module]
    seed: int
    lr: float
    optimizer: str = "sgd"
    cycle: bool = False
    data: str = "cifar10"
    count: int = 2500
    epochs: int = 6
    decay: float = 5e-4
    batch: int = 64
    sick: tuple[str, ...] = ()
    change: Callable[["Module"], None] = field(default=lambda module: None)

    @property
    def key(self) -> str:
        cycle = " one-cycle" if self.cycle else ""
        return f"{self.name}, {self.optimizer} {self.lr:g}{cycle}, seed {self.seed}"


class Module(L.LightningModule):
    """A classifier, and the places at which a run can be made sick."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self.net = run, run.net()
        self.left_out: set[str] = set()  # parameters that the optimizer does not get
        self.penalty: Callable[[Tensor], Tensor] | None = None
        self.at_epoch: Callable[[int], None] = lambda epoch: None
        self.lrs: dict[str, float] = {}
        self.noisy = 0.0  # share of the training labels that mean nothing

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def on_train_epoch_start(self) -> None:
        self.at_epoch(self.current_epoch)

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, labels = batch
        if self.noisy:  # the same wrong label for the same picture, whenever it comes
            code = (images.flatten(1).double().sum(1) * 1e4).long().abs()
            labels = torch.where(code % 1000 < 1000 * self.noisy, code // 7 % 10, labels)
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        return loss if self.penalty is None else loss + self.penalty(logits)

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        run = self.run
        kept = [(n, p) for n, p in self.net.named_parameters() if p.requires_grad and n not in self.left_out]
        groups = [{"params": [p], "lr": self.lrs.get(n, run.lr), "name": n} for n, p in kept]
        kind: Any = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.AdamW}[run.optimizer]
        optimizer = kind(groups, run.lr, weight_decay=run.decay)
        if not run.cycle:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.lr, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


# -- readings --------------------------------------------------------------------------------------------------------


class Ears(L.Callback):
    """Takes readings of up to five layers at each validation; their source can be exchanged here, and only here."""

    def __init__(self, save: Callable[[dict[str, Any]], None]) -> None:
        self.save = save
        self.last: dict[str, tuple[Tensor, Tensor]] = {}

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        with torch.no_grad():
            batch = module.example
            training = module.net.training
            runs = layers.trace(module.net.eval(), lambda: module.net(batch))
            module.net.train(training)
        self.sources = {name: layers.post_activation(runs, name) for name in layers.convolutions(runs, count=LAYERS)}

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        parts, self.taken = dict(module.net.named_modules()), []
        self.tallies = {name: LayerAccumulator() for name in self.sources}
        self.handles = [
            parts[source].register_forward_hook(partial(self._take, name)) for name, source in self.sources.items()
        ]

    def _take(self, name: str, part: nn.Module, args: Any, output: Tensor) -> None:
        self.taken.append((name, self.tallies[name].reduce(output)))

    def on_validation_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, *rest: Any) -> None:
        for name, reduced in self.taken:
            self.tallies[name].update(reduced, batch[0])
        self.taken.clear()

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        for handle in self.handles:
            handle.remove()
        parts = dict(module.net.named_modules())
        made = [self.reading(trainer, name, parts[name]) for name in self.sources]
        self.save({"acc": float(trainer.callback_metrics["acc"]), "readings": [asdict(each) for each in made]})

    def reading(self, trainer: L.Trainer, name: str, conv: Any) -> Reading:
        told, weight = figures(self.tallies[name].compute()), conv.weight.detach().clone()
        before, old = self.last.get(name, (None, None))
        self.last[name] = weight, told
        known = old is not None and same(told.fingerprints, old.fingerprints)
        return Reading(
            layer=name, epoch=trainer.current_epoch, step=trainer.global_step, initial=trainer.sanity_checking,
            channels=told.channels, dead=float(told.dead.float().mean()), sparsity=told.sparsity, mean=told.mean,
            high=told.high, effective_rank=told.effective_rank, cka=cka(told.features, old.features) if known else None,
            change=None if before is None else float((weight - before).norm() / before.norm()),
            trainable=conv.weight.requires_grad, noise=noise(weight) if name == next(iter(self.sources)) else None,
        )  # fmt: skip


def trained(run: Run, folder: Path) -> list[dict[str, Any]]:
    """The validations of a run, trained only where they are not known."""
    path = folder / (run.key.replace(" ", "_").replace("/", "_") + ".jsonl")
    if not path.exists():
        lines: list[str] = []
        start = time.process_time()
        train, val = pictures(run.data, run.seed, run.count)
        L.seed_everything(run.seed, verbose=False)
        module = Module(run)
        run.change(module)
        module.example = val.tensors[0][:2]
        trainer = L.Trainer(
            max_epochs=run.epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
            callbacks=[Ears(lambda found: lines.append(json.dumps(found)))],
        )  # fmt: skip
        trainer.fit(module, DataLoader(train, run.batch, shuffle=True), DataLoader(val, 250))
        path.write_text("\n".join(lines) + "\n")
        print(f"{run.key}: {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)
    return [json.loads(line) for line in path.read_text().splitlines()]
