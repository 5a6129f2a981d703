"""One session for each trainer, shared by our callbacks in it: probes, the recorded forward, observers, the writer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_convviz import _lightning, cams, layers, probes, sinks
from lightning_convviz.pixels import estimated, find_normalization
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
class View:
    """What a drawing is made from.

    Attributes:
        model: the module, isolated while `draw` runs.
        forward: images -> what the model returns, in the run's precision.
        runs: which layers of it ran, in order, with the shapes of their outputs.
        probes: on the model's device.
        photos: the probes for display, (n, 3, h, w) in [0, 1].
        look: logits, outputs and maps for what the callback wants, in its order.
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        initial: whether this is the network before its first step.
    """

    model: nn.Module
    forward: Callable[[Tensor], Any]
    runs: Mapping[str, layers.Run]
    probes: Probes
    photos: Tensor
    look: cams.Look
    epoch: int
    step: int
    initial: bool

    @property
    def moment(self) -> str:
        """When this is, for captions."""
        return "initial network" if self.initial else f"epoch {self.epoch} · step {self.step}"


@dataclass
class Scene:
    """Probes on the model's device and the way through the model, for the callbacks that share both."""

    probes: Probes
    photos: Tensor
    forward: Callable[..., Any]
    others: dict[str, Tensor]
    runs: dict[str, layers.Run]
    looks: dict["Watcher", cams.Look] = field(default_factory=dict)


class Session:
    """Everything that the callbacks of one trainer share."""

    _all: "WeakKeyDictionary[Any, Session]" = WeakKeyDictionary()

    @classmethod
    def of(cls, trainer: Any) -> "Session":
        """The trainer's session; made when first asked for."""
        if trainer not in cls._all:
            cls._all[trainer] = cls()
        return cls._all[trainer]

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []
        self.writer = sinks.Writer()
        self.pending: list[sinks.Drawing] = []
        self._passed: Probes | None = None
        self._receiver: str | None = None
        self._settled = False
        self._scenes: dict[tuple[int, int, int], Scene] = {}
        self._handles: list[RemovableHandle] = []

    # -- passing batches ---------------------------------------------------------------------------------------------

    def open(self, module: nn.Module) -> None:
        """At the start of a validation: let observers see the user's own forward."""
        self.close()
        parts = self._visible(module)
        for watcher in self.watchers:
            for name, reduce in watcher.observers().items():
                if name in parts:
                    hook = partial(_observe, watcher, name, reduce)
                    self._handles.append(parts[name].register_forward_hook(hook))

    def close(self) -> None:
        """At the end of a validation, or of the run: no hook stays behind."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @staticmethod
    def _visible(module: nn.Module) -> dict[str, nn.Module]:
        """Sub-modules whose hooks fire: a hook inside a compiled region would be compiled in, or never run."""
        roots = ("",) if _lightning.is_compiled(module) else tuple(f"{root}." for root in layers.compiled(module))
        return {name: part for name, part in layers.named(module).items() if not f"{name}.".startswith(roots)}

    def before(self, module: Any, batch: Any) -> None:
        """Before a batch is validated: where the module has no forward, see which part gets the images."""
        if self._receiver is not None or _lightning.has_forward(module):
            return
        try:
            images = probes.read(batch)[0]
        except ValueError:
            return

        def note(name: str, part: nn.Module, args: Any) -> None:
            if self._receiver is None and args and args[0] is images:
                self._receiver = name

        for name, part in self._visible(module).items():
            self._handles.append(part.register_forward_pre_hook(partial(note, name)))

    def after(self, trainer: _lightning.Trainer, batch: Any, loader: int) -> None:
        """After a batch is validated: keep its images as probes while there are too few."""
        wanted = max((watcher.num_probes for watcher in self.watchers if watcher.given is None), default=0)
        have = 0 if self._passed is None else len(self._passed)
        if self._settled or have >= wanted or loader != 0:
            return
        with torch.inference_mode(False), torch.no_grad():
            images, labels, others = probes.read(batch)
            rows = probes.spread_classes(labels, len(images), wanted - have)
            images = images.detach().clone()
            new = Probes(images, labels, others={key: other.clone() for key, other in others.items()}).take(rows)
            self._passed = new if self._passed is None else _appended(self._passed, new)
            dataset = _dataset(trainer)
            space = find_normalization(dataset) or estimated(images)
            self._passed = replace(self._passed, class_names=probes.find_class_names(dataset), space=space)
        self._scenes.clear()

    def settle(self) -> None:
        """At the first drawing that is shown: from now on the probes stay the same."""
        self._settled = True

    # -- drawing -----------------------------------------------------------------------------------------------------

    def view(self, watcher: "Watcher", trainer: Any, module: Any, *, initial: bool) -> View:
        """The model seen through a callback's probes; call it inside `isolated(module)`."""
        key = _key(watcher)
        if key not in self._scenes:
            self._scenes[key] = self._scene(watcher, trainer, module)
        scene = self._scenes[key]
        watcher.resolve(module, scene.runs)
        if watcher not in scene.looks:
            self._look(watcher, scene, module)
        return View(
            model=module,
            forward=partial(_one_for_all, scene.forward, scene.others),
            runs=scene.runs,
            probes=scene.probes,
            photos=scene.photos,
            look=scene.looks[watcher],
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            initial=initial,
        )

    def _scene(self, watcher: "Watcher", trainer: Any, module: Any) -> Scene:
        chosen = self._probes(watcher)
        images = _lightning.as_input(trainer, chosen.images.to(module.device))
        others = {name: other.to(module.device) for name, other in chosen.others.items()}
        chosen = replace(chosen, images=images, others=others, space=chosen.space or estimated(images))
        call = self._forward(watcher.forward_, module)
        forward, arguments = partial(_precisely, trainer, call), chosen.arguments(call)
        with torch.no_grad():
            runs = layers.survey(module, partial(_tried, forward, images, arguments))
        return Scene(chosen, chosen.shown(), forward, arguments, runs)

    def _probes(self, watcher: "Watcher") -> Probes:
        if watcher.given is not None:
            return watcher.given
        if self._passed is None:
            raise ValueError("no validation batch with images has passed. Give `probes=`.")
        return self._passed.take(range(min(watcher.num_probes, len(self._passed))))

    def _forward(self, given: str | Callable[..., Any] | None, module: Any) -> Callable[..., Any]:
        if isinstance(given, str):
            (name,) = layers.find(module, [given], argument="forward")
            return layers.named(module)[name]
        if given is not None:
            return partial(given, module)
        if _lightning.has_forward(module):
            call: Callable[..., Any] = module
            return call
        if self._receiver is None:
            raise ValueError(
                f"`{type(module).__name__}` has no `forward` of its own, and no part of it was seen to receive the "
                "images. Give `forward=` the name of a sub-module, or a function (model, images) -> logits."
            )
        return layers.named(module)[self._receiver]

    def _look(self, watcher: "Watcher", scene: Scene, module: Any) -> None:
        """One forward for this callback and all others that are about to look at the same probes."""
        sharers = {watcher: watcher.wants(scene.probes)}
        for other in self.watchers:
            if other is not watcher and other.due and _key(other) == _key(watcher):
                with suppress(Exception):  # it will say so itself when its turn comes
                    other.resolve(module, scene.runs)
                    sharers[other] = other.wants(scene.probes)
        try:
            scene.looks.update(_looked(scene, module, sharers))
        except ValueError:  # perhaps another's fault: then each by itself
            scene.looks.update(_looked(scene, module, {watcher: sharers[watcher]}))

    def forget(self) -> None:
        """After a validation: what was recorded is of no use any more."""
        for scene in self._scenes.values():
            scene.looks.clear()

    # -- writing -----------------------------------------------------------------------------------------------------

    def flush(self, trainer: _lightning.Trainer) -> None:
        """Hand what was drawn to the writer, and tell what it could not write."""
        if self.pending:
            self.writer.submit([logger for logger in trainer.loggers if sinks.find(logger)], self.pending)
            self.pending = []
        for complaint in self.writer.complaints():
            _lightning.rank_zero_warn(f"lightning_convviz could not write everything: {complaint}.")

    def finish(self, trainer: _lightning.Trainer) -> None:
        """At the end of the run, also a broken one: write everything, let everything go."""
        self.close()
        self.flush(trainer)
        if not self.writer.drain():
            _lightning.rank_zero_warn("lightning_convviz: the last pictures were not written within 60 s.")
        self.flush(trainer)
        self._scenes.clear()


