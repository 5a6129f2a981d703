"""What filter patterns cost: against their floor, against Lucent, and all layers in one batch against one by one.

    python tests/benchmarks/patterns.py                 # CPU seconds on one thread; writes results/patterns.md
    python tests/benchmarks/patterns.py --device cuda   # wall seconds, synchronized

Lucent (`pip install torch-lucent`) may be missing: its section then says so. All nets have random weights. What is
compared is timed in turn, in rounds of alternating order after one that is not counted; ratios are formed in a round.
"""

import argparse
import re
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import torch
import torchvision
from torch import Tensor, cuda, nn
from torchvision.models.feature_extraction import create_feature_extractor
from train import ConvNet

from lightning_convviz import ascent, canvas, layers, transforms

RESULTS = Path(__file__).parent / "results" / "patterns.md"
FILTERS = range(16)
SIDE = 128  # pixels, of the first two sections
LAYER = "layer2"  # a child of the net, so that what comes after it can be cut off
STEPS = 16
SHORT, LONG = 4, 12  # a step is what the longer run takes more, so that what is done once for a call cancels
ORDERS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PACKAGES = ("torch", "torchvision", "torch-lucent", "kornia")
Works = dict[str, Callable[[], object]]

FLOOR = f"""## Against the floor

ResNet-18, {len(FILTERS)} filters at {SIDE} px, defaults of `ascent.patterns`. The floor: a forward up to the layer and
the gradient to the images, of the same batch, in the faster of two memory orders; no gradients of weights, and the
objective's own gradient is given. A step: a run of {LONG} steps less one of {SHORT}, by {LONG - SHORT}. The last column
has besides what a call does once. Target for a step in {LAYER}: 1.1.
"""
LUCENT = f"""
## Against Lucent

The same filters of {LAYER}, {STEPS} steps of Adam at 0.05 on the Fourier spectrum, mean of the whole map, {SIDE} px
(`fixed_image_size`; it enlarges to 224 otherwise), values in [0, 1] (`preprocess=False`), shifts, scales and rotations
of the same sizes. Colors differ: its matrix is ImageNet's. Nothing in it is patched; hooks that it leaves behind are
taken off between calls. Target for its first row: 1.8. Its other rows take off, one after the other, what makes the
ratio: its `backward()` computes gradients of the weights, its forward runs to the end, it has one image in a batch.
"""
TOGETHER = f"""
## All layers in one batch, or one by one

`ascent.patterns_of_layers`, {len(FILTERS)} filters of each of the layers that are drawn by default.
"""


def resnet(device: str) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval().to(device)


def noise(side: int, device: str) -> Tensor:
    return torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def drawn(model: nn.Module, images: Tensor) -> list[str]:
    """The layers that `FilterPatternLogger` takes by default."""
    with torch.no_grad():
        return layers.convolutions(layers.trace(model, lambda: model(images)), count=4)


def seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    work()
    if device != "cpu":
        cuda.synchronize()
    return clock() - start


def in_turn(works: Works, pairs: int, device: str) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(pairs + 1):
        for name in [*works] if turn % 2 else [*works][::-1]:
            taken[name].append(seconds(works[name], device))
    return {name: each[1:] for name, each in taken.items()}


def a_step(short: list[float], long: list[float]) -> list[float]:
    """In milliseconds."""
    return [1000 * (b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True)]


def ratios(above: list[float], below: list[float], factor: float = 1.0) -> str:
    found = [factor * a / b for a, b in zip(above, below, strict=True)]
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def floor(upto: nn.Module, like: Tensor, steps: int, order: torch.memory_format) -> None:
    """Forwards and gradients to the images, of an objective whose own gradient is given."""
    images, aim = like.repeat(2, 1, 1, 1).contiguous(memory_format=order).requires_grad_(), None
    for _ in range(steps):
        output = upto(images)["out"]
        if aim is None:
            aim = torch.zeros_like(output)
            aim[FILTERS, FILTERS] = 1 / output[0, 0].numel()
        torch.autograd.grad(output, images, aim)


def bare(like: Tensor, steps: int) -> None:
    """An ascent with no net behind it."""
    streams = canvas.generators(FILTERS)
    images = canvas.FourierCanvas((SIDE, SIDE), canvas.box(like), streams)
    changes = transforms.standard((SIDE, SIDE), streams)
    ascent.ascend(lambda each: each.mean((1, 2, 3)), images, steps=steps, transforms=changes)


def against_floor(device: str, pairs: int) -> Iterator[str]:
    model, like, steps = resnet(device), noise(SIDE, device), LONG - SHORT
    yield f"| layer | a step, ms | floor, ms | the floor's memory | step / floor | {STEPS} steps / {STEPS} floors |"
    yield "|---|---|---|---|---|---|"
    for layer in dict.fromkeys([LAYER, *drawn(model, like)]):
        ours = partial(ascent.patterns, model, layer, FILTERS, like=like)
        works: Works = {str(count): partial(ours, steps=count) for count in (SHORT, LONG, STEPS)}
        upto = create_feature_extractor(model, {layer: "out"})
        works |= {name: partial(floor, upto, like, steps, order) for name, order in ORDERS.items()}
        taken = in_turn(works, pairs, device)
        order = min(ORDERS, key=lambda each: median(taken[each]))
        least, own = [1000 * each / steps for each in taken[order]], a_step(taken[str(SHORT)], taken[str(LONG)])
        whole = ratios(taken[str(STEPS)], least, 1000 / STEPS)
        yield f"| {layer} | {median(own):.1f} | {median(least):.1f} | {order} | {ratios(own, least)} | {whole} |"
    taken = in_turn({str(count): partial(bare, like, count) for count in (SHORT, LONG)}, pairs, device)
    yield f"| no net: canvas, transforms, optimizer | {median(a_step(*taken.values())):.1f} | | | | |"


