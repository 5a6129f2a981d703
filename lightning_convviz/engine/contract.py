"""What engine and callbacks share: the engine decides when, where, on what and on which rank; a `Visualizer` says what.

These are the only types that both know. A visualizer never reaches into the engine, and the engine sees nothing of a
visualizer but what stands here. In the order of a run:

1. before anything runs: `validate(model)`, which complains about layers that the model does not have;
2. at the start of each validation that is to be drawn: `start_validation(run)`, which names the layers to observe;
3. for each batch that passes: the accumulators of these layers, then `on_batch(batch)`;
4. after the last batch, with the model isolated: `select(view)` chooses layers, `request(view)` says what to take from
   the one forward that all callbacks share, `compute(context, share)` does the rest of the work with the model;
5. on rank 0, with what all ranks computed: `draw(context, parts)`, which returns a `DrawResult`;
6. in any case: `end_validation()`, which forgets what was taken from this validation.

In lockstep only rank 0 observes, and all ranks run the same forwards: there `request` and `compute` must not depend on
what was observed. Step 4 and 5 are also tried once before training, on the initial network: what does not fit fails
there.
"""

# ruff: noqa: B027  # most methods of a `Visualizer` may be left as they are

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lightning_convviz.cams import Explanation, ForwardResult
from lightning_convviz.history import Snapshot
from lightning_convviz.layers import LayerTrace
from lightning_convviz.probes import Probes
from lightning_convviz.render import Drawable

__all__ = [
    "Accumulator",
    "DrawContext",
    "DrawResult",
    "Droppable",
    "Explanation",
    "Forward",
    "ForwardRequest",
    "ForwardResult",
    "Mode",
    "Needs",
    "Observers",
    "PictureSet",
    "ProbeView",
    "RunInfo",
    "Settings",
    "Snapshot",
    "ValidationBatch",
    "Visualizer",
]

Mode = Literal["solo", "shared", "lockstep"]

# Functions first: a command line tries the types of a union in their order, and everything is a string.
Forward = Callable[..., Any] | str | None


# -- what a callback says ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the user said of one callback, as far as it concerns the engine.

    Attributes:
        name: the first part of the tags; tells the callbacks of a Trainer apart.
        probes: the images to watch; None takes them from the first validation batches.
        num_probes: how many of them to take.
        dataloader_idx: from which validation loader.
        every_n_epochs: draw in every n-th epoch, or at validations 1, 2, 4, 8, ... with "log".
        forward: how to get from images to the model's output: a sub-module's name, or a function (model, images, ...);
            None is the model's own.
        output: what the model returns -> logits (n, k), where `outputs.logits` can't find them.
        reshape: a layer's output -> maps (n, c, y, x), where `layers.layout` can't tell.
        logits: what `validation_step` returns -> logits.
        save_dir: a local folder for pictures as files, beside what the loggers take.
        save_images: whether pictures of the validation data may be kept in checkpoints.
        on_error: "warn" when a drawing fails, or "raise".
        initial: whether to try a drawing before training, on the initial network.
    """

    name: str
    probes: Probes | None = None
    num_probes: int = 8
    dataloader_idx: int = 0
    every_n_epochs: int | Literal["log"] = 1
    forward: Forward = None
    output: Callable[..., Any] | None = None
    reshape: Callable[..., Any] | None = None
    logits: Callable[..., Any] | None = None
    save_dir: Path | None = None
    save_images: bool = True
    on_error: Literal["warn", "raise"] = "warn"
    initial: bool = True


@dataclass(frozen=True)
class Needs:
    """What a callback asks of the run.

    Attributes:
        logits: the logits of the user's own validation forward, with the labels, in `ValidationBatch`.
        classifier: whether what the model returns are read as logits of classes.
        divisible: whether `compute` can be divided over ranks that each hold the whole model.
    """

    logits: bool = False
    classifier: bool = True
    divisible: bool = False


@dataclass(frozen=True)
class Droppable:
    """A part of a state that is left out where a checkpoint would grow too large.

    Attributes:
        what: it is, for the message.
        argument: of the callback, which makes it smaller.
    """

    what: str
    argument: str


# -- what passes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunInfo:
    """All that a callback may know of the processes of a run.

    Attributes:
        rank: of this process.
        world_size: how many processes there are.
        mode: how the current drawing is made: "solo", by rank 0 alone; "shared", its work divided over ranks that each
            hold the whole model and validate a share of the data; "lockstep", by all ranks in the same steps, since
            each holds a part of the model.
        provisional: whether rank 0 draws alone though the ranks of this run divide the work of later drawings.
    """

    rank: int = 0
    world_size: int = 1
    mode: Mode = "solo"
    provisional: bool = False

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that draws and writes."""
        return self.rank == 0


