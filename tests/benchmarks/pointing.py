"""Do heatmaps find the object? Every method at every depth of the demo's net, on pictures whose masks are known.

    python tests/benchmarks/pointing.py            # trains for a minute, then measures; writes results/pointing.md

Each net explains the true class of pictures that it was not trained on. Beside the trained net stand what a number has
to beat: the same net before training, the mean activation (which knows of no class), the center of the picture, and
chance.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import pytorch_lightning as L
import torch
from shapes import Shapes
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import Normalize
from train import STATISTICS, ConvNet

from lightning_convviz import cams, heatmap_metrics

RESULTS = Path(__file__).parent / "results" / "pointing.md"
LAYERS = {"stem": 48, "stage1": 24, "stage2": 12}  # and the resolution of their maps
FEW = 50  # pictures for Score-CAM, which asks the net once for each channel
TOLERANCE = 3  # pixels of 48, as the usual 15 are of 224
NUMBERS = ("drop", "drop_removed", "deletion", "insertion", "entropy", "initial")

Row = dict[str, dict[str, float]]


def mean_activation(activations: Tensor, gradients: Tensor) -> Tensor:
    return activations.mean(1)


def seeded(seed: int) -> ConvNet:
    """The demo's net as it begins."""
    L.seed_everything(seed, verbose=False)
    return ConvNet()


def train(seed: int, count: int, epochs: int) -> tuple[ConvNet, float]:
    """The demo's net after a short training, and the CPU seconds that it took."""
    start, model = time.process_time(), seeded(seed)
    data = Shapes(count, seed=seed, transform=Normalize(*STATISTICS["shapes"]))
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, 32, shuffle=True))
    return model.eval(), time.process_time() - start


def methods() -> dict[str, str | Callable[[Tensor, Tensor], Tensor]]:
    return {name: name for name in [*cams.METHODS, *cams.GRAPH_METHODS]} | {"mean activation": mean_activation}


def drawn(model: ConvNet, images: Tensor, labels: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """All heatmaps: of which method, of which layer, and the maps. Fusions take two or three layers."""
    for name, method in methods().items():
        rows = slice(FEW if name == "scorecam" else None)
        found = cams.heatmaps(model, images[rows], layer=list(LAYERS), target=labels[rows], method=method)
        yield from ((name, layer, heat) for layer, heat in found.items())
    for name in cams.FUSIONS:
        for layers in (["stage1", "stage2"], list(LAYERS)):
            heat = cams.heatmaps(model, images, layer=layers, target=labels, method=name)
            yield f"{name}, {len(layers)} layers", layers[0], heat


def measure(model: ConvNet, images: Tensor, labels: Tensor, masks: Tensor) -> dict[tuple[str, str], Row]:
    found = {}
    for name, layer, heat in drawn(model, images, labels):
        own = masks[: len(heat)]
        hits = {
            "hit": heatmap_metrics.pointing(heat, own),
            "near": heatmap_metrics.pointing(heat, own, tolerance=TOLERANCE),
            "energy": heatmap_metrics.energy_inside(heat, own),
            "empty": (heat.amax((1, 2)) <= 0).float(),
        }
        found[name, layer] = heatmap_metrics.mean(hits)
    return found


def believed(model: ConvNet, initial: ConvNet, images: Tensor, labels: Tensor) -> dict[tuple[str, str], Row]:
    """The numbers of `heatmap_metrics.report`, of a part of the pictures: they take ten more forwards for each map."""
    images, labels = images[:FEW], labels[:FEW]
    first = {(name, layer): heat for name, layer, heat in drawn(initial, images, labels)}
    return {
        (name, layer): heatmap_metrics.mean(
            heatmap_metrics.report(model, images, heat, labels, initial=first[name, layer])
        )
        for name, layer, heat in drawn(model, images, labels)
    }


def baselines(masks: Tensor) -> dict[str, Row]:
    center = torch.zeros(masks.shape)
    h, w = (size // 2 for size in masks.shape[1:])
    center[:, h - 1 : h + 1, w - 1 : w + 1] = 1
    even = torch.ones(masks.shape)
    return {
        name: heatmap_metrics.mean(
            {
                "hit": heatmap_metrics.pointing(heat, masks),
                "near": heatmap_metrics.pointing(heat, masks, tolerance=TOLERANCE),
                "energy": heatmap_metrics.energy_inside(heat, masks),
            }
        )
        for name, heat in {"center": center, "chance": even}.items()
    }  # fmt: skip


def tables(args: argparse.Namespace) -> Iterator[str]:
    model, seconds = train(args.seed, args.train, args.epochs)
    initial = seeded(args.seed).eval()
    data = Shapes(args.count, seed=args.seed + 1_000_000)
    images, labels, masks = Normalize(*STATISTICS["shapes"])(data.images / 255), data.labels, data.masks
    with torch.no_grad():
        right = float((model(images).argmax(1) == labels).float().mean())
    yield "# Do heatmaps find the object?\n"
    yield (
        f"`pointing.py`: the demo's net after {args.epochs} epochs of {args.train:,} shapes (seed {args.seed}, "
        f"{seconds:.0f} CPU s), {right:.1%} right on {args.count} new ones; torch {torch.__version__}, Lightning "
        f"{L.__version__}. Maps of the true class, of 48 x 48 pixels; Score-CAM on {FEW} pictures."
    )
    yield "\n## Pointing game and energy inside, trained / untrained\n"
    yield (
        f"hit: the hottest pixel lies on the object; near: at most {TOLERANCE} pixels beside it; energy: share of the "
        "heat that lies on it; empty: maps without any heat (they count for none of the others). In %.\n"
    )
    yield "| method | layer | map | hit | near | energy | empty |"
    yield "|---|---|---|---|---|---|---|"
    trained, untrained = (measure(net, images, labels, masks) for net in (model, initial))
    for (name, layer), numbers in trained.items():
        cells = [f"{100 * numbers[key]:.0f} / {100 * untrained[name, layer][key]:.0f}" for key in numbers]
        yield f"| {name} | {layer} | {LAYERS[layer]} | {' | '.join(cells)} |"
    for name, numbers in baselines(masks).items():
        yield f"| {name} | | | {' | '.join(f'{100 * value:.0f}' for value in numbers.values())} | |"
    yield "\n## What the net says of masked pictures\n"
    yield (
        f"`heatmap_metrics.report` on {FEW} pictures, four steps, blurred baseline. Good is a low drop and deletion, a "
        "high drop where the hot region is removed (removed), a high insertion, and a low correlation with the map of "
        "the untrained net (initial).\n"
    )
    yield f"| method | layer | {' | '.join(NUMBERS).replace('drop_removed', 'removed')} |"
    yield "|---|---|" + "---|" * len(NUMBERS)
    for (name, layer), report in believed(model, initial, images, labels).items():
        yield f"| {name} | {layer} | {' | '.join(f'{report[key]:.2f}' for key in NUMBERS)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = []
    for line in tables(args):
        print(line, flush=True)
        lines.append(line)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