def mean(channels: Any, blank: Tensor) -> ascent.Objective:
    """Lucent's objective: the mean of the whole map, its border included."""
    return lambda activations: activations[range(len(channels)), list(channels)].mean((1, 2))


def of_lucent(model: nn.Module, batch: int = 1) -> Tensor:
    """Patterns in calls of `batch` images, which share each step's random changes."""
    from lucent.optvis import objectives, param, render, transform

    kinds = [  # those of `transforms.standard`
        transform.random_scale([1 + transforms.ZOOM * each / 5 for each in range(-5, 6)]),
        transform.random_rotate([transforms.ANGLE * each / 5 for each in range(-5, 6)]),
        transform.jitter(2 * (SIDE // 32) + 1),
    ]
    found = []
    for first in FILTERS[::batch]:
        aim = objectives.Objective.sum([objectives.channel(LAYER, first + row, batch=row) for row in range(batch)])
        found += render.render_vis(
            model, aim, partial(param.image, SIDE, batch=batch), transforms=kinds, thresholds=(STEPS,),
            preprocess=False, progress=False, show_image=False, fixed_image_size=SIDE,
        )  # fmt: skip
        model.zero_grad(set_to_none=True)
        for module in model.modules():  # every call leaves one on each: they would add up over the sixteen
            module._forward_hooks.clear()
    return torch.cat([torch.as_tensor(each).permute(0, 3, 1, 2) for each in found])


def against_lucent(device: str, pairs: int) -> Iterator[str]:
    try:
        import lucent.optvis.render  # noqa: F401
    except ImportError as error:
        yield f"Not measured: Lucent can't be imported ({error})."
        return
    if cuda.is_available() != (device != "cpu"):  # it asks when it is imported
        yield "Not measured: Lucent takes the first GPU that there is."
        return
    model, frozen, like = resnet(device), resnet(device).requires_grad_(False), noise(SIDE, device)
    children = OrderedDict(frozen.named_children())
    cut = nn.Sequential(children)[: 1 + [*children].index(LAYER)]
    ours = partial(ascent.patterns, model, LAYER, FILTERS, like=like)
    works: Works = {
        "ours, one call": partial(ours, steps=STEPS, rate=0.05, objective=mean),
        "Lucent, 16 calls": partial(of_lucent, model),
        "... with frozen weights": partial(of_lucent, frozen),
        f"... and the net cut off after {LAYER}": partial(of_lucent, cut),
        "... and all filters in one call": partial(of_lucent, cut, batch=len(FILTERS)),
    }
    taken = in_turn(works, pairs, device)
    yield "| | s | times ours | mean activation reached, median of the filters |\n|---|---|---|---|"
    for name, work in works.items():
        images = work()
        with torch.no_grad():
            seen = cut(images.images if isinstance(images, ascent.Patterns) else images.to(device))
        reached, times = seen[FILTERS, FILTERS].mean((1, 2)).median(), ratios(taken[name], taken["ours, one call"])
        yield f"| {name} | {median(taken[name]):.2f} | {times} | {reached:.2f} |"


def together_or_apart(device: str, pairs: int) -> Iterator[str]:
    yield "| net | layers | a step together, ms | apart, ms | together / apart | `share_batch=None` took |"
    yield "|---|---|---|---|---|---|"
    nets = (("ResNet-18", resnet(device), 64), ("the demo's ConvNet", ConvNet().eval().to(device), 48))
    for name, model, side in nets:
        like = noise(side, device)
        wanted = dict.fromkeys(drawn(model, like), FILTERS)
        many = partial(ascent.patterns_of_layers, model, wanted, like=like)
        kinds = [(way, count) for way in (True, False) for count in (SHORT, LONG)]
        taken = in_turn(
            {str(kind): partial(many, share_batch=kind[0], steps=kind[1]) for kind in kinds},
            pairs,
            device,
        )
        both, each = (a_step(taken[str((way, SHORT))], taken[str((way, LONG))]) for way in (True, False))
        batches, sizes = 0, list[int]()
        for _ in range(pairs):  # the last forward of a call is that of a batch's results
            many(steps=1, forward=lambda images: sizes.append(len(images)) or model(images))  # noqa: B023
            batches += sizes[-1] > len(FILTERS)
        cells = f"{median(both):.1f} | {median(each):.1f} | {ratios(both, each)}"
        yield f"| {name}, {side} px | {', '.join(wanted)} | {cells} | one batch in {batches} of {pairs} calls |"


def page(device: str, pairs: int) -> Iterator[str]:
    named = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    where = f"1 thread of a shared {named[0]} with {len(named)} cores" if device == "cpu" else cuda.get_device_name()
    present = {each.metadata["Name"]: each.version for each in distributions()}
    found = [f"{name} {present[name]}" for name in PACKAGES if name in present]
    yield f"# What filter patterns cost\n\n`patterns.py`, {where};\n{', '.join(found)}."
    clock = "CPU seconds" if device == "cpu" else "Wall seconds, synchronized"
    yield f"{clock}, medians of {pairs} rounds; of ratios, formed in a round, also the extremes. Random weights.\n"
    for text, table in ((FLOOR, against_floor), (LUCENT, against_lucent), (TOGETHER, together_or_apart)):
        yield text
        yield from table(device, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with args.out.open("w") as out:
        for line in page(args.device, args.pairs):
            print(line, flush=True)
            print(line, file=out)


if __name__ == "__main__":
    main()
