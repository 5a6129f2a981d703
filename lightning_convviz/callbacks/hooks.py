"""The hooks that a session has in the user's own validation: observers, where the images go in, what comes out."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_convviz import _lightning, batches, layers
from lightning_convviz.callbacks.answers import Answers, hear

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher


class Hooks:
    """Hooks from the start of a validation to its end.

    Attributes:
        receiver: the outermost part that received the images, for modules without a forward of their own.
    """

    def __init__(self) -> None:
        self.receiver: str | None = None
        self._module: nn.Module | None = None
        self._images: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        self._answers: dict[Watcher, Answers] = {}
        self._observed: list[Watcher] = []

    def open(self, module: nn.Module, watchers: Sequence["Watcher"]) -> None:
        """At the start of a validation: let observers see the user's own forward."""
        self.close()
        self._module = module
        parts = _visible(module)
        self._answers = {each: Answers(partial(_is_due, each)) for each in watchers if each.hears}
        unguided = any(watcher.forward_ is None for watcher in watchers)
        if unguided and self.receiver is None and not _lightning.has_forward(module):
            for name, part in parts.items():
                self._handles.append(part.register_forward_pre_hook(partial(self._note, name), with_kwargs=True))
        for watcher, answers in self._answers.items():
            speaker = self._speaker(watcher, module, parts)
            self._handles += [] if speaker is None else answers.listen(speaker)
        for watcher in watchers:
            observers = watcher.observers()
            self._observed += [watcher] if observers else []
            for name, reduce in observers.items():
                if name in parts:
                    hook = partial(_observe, watcher, reduce)
                    self._handles.append(parts[name].register_forward_hook(hook))

    def close(self) -> None:
        """At the end of a validation, or of the run: no hook stays behind."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._answers, self._observed, self._images, self._module = [], {}, [], None, None

    def _speaker(self, watcher: "Watcher", module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module | None:
        """The part whose output the user's own validation takes for logits, if its hooks fire."""
        if isinstance(watcher.forward_, str):
            return parts.get(layers.canonical_name(watcher.forward_))
        if callable(watcher.forward_):
            return None
        if _lightning.has_forward(module):
            return None if _lightning.is_compiled(module) else module
        receiver = None if self.receiver is None else parts.get(self.receiver)
        return receiver if receiver is not None and _is_whole(module, receiver) else None

    def before(self, trainer: Any, batch: Any) -> None:
        """Before a batch is validated: know its images, to see where they go in."""
        for answers in self._answers.values():
            answers.clear()
        if self.receiver is None and self._handles:
            with suppress(ValueError):
                self._images = batches.read(_lightning.of_loader(trainer, batch, 0))[0]

    def _note(self, name: str, part: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if self.receiver is None and any(given is self._images for given in [*args[:1], *kwargs.values()]):
            self.receiver = name
            for watcher, answers in self._answers.items():
                if watcher.forward_ is None and self._module is not None and _is_whole(self._module, part):
                    self._handles.append(part.register_forward_hook(answers.take))

    def after(self, trainer: Any, batch: Any, loader: int, returned: Any) -> None:
        """After a batch was validated: let those hear that want to know what was said of it."""
        self._images = None
        for watcher, answers in self._answers.items():
            here = loader == watcher.dataloader_idx or not _lightning.is_sequential(trainer)
            if watcher.hears and watcher.turn.due and here:
                hear(watcher, answers, trainer, batch, returned)
            answers.clear()
        for watcher in self._observed:
            images = None
            if watcher.turn.due and (loader == watcher.dataloader_idx or not _lightning.is_sequential(trainer)):
                with suppress(ValueError):  # a batch without images
                    images = batches.read(_lightning.of_loader(trainer, batch, watcher.dataloader_idx))[0]
            watcher.passed(images)


def _is_due(watcher: "Watcher") -> bool:
    return watcher.turn.due


def _is_whole(module: nn.Module, part: nn.Module) -> bool:
    """Whether a part holds all that is learned: of a backbone before a head the output is no answer."""
    return sum(1 for _ in part.parameters()) == sum(1 for _ in module.parameters())


def _visible(module: nn.Module) -> dict[str, nn.Module]:
    """Sub-modules whose hooks fire: a hook inside a compiled region would be compiled in, or never run."""
    regions = layers.compiled_regions(module)
    whole = _lightning.is_compiled(module) or "" in regions
    roots = ("",) if whole else tuple(f"{root}." for root in regions)
    inside = {
        name: part
        for name, part in layers.named_layers(module).items()
        if not f"{name}.".startswith(roots) and not isinstance(part, torch.jit.ScriptModule)
    }
    return inside | layers.wrappers(module)


def _observe(watcher: "Watcher", reduce: Callable[[Tensor], None], part: nn.Module, args: Any, output: Any) -> None:
    """A hook in the user's own forward: whatever goes wrong here is ours."""
    try:
        if isinstance(output, Tensor) and watcher.turn.due:
            with torch.no_grad():
                reduce(output.detach())
    except Exception as error:
        watcher.failed(error)
