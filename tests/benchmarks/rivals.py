"""A second opinion: our heatmaps beside those of other libraries, and what a drawing costs in each.

    CONVVIZ_DATA=... python tests/benchmarks/rivals.py   # needs grad-cam, torchcam, captum; writes results/rivals.md

The papers are the oracle (`tests/test_cams.py`), not these libraries: where they differ, the last column says why. All
maps are compared at the layer's own resolution, clamped and divided by their maximum; the class is the predicted one.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as T

from lightning_convviz import cams
from lightning_convviz.isolation import isolated

try:
    import captum.attr
    import pytorch_grad_cam
    import torchcam.methods
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
except ImportError as error:  # `--help` works without them
    MISSING: ImportError | None = error
else:
    MISSING = None

RESULTS = Path(__file__).parent / "results" / "rivals.md"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 96  # pixels, for Score-CAM, which takes a forward for each channel
PAIRS = {  # ours -> theirs
    "gradcam": {"grad-cam": "GradCAM", "torchcam": "GradCAM", "captum": "LayerGradCam"},
    "hirescam": {"grad-cam": "HiResCAM"},
    "layercam": {"grad-cam": "LayerCAM", "torchcam": "LayerCAM"},
    "gradcam++": {"grad-cam": "GradCAMPlusPlus", "torchcam": "GradCAMpp"},
    "xgradcam": {"grad-cam": "XGradCAM", "torchcam": "XGradCAM"},
    "elementwise": {"grad-cam": "GradCAMElementWise"},
    "eigencam": {"grad-cam": "EigenCAM"},
    "shapleycam": {"grad-cam": "ShapleyCAM"},
    "finercam": {"grad-cam": "FinerCAM", "torchcam": "FinerCAM"},
    "scorecam": {"grad-cam": "ScoreCAM", "torchcam": "ScoreCAM"},
}
PLAIN = ("gradcam", "hirescam", "layercam", "xgradcam")  # for layers before an operation in place
WHY = {
    ("gradcam++", "torchcam"): (
        "divides a copy, so that its weights are Σ relu(g)³; it also sums g³·A where eq. 19 has g³·ΣA"
    ),
    ("gradcam++", "grad-cam"): "adds 1e-6 to the denominator, which is mostly smaller itself; else the same",
    ("eigencam", "grad-cam"): "centers the channels, which the paper does not, and leaves the sign to chance",
    (
        "finercam",
        "grad-cam",
    ): "another score: α = 1, rivals weighed by probability, and gradients of these weights; ours: γ = 0.6",
    ("xgradcam", "grad-cam"): "adds 1e-7 to ΣA, or divides by nearly nothing where it is 0",
    ("scorecam", "torchcam"): "scales the masks to [0, 1] before they are enlarged; algorithm 1 does it after",
    ("scorecam", "grad-cam"): "enlarges with aligned corners",
}
IN_PLACE = "reads the activations after the in-place operation that follows has changed them"


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "resnet18":
        return torchvision.models.resnet18().eval()
    model = torchvision.models.squeezenet1_0().eval()
    model.load_state_dict(torch.load(data() / "weights" / "squeezenet1_0_imagenet.pt", weights_only=True))
    return model


def data() -> Path:
    folder = os.environ.get("CONVVIZ_DATA")
    if not folder:
        sys.exit("CONVVIZ_DATA does not name the folder with the real data: nothing is measured.")
    return Path(folder)


def photographs(size: int, count: int) -> Tensor:
    folder = data() / "photos"
    files = [folder / "african_elephants.jpg", folder / "cat_dog.png", *sorted(folder.glob("cc_by_16/images/*"))]
    shown = [T.to_tensor(Image.open(file).convert("RGB").resize((size, size))) for file in files[:count]]
    return T.normalize(torch.stack(shown), MEAN, STD)


# -- one map for each image, at the layer's resolution ----------------------------------------------------------------


def ours(model: nn.Module, layer: str, images: Tensor, classes: Tensor, method: str) -> Tensor:
    with isolated(model):
        wanted = [cams.Explanation(layer, classes, method)]
        return cams.run_forward(model, images, explanations=wanted).maps[0]


def of_grad_cam(model: nn.Module, layer: str, images: Tensor, classes: Tensor, name: str) -> Tensor:
    module, targets = model.get_submodule(layer), [ClassifierOutputTarget(number) for number in classes.tolist()]
    with getattr(pytorch_grad_cam, name)(model, [module]) as outer:
        cam, raw = getattr(outer, "base_cam", outer), []
        original = cam.get_cam_image

        def kept(*args: Any) -> Any:  # the signed map, before it is clamped, scaled to [0, 1] and enlarged
            raw.append(original(*args))
            return raw[-1]

        cam.get_cam_image = kept
        outer(images, None if name == "FinerCAM" else targets)
    return torch.as_tensor(raw[0])


def of_torchcam(model: nn.Module, layer: str, images: Tensor, classes: Tensor, name: str) -> Tensor:
    with getattr(torchcam.methods, name)(model, layer, input_shape=tuple(images.shape[1:])) as cam:
        scores = model(images)
        return cam(classes.tolist(), scores, normalized=False)[0].detach()


def of_captum(model: nn.Module, layer: str, images: Tensor, classes: Tensor, name: str) -> Tensor:
    cam = getattr(captum.attr, name)(model, model.get_submodule(layer))
    return cam.attribute(images, target=classes, relu_attributions=True)[:, 0].detach()


THEIRS = {"grad-cam": of_grad_cam, "torchcam": of_torchcam, "captum": of_captum}


def compare(own: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Median and lowest correlation, largest difference; of the images where neither map is empty."""
    own, other = ((maps.clamp(min=0) / maps.amax((1, 2), keepdim=True)).double() for maps in (own, other))
    alike = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(own, other, strict=True)]
    fine = [value.item() for value in alike if value.isfinite()]
    if not fine:
        return float("nan"), float("nan"), float("nan")
    return statistics.median(fine), min(fine), (own - other).abs().nan_to_num(0).max().item()


