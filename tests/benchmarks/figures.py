"""What the figures of layers cost: validation epochs with and without, in interleaved pairs.

    python tests/benchmarks/figures.py            # CPU seconds on one thread; writes results/figures.md
    python tests/benchmarks/figures.py --pairs 3  # a short look, nothing is written

ResNet-18 with random weights on noise, five layers over its depth. With: a forward hook on each that reduces, the sums
of each batch, the figures at the end of the epoch; all of it counts. The two epochs of a pair take turns batch by
batch, and the one that goes first alternates: what else runs on the machine then slows down both.
"""

import sys

sys.path.pop(0)  # this folder: a module of the standard library has this file's name

import argparse
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from math import comb
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from lightning_convviz.layer_stats import LayerAccumulator, figures

RESULTS = Path(__file__).parent / "results" / "figures.md"
LAYERS = ("relu", "layer1", "layer2", "layer3", "layer4")
ORDERS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
SIZES = {64: (64, 24), 224: (16, 6)}  # pixels: images in a batch, batches
TARGET = 0.05
PAIRS = 15  # fewer are a look, not a result

INTRO = f"""# What the figures of layers cost

`figures.py`: ResNet-18, random weights, noise, evaluation mode under no_grad. Observed are
{", ".join(f"`{name}`" for name in LAYERS)}; the first is the ReLU after the first BatchNorm. CPU time of an epoch
with and without in pairs, that take turns batch by batch; the median of the ratios less 1, and order statistics around
it that hold it with at least 95 %. Then what is spent inside `LayerAccumulator.reduce`, `.update` and `figures`,
measured directly; what the first has besides is the calls of the hooks, and caches. Epochs are short here: in others
`figures`, once an epoch, and the features of the first 256 images weigh less. Target: {TARGET:.0%}.
"""


class Watched:
    """Hooks on the layers of a net, and the CPU time that is spent in them."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.tallies = net, {name: LayerAccumulator() for name in LAYERS}
        self.batch, self.hooks = {}, []
        self.spent = dict.fromkeys(("reduce", "add", "figures"), 0.0)

    def __enter__(self) -> None:
        self.hooks = [self.net.get_submodule(name).register_forward_hook(partial(self._heard, name)) for name in LAYERS]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _heard(self, name: str, module: nn.Module, args: object, output: Tensor) -> None:
        start = time.process_time()
        self.batch[name] = self.tallies[name].reduce(output.detach())
        self.spent["reduce"] += time.process_time() - start

    def passed(self, images: Tensor) -> None:
        start = time.process_time()
        for name, tally in self.tallies.items():
            tally.update(self.batch[name], images)
        self.spent["add"] += time.process_time() - start

    def end(self) -> float:
        start = time.process_time()
        for tally in self.tallies.values():
            figures(tally.compute()).scalars()
        self.spent["figures"] = time.process_time() - start
        return self.spent["figures"]


@torch.no_grad()
def pair(net: nn.Module, batches: list[Tensor]) -> tuple[float, float, dict[str, float]]:
    """CPU seconds of an epoch without and of one with, and of the latter inside our functions."""
    watched, taken = Watched(net), {False: 0.0, True: 0.0}
    for number, images in enumerate(batches):
        for watch in (False, True) if number % 2 else (True, False):
            with watched if watch else nullcontext():
                start = time.process_time()
                net(images)
                if watch:
                    watched.passed(images)
                taken[watch] += time.process_time() - start
    return taken[False], taken[True] + watched.end(), watched.spent


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and order statistics around it that hold that of the population with at least 95 %."""
    values, n = sorted(values), len(values)
    outside, rank = 0.5**n, 0  # the probability that the median is below the smallest
    while outside + comb(n, rank + 1) * 0.5**n <= 0.025 and rank + 1 < n // 2:
        rank += 1
        outside += comb(n, rank) * 0.5**n
    middle = (values[(n - 1) // 2] + values[n // 2]) / 2
    return middle, values[rank], values[n - 1 - rank]


def compare(side: int, order: str, pairs: int) -> str:
    """A row of the table."""
    count, length = SIZES[side]
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval().to(memory_format=ORDERS[order])
    batches = [torch.randn(count, 3, side, side).contiguous(memory_format=ORDERS[order]) for _ in range(length)]
    pair(net, batches[:2])
    ratios, without, spent = [], [], {"reduce": [], "add": [], "figures": []}
    for number in range(pairs):
        base, whole, parts = pair(net, batches)
        ratios.append(whole / base - 1)
        without.append(base)
        for name, seconds in parts.items():
            spent[name].append(seconds / base)
        print(f"  {side} px, {order}, pair {number + 1}: {ratios[-1]:+.2%}", file=sys.stderr, flush=True)
    middle, low, high = interval(ratios)
    spent["all"] = [sum(each) for each in zip(*spent.values(), strict=True)]
    shares = [interval(each)[0] for each in spent.values()]
    cells = " | ".join(f"{100 * share:.2f}" for share in shares)
    added = f"{100 * middle:.2f} ({100 * low:.2f} to {100 * high:.2f})"
    return f"| {side} px | {order} | {length} x {count} | {interval(without)[0]:.2f} | {added} | {cells} |"


def report(rows: Callable[[], list[str]], pairs: int) -> str:
    processor = next((line.split(":")[1].strip() for line in lines() if "model name" in line), platform.machine())
    where = f"{processor}, 1 thread of a shared machine, torch {torch.__version__}"
    where += f", torchvision {torchvision.__version__}"
    head = (
        "| images | memory | batches | without, CPU s | added, % | `reduce`, % | `add`, % | `figures`, % | these, % |"
    )
    return "\n".join([INTRO, f"{where}; {pairs} pairs.\n", head, "|---" * 9 + "|", *rows()]) + "\n"


def lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIZES), choices=list(SIZES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = report(lambda: [compare(side, order, args.pairs) for side in args.sides for order in ORDERS], args.pairs)
    print(text)
    if args.pairs >= PAIRS and args.sides == list(SIZES):
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
