"""What do the callbacks add to a training? Whole fits with and without them, in interleaved pairs.

    python tests/benchmarks/overhead.py                                   # the demo's net and data, CPU time
    python tests/benchmarks/overhead.py --net resnet18 --accelerator gpu  # ResNet-18 on 224 x 224 noise, wall time

Prints a table: for each pair the time with and without, and the median of the ratios. The callbacks have their default
settings. One pair of one epoch goes before as a warm-up and is not counted. The dry run before training is counted, so
that a run of few epochs, as here, looks a little dearer than a longer one; the second ratio leaves it out by taking the
seconds that the callbacks log themselves.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import pytorch_lightning as L
import torch
import torchvision
from pytorch_lightning.loggers import TensorBoardLogger
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from train import ConvNet, build_data

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger


class ResNet18(L.LightningModule):
    """Torchvision's ResNet-18 with a plain SGD step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def noise(count: int) -> TensorDataset:
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(256, 3, 224, 224, generator=stream).repeat(-(-count // 256), 1, 1, 1)[:count]
    return TensorDataset(images, torch.arange(count) % 10)


def work(net: str) -> tuple[Any, DataLoader, DataLoader]:
    """The module's constructor, training and validation loader."""
    if net == "resnet18":
        return ResNet18, DataLoader(noise(12_800), 128), DataLoader(noise(1_280), 128)
    train, val, classes = build_data("shapes")
    return lambda: ConvNet(classes=len(classes)), DataLoader(train, 32, shuffle=True), DataLoader(val, 64)


def fit(setup: tuple[Any, DataLoader, DataLoader], epochs: int, accelerator: str, watch: bool) -> tuple[float, float]:
    """Seconds of a fit (CPU seconds on a CPU), and those that the callbacks logged."""
    make, train, val = setup
    L.seed_everything(0, verbose=False)
    module = make()
    clock = time.process_time if accelerator == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            max_epochs=epochs, accelerator=accelerator, devices=1, logger=TensorBoardLogger(folder),
            callbacks=[ActivationLogger(), FilterPatternLogger(), GradCAMLogger()] if watch else [],
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        start = clock()
        trainer.fit(module, train, val)
        if accelerator != "cpu":
            torch.cuda.synchronize()
        return clock() - start, logged(trainer.log_dir)


def logged(folder: str | None) -> float:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("convviz/seconds/")]
    return sum(event.value for tag in tags for event in events.Scalars(tag))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=["demo", "resnet18"], default="demo")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    setup = work(args.net)
    for watch in (False, True):
        fit(setup, 1, args.accelerator, watch)
    unit = "CPU s" if args.accelerator == "cpu" else "s"
    where = platform.processor() or platform.machine()
    where = torch.cuda.get_device_name() if args.accelerator == "gpu" else f"{where}, {args.threads} thread"
    print(f"{args.net}, {args.epochs} epochs, {where}, torch {torch.__version__}, Lightning {L.__version__}\n")
    print(f"| pair | without, {unit} | with, {unit} | with / without | logged by the callbacks, s |")
    print("|---|---|---|---|---|")
    ratios, shares = [], []
    for pair in range(args.pairs):
        order = (False, True) if pair % 2 == 0 else (True, False)
        times = {watch: fit(setup, args.epochs, args.accelerator, watch) for watch in order}
        (without, _), (with_, seconds) = times[False], times[True]
        ratios.append(with_ / without)
        shares.append(seconds / without)
        print(f"| {pair + 1} | {without:.1f} | {with_:.1f} | {ratios[-1]:.3f} | {seconds:.2f} |", flush=True)
    print(f"\nMedian ratio {statistics.median(ratios):.3f}; without the dry run {1 + statistics.median(shares):.3f}.")


if __name__ == "__main__":
    main()
