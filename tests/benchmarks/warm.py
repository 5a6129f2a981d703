"""Can patterns go on from those of the last epoch? Warm starts against cold ones, over whole trainings.

    CONVVIZ_DATA=... python tests/benchmarks/warm.py [--device cuda] [--out results/warm.md]

Trains a CIFAR-10 ResNet-20 and a one-channel net on MNIST for 20 epochs, three seeds each. After every epoch the
patterns of 16 filters in four layers are found anew in each of these ways: cold, with 96 steps (the reference; also at
a higher rate) and with 16; warm, with 8, 16 and 32 steps and several shrink factors. Two numbers for each:

- `kept`: the objective (rise above the blank image) as a share of the cold 96 steps', the median over filters;
- `alike`: the correlation of a pattern with that of the epoch before, the median over filters.

From the fifth drawing on they are summarized by their median and smallest value over epochs.
"""

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets

from lightning_convviz import ascent, layers

FILTERS, COLD, FIRST = 16, 96, 5
WARM = [(shrink, steps) for steps in (8, 16) for shrink in (1.0, 0.9, 0.75, 0.5, 0.25)] + [(0.75, 32)]
BEGIN = 48  # cold steps of a warm chain's first drawing, as the callback has it
SHIPPED = "warm 0.75, 16 steps"
RESULTS = Path(__file__).parent / "results" / "warm.md"


class Digits(nn.Module):
    """A one-channel net for MNIST."""

    def __init__(self) -> None:
        super().__init__()
        blocks, inputs = [], 1
        for outputs, stride in ((16, 1), (32, 2), (32, 1), (64, 2)):
            conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            blocks += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
            inputs = outputs
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


def cifar(folder: Path) -> tuple[nn.Module, list[str], Tensor, Tensor]:
    sys.path.insert(0, str(folder / "weights"))
    from cifar_resnet import CifarResNet

    data = np.load(folder / "cifar10" / "train.npz")
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (images - mean[:, None, None]) / std[:, None, None]
    drawn = ["bn1", "layer1.2.bn2", "layer2.1.bn2", "layer3.2.bn2"]
    return CifarResNet(20), drawn, images, torch.from_numpy(data["labels"]).long()


def mnist(folder: Path) -> tuple[nn.Module, list[str], Tensor, Tensor]:
    data = datasets.MNIST(str(folder))
    images = (data.data[:10_000, None] / 255 - 0.131) / 0.308
    return Digits(), [f"features.{index}" for index in (2, 5, 8, 11)], images, data.targets[:10_000]


NETS = {"CIFAR-10 ResNet-20": cifar, "MNIST, one channel": mnist}


