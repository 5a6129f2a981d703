"""One HTML page with everything in it: pictures, legends, figures and a slider over the epochs."""

import base64
import html
import json
import math
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from lightning_convviz.export import images
from lightning_convviz.export.folders import RunLog, TagSeries, replacing
from lightning_convviz.export.markdown import to_html

SCRIPTS = ("log.js", "tiles.js", "figures.js", "view.js", "play.js", "large.js", "keys.js")
POINTS = 1_000  # of a line in a chart


def write_page(path: Path, runs: Sequence[RunLog]) -> None:
    """Write the page of some runs: it opens from disk and needs nothing else.

    Pictures are read one by one, and those with equal bytes are in the page once.
    """
    with replacing(path) as file:
        for piece in _pieces(runs):
            file.write(piece.encode())


def _pieces(runs: Sequence[RunLog]) -> Iterator[str]:
    """The template, with its `<!-- name -->` filled in."""
    numbers: dict[str, int] = {}
    for place, text in enumerate(re.split(r"<!-- (\w+) -->", _part("page.html"))):
        match text if place % 2 else None:
            case None:
                yield text
            case "title":
                yield html.escape(" · ".join(run.name for run in runs[:3]))
            case "style":
                yield _part("page.css")
            case "pictures":
                yield from _pictures(runs, numbers)
            case "log":
                yield _json({"runs": [_run(run, numbers) for run in runs]})
            case "script":
                yield "\n".join(map(_part, SCRIPTS))


def _part(name: str) -> str:
    return (files("lightning_convviz.export") / "template" / name).read_text("utf-8")


def _json(value: Any) -> str:
    """JSON that can stand within a `<script>` and in an attribute."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _pictures(runs: Sequence[RunLog], numbers: dict[str, int]) -> Iterator[str]:
    """Each picture as a block of text, which the browser reads only when it is shown; numbers them by digest."""
    for run in runs:
        for strip in run.strips.values():
            for shot in strip.ordered():
                if shot.digest in numbers:
                    continue
                numbers[shot.digest] = number = len(numbers)
                data = shot.path.read_bytes()
                info = images.inspect(data)
                facts = html.escape(_json(info.facts)) if info.facts else ""
                yield (
                    f'<script type="text/plain" id="p{number}" data-size="{info.width} {info.height}" '
                    f'data-facts="{facts}">data:{images.media_type(data)};base64,'
                )
                yield base64.b64encode(data).decode() + "</script>\n"


def _run(run: RunLog, numbers: dict[str, int]) -> dict[str, Any]:
    steps = {step for strip in run.strips.values() for step in strip.shots}
    return {
        "name": run.name,
        "steps": [[step, run.epochs.get(step)] for step in sorted(steps)],
        "tags": [_tag(strip, numbers) for strip in run.strips.values()],
        "alarms": [
            {"tag": alarm.tag, "step": alarm.step, "epoch": run.epochs.get(alarm.step), "html": to_html(alarm.text)}
            for alarm in run.alarms
        ],
        "figures": [{"tag": tag, "points": _line(points)} for tag, points in run.figures.items()],
    }


def _tag(strip: TagSeries, numbers: dict[str, int]) -> dict[str, Any]:
    return {
        "tag": strip.tag,
        "legend": to_html(strip.legend),
        "shots": [[shot.step, numbers[shot.digest]] for shot in strip.ordered()],
    }


def _line(points: dict[int, float]) -> list[tuple[int, float | None]]:
    """Steps and values, thinned out where there are very many; what is no number is a gap."""
    steps = sorted(points)
    steps = steps[:: math.ceil(len(steps) / POINTS)]
    return [(step, points[step] if math.isfinite(points[step]) else None) for step in steps]
