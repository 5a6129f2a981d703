"""What one drawing is made from: probes on the device, the way through the model, and the forward that is shared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_convviz import _lightning, cams, layers, outputs
from lightning_convviz.probes import Probes

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher


@dataclass(frozen=True)
class Wants:
    """What a callback asks of the shared forward of the probes.

    Attributes:
        layers: their outputs for the probes.
        explanations: heatmaps of the probes.
    """

    layers: Sequence[str] = ()
    explanations: Sequence[cams.Explanation] = ()


@dataclass(frozen=True)
class Moment:
    """Which network is looked at.

    Attributes:
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        caption: the same for a reader.
        initial: whether this is the network before its first step.
        training: whether it is being trained, and not looked at by a validation or test of its own.
    """

    epoch: int
    step: int
    caption: str
    initial: bool = False
    training: bool = True

    @property
    def short(self) -> str:
        """The epoch, as a column's head."""
        return "the initial network" if self.initial else f"ep. {self.epoch}"


@dataclass(frozen=True)
class View:
    """What a drawing is made from.

    Attributes:
        model: the module, isolated while `compute` runs.
        forward: images -> what the model returns, in the run's precision.
        runs: which layers of it ran, in order, with the shapes of their outputs.
        probes: on the model's device.
        photos: the probes for display, (n, 3, h, w) in [0, 1].
        look: logits, outputs and maps for what the callback wants, in its order.
        moment: when this is.
        again: the probes' images with something done to them, whole repeats of all of them -> what the model returns.
        explain: other pictures, and heatmaps wanted of them -> logits and maps, by one more forward.
    """

    model: nn.Module
    forward: Callable[[Tensor], Any]
    runs: Mapping[str, layers.LayerTrace]
    probes: Probes
    photos: Tensor
    look: cams.ForwardResult
    moment: Moment
    again: Callable[[Tensor], Any]
    explain: Callable[[Probes, Sequence[cams.Explanation]], cams.ForwardResult]

    def is_finite(self) -> bool:
        """Whether all that was seen of the network are numbers; waits for the device."""
        seen = [*self.look.outputs.values(), *([] if self.look.logits is None else [self.look.logits])]
        return all(bool(each.isfinite().all()) for each in seen)


@dataclass
class Scene:
    """Probes on the model's device and the way through the model, for the callbacks that share both."""

    probes: Probes
    photos: Tensor
    call: Callable[..., Any]  # what the images are given to
    forward: Callable[..., Any]  # the same in the run's precision
    extra_inputs: dict[str, Tensor]
    runs: dict[str, layers.LayerTrace]
    parts: list[int]  # the model's sub-modules at that time
    looks: dict["Watcher", cams.ForwardResult] = field(default_factory=dict)


def key(watcher: "Watcher") -> tuple[int, ...]:
    """Callbacks with the same key look at the same probes through the same forward, and read its output alike."""
    own = (0, 0) if watcher.given is not None else (watcher.num_probes, watcher.dataloader_idx)
    return id(watcher.given), *own, id(watcher.forward_), id(watcher.output), id(watcher.reshape), watcher.classifies


def looked(scene: Scene, module: nn.Module, sharers: Mapping["Watcher", Wants]) -> dict["Watcher", cams.ForwardResult]:
    """One forward for all callbacks in `sharers`; each gets what it wants of it."""
    names = list(dict.fromkeys(name for wants in sharers.values() for name in wants.layers))
    explanations = [explanation for wants in sharers.values() for explanation in wants.explanations]
    look = cams.run_forward(
        module, scene.probes.images, forward=scene.forward, output=next(iter(sharers)).output,
        extra_inputs=scene.extra_inputs, layers=names, explanations=explanations,
        reshape=next(iter(sharers)).reshape,
    )  # fmt: skip
    looks, first = {}, 0
    for watcher, wants in sharers.items():
        last = first + len(wants.explanations)
        outputs = {name: look.outputs[name] for name in wants.layers}
        uniform = look.uniform_gradient[first:last]
        looks[watcher] = cams.ForwardResult(look.logits, outputs, look.maps[first:last], uniform)
        first = last
    return looks


def explained(
    scene: Scene,
    module: nn.Module,
    watcher: "Watcher",
    as_input: Callable[[Tensor], Tensor],
    probes: Probes,
    explanations: Sequence[cams.Explanation],
) -> cams.ForwardResult:
    """A forward of other pictures than the probes, the same way through the model."""
    wide = torch.float64 if scene.probes.images.dtype == torch.float64 else torch.float32
    images = as_input(probes.images.to(scene.probes.images.device, wide))
    extra_inputs = {name: other.to(images.device) for name, other in probes.arguments(scene.call).items()}
    return cams.run_forward(
        module, images, forward=scene.forward, output=watcher.output, extra_inputs=extra_inputs,
        explanations=explanations, reshape=watcher.reshape,
    )  # fmt: skip


def precisely(trainer: Any, call: Callable[..., Any], images: Tensor, **extra_inputs: Tensor) -> Any:
    """A forward in the run's own precision."""
    with _lightning.precision(trainer):
        return call(images, **extra_inputs)


def one_for_all(forward: Callable[..., Any], extra_inputs: Mapping[str, Tensor], images: Tensor) -> Any:
    """A forward of any images, with the other inputs of the first probe."""
    n = len(images)
    return forward(images, **{name: other[:1].expand(n, *other.shape[1:]) for name, other in extra_inputs.items()})


def for_each(forward: Callable[..., Any], extra_inputs: Mapping[str, Tensor], images: Tensor) -> Any:
    """A forward of whole repeats of the probes, each with its own other inputs."""
    return forward(
        images, **{name: torch.cat([other] * (len(images) // len(other))) for name, other in extra_inputs.items()}
    )


def tried(forward: Callable[..., Any], images: Tensor, extra_inputs: Mapping[str, Tensor]) -> Any:
    """The first forward of the probes.

    Raises:
        ValueError: where it fails, since then probes and model do not fit.
    """
    try:
        return forward(images.clone(), **extra_inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"the model fails on the probes, a batch of shape {tuple(images.shape)}: {type(error).__name__}: {error} "
            "Give `probes=` that are input of the model, or `forward=` a function (model, images) -> logits."
        ) from error


def checked(chosen: Probes, output: Any, watcher: "Watcher") -> Probes:
    """Labels that are no classes of the model: an error where a user gave them, else they were something else."""
    try:
        classes = outputs.logits(output, watcher.output).shape[1]
    except ValueError:  # no classifier: nobody asks for its classes
        return chosen
    highest = -1 if chosen.labels is None else int(torch.as_tensor(chosen.labels).max())
    if highest < classes or not watcher.classifies:
        return chosen
    if watcher.given is not None:
        raise ValueError(f"`probes` has label {highest}; the model has classes 0 to {classes - 1}.")
    _lightning.rank_zero_warn(
        f"lightning_convviz took integers of the validation batch for labels, but {highest} is no class of the "
        f"model, which has {classes}: probes go without labels. Give `probes=` with labels."
    )
    return replace(chosen, labels=None)
