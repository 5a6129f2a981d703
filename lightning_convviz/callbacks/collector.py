"""Takes the probes from the first validation batches that pass, since no loader of the user's may be iterated."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import _lightning, batches, probes
from lightning_convviz.pixels import estimate, find_normalization, for_channels
from lightning_convviz.probes import Probes


class Collector:
    """The probes of one validation loader.

    Attributes:
        loader: its index.
        passed: the probes so far.
        unreadable: why a batch gave none.
        settled: whether they stay as they are from now on.
    """

    def __init__(self, loader: int) -> None:
        self.loader = loader
        self.passed: Probes | None = None
        self.unreadable: ValueError | None = None
        self.settled = False
        self._first: dict[int, Probes] = {}

    def first(self, count: int) -> Probes:
        """The first probes, always the same object for the same ones."""
        assert self.passed is not None  # asked for only where there are some
        if count not in self._first:
            self._first[count] = self.passed.select(range(min(count, len(self.passed))))
        return self._first[count]

    def keep(self, passed: Probes | None) -> None:
        """These are the probes."""
        self.passed, self._first = passed, {}

    def missing(self, wanted: int) -> int:
        """How many are still to be taken."""
        return 0 if self.settled else max(0, wanted - (0 if self.passed is None else len(self.passed)))

    def take(self, trainer: Any, batch: Any, wanted: int) -> bool:
        """Take what is missing from a batch; whether there was something to take."""
        missing = self.missing(wanted)
        if not missing:
            return False
        with torch.inference_mode(False), torch.no_grad():
            try:
                images, labels, extra_inputs = batches.read(_lightning.of_loader(trainer, batch, self.loader))
            except ValueError as error:
                self.unreadable = error
                return False
            if labels is not None and int(labels.min()) < 0:  # a convention for "not labeled"
                labels = None
            if self.passed is not None and not _alike(self.passed, images, extra_inputs):
                return False
            rows = batches.spread_classes(labels, len(images), missing)
            new = Probes(images.detach(), labels, extra_inputs=extra_inputs).select(rows)  # which copies what it takes
            joined = new if self.passed is None else _appended(self.passed, new)
            self.keep(_named(joined, self._dataset(trainer)))
        return True

    def _dataset(self, trainer: Any) -> Any:
        loaders: Sequence[Any] = _lightning.loaders(trainer)
        return getattr(loaders[self.loader], "dataset", None) if self.loader < len(loaders) else None


def _alike(probes_: Probes, images: Tensor, extra_inputs: Mapping[str | int, Tensor]) -> bool:
    """Whether a batch has the shapes of the probes so far."""
    shapes = [(images, probes_.images)] + [
        (other, probes_.extra_inputs.get(key, other)) for key, other in extra_inputs.items()
    ]
    return all(one.shape[1:] == another.shape[1:] for one, another in shapes)


def _named(collected: Probes, dataset: Any) -> Probes:
    """The probes with what their data set knows of names and normalization."""
    names = probes.find_class_names(dataset) or None
    if collected.labels is not None and names and int(torch.as_tensor(collected.labels).max()) >= len(names):
        names = None
    space = for_channels(find_normalization(dataset), collected.images.shape[1])
    return replace(collected, class_names=names, space=space or estimate(collected.images))


def _appended(probes_: Probes, more: Probes) -> Probes:
    labels = None
    if probes_.labels is not None and more.labels is not None:
        labels = torch.cat([torch.as_tensor(probes_.labels), torch.as_tensor(more.labels)])
    extra_inputs = {
        key: torch.cat([other, more.extra_inputs[key]])
        for key, other in probes_.extra_inputs.items()
        if key in more.extra_inputs
    }
    ids = tuple(range(len(probes_) + len(more)))
    return Probes(torch.cat([probes_.images, more.images]), labels, ids=ids, extra_inputs=extra_inputs)
