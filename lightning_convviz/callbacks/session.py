"""One session for each trainer, shared by our callbacks in it: probes, the recorded forward, observers, the writer."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_convviz import _lightning, batches, layers, outputs, probes, sinks
from lightning_convviz.callbacks.scene import Scene, View, key, looked, one_for_all, precisely, tried
from lightning_convviz.pixels import estimated, find_normalization
from lightning_convviz.probes import Probes

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher


class Session:
    """Everything that the callbacks of one trainer share."""

    def __init__(self, *served: Any) -> None:
        # Weakly: the callbacks hold the session, and the trainer holds the callbacks.
        self._served = [ref(each) for each in served]
        self.watchers: list[Watcher] = []
        self.writer = sinks.Writer()
        self.pending: list[sinks.Drawing] = []
        self._passed: Probes | None = None
        self._unreadable: ValueError | None = None
        self._images: Tensor | None = None
        self._receiver: str | None = None
        self._given_up = False
        self._settled = False
        self._scenes: dict[tuple[int, int, int], Scene] = {}
        self._handles: list[RemovableHandle] = []

    def serves(self, *served: Any) -> bool:
        """Whether this is the session of a trainer and its model."""
        return len(self._served) == len(served) and all(a() is b for a, b in zip(self._served, served, strict=True))

    # -- passing batches ---------------------------------------------------------------------------------------------

    def open(self, module: nn.Module) -> None:
        """At the start of a validation: let observers see the user's own forward."""
        self.close()
        if not self._settled and self._missing():  # a sanity check of few batches; the same ones come again
            self._passed = None
            self._scenes.clear()
        parts = self._visible(module)
        unguided = any(watcher.forward_ is None for watcher in self.watchers)
        if unguided and self._receiver is None and not _lightning.has_forward(module):
            for name, part in parts.items():
                self._handles.append(part.register_forward_pre_hook(partial(self._note, name)))
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
        inside = {name: part for name, part in layers.named(module).items() if not f"{name}.".startswith(roots)}
        return inside | layers.wrappers(module)

    def before(self, batch: Any) -> None:
        """Before a batch is validated: know its images, to see where they go in."""
        if self._receiver is None and self._handles:
            with suppress(ValueError):
                self._images = batches.read(batch)[0]

    def _note(self, name: str, part: nn.Module, args: Any) -> None:
        if self._receiver is None and args and args[0] is self._images:
            self._receiver = name

    def after(self, trainer: _lightning.Trainer, batch: Any, loader: int) -> None:
        """After a batch is validated: keep its images as probes while there are too few."""
        self._images = None
        missing = self._missing()
        if self._settled or not missing or loader != 0:
            return
        with torch.inference_mode(False), torch.no_grad():
            try:
                images, labels, others = batches.read(batch)
            except ValueError as error:
                self._unreadable = error
                return
            if labels is not None and int(labels.min()) < 0:  # a convention for "not labeled"
                labels = None
            if self._passed is not None and images.shape[1:] != self._passed.images.shape[1:]:
                return
            rows = batches.spread_classes(labels, len(images), missing)
            images = images.detach().clone()
            new = Probes(images, labels, others={key: other.clone() for key, other in others.items()}).take(rows)
            self._passed = _named(new if self._passed is None else _appended(self._passed, new), _dataset(trainer))
        self._scenes.clear()

    def _missing(self) -> int:
        """How many probes are still to be taken from the validation data."""
        wanted = max((watcher.num_probes for watcher in self.watchers if watcher.given is None), default=0)
        return wanted - (0 if self._passed is None else len(self._passed))

    def settle(self) -> None:
        """At the first drawing that is shown: from now on the probes stay the same."""
        self._settled = True

    # -- drawing -----------------------------------------------------------------------------------------------------

    def view(self, watcher: "Watcher", trainer: Any, module: Any, *, initial: bool) -> View:
        """The model seen through a callback's probes; call it inside `isolated(module)`."""
        place = key(watcher)
        if place not in self._scenes:
            self._scenes[place] = self._scene(watcher, trainer, module)
        scene = self._scenes[place]
        watcher.resolve(module, scene.runs)
        if watcher not in scene.looks:
            self._look(watcher, scene, module)
        return View(
            model=module,
            forward=partial(one_for_all, scene.forward, scene.others),
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
        wide = torch.float64 if module.dtype == torch.float64 else torch.float32
        images = _lightning.as_input(trainer, chosen.images.to(module.device, wide))
        others = {name: other.to(module.device) for name, other in chosen.others.items()}
        chosen = replace(chosen, images=images, others=others, space=chosen.space or estimated(images))
        call = self._forward(watcher.forward_, module)
        forward, arguments = partial(precisely, trainer, call), chosen.arguments(call)
        returned: list[Any] = []
        with torch.no_grad():
            runs = layers.survey(module, lambda: returned.append(tried(forward, images, arguments)))
        chosen = self._fitting(chosen, returned[0], given=watcher.given is not None)
        return Scene(chosen, chosen.shown(), forward, arguments, runs)

    @staticmethod
    def _fitting(chosen: Probes, output: Any, *, given: bool) -> Probes:
        """Labels that are no classes of the model: an error where a user gave them, else they were something else."""
        try:
            classes = outputs.logits(output).shape[1]
        except ValueError:  # no classifier: nobody asks for its classes
            return chosen
        highest = -1 if chosen.labels is None else int(torch.as_tensor(chosen.labels).max())
        if highest < classes:
            return chosen
        if given:
            raise ValueError(f"`probes` has label {highest}; the model has classes 0 to {classes - 1}.")
        _lightning.rank_zero_warn(
            f"lightning_convviz took integers of the validation batch for labels, but {highest} is no class of the "
            f"model, which has {classes}: probes go without labels. Give `probes=` with labels."
        )
        return replace(chosen, labels=None)

    def _probes(self, watcher: "Watcher") -> Probes:
        if watcher.given is not None:
            return watcher.given
        if self._passed is None:
            raise self._unreadable or ValueError("no validation batch with images has passed. Give `probes=`.")
        return self._passed.take(range(min(watcher.num_probes, len(self._passed))))

    def _forward(self, given: str | Callable[..., Any] | None, module: Any) -> Callable[..., Any]:
        if isinstance(given, str):
            return layers.named(module)[layers.find_one(module, given, argument="forward")]
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
            if other is not watcher and other.due and key(other) == key(watcher):
                with suppress(Exception):  # it will say so itself when its turn comes
                    other.resolve(module, scene.runs)
                    sharers[other] = other.wants(scene.probes)
        try:
            scene.looks.update(looked(scene, module, sharers))
        except ValueError:  # perhaps another's fault: then each by itself
            scene.looks.update(looked(scene, module, {watcher: sharers[watcher]}))

    def forget(self) -> None:
        """After a validation: what was recorded is of no use any more."""
        for scene in self._scenes.values():
            scene.looks.clear()

    # -- writing -----------------------------------------------------------------------------------------------------

    @staticmethod
    def is_heard(trainer: Any) -> bool:
        """Whether any logger takes what is drawn; `fast_dev_run`'s does, and swallows it."""
        return any(sinks.find(logger) or _lightning.is_dummy(logger) for logger in trainer.loggers)

    @staticmethod
    def tell_about_loggers(trainer: Any) -> None:
        """Warn where a logger takes no pictures, or there is none."""
        loggers = [logger for logger in trainer.loggers if not _lightning.is_dummy(logger)]
        blind = [type(logger).__name__ for logger in loggers if not sinks.find(logger)]
        if blind or not trainer.loggers:
            what = f"writes to TensorBoard, not to {', '.join(blind)}" if blind else "found no logger"
            _lightning.rank_zero_warn(
                f"lightning_convviz {what}. Give the Trainer a TensorBoardLogger to see its pictures, or register a "
                "function for your logger with `lightning_convviz.sinks.register`."
            )

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
        if not self._given_up and not self.writer.drain():
            self._given_up = True  # each callback comes by here; one wait is enough
            _lightning.rank_zero_warn(
                f"lightning_convviz: the last pictures were not written within {sinks.PATIENCE:.0f} s and may be lost."
            )
        self.flush(trainer)
        self._scenes.clear()


def _named(collected: Probes, dataset: Any) -> Probes:
    """The probes with what their data set knows of names and normalization."""
    names = probes.find_class_names(dataset)
    if collected.labels is not None and names and int(torch.as_tensor(collected.labels).max()) >= len(names):
        names = None
    return replace(collected, class_names=names, space=find_normalization(dataset) or estimated(collected.images))


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
