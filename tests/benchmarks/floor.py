"""What do filter patterns cost against the least that they can cost? (For heatmaps and other libraries: rivals.py.)

    python tests/benchmarks/floor.py [--device cuda]

On ResNet-18, CPU seconds on one thread (on a GPU wall seconds, synchronized). Each row is timed in turn with its floor,
one pair after the other, and the median of the pairs' ratios is printed. The floor: a forward up to the layer and the
gradient to the input, nothing else.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torchvision

from lightning_convviz import ascent, layers

STEPS = 8


def rows(device: str) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Name -> (what is measured, its floor)."""
    model = torchvision.models.resnet18().eval().to(device)
    images = torch.randn(8, 3, 128, 128, device=device)

    table = {}
    for layer in ("conv1", "layer2.0.conv1", "layer4.1.conv2"):
        table[f"patterns, 16 filters of {layer}, {STEPS} steps"] = (
            lambda layer=layer: ascent.patterns(model, layer, range(16), like=images, shape=(3, 64, 64), steps=STEPS),
            lambda layer=layer: climb(model, layer, torch.randn(16, 3, 64, 64, device=device)),
        )
    return table


def climb(model: torch.nn.Module, layer: str, images: torch.Tensor) -> None:
    images.requires_grad_()
    for _ in range(STEPS):
        with layers.record(model, [layer], stop=True) as outputs:
            model(images)
        torch.autograd.grad(outputs[layer].mean(), images)


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=11)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"ResNet-18 on {args.device}, torch {torch.__version__}, {args.pairs} pairs\n")
    print("| what | times its floor, median | smallest | largest |\n|---|---|---|---|")
    for name, (work, floor) in rows(args.device).items():
        for warm_up in (work, floor):
            warm_up()
        ratios = [seconds(work, args.device) / seconds(floor, args.device) for _ in range(args.pairs)]
        print(f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