def ways() -> dict[str, tuple[float | None, int, float | None]]:
    """Name -> (shrink factor, None for cold; steps; rate, None for the default)."""
    cold = {
        f"cold {COLD}": (None, COLD, None),
        f"cold {COLD}, rate 0.2": (None, COLD, 0.2),
        "cold 16": (None, 16, None),
    }
    return cold | {f"warm {shrink}, {steps} steps": (shrink, steps, None) for shrink, steps in WARM}


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Of each pair of images, (n,)."""
    one, other = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (one, other))
    return F.cosine_similarity(one, other, dim=1)


def run(net_name: str, seed: int, epochs: int, device: str, folder: Path, until: float) -> list[dict[str, Any]]:
    """One training; a row for each epoch, layer and way."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    net, drawn, images, labels = NETS[net_name](folder)
    net, images, labels = net.to(device), images.to(device), labels.to(device)
    rate = 0.1 if "ResNet" in net_name else 0.05
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
    batches = len(images) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * batches)
    widths = {name: dict(net.named_modules())[name] for name in drawn}
    sizes = {"bn1": 16, "layer1.2.bn2": 16, "layer2.1.bn2": 32, "layer3.2.bn2": 64}
    sizes |= {"features.2": 16, "features.5": 32, "features.8": 32, "features.11": 64}
    channels = {name: list(layers.evenly_spaced(range(sizes[name]), FILTERS)) for name in widths}
    before: dict[str, dict[str, ascent.Patterns]] = {}
    rows = []
    for epoch in range(epochs):
        net.train()
        for batch in torch.randperm(len(images)).to(device).split(128)[:batches]:
            chosen = images[batch]
            if "ResNet" in net_name:
                flip = torch.rand(len(chosen), 1, 1, 1, device=device) < 0.5
                chosen = torch.where(flip, chosen.flip(3), chosen)
            optimizer.zero_grad()
            F.cross_entropy(net(chosen), labels[batch]).backward()
            optimizer.step()
            schedule.step()
        net.eval()
        accuracy = float(
            torch.cat([net(part).argmax(1) for part in images[:2000].split(500)]).eq(labels[:2000]).float().mean()
        )
        now = {}
        for way, (shrink, steps, rate_) in ways().items():
            start = before.get(way) if shrink is not None else None
            now[way] = ascent.patterns_of_layers(
                net, channels, like=images[:8], objective="above_blank", share_batch=device != "cpu", start=start,
                steps=BEGIN if start is None and shrink is not None else steps, shrink=shrink or 0.5, rate=rate_,
            )  # fmt: skip
        for way, found in now.items():
            for name in drawn:
                share = (found[name].improvement / now[f"cold {COLD}"][name].improvement.clamp(min=1e-9)).median()
                alike = correlation(found[name].images, before[way][name].images).median() if way in before else None
                rows.append({
                    "net": net_name, "seed": seed, "epoch": epoch, "accuracy": accuracy, "layer": name, "way": way,
                    "kept": float(share), "alike": None if alike is None else float(alike),
                })  # fmt: skip
        before = now
        print(net_name, seed, epoch, f"{accuracy:.3f}", flush=True)
        if time.time() > until:
            break
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """For each net, layer and seed the summaries of each way."""
    late = [row for row in rows if row["epoch"] >= FIRST - 1]
    lines = []
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = [row for row in late if row["net"] == net]
        seeds = sorted({row["seed"] for row in mine})
        accuracies = {row["seed"]: row["accuracy"] for row in mine}
        epochs = {row["seed"]: row["epoch"] + 1 for row in mine}
        lines += [
            f"\n## {net}\n",
            "Accuracy on pictures it learned from, at the end: "
            + ", ".join(f"{accuracies[s]:.3f} ({epochs[s]} epochs)" for s in seeds)
            + ".\n",
        ]
        for layer in dict.fromkeys(row["layer"] for row in mine):
            lines += [
                f"\n### {layer}\n",
                "| way | " + " | ".join(f"seed {seed}: kept (least), alike" for seed in seeds) + " |",
            ]
            lines.append("|---|" + "---|" * len(seeds))
            for way in ways():
                cells = []
                for seed in seeds:
                    own = [row for row in mine if (row["layer"], row["way"], row["seed"]) == (layer, way, seed)]
                    kept, alike = (
                        [row["kept"] for row in own],
                        [row["alike"] for row in own if row["alike"] is not None],
                    )
                    cells.append(f"{statistics.median(kept):.2f} ({min(kept):.2f}), {statistics.median(alike):.2f}")
                lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *early(rows)])


def early(rows: list[dict[str, Any]]) -> list[str]:
    """The way that the callback takes, drawing by drawing: at first, while the net changes fast, it lags behind."""
    numbers = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
    lines = [
        f"\n## {SHIPPED}, drawing by drawing\n",
        f"Kept of the cold {COLD} steps' objective; the first drawing is cold, {BEGIN} steps.\n",
    ]
    lines += ["| net, layer, seed | " + " | ".join(map(str, numbers)) + " |", "|---|" + "---|" * len(numbers)]
    own = {(row["net"], row["layer"], row["seed"], row["epoch"]): row["kept"] for row in rows if row["way"] == SHIPPED}
    for net, layer, seed in dict.fromkeys(key[:3] for key in own):
        cells = [own.get((net, layer, seed, number - 1)) for number in numbers]
        lines.append(f"| {net}, {layer}, {seed} | " + " | ".join("" if c is None else f"{c:.2f}" for c in cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", nargs="+", default=list(NETS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop trainings, all at their current epoch")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = Path(os.environ["CONVVIZ_DATA"])
    begin = time.perf_counter()
    jobs = [
        (net, seed, args.epochs, args.device, folder, time.time() + 60 * args.minutes)
        for net in args.nets
        for seed in range(args.seeds)
    ]
    with ProcessPoolExecutor(args.workers, mp_context=torch.multiprocessing.get_context("spawn")) as pool:
        rows = [row for part in pool.map(run, *zip(*jobs, strict=True)) for row in part]
    where = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU"
    took = time.perf_counter() - begin
    head = f"# Warm starts against cold ones\n\n`warm.py` on {where}, torch {torch.__version__}, {took:.0f} s.\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(head + table(rows) + "\n")


if __name__ == "__main__":
    main()