def _key(watcher: "Watcher") -> tuple[int, int, int]:
    """Callbacks with the same key look at the same probes through the same forward."""
    return id(watcher.given), 0 if watcher.given is not None else watcher.num_probes, id(watcher.forward_)


def _looked(scene: Scene, module: nn.Module, sharers: Mapping["Watcher", Wants]) -> dict["Watcher", cams.Look]:
    names = list(dict.fromkeys(name for wants in sharers.values() for name in wants.layers))
    explanations = [explanation for wants in sharers.values() for explanation in wants.explanations]
    look = cams.look(
        module, scene.probes.images, forward=scene.forward, others=scene.others, layers=names, explanations=explanations
    )
    looks, first = {}, 0
    for watcher, wants in sharers.items():
        last = first + len(wants.explanations)
        outputs = {name: look.outputs[name] for name in wants.layers}
        looks[watcher] = cams.Look(look.logits, outputs, look.maps[first:last])
        first = last
    return looks


def _precisely(trainer: Any, call: Callable[..., Any], images: Tensor, **others: Tensor) -> Any:
    with _lightning.precision(trainer):
        return call(images, **others)


def _one_for_all(forward: Callable[..., Any], others: Mapping[str, Tensor], images: Tensor) -> Any:
    """A forward of any images, with the other inputs of the first probe."""
    n = len(images)
    return forward(images, **{name: other[:1].expand(n, *other.shape[1:]) for name, other in others.items()})


def _tried(forward: Callable[..., Any], images: Tensor, others: Mapping[str, Tensor]) -> None:
    """The first forward of the probes.

    Raises:
        ValueError: where it fails, since then probes and model do not fit.
    """
    try:
        forward(images.clone(), **others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"the model fails on the probes, a batch of shape {tuple(images.shape)}: {type(error).__name__}: {error} "
            "Give `probes=` that are input of the model, or `forward=` a function (model, images) -> logits."
        ) from error


def _observe(
    watcher: "Watcher", name: str, reduce: Callable[[Tensor], Tensor], part: nn.Module, args: Any, output: Any
) -> None:
    """A hook in the user's own forward: whatever goes wrong here is ours."""
    try:
        if isinstance(output, Tensor):
            with torch.no_grad():
                watcher.observe(name, reduce(output.detach()))
    except Exception as error:
        watcher.failed(error)


def _appended(probes_: Probes, more: Probes) -> Probes:
    labels = None
    if probes_.labels is not None and more.labels is not None:
        labels = torch.cat([torch.as_tensor(probes_.labels), torch.as_tensor(more.labels)])
    others = {key: torch.cat([other, more.others[key]]) for key, other in probes_.others.items() if key in more.others}
    ids = tuple(range(len(probes_) + len(more)))
    return Probes(torch.cat([probes_.images, more.images]), labels, ids=ids, others=others)


def _dataset(trainer: Any) -> Any:
    """The data set behind the first validation loader, without touching the loader."""
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    first = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    return getattr(first, "dataset", None)
