"""The one table of loggers: which function writes for which class, and where pictures go if none does."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning_convviz import _lightning
from lightning_convviz.render import Drawable, Encoded

# What is left to the run itself on a disk that fills up, in bytes: its checkpoint is worth more than our pictures.
RESERVE = 50_000_000


@dataclass(frozen=True)
class LoggedDrawing:
    """What one callback has to show at one moment of the run.

    Attributes:
        name: of the callback: a tag `convviz/<name>` tells its epochs.
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        pictures: by tag.
        scalars: by tag; numbers, or functions called when they are written.
        texts: by tag, in Markdown.
    """

    name: str
    epoch: int
    step: int
    pictures: Mapping[str, Drawable]
    scalars: Mapping[str, float | Callable[[], float]] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """The scalars as numbers."""
        return {tag: number() if callable(number) else number for tag, number in self.scalars.items()}


@dataclass(frozen=True)
class EncodedDrawing:
    """A drawing as files: what a sink writes.

    Attributes:
        drawing: with its `numbers()` and its `texts`.
        images: PNG, JPEG or GIF, by tag.
    """

    drawing: LoggedDrawing
    images: Mapping[str, Encoded]

    def size(self) -> int:
        """How many bytes there are to write, about."""
        texts = sum(len(text.encode()) for text in self.drawing.texts.values())
        return sum(len(image.data) for image in self.images.values()) + texts


@dataclass(frozen=True)
class Folder:
    """A place on disk for pictures, in folders by tag and step, where no logger takes them."""

    path: Path


Sink = Callable[[Any, EncodedDrawing], None]
SINKS: dict[str, Sink] = {}


def register(logger_class: str) -> Callable[[Sink], Sink]:
    """Let a function (logger, files) -> None write for loggers of a class, given by name, and of its subclasses.

    By name, since Lightning's classes exist in two namespaces. The function runs in the background thread.
    """

    def keep(sink: Sink) -> Sink:
        SINKS[logger_class] = sink
        return sink

    return keep


def find(logger: Any) -> Sink | None:
    """The function that writes for a logger; None where there is none."""
    return next((SINKS[base.__name__] for base in type(logger).__mro__ if base.__name__ in SINKS), None)


def write(logger: Any, files: EncodedDrawing) -> None:
    """Write for a logger, if there is a way."""
    sink = find(logger)
    if sink is not None:
        sink(logger, files)


def destinations(loggers: Sequence[Any]) -> list[Any]:
    """Where a run's pictures go: to every logger that takes them; if none does, into the folder of one that has one."""
    known = [logger for logger in loggers if find(logger)]
    if known:
        return known
    for logger in loggers:
        folder = (
            None
            if _lightning.is_dummy(logger)
            else getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
        )
        if folder and "://" not in str(folder):
            return [Folder(Path(folder, "convviz"))]
    return []


def has_sink(loggers: Sequence[Any]) -> bool:
    """Whether any logger takes pictures; `fast_dev_run`'s does, and swallows them."""
    return bool(destinations(loggers)) or any(map(_lightning.is_dummy, loggers))


def announce(loggers: Sequence[Any], own: Path | None) -> None:
    """Say where pictures go, if there is no logger for them and no folder of the callback's own."""
    found = destinations(loggers)
    if found and isinstance(found[0], Folder):
        _lightning.rank_zero_info(f"lightning_convviz writes its pictures as files into {str(found[0].path)!r}.")
    elif own is None and not has_sink(loggers):
        _lightning.rank_zero_warn(
            "lightning_convviz found no logger that takes pictures. Give the Trainer a TensorBoardLogger, register a "
            "function for yours with `lightning_convviz.sinks.register`, or give the callbacks a folder, `save_dir=`."
        )


def with_folder(found: Sequence[Any], own: Path | None) -> list[Any]:
    """The places with a callback's own folder."""
    return [*found, *([] if own is None else [Folder(own)])]


# The last step that each logger was given for a callback outside of a fit, where every trainer counts from 0 anew.
_latest: "WeakKeyDictionary[Any, dict[str, int]]" = WeakKeyDictionary()


_latest_in: dict[str, dict[str, int]] = {}  # likewise, by the path of a folder


def next_step(found: Sequence[Any], name: str, step: int) -> int:
    """A step for the next drawing of a callback: `step`, or the first after all that these places have been given."""
    taken = []
    for place in found:
        if isinstance(place, Folder):
            known = _latest_in.setdefault(str(place.path), {})
            files = (place.path / file_name(name)).rglob("step_*.*")
            steps = [int(digits) for file in files if (digits := file.stem.removeprefix("step_")).isdigit()]
            known[name] = max([known.get(name, -1), *steps])
            taken.append(known)
        else:
            taken.append(_latest.setdefault(place, {}))
    step = max([step, *(last[name] + 1 for last in taken if name in last)])
    for last in taken:
        last[name] = step
    return step


def require_room(folder: str | Path, size: int) -> None:
    """Check that a local disk keeps a reserve after `size` more bytes: if it fills up, let it not be by pictures.

    Raises:
        OSError: where it would not.
    """
    path = Path(folder)
    if "://" in str(folder) or not path.exists():
        return
    free = shutil.disk_usage(path).free
    if free < size + RESERVE:
        raise OSError(f"the disk of {str(folder)!r} has {free / 1e6:.0f} MB left; pictures leave the last of it alone")


def file_name(tag: str) -> str:
    """A tag as the name of a folder, on any system.

    >>> file_name("activations/net.conv1: a")
    'activations/net.conv1_ a'
    """
    return "/".join(re.sub(r'[<>:"\\|?*\x00-\x1f]', "_", part).strip(". ") or "_" for part in tag.split("/"))
