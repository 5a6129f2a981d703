"""The pictures that a run watches: given ones, or some of the first validation batches.

These are taken from what passes, since iterating over a user's loader takes from the random numbers of the run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_convviz import batches, probes
from lightning_convviz.engine.contract import Settings
from lightning_convviz.pixels import estimate, find_normalization, for_channels
from lightning_convviz.probes import Probes

# What a batch holds: images, labels, and further inputs by their name or place.
Read = tuple[Tensor, Tensor | None, dict[str | int, Tensor]]


class ProbeCollector:
    """Takes the probes from the first batches of one validation loader.

    Attributes:
        loader: its index.
        probes: those so far.
        unreadable: why a batch gave none.
        is_frozen: whether they stay as they are from now on.
    """

    def __init__(self, loader: int) -> None:
        self.loader = loader
        self.probes: Probes | None = None
        self.unreadable: ValueError | None = None
        self.is_frozen = False
        self._first: dict[int, Probes] = {}

    def first(self, count: int) -> Probes:
        """The first probes, always the same object for the same ones.

        Raises:
            ValueError: where no batch with images has passed.
        """
        if self.probes is None:
            raise self.unreadable or ValueError("no validation batch with images has passed. Give `probes=`.")
        if count not in self._first:
            self._first[count] = self.probes.select(range(min(count, len(self.probes))))
        return self._first[count]

    def replace(self, found: Probes | None) -> None:
        """Watch these from now on; None begins anew."""
        self.probes, self._first = found, {}

    def missing(self, wanted: int) -> int:
        """How many are still to be taken."""
        return 0 if self.is_frozen else max(0, wanted - (0 if self.probes is None else len(self.probes)))

    def take(self, read: Read, wanted: int, dataset: Any) -> bool:
        """Take what is missing from a batch; whether there was something to take."""
        missing = self.missing(wanted)
        images, labels, extra_inputs = read
        if not missing or (self.probes is not None and not _is_alike(self.probes, images, extra_inputs)):
            return False
        with torch.inference_mode(False), torch.no_grad():
            if labels is not None and int(labels.min()) < 0:  # a convention for "not labeled"
                labels = None
            rows = batches.spread_classes(labels, len(images), missing)
            new = Probes(images.detach(), labels, extra_inputs=extra_inputs).select(rows)  # which copies what it takes
            joined = new if self.probes is None else _appended(self.probes, new)
            self.replace(_with_names(joined, dataset))
        return True


class ProbeStore:
    """The probes of all callbacks of a Trainer, on every rank."""

    def __init__(self) -> None:
        self._collectors: dict[int, ProbeCollector] = {}
        self._received: dict[str, Probes] = {}  # by callback: rank 0's probes, as all ranks have them
        self._without_labels: set[int] = set()  # loaders whose integers turned out to be no classes of the model

    def _collector(self, loader: int) -> ProbeCollector:
        return self._collectors.setdefault(loader, ProbeCollector(loader))

    # -- one callback's probes --

    def probes_of(self, settings: Settings, *, received: bool) -> Probes:
        """What a callback watches; `received` on ranks that get them from rank 0.

        Raises:
            ValueError: where no batch with images has passed.
        """
        if received and settings.name in self._received:
            return self._received[settings.name]
        return settings.probes or self._collector(settings.dataloader_idx).first(settings.num_probes)

    def are_final(self, settings: Settings) -> bool:
        """Whether the callback's probes will not change any more."""
        return settings.probes is not None or not self._collector(settings.dataloader_idx).missing(settings.num_probes)

    def news(self, settings: Settings) -> Probes | None:
        """A callback's probes in main memory, where the other ranks don't have them yet."""
        own = self.probes_of(settings, received=False)
        if self._received.get(settings.name) is own:
            return None
        self._received[settings.name] = own
        return own.cpu()

    def receive(self, found: Mapping[str, Probes]) -> None:
        """Take rank 0's probes, by callback."""
        self._received.update(found)

    def ignore_labels(self, loader: int) -> None:
        """What a loader's batches hold as labels are no classes of the model."""
        self._without_labels.add(loader)

    def has_labels(self, loader: int) -> bool:
        """Whether integers in a loader's batches may be taken for class indices."""
        return loader not in self._without_labels

    # -- collecting --

    def wanted(self, loader: int, all_settings: Iterable[Settings]) -> int:
        """How many probes to take from a loader for these callbacks."""
        own = [each for each in all_settings if each.probes is None and each.dataloader_idx == loader]
        return max((settings.num_probes for settings in own), default=0)

    def loaders(self, all_settings: Iterable[Settings]) -> list[int]:
        """The loaders from which probes are still to be taken."""
        settings = list(all_settings)
        used = {each.dataloader_idx for each in settings if each.probes is None}
        return sorted(each for each in used if self._collector(each).missing(self.wanted(each, settings)))

    def collect(self, loader: int, read: Read, all_settings: Iterable[Settings], dataset: Any) -> bool:
        """Take what is missing from a batch of a loader; whether the probes changed."""
        return self._collector(loader).take(read, self.wanted(loader, all_settings), dataset)

    def note_unreadable(self, loader: int, error: ValueError) -> None:
        """A batch had no images: why, for whoever asks for probes."""
        self._collector(loader).unreadable = error

    def drop_incomplete(self, all_settings: Sequence[Settings]) -> bool:
        """A validation begins: the batches of a short sanity check come again; whether probes were dropped."""
        incomplete = [each for each in self.loaders(all_settings) if self._collector(each).probes is not None]
        for loader in incomplete:
            self._collector(loader).replace(None)
        return bool(incomplete)

    def begin(self) -> None:
        """A fit, a validation or a test begins: its data may be others, unless the probes are frozen."""
        for collector in self._collectors.values():
            if not collector.is_frozen:
                collector.replace(None)

    def freeze(self) -> None:
        """At the first drawing of a training: from now on the probes stay the same."""
        for collector in self._collectors.values():
            collector.is_frozen = collector.probes is not None

    # -- checkpoints --

    def to_save(self, settings: Settings, all_settings: Sequence[Settings]) -> Probes | None:
        """The probes that this callback saves for all: the first to take its own from this loader does."""
        savers = [each for each in all_settings if each.probes is None and each.save_images]
        first = next((each for each in savers if each.dataloader_idx == settings.dataloader_idx), None)
        collector = self._collector(settings.dataloader_idx)
        return collector.probes if first is settings and collector.is_frozen else None

    def restore(self, loader: int, found: Probes) -> None:
        """The probes of the run that is resumed."""
        self._collector(loader).replace(found)
        self._collector(loader).is_frozen = True


