"""Pictures as files, in folders by run, tag and step; and what a page needs to know of them."""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lightning_convviz.export import images
from lightning_convviz.export.events import Alarm, Entry, Epoch, Figure, Legend, Logged


@dataclass(frozen=True)
class LoggedImage:
    """One picture on disk; equal pictures have equal digests."""

    step: int
    path: Path
    digest: str


@dataclass
class TagSeries:
    """All pictures of a tag.

    Attributes:
        tag: as it was logged.
        folder: where its files are.
        legend: how to read them, in Markdown.
        shots: by step.
    """

    tag: str
    folder: Path
    legend: str = ""
    shots: dict[int, LoggedImage] = field(default_factory=dict)

    def ordered(self) -> list[LoggedImage]:
        """By step."""
        return [self.shots[step] for step in sorted(self.shots)]


@dataclass
class RunLog:
    """What a run's event files hold, without the pictures themselves.

    Attributes:
        name: its folder below the log's.
        folder: where its files go.
        strips: by tag.
        epochs: by step, as far as they are known.
        alarms: in order of logging.
        figures: by tag and step.
        replaced: how many pictures were replaced by a later one of the same tag and step.
        unknown_format: by tag: how many pictures are of no known kind.
    """

    name: str
    folder: Path
    strips: dict[str, TagSeries] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    replaced: int = 0
    unknown_format: dict[str, int] = field(default_factory=dict)
    _legends: dict[str, str] = field(default_factory=dict)

    def take(self, entry: Entry, wanted: Callable[[str], bool]) -> None:
        """Keep what an event says; write its picture, if the tag is wanted."""
        match entry:
            case Logged() if wanted(entry.tag):
                self._write(entry)
            case Legend():
                self._legends.setdefault(entry.tag, entry.text)
            case Epoch():
                self.epochs[entry.step] = entry.epoch
            case Alarm():
                self.alarms.append(entry)
            case Figure():
                self.figures.setdefault(entry.tag, {})[entry.step] = entry.value

    def _write(self, logged: Logged) -> None:
        suffix = images.suffix(logged.data)
        if suffix is None:
            self.unknown_format[logged.tag] = self.unknown_format.get(logged.tag, 0) + 1
            return
        strip = self._strip(logged.tag)
        path = strip.folder / f"step_{logged.step:08d}{suffix}"
        known = strip.shots.get(logged.step)
        if known is not None:
            self.replaced += 1
            if known.path != path:
                known.path.unlink(missing_ok=True)
        put(path, logged.data)
        strip.shots[logged.step] = LoggedImage(logged.step, path, hashlib.sha256(logged.data).hexdigest())
        epoch = images.inspect(logged.data).epoch
        if epoch is not None:
            self.epochs.setdefault(logged.step, epoch)

    def _strip(self, tag: str) -> TagSeries:
        if tag not in self.strips:
            taken = {strip.folder.as_posix() for strip in self.strips.values()}
            folder = Path(distinct((self.folder / folder_name(tag)).as_posix(), taken))
            self.strips[tag] = TagSeries(tag, folder, self._legends.get(tag, ""))
        return self.strips[tag]


def folder_name(tag: str) -> str:
    """A tag as the name of a folder, on any system, as the sink for folders names it too.

    >>> folder_name("activations/net.conv1: a")
    'activations/net.conv1_ a'
    """
    return "/".join(re.sub(r'[<>:"\\|?*\x00-\x1f]', "_", part).strip(". ") or "_" for part in tag.split("/"))


def distinct(name: str, taken: Collection[str]) -> str:
    """The name, numbered if it is taken; many file systems don't tell `a` from `A`.

    >>> distinct("net/A", ["net/a", "net/b"])
    'net/A~2'
    """
    used, result, number = {each.casefold() for each in taken}, name, 1
    while result.casefold() in used:
        number += 1
        result = f"{name}~{number}"
    return result


def put(path: Path, data: bytes) -> None:
    """Write a file, unless it is there already."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is finished: a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