def quiet(call: Callable[[], Any]) -> Any:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return call()


def opinions(nets: dict[str, list[tuple[str, bool]]], count: int) -> Iterator[str]:
    yield "| net | layer | method | library | correlation, median (lowest) | largest difference | why |"
    yield "|---|---|---|---|---|---|---|"
    for name, layers in nets.items():
        model = net(name)
        for (layer, changed), (method, rivals) in ((a, b) for a in layers for b in PAIRS.items()):
            if (method == "scorecam" and name != "squeezenet") or (changed and method not in PLAIN):
                continue
            images = photographs(SMALL, 2) if method == "scorecam" else photographs(224, count)
            with torch.no_grad():
                classes = model(images).argmax(1)
            own = ours(model, layer, images, classes, method)
            for library, theirs in rivals.items():
                try:
                    other = quiet(partial(THEIRS[library], model, layer, images, classes, theirs))
                    median, lowest, difference = compare(own, other)
                    cells = f"{median:.4f} ({lowest:.4f}) | {difference:.1e}"
                except Exception as error:  # a library may fail: that is a result, too
                    cells, lowest = f"fails: {type(error).__name__}: {str(error).splitlines()[0][:80]} | ", 1.0
                why = "" if lowest > 0.9999 else IN_PLACE if changed else WHY.get((method, library), "?")
                yield f"| {name} | {layer} | {method} | {library} | {cells} | {why} |"
                model.zero_grad(set_to_none=True)


# -- what a drawing costs ---------------------------------------------------------------------------------------------


def drawing_ours(model: nn.Module, layer: str, images: Tensor, classes: list[Tensor]) -> None:
    with isolated(model):
        wanted = [cams.Explanation(layer, each) for each in classes]
        for maps in cams.run_forward(model, images, explanations=wanted).maps:
            cams.fusion.resize_maps(maps, tuple(images.shape[2:]))


def drawing_grad_cam(model: nn.Module, layer: str, images: Tensor, classes: list[Tensor]) -> None:
    with pytorch_grad_cam.GradCAM(model, [model.get_submodule(layer)]) as cam:
        for each in classes:
            cam(images, [ClassifierOutputTarget(number) for number in each.tolist()])


