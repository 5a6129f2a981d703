"""The chart of a network's layers: figures of whole validations over depth, a line for each drawing."""

from collections.abc import Mapping
from typing import Any

from lightning_convviz.history import History, Snapshot
from lightning_convviz.render import Chart, Panel

BUDGET = 45_000  # bytes of the chart's file

LEGEND = """**Layer statistics by depth and epoch**: a line for each drawing, light ones are old and the dark one is the
current network, the initial one is dashed; layers from first to last along the axis. All figures are over the whole
validation. *Values at 0 or below*: how sparse a layer is, which grows with depth in most networks. *Dead channels*
are never above 0. *Effective rank*: how many directions the features (means of the maps) use, as a share of the
channels. *99.5th percentile*: how large activations are. *CKA to the last drawing*: 1 where a layer's features have
not changed since then. *Weights changed by*: the norm of the change as a share of the weights' norm, since the last
drawing."""

# Figure -> the title of its panel, and options of `Panel`.
PANELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sparsity": ("values at 0 or below", {"unit": "%", "low": 0.0, "high": 1.0}),
    "dead": ("dead channels", {"unit": "%", "low": 0.0, "high": 1.0}),
    "effective_rank": ("effective rank / channels", {"unit": "%", "low": 0.0, "high": 1.0}),
    "high": ("99.5th percentile", {"low": 0.0}),
    "cka": ("CKA to the last drawing", {"low": 0.0, "high": 1.0}),
    "change": ("weights changed by", {"log": True}),
}

UNKNOWN_AT_FIRST = ("dead", "effective_rank")  # the initial network ran on so few pictures that they don't tell these


def chart_facts(layer: str, count: int, values: Mapping[str, float | None]) -> dict[str, Any]:
    """What the chart keeps of a layer in one drawing: its name, the number of pictures, and the figures of `PANELS`."""
    return {"layer": layer, "count": count} | {figure: values[figure] for figure in PANELS}


def layer_chart(history: History, snapshot: Snapshot) -> Chart:
    """`layer_stats/<name>`: the figures of the drawings that are kept.

    Args:
        history: the drawings, with a fact from `chart_facts` for each layer, first to last.
        snapshot: the last one.
    """
    newest = history.frames[-1].facts
    layers, count = [str(item["layer"]) for item in newest], newest[0]["count"]
    drawings = []
    for frame in history.frames:
        unknown = dict.fromkeys(UNKNOWN_AT_FIRST) if frame.number == 0 else {}
        drawings.append({item["layer"]: {**item, **unknown} for item in frame.facts})
    panels = [
        Panel(title, [[drawing.get(layer, {}).get(figure) for layer in layers] for drawing in drawings], **options)
        for figure, (title, options) in PANELS.items()
    ]
    about = {
        "kind": "layer_stats",
        "layer": layers,
        "epoch": snapshot.epoch,
        "step": snapshot.step,
        "scale": None,
        "count": count,
    }
    return Chart(
        title="Layer statistics, first to last",
        captions=[f"{snapshot.caption} · over {count} validation pictures"],
        layers=layers,
        drawings=history.titles(),
        panels=panels,
        about=about,
        legend=LEGEND,
        budget=BUDGET,
    )
