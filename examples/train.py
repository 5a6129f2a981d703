"""Train a small ConvNet and watch, in TensorBoard, what it sees while it learns.

    python examples/train.py                    # pictures drawn on the spot: nothing to download
    python examples/train.py --shortcut         # a flaw planted in the training pictures: see the net fall for it
    python examples/train.py --data cifar10     # or fashion_mnist, mnist, folder:PATH

Only the callbacks in ``main`` are special; all the rest is an ordinary Lightning script.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from shapes import SHORTCUT_CLASS, Shapes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split
from torchvision import datasets
from torchvision import transforms as T

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, Probes

PUBLIC = {"cifar10": datasets.CIFAR10, "fashion_mnist": datasets.FashionMNIST, "mnist": datasets.MNIST}
STATISTICS = {  # mean and standard deviation of each color channel
    "shapes": ((0.456, 0.456, 0.456), (0.199, 0.199, 0.199)),
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "fashion_mnist": ((0.286,), (0.353,)),
    "mnist": ((0.131,), (0.308,)),
    "folder": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
Data = tuple[Any, Any, list[str]]  # training set, validation set and names of the classes


class Block(nn.Module):
    """Two 3x3 convolutions beside a short way around them, as in a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.around.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
        y: Tensor = self.relu(self.branch(x) + self.around(x))
        return y


class ConvNet(L.LightningModule):
    """A small residual network for pictures of about 28 to 64 pixels."""

    def __init__(self, channels: int = 3, classes: int = 10, width: int = 16, lr: float = 0.005) -> None:
        super().__init__()
        self.save_hyperparameters()
        # A 5x5 filter, drawn as a picture, shows more of an edge or a color pair than a 3x3 one.
        conv = nn.Conv2d(channels, width, 5, padding=2, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.stage1 = nn.Sequential(Block(width, 2 * width, stride=2), Block(2 * width, 2 * width))
        self.stage2 = nn.Sequential(Block(2 * width, 4 * width, stride=2), Block(4 * width, 4 * width))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(4 * width, classes))
        self.to(memory_format=torch.channels_last)  # convolutions run faster so, above all on a CPU

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures ``(n, channels, h, w)`` to logits ``(n, classes)``."""
        logits: Tensor = self.head(self.stage2(self.stage1(self.stem(x))))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Give the cross-entropy of one batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy; Lightning averages them over the batches."""
        images, labels = batch
        logits = self(images)
        self.log("val_loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW whose learning rate rises and falls once over the whole run."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def build_data(data: str = "shapes", root: str = "data", *, seed: int = 0, shortcut: bool = False) -> Data:
    """Draw, download or open the data set that ``--data`` names; downloads are kept below ``root``."""
    name, _, path = data.partition(":")
    if name not in STATISTICS:
        raise SystemExit(f"unknown data set {data!r}: choose from {', '.join(PUBLIC)}, shapes, folder:PATH")
    normalize = T.Normalize(*STATISTICS[name])
    if name == "shapes":
        train = Shapes(8000, seed=seed, shortcut=shortcut, transform=normalize)
        return train, Shapes(1500, seed=seed + 1_000_000, transform=normalize), train.classes
    plain = T.Compose([T.ToTensor(), normalize])
    if name == "folder":
        return split_folder(Path(path), T.Compose([T.Resize(64), T.CenterCrop(64), plain]))
    train, val = (PUBLIC[name](root, train=part, transform=plain, download=True) for part in (True, False))
    return train, val, train.classes


def split_folder(path: Path, transform: Callable[[Any], Tensor]) -> Data:
    """Open pictures kept in one folder per class, below ``train`` and ``val`` if these exist; else split them 80:20."""
    if not path.is_dir():
        raise SystemExit(f"there is no folder {str(path)!r}")
    if (path / "train").is_dir() and (path / "val").is_dir():
        train, val = (datasets.ImageFolder(path / part, transform) for part in ("train", "val"))
        return train, val, train.classes
    pictures = datasets.ImageFolder(path, transform)
    train, val = random_split(pictures, [0.8, 0.2], torch.Generator().manual_seed(0))  # the same split every time
    return train, val, pictures.classes


def shortcut_probes(val: Shapes) -> Probes:
    """Four pictures of other classes, each without and with the mark: where does the net look once it is there?"""
    marked = val.planted()
    picks = [val.labels.tolist().index(label) for label in (2, 4, 6, 8)]  # the first picture of each of these classes
    pairs = torch.stack([part[index][0] for index in picks for part in (val, marked)])
    mean, std = STATISTICS["shapes"]
    return Probes(pairs, labels=val.labels[picks].repeat_interleave(2), class_names=val.classes, mean=mean, std=std)


@torch.no_grad()
def fooled_share(model: ConvNet, val: Shapes) -> float:
    """Share of the other classes' pictures that the mark turns into ``SHORTCUT_CLASS``, 0 to 1."""
    marked = T.Normalize(*STATISTICS["shapes"])(val.planted().images[val.labels != SHORTCUT_CLASS] / 255)
    answers = model.eval()(marked.to(model.device)).argmax(1)
    return float((answers == SHORTCUT_CLASS).float().mean())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a small ConvNet and log what it sees to TensorBoard.")
    parser.add_argument("--data", default="shapes", help="shapes, cifar10, fashion_mnist, mnist or folder:PATH")
    parser.add_argument("--data-dir", default="data", help="where downloads are kept")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--logdir", default="logs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="auto", help="auto, cpu, gpu, mps, ...")
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed, 16-mixed, ...")
    parser.add_argument("--shortcut", action="store_true", help="plant a tell-tale mark on one class (shapes only)")
    args = parser.parse_args(argv)
    if args.shortcut and args.data != "shapes":
        parser.error("--shortcut works with --data shapes only")
    return args


def main(argv: Sequence[str] | None = None) -> L.Trainer:
    """Train as the command line says, tell where the log is and return the trainer."""
    args = parse(argv)
    L.seed_everything(args.seed)
    # Small pictures: worker processes would cost more than they save. And a deprecation inside Lightning itself.
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec")
    train, val, classes = build_data(args.data, args.data_dir, seed=args.seed, shortcut=args.shortcut)
    batches = DataLoader(train, args.batch_size, shuffle=True)
    model = ConvNet(channels=len(train[0][0]), classes=len(classes))
    callbacks: list[L.Callback] = [ActivationLogger(), FilterPatternLogger(), GradCAMLogger()]
    seen = val
    if args.shortcut:  # by default the callbacks choose validation pictures; here we want certain ones
        probes = shortcut_probes(val)
        seen = val.planted(every=10)  # now and then the mark is on another class, too
        callbacks = [ActivationLogger(probes=probes), FilterPatternLogger(probes=probes), GradCAMLogger(probes=probes)]
    trainer = L.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        precision=args.precision,
        logger=TensorBoardLogger(args.logdir, name=args.data.partition(":")[0] + "-shortcut" * args.shortcut),
        callbacks=callbacks,
        log_every_n_steps=min(20, len(batches)),
    )
    trainer.fit(model, batches, DataLoader(seen, 2 * args.batch_size))

    print(f"\nValidation accuracy: {trainer.callback_metrics['val_acc']:.1%}")
    if args.shortcut:
        print(f"The mark makes {fooled_share(model, val):.0%} of the other classes {classes[SHORTCUT_CLASS]!r}.")
    print(f"The log is in {trainer.log_dir}. To look at it, run")
    print(f"    tensorboard --logdir {args.logdir} --samples_per_plugin images=1000")
    print("and open the Images tab; the slider above a picture goes through the epochs.")
    return trainer


if __name__ == "__main__":
    main()