def drawing_torchcam(model: nn.Module, layer: str, images: Tensor, classes: list[Tensor]) -> None:
    with torchcam.methods.GradCAM(model, layer) as cam:
        scores = model(images)
        for each in classes:
            maps = cam(each.tolist(), scores, retain_graph=each is not classes[-1])[0]
            nn.functional.interpolate(maps[:, None], images.shape[2:], mode="bilinear")


def drawing_captum(model: nn.Module, layer: str, images: Tensor, classes: list[Tensor]) -> None:
    cam = captum.attr.LayerGradCam(model, model.get_submodule(layer))
    for each in classes:
        maps = cam.attribute(images, target=each, relu_attributions=True)
        captum.attr.LayerAttribution.interpolate(maps, tuple(images.shape[2:]), "bilinear")


def bare(model: nn.Module, layer: str, images: Tensor, classes: list[Tensor]) -> None:
    model(images).gather(1, classes[0][:, None]).sum().backward()


def forward(model: nn.Module, layer: str, images: Tensor, classes: list[Tensor]) -> None:
    with torch.no_grad():
        model(images)


DRAWINGS = {
    "bare forward and backward": bare, "bare forward, no graph": forward, "lightning_convviz": drawing_ours,
    "torchcam": drawing_torchcam, "captum": drawing_captum, "grad-cam": drawing_grad_cam,
}  # fmt: skip


def costs(name: str, layer: str, rounds: int) -> Iterator[str]:
    model, images = net(name), photographs(224, 8)
    with torch.no_grad():
        classes = [model(images).argmax(1), torch.arange(len(images))]
    seconds: dict[str, list[float]] = {key: [] for key in DRAWINGS}
    calls, left = {}, {}
    for turn in range(rounds + 1):  # the first one warms up
        for key in [*DRAWINGS] if turn % 2 else [*DRAWINGS][::-1]:
            model.zero_grad(set_to_none=True)
            counter: list[int] = []
            handle = model.register_forward_pre_hook(lambda *_: counter.append(1))  # noqa: B023
            start = time.process_time()
            DRAWINGS[key](model, layer, images, classes)
            seconds[key].append(time.process_time() - start)
            handle.remove()
            calls[key], left[key] = len(counter), any(each.grad is not None for each in model.parameters())
    base = seconds["bare forward and backward"][1:]
    for key, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken[1:], base, strict=True))
        cells = f"{statistics.median(taken[1:]):.2f} | {ratio:.2f} | {calls[key]} | {'yes' if left[key] else 'no'}"
        yield f"| {name} | {key} | {cells} |"


def tables(count: int, rounds: int) -> Iterator[str]:
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "torchvision", "grad-cam", "torchcam", "captum")
    )
    yield "# Other libraries, as a second opinion\n"
    yield f"`rivals.py`, 1 thread; {libraries}.\n"
    yield (
        "Maps at the layer's resolution, clamped and divided by their maximum, of the predicted class, for "
        f"{count} photos of 224 x 224 pixels (Score-CAM: 2 of {SMALL} x {SMALL}). resnet18 has random weights (seed "
        "0), squeezenet is trained on ImageNet. Its features.12.squeeze and resnet18's layer4.1.bn2 are followed by an "
        "operation in place.\n"
    )
    yield from opinions(
        {
            "squeezenet": [("features", False), ("features.12.squeeze", True)],
            "resnet18": [("layer4", False), ("layer4.1.bn2", True)],
        },
        count,
    )
    yield "\n## What a drawing costs\n"
    yield (
        "Grad-CAM of two classes for 8 photographs at one layer (resnet18: layer4, squeezenet: features), enlarged to "
        f"the size of the picture. CPU seconds, interleaved, median of {rounds} rounds after one for warming up; the "
        "ratio is the median of each round's. Gradients: whether `.grad` of the parameters was written.\n"
    )
    yield "| net | | CPU s | ratio | forwards | gradients |"
    yield "|---|---|---|---|---|---|"
    yield from costs("resnet18", "layer4", rounds)
    yield from costs("squeezenet", "features", rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if MISSING is not None:
        raise SystemExit(f"{MISSING}. Install grad-cam, torchcam and captum.")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = []
    for line in tables(args.photos, args.rounds):
        print(line, flush=True)
        lines.append(line)
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
