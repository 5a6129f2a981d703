"""Do patterns excite their filters more than any real picture does? FilterPatternLogger's defaults, on trained nets.

    CONVVIZ_DATA=... python tests/benchmarks/excitement.py   # writes results/excitement.md

A CIFAR-10 ResNet-20 against 2,000 test pictures, SqueezeNet at 128 px against 16 photographs, and a one-channel net,
trained here for an epoch on MNIST, against 2,000 test pictures. The patterns are those of a first drawing (cold) and of
the third after it, of a network that stands still. Three measures of excitement, for pattern and picture alike, of the
output that the callback raises: its largest value on the map (what the callback shows), the mean of its positive part,
and the plain mean of the map, by which a linear layer is excited most by a flat color.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets

sys.path.insert(0, str(Path(__file__).parent))
from warm import Digits

from lightning_convviz import FilterPatternLogger, ascent, layers
from lightning_convviz.callbacks.filters.optimizer import SHRINK
from lightning_convviz.callbacks.filters.selection import NUM_AUTO_LAYERS

RESULTS = Path(__file__).parent / "results" / "excitement.md"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
MEASURES = {
    "largest value": lambda maps: maps.amax((2, 3)),
    "mean of the positive part": lambda maps: maps.clamp(min=0).mean((2, 3)),
    "mean": lambda maps: maps.mean((2, 3)),
}


def cifar(folder: Path) -> tuple[nn.Module, Tensor]:
    sys.path.insert(0, str(folder / "weights"))
    from cifar_resnet import CifarResNet

    net = CifarResNet(20)
    net.load_state_dict(torch.load(folder / "weights" / "cifar10_resnet20.pt", weights_only=True))
    images = torch.from_numpy(np.load(folder / "cifar10" / "test.npz")["images"]).permute(0, 3, 1, 2) / 255
    return net, (images - MEAN) / STD


def squeezenet(folder: Path) -> tuple[nn.Module, Tensor]:
    net = torchvision.models.squeezenet1_0()
    net.load_state_dict(torch.load(folder / "weights" / "squeezenet1_0_imagenet.pt", weights_only=True))
    paths = sorted((folder / "photos" / "cc_by_16" / "images").glob("*.png"))
    photos = [np.array(Image.open(path).convert("RGB").resize((128, 128))) for path in paths]
    return net, (torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def mnist(folder: Path) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    train, test = (datasets.MNIST(str(folder), train=part) for part in (True, False))
    net = Digits()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    for batch in torch.randperm(20_000).split(128):
        optimizer.zero_grad()
        F.cross_entropy(net((train.data[batch, None] / 255 - 0.131) / 0.308), train.targets[batch]).backward()
        optimizer.step()
    return net, (test.data[:2000, None] / 255 - 0.131) / 0.308


NETS = {
    "CIFAR-10 ResNet-20": (cifar, None),
    "SqueezeNet, 128 px": (squeezenet, 128),
    "MNIST, one channel": (mnist, None),
}


def maps_of(net: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.no_grad():
        for part in images.split(250):
            with layers.record(net, names, stop=True) as recorded:
                net(part.clone())
            for name in names:
                found[name].append(recorded[name])
    return {name: torch.cat(each) for name, each in found.items()}


def shares(net: nn.Module, images: Tensor, size: int | None) -> list[str]:
    """A row for each layer that is drawn: for each measure the share of patterns above the best picture."""
    net.eval()
    watcher = FilterPatternLogger(size=size)
    with torch.no_grad():
        runs = layers.trace(net, lambda: net(images[:8].clone()))
    drawn = layers.convolutions(runs, count=NUM_AUTO_LAYERS)
    sources = {layers.post_activation(runs, name): name for name in drawn}
    channels = {each: list(layers.evenly_spaced(range(runs[each].shape[1]), watcher.num_filters)) for each in sources}
    options = {"like": images[:8], "objective": watcher.objective, "shrink": SHRINK, "share_batch": False}
    cold = ascent.patterns_of_layers(net, channels, steps=watcher.cold_steps, **options)
    warm = cold
    for _ in range(3):
        warm = ascent.patterns_of_layers(net, channels, steps=watcher.steps, start=warm, **options)
    real, rows = maps_of(net, list(sources), images), []
    for each, name in sources.items():
        cells = []
        for found in (cold, warm):
            maps, index = maps_of(net, [each], found[each].images)[each], torch.arange(len(channels[each]))
            for measure in MEASURES.values():
                excited, best = measure(maps)[index, channels[each]], measure(real[each]).amax(0)[channels[each]]
                cells.append(f"{(excited > best).float().mean():.2f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    folder = Path(os.environ["CONVVIZ_DATA"])
    lines = [
        "# Patterns against real pictures\n",
        f"`excitement.py`, torch {torch.__version__}, on a CPU. Share of the patterns that excite their filter more",
        "than the best of the pictures does, by three measures; cold (first drawing) and warm (third after it).\n",
    ]
    for name, (made, size) in NETS.items():
        net, images = made(folder)
        head = [f"{measure}, {when}" for when in ("cold", "warm") for measure in MEASURES]
        lines += [
            f"\n## {name}, {len(images)} pictures\n",
            "| layer | " + " | ".join(head) + " |",
            "|---|" + "---|" * 6,
        ]
        lines += shares(net, images, size)
        print("\n".join(lines[-8:]), flush=True)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