def _is_alike(known: Probes, images: Tensor, extra_inputs: Mapping[str | int, Tensor]) -> bool:
    """Whether a batch has the shapes of the probes so far."""
    shapes = [(images, known.images)]
    shapes += [(given, known.extra_inputs.get(key, given)) for key, given in extra_inputs.items()]
    return all(one.shape[1:] == another.shape[1:] for one, another in shapes)


def _with_names(collected: Probes, dataset: Any) -> Probes:
    """The probes with what their data set knows of class names and normalization."""
    names = probes.find_class_names(dataset) or None
    if collected.labels is not None and names and int(torch.as_tensor(collected.labels).max()) >= len(names):
        names = None
    space = for_channels(find_normalization(dataset), collected.images.shape[1])
    return replace(collected, class_names=names, space=space or estimate(collected.images))


def _appended(known: Probes, more: Probes) -> Probes:
    labels = None
    if known.labels is not None and more.labels is not None:
        labels = torch.cat([torch.as_tensor(known.labels), torch.as_tensor(more.labels)])
    inputs = {
        key: torch.cat([given, more.extra_inputs[key]])
        for key, given in known.extra_inputs.items()
        if key in more.extra_inputs
    }
    ids = tuple(range(len(known) + len(more)))
    return Probes(torch.cat([known.images, more.images]), labels, ids=ids, extra_inputs=inputs)