@dataclass(frozen=True)
class ValidationBatch:
    """A batch of the user's own validation that has just passed.

    Attributes:
        images: (n, c, h, w), as the step was given them.
        labels: (n,) class indices; None where there are none.
        logits: (n, k), what the user's own forward returned; None where a callback needs none or they can't be had.
        extra_inputs: further tensors of the batch with n rows, by their name or place in it.
        positions: which images of the validation data these are, from 0.
    """

    images: Tensor
    labels: Tensor | None
    logits: Tensor | None
    extra_inputs: Mapping[str | int, Tensor]
    positions: range


@runtime_checkable
class Accumulator(Protocol):
    """Running figures of one layer's output over a validation, with the verbs of torchmetrics; see `layer_stats`."""

    def reduce(self, output: Tensor) -> Any:
        """What to keep of a batch's output. Runs inside the user's forward: it must not wait for the device."""

    def update(self, batch: Any, images: Tensor) -> None:
        """Take what `reduce` returned, now that the batch's images are known. Must not wait for the device."""

    def compute(self) -> Any:
        """The figures so far; None where nothing has passed."""

    @staticmethod
    def merge(parts: Sequence[Any]) -> Any:
        """What several ranks computed, as one."""


# A layer's name and what accumulates its output; a layer may be named several times.
Observers = Sequence[tuple[str, Accumulator]]


# -- the shared forward ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureSet:
    """Other pictures than the probes, and the heatmaps wanted of them."""

    probes: Probes
    explanations: Sequence[Explanation]


