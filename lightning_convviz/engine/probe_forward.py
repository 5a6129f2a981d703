"""The probes' way through the model, and the one forward that all callbacks with the same probes share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_convviz import _lightning, cams, layers, outputs, targets
from lightning_convviz._lightning import LightningModule, Trainer
from lightning_convviz.engine.contract import ForwardRequest, PictureSet, ProbeView, Settings
from lightning_convviz.pixels import estimate
from lightning_convviz.probes import Probes


@dataclass(frozen=True)
class Results:
    """What one callback asked for: of the probes, and by name of its further pictures."""

    probes: cams.ForwardResult
    explained: Mapping[str, cams.ForwardResult]


@dataclass(frozen=True)
class ProbeForward:
    """A way through the model, for callbacks with the same probes that read the output alike.

    Attributes:
        view: what callbacks see of it.
        settings: those of the callback that came first; the others' agree in what matters here.
        call: what the images are given to.
        as_input: images -> the same in the run's precision.
        has_foreign_labels: whether the probes' integers turned out to be no classes of the model.
        keeps_state: whether a forward in evaluation mode writes to buffers, as the observers of fake quantization do:
            then what it returns for an image may depend on the others in the batch.
        modules: the model's sub-modules at that time, by identity: it may change while it trains.
    """

    view: ProbeView
    settings: Settings
    call: Callable[..., Any]
    as_input: Callable[[Tensor], Tensor]
    has_foreign_labels: bool
    keeps_state: bool
    modules: Sequence[int]

    @classmethod
    def of(
        cls,
        trainer: Trainer,
        module: LightningModule,
        probes: Probes,
        settings: Settings,
        *,
        input_module: str | None,
        classifier: bool,
    ) -> "ProbeForward":
        """Run the probes once, to see which layers run; inside `isolated(module)`.

        Raises:
            ValueError: where model and probes do not fit.
        """
        as_input = partial(_lightning.as_input, trainer)
        images = as_input(probes.images.to(module.device, _width(module.dtype)))
        moved = (probes if probes.space else replace(probes, space=estimate(images))).to(images)
        call = _find_call(module, settings.forward, input_module)
        forward, arguments = partial(_run_in_precision, trainer, call), moved.arguments(call)
        returned: list[Any] = []
        written = _versions(module)
        with torch.no_grad():
            trace = layers.trace(module, lambda: returned.append(_first_forward(forward, images, arguments)))
        checked = _without_foreign_labels(moved, returned[0], settings) if classifier else moved
        foreign = checked.labels is None and moved.labels is not None
        view = ProbeView(module, checked, checked.display(), trace, forward, arguments, not foreign)
        keeps_state = _versions(module) != written
        return cls(view, settings, call, as_input, foreign, keeps_state, [id(part) for part in module.modules()])

    def run(self, requests: Mapping[str, ForwardRequest]) -> dict[str, Results]:
        """One forward for all callbacks, by name: each gets what it asked for.

        Further pictures go along with the probes where shapes and heatmaps agree, and only one callback wants heatmaps;
        else in a forward of their own.
        """
        names = list(dict.fromkeys(name for request in requests.values() for name in request.layers))
        wanted = [each for request in requests.values() for each in request.explanations]
        explaining = [name for name, request in requests.items() if request.explanations]
        sets = {
            (name, key): replace(pictures, probes=self._prepared(pictures.probes))
            for name, request in requests.items()
            for key, pictures in request.pictures.items()
        }
        probes = PictureSet(self.view.probes, wanted)
        riders = [key for key, each in sets.items() if [key[0]] == explaining and self._fit_together(probes, each)]
        try:
            first, *others = self._run_together([probes, *(sets[key] for key in riders)], names)
        except torch.OutOfMemoryError:
            if not riders:
                raise
            riders = []
            first, *others = self._run_together([probes], names)
        found = dict(zip(riders, others, strict=True))
        rest = {key: each for key, each in sets.items() if key not in found}
        while rest:
            leader = next(iter(rest.values()))
            group = [key for key, each in rest.items() if self._fit_together(leader, each)]
            found |= dict(zip(group, self._run_together([rest.pop(key) for key in group], ()), strict=True))
        results, offset = {}, 0
        for name, request in requests.items():
            last = offset + len(request.explanations)
            own = cams.ForwardResult(
                first.logits,
                {layer: first.outputs[layer] for layer in request.layers},
                first.maps[offset:last],
                first.uniform_gradient[offset:last],
            )
            results[name] = Results(own, {key: found[name, key] for key in request.pictures})
            offset = last
        return results

    def _prepared(self, probes: Probes) -> Probes:
        """Other pictures on the model's device, in the run's precision."""
        like = self.view.probes.images
        return probes.to(self.as_input(probes.images.to(like.device, _width(like.dtype))))

    def _fit_together(self, one: PictureSet, other: PictureSet) -> bool:
        """Whether two sets can go through the model in one batch, and come out as they would alone."""
        if one is other:
            return True
        if self.keeps_state or _methods(one) != _methods(other):
            return False
        if one.probes.images.shape[1:] != other.probes.images.shape[1:]:
            return False
        inputs = [each.probes.arguments(self.call) for each in (one, other)]
        shapes = [{name: given.shape[1:] for name, given in each.items()} for each in inputs]
        return shapes[0] == shapes[1]

    def _run_together(self, sets: Sequence[PictureSet], names: Sequence[str]) -> list[cams.ForwardResult]:
        """One forward for several sets, whose heatmaps differ in their targets alone; layers are those of the first."""
        counts = [len(each.probes) for each in sets]
        inputs = [each.probes.arguments(self.call) for each in sets]
        slots = list(zip(*(each.explanations for each in sets), strict=True))
        joined: dict[tuple[int, ...], Any] = {}  # one object for the same targets: then they share a backward
        for slot in slots:
            own = [each.target for each in slot]
            if (key := tuple(map(id, own))) not in joined:
                joined[key] = _joined(own, counts)
        result = cams.run_forward(
            self.view.model,
            torch.cat([each.probes.images for each in sets]) if len(sets) > 1 else sets[0].probes.images,
            forward=self.view.forward,
            output=self.settings.output,
            extra_inputs={name: torch.cat([each[name] for each in inputs]) for name in inputs[0]},
            layers=names,
            explanations=[replace(slot[0], target=joined[tuple(id(each.target) for each in slot)]) for slot in slots],
            reshape=self.settings.reshape,
        )
        ends = [sum(counts[: place + 1]) for place in range(len(counts))]
        parts = [_rows(result, slice(end - count, end)) for end, count in zip(ends, counts, strict=True)]
        return [parts[0], *(replace(part, outputs={}) for part in parts[1:])]


def sharing_key(settings: Settings, classifier: bool) -> tuple[object, ...]:
    """Callbacks with the same key look at the same probes through the same forward, and read its output alike."""
    source = (settings.num_probes, settings.dataloader_idx) if settings.probes is None else (id(settings.probes),)
    return *source, *(id(each) for each in (settings.forward, settings.output, settings.reshape)), classifier


def _methods(pictures: PictureSet) -> list[tuple[Any, Any]]:
    return [(each.layer, each.method) for each in pictures.explanations]


def _joined(own: Sequence[Any], counts: Sequence[int]) -> Any:
    if len(own) == 1 or all(isinstance(each, str | int) and each == own[0] for each in own):
        return own[0]
    return targets.concatenate(own, counts)


def _rows(result: cams.ForwardResult, rows: slice) -> cams.ForwardResult:
    return cams.ForwardResult(
        None if result.logits is None else result.logits[rows],
        {name: output[rows] for name, output in result.outputs.items()},
        [maps[rows] for maps in result.maps],
        result.uniform_gradient,
    )


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    """What tells whether any buffer of a module was written to, or replaced."""
    return [(id(each), 0 if each.is_inference() else each._version) for each in module.buffers()]


def _width(dtype: torch.dtype | str) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _find_call(
    module: LightningModule, given: str | Callable[..., Any] | None, input_module: str | None
) -> Callable[..., Any]:
    """What the images are given to: what the user said, the module, or the part that was seen to receive them."""
    if isinstance(given, str):
        return layers.named_layers(module)[layers.find_one(module, given, argument="forward")]
    if given is not None:
        return partial(given, module)
    if _lightning.has_forward(module):
        call: Callable[..., Any] = module
        return call
    if input_module is None:
        raise ValueError(
            f"`{type(module).__name__}` has no `forward` of its own, and no part of it was seen to receive the "
            "images. Give `forward=` the name of a sub-module, or a function (model, images) -> logits."
        )
    return layers.named_layers(module)[input_module]


def _run_in_precision(trainer: Trainer, call: Callable[..., Any], images: Tensor, **extra_inputs: Tensor) -> Any:
    """A forward in the run's own precision."""
    with _lightning.precision(trainer):
        return call(images, **extra_inputs)


def _first_forward(forward: Callable[..., Any], images: Tensor, extra_inputs: Mapping[str, Tensor]) -> Any:
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


def _without_foreign_labels(probes: Probes, output: Any, settings: Settings) -> Probes:
    """Labels that are no classes of the model: an error where a user gave them, else they were something else."""
    try:
        classes = outputs.logits(output, settings.output).shape[1]
    except ValueError:  # no classifier: nobody asks for its classes
        return probes
    highest = -1 if probes.labels is None else int(torch.as_tensor(probes.labels).max())
    if highest < classes:
        return probes
    if settings.probes is not None:
        raise ValueError(f"`probes` has label {highest}; the model has classes 0 to {classes - 1}.")
    _lightning.rank_zero_warn(
        f"lightning_convviz took integers of the validation batch for labels, but {highest} is no class of the "
        f"model, which has {classes}: probes go without labels. Give `probes=` with labels."
    )
    return replace(probes, labels=None)
