"""From a folder of event files to what was asked for."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_convviz.export.animation import animate
from lightning_convviz.export.events import Decoder, parse
from lightning_convviz.export.folders import RunLog, distinct
from lightning_convviz.export.page import write_page
from lightning_convviz.export.records import Warn, records

EVENTS = "*tfevents*"
PAGE = "index.html"
NEAR = 4  # tags that an error names


class ExportError(ValueError):
    """An argument that can't be worked with; the message names it, and what would be right."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        runs: those that have pictures.
        animations: their files.
        page: its file, if asked for.
    """

    runs: Sequence[RunLog]
    animations: Sequence[Path]
    page: Path | None

    @property
    def pictures(self) -> int:
        """How many pictures were exported."""
        return sum(len(strip.shots) for run in self.runs for strip in run.strips.values())

    @property
    def tags(self) -> int:
        """Of how many tags; a tag of two runs counts twice."""
        return sum(len(run.strips) for run in self.runs)


def export(
    logdir: str | Path,
    out: str | Path,
    *,
    tags: Sequence[str] = (),
    gif: bool = False,
    html: bool = False,
    warn: Warn = lambda message: None,
    progress: Callable[[int], None] = lambda count: None,
) -> Report:
    """Write every picture of the event files below a folder as a file, `<run>/<tag>/step_<step>.png`.

    Args:
        logdir: a folder, or one event file.
        out: a folder for what is written. What is there already and still right is left alone.
        tags: globs; only pictures of tags that one of them matches. By default all.
        gif: also write an animation for each tag.
        html: also write one page, `index.html`, with a slider over the epochs.
        warn: told in one line what could not be read.
        progress: told the bytes that were read since the last time.

    Raises:
        ExportError: for a log that isn't there or holds no such pictures, and for a place that can't be written to.
    """
    log, place = Path(logdir), Path(out)
    _check_place(place)
    found = event_files(log)
    runs = _named(found, log, place)
    seen: set[str] = set()
    matched: set[str] = set()

    def wanted(tag: str) -> bool:
        seen.add(tag)
        hits = [glob for glob in tags if fnmatch.fnmatchcase(tag, glob)]
        matched.update(hits)
        return bool(hits) or not tags

    for folder, paths in found.items():
        _read(runs[folder], paths, wanted, warn, progress)
    _check_tags(log, tags, seen, matched, sum(map(len, found.values())))
    full = [run for run in runs.values() if run.strips]
    if not full:
        raise ExportError(f"`LOGDIR` is {str(log)!r}, whose pictures are of no known kind.")
    made = [path for run in full if gif for strip in run.strips.values() if (path := animate(strip))]
    if html:
        write_page(place / PAGE, full)
    return Report(full, made, place / PAGE if html else None)


def event_files(log: Path) -> dict[Path, list[Path]]:
    """The event files below a folder, by the folder they are in: those of a run.

    Raises:
        ExportError: where there are none.
    """
    if not log.exists():
        near = difflib.get_close_matches(log.name, _names(log.parent), 1)
        hint = f" Did you mean {str(log.parent / near[0])!r}?" if near else ""
        raise ExportError(f"`LOGDIR` is {str(log)!r}, which does not exist.{hint}")
    paths = [log] if log.is_file() else sorted(filter(Path.is_file, log.rglob(EVENTS)), key=_natural)
    if not paths:
        raise ExportError(
            f"`LOGDIR` is {str(log)!r}, where there is no event file. Give the folder of a run, or one above it: "
            "TensorBoardLogger's `save_dir`."
        )
    runs: dict[Path, list[Path]] = {}
    for path in paths:
        runs.setdefault(path.parent, []).append(path)
    return runs


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts `version_9` before `version_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _check_place(place: Path) -> None:
    solid = next((path for path in (place, *place.parents) if path.exists()), place)
    if solid.exists() and not solid.is_dir():
        raise ExportError(f"`--out` is {str(place)!r}, but {str(solid)!r} is a file. Give a folder.")


def _named(found: Iterable[Path], log: Path, place: Path) -> dict[Path, RunLog]:
    """A run for each folder: named by its path below the log's, or as the log's folder itself."""
    runs: dict[Path, RunLog] = {}
    events = {folder.resolve() for folder in found}
    top = log.parent if log.is_file() else log
    for folder in found:
        inner = folder.relative_to(top).as_posix()
        name = top.resolve().name or "run" if inner == "." else inner
        target = place / distinct(name, [run.name for run in runs.values()])
        if target.resolve() in events or place.resolve() in events:
            raise ExportError(
                f"`--out` is {str(place)!r}, where pictures would go among event files. Give a folder beside the log."
            )
        runs[folder] = RunLog(target.relative_to(place).as_posix(), target)
    return runs


def _read(
    run: RunLog, paths: Sequence[Path], wanted: Callable[[str], bool], warn: Warn, progress: Callable[[int], None]
) -> None:
    decoder = Decoder()
    for path in sorted(paths, key=_began):
        for record in records(path, warn=warn, progress=progress):
            try:
                for entry in decoder.entries(record):
                    run.take(entry, wanted)
            except ValueError as error:
                warn(f"{str(path)!r} holds {error}.")
                break
    if run.replaced:
        warn(f"run {run.name!r}: {run.replaced} pictures were logged anew for their step; the later ones are kept.")
    for tag, count in run.unknown_format.items():
        warn(f"run {run.name!r}: {count} pictures of {tag!r} are no PNG, JPEG, GIF, WebP or BMP, and left out.")


def _began(path: Path) -> tuple[float, str]:
    """When a file's first event was made."""
    try:
        first = next(records(path, warn=lambda message: None), b"")
        return float(parse(first).wall_time), path.name
    except ValueError:  # told when the file is read
        return 0.0, path.name


def _check_tags(log: Path, tags: Sequence[str], seen: set[str], matched: set[str], count: int) -> None:
    if not seen:
        raise ExportError(f"`LOGDIR` is {str(log)!r}, whose event files ({count}) hold no pictures.")
    for glob in tags:
        if glob not in matched:
            near = difflib.get_close_matches(glob, seen, NEAR, 0.3) or sorted(seen)[:NEAR]
            raise ExportError(
                f"`--tag` is {glob!r}, which matches no tag of a picture. Did you mean {', '.join(map(repr, near))}?"
            )