@dataclass(frozen=True)
class ForwardRequest:
    """What a callback wants of the forward that all callbacks share.

    Attributes:
        layers: names of those whose outputs for the probes are recorded.
        explanations: heatmaps of the probes.
        pictures: further pictures to explain, by a name; they go through the model together with the probes where
            their shapes agree.
    """

    layers: Sequence[str] = ()
    explanations: Sequence[Explanation] = ()
    pictures: Mapping[str, PictureSet] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeView:
    """The model as seen through the probes.

    Attributes:
        model: isolated: in evaluation mode, and put back as it was afterwards.
        probes: on the model's device, in the run's precision.
        photos: the probes for display, (n, 3, h, w) in [0, 1].
        trace: which layers ran, in order, with the shapes of their outputs.
        forward: images, and extra inputs by name -> what the model returns, in the run's precision.
        extra_inputs: those of the probes, for `forward`.
        labels_are_classes: False where the integers of the validation batches turned out to be no classes of the model:
            then what was counted of them in this validation means nothing.
    """

    model: nn.Module
    probes: Probes
    photos: Tensor
    trace: Mapping[str, LayerTrace]
    forward: Callable[..., Any]
    extra_inputs: Mapping[str, Tensor]
    labels_are_classes: bool

    def forward_any(self, images: Tensor) -> Any:
        """Run any number of images, with the extra inputs of the first probe."""
        n = len(images)
        inputs = {name: given[:1].expand(n, *given.shape[1:]) for name, given in self.extra_inputs.items()}
        return self.forward(images, **inputs)

    def forward_repeated(self, images: Tensor) -> Any:
        """Run altered copies of the probes, whole repeats of all of them, each with its own extra inputs."""
        n = len(self.probes)
        inputs = {name: torch.cat([given] * (len(images) // n)) for name, given in self.extra_inputs.items()}
        return self.forward(images, **inputs)


@dataclass(frozen=True)
class DrawContext(ProbeView):
    """What a drawing is made from.

    Attributes:
        snapshot: which network this is: epoch, step, a caption.
        result: logits, layers' outputs and maps that the callback asked for, of the probes.
        explained: the same for each of the further pictures that it asked for.
        run: where this is: rank, number of ranks, how they take part.
        warn: (doing, error): warn once, in the callback's name, of something that costs a part of the drawing.
    """

    snapshot: Snapshot
    result: ForwardResult
    explained: Mapping[str, ForwardResult]
    run: RunInfo
    warn: Callable[[str, BaseException], None]


@dataclass(frozen=True)
class DrawResult:
    """What `draw` returns.

    Attributes:
        pictures: by tag, tags always the same.
        scalars: by tag, below `convviz/<name>/`.
        diagnostics: what there is to tell a person about this network, in Markdown; empty where there is nothing.
        animations: made at the end of the fit, by tag, from what the last drawing of it returned.
    """

    pictures: Mapping[str, Drawable]
    scalars: Mapping[str, float] = field(default_factory=dict)
    diagnostics: str = ""
    animations: Mapping[str, Callable[[], Drawable]] = field(default_factory=dict)


# -- the callback ------------------------------------------------------------------------------------------------------


class Visualizer(ABC):
    """What is to be seen of a network, without when, where and on which rank.

    Only `draw` has to be written. The methods are called in the order that the module's docstring gives; whatever one
    of them raises costs that drawing and not the training, except before training, where it ends the run at once.

    Attributes:
        settings: what the user said.
        needs: what this asks of the run.
        droppable: parts of the state that are left out of a checkpoint that would grow too large, by their key.
    """

    settings: Settings
    needs: Needs = Needs()
    droppable: ClassVar[Mapping[str, Droppable]] = {}

    def reset(self) -> None:
        """A new run begins: nothing is chosen or kept yet."""

    def validate(self, model: nn.Module) -> None:
        """Before anything runs.

        Raises:
            ValueError: for a layer that the model does not have.
        """

    def start_validation(self, run: RunInfo) -> Observers:
        """A validation that is to be drawn begins: forget the last one, and say which layers to observe.

        Hooks are set only after all callbacks have answered.
        """
        return ()

    def on_batch(self, batch: ValidationBatch) -> None:
        """Take a batch of this callback's loader; must not wait for the device."""

    def end_validation(self) -> None:
        """The validation is drawn, or its drawing failed: keep nothing of it on the device while training goes on."""

    def select(self, view: ProbeView) -> None:
        """Choose layers and channels, once, from those that ran (`view.trace`).

        Raises:
            ValueError: where what was asked for did not run or is no map.
        """

    def request(self, view: ProbeView) -> ForwardRequest:
        """What to take from the shared forward."""
        return ForwardRequest()

    def compute(self, context: DrawContext, share: slice) -> Any:
        """What else needs the model, which is isolated while this runs.

        Returns:
            What `draw` gets of this rank; on several ranks it has to be picklable and in main memory.

        Args:
            context: what the drawing is made from.
            share: which items of a list are this rank's to work on.
        """

    @abstractmethod
    def draw(self, context: DrawContext, parts: Sequence[Any]) -> DrawResult:
        """The pictures, from what every rank computed, in their order; on rank 0 alone."""

    # -- ranks and checkpoints --

    def shared_choice(self) -> Mapping[str, Any]:
        """What rank 0 chose before training, as plain values, for ranks that drew nothing there."""
        return {}

    def adopt_choice(self, choice: Mapping[str, Any]) -> None:
        """Take what rank 0 chose."""

    def export_state(self) -> dict[str, Any]:
        """What a resumed run goes on with: tensors, strings, numbers, lists and dicts.

        Not `state_dict`, which Lightning calls itself, for the whole callback.
        """
        return {}

    def import_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what `export_state` returned in an earlier run."""
