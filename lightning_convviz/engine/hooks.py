"""Hooks in the user's own validation: where the images go in, what comes out, and what layers return on the way."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_convviz import _lightning, batches, layers
from lightning_convviz._lightning import Trainer
from lightning_convviz.engine.contract import Accumulator, Observers, Settings
from lightning_convviz.engine.logits import LogitsCapture
from lightning_convviz.engine.probe_store import Read


class BatchReader:
    """Finds images, labels and further inputs in a batch: once, whoever asks."""

    def __init__(self) -> None:
        self._source: tuple[Any, Any] | None = None
        self._found: dict[int, Read | ValueError] = {}

    def begin(self, trainer: Trainer, batch: Any) -> None:
        """A batch is about to be validated."""
        self._source, self._found = (trainer, batch), {}

    def read(self, loader: int) -> Read:
        """Images, labels and further inputs of a loader's part of the batch.

        Raises:
            ValueError: where it has no images.
        """
        assert self._source is not None  # a batch has begun
        # Of loaders that come one after the other the batch is one loader's, whichever it is.
        part = 0 if _lightning.is_sequential(self._source[0]) else loader
        if part not in self._found:
            try:
                self._found[part] = batches.read(_lightning.of_loader(*self._source, loader))
            except ValueError as error:
                self._found[part] = error
        found = self._found[part]
        if isinstance(found, ValueError):
            raise found
        return found

    def clear(self) -> None:
        """The batch has passed, and is not to be kept."""
        self._source, self._found = None, {}


class LayerObservers:
    """The accumulators of one callback in one validation.

    Attributes:
        accumulators: by layer.
        reduced: of the batch that passes: each accumulator, what it kept of its layer's output, and of how many images.
    """

    def __init__(self, observers: Observers, on_error: Callable[[Exception], None]) -> None:
        self.accumulators: dict[str, list[Accumulator]] = {}
        for name, accumulator in observers:
            self.accumulators.setdefault(name, []).append(accumulator)
        self._on_error = on_error
        self._seen: set[str] = set()
        self.reduced: list[tuple[Accumulator, Any, int]] = []

    def observe(self, name: str, part: nn.Module, args: Any, output: Any) -> None:
        """A forward hook in the user's own forward: whatever goes wrong here is ours."""
        if name in self._seen or not isinstance(output, Tensor):
            return
        self._seen.add(name)  # the first call in a batch is taken for that of its images
        try:
            with torch.no_grad():
                for accumulator in self.accumulators[name]:
                    self.reduced.append((accumulator, accumulator.reduce(output.detach()), len(output)))
        except Exception as error:
            self._on_error(error)

    def clear(self) -> None:
        """A batch has passed."""
        self._seen.clear()
        self.reduced.clear()


@dataclass
class Listener:
    """What is taken from a validation for one callback.

    Attributes:
        settings: how the callback gets from images to logits.
        observers: its accumulators.
        capture: what the forward returns, where the callback needs logits.
    """

    settings: Settings
    observers: LayerObservers
    capture: LogitsCapture | None = None

    def clear(self) -> None:
        """A batch has passed."""
        self.observers.clear()
        if self.capture is not None:
            self.capture.clear()


class ValidationHooks:
    """Hooks from the first batch of a validation that is to be drawn to its last.

    Attributes:
        input_module: the outermost part that received the images, for modules without a forward of their own.
    """

    def __init__(self) -> None:
        self.input_module: str | None = None
        self._module: nn.Module | None = None
        self._listeners: Sequence[Listener] = ()
        self._images: Tensor | None = None
        self._finds_input = False
        self._handles: list[RemovableHandle] = []

    def open(self, module: nn.Module, listeners: Sequence[Listener], *, finds_input: bool) -> None:
        """Attach to the user's own forward, for all callbacks at once.

        Args:
            module: the user's own.
            listeners: of the callbacks that are due.
            finds_input: whether to find out which part receives the images, where the module has no forward of its own:
                on every rank, since each may have to run the model.
        """
        self.close()
        self._module, self._listeners = module, listeners
        parts = _visible(module)
        self._finds_input = finds_input and self.input_module is None and not _lightning.has_forward(module)
        if self._finds_input:
            for name, part in parts.items():
                self._handles.append(part.register_forward_pre_hook(partial(self._note, name), with_kwargs=True))
        for listener in listeners:
            logits_module = self._logits_module(listener.settings.forward, module, parts)
            if listener.capture is not None and logits_module is not None:
                self._handles += listener.capture.attach(logits_module)
            for name in listener.observers.accumulators:
                if name in parts:
                    self._handles.append(parts[name].register_forward_hook(partial(listener.observers.observe, name)))

    def close(self) -> None:
        """After the last batch, or where the run ends: no hook stays behind."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._listeners, self._images, self._module = [], (), None, None

    def before_batch(self, reader: BatchReader) -> None:
        """A batch is about to be validated: know its images, to see where they go in."""
        for listener in self._listeners:
            listener.clear()
        if self._finds_input and self.input_module is None:
            with suppress(ValueError):
                self._images = reader.read(0)[0]

    def after_batch(self) -> None:
        """A batch has passed, and everybody has taken what it wants."""
        self._images = None
        for listener in self._listeners:
            listener.clear()

    def _note(self, name: str, part: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """A pre-hook: does this part receive the images?"""
        if self.input_module is not None or not any(given is self._images for given in [*args[:1], *kwargs.values()]):
            return
        self.input_module = name
        for listener in self._listeners:
            guided = listener.settings.forward is not None
            if listener.capture is not None and not guided and self._module and _is_whole(self._module, part):
                self._handles.append(part.register_forward_hook(listener.capture.take))

    def _logits_module(self, forward: Any, module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module | None:
        """The part whose output the user's own validation takes for logits, if its hooks fire."""
        if isinstance(forward, str):
            return parts.get(layers.canonical_name(forward))
        if callable(forward):
            return None
        if _lightning.has_forward(module):
            return None if _lightning.is_compiled(module) else module
        part = None if self.input_module is None else parts.get(self.input_module)
        return part if part is not None and _is_whole(module, part) else None


def _is_whole(module: nn.Module, part: nn.Module) -> bool:
    """Whether a part holds all that is learned: the output of a backbone before a head is no logits."""
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
