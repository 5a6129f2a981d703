"""Find layers by name, glob, type or "auto"; record what they output; stop the forward early."""

from lightning_convviz.layers.record import (
    Layers,
    StopForward,
    clean,
    compiled,
    find,
    find_one,
    in_pieces,
    named,
    record,
    require,
    wrappers,
)
from lightning_convviz.layers.survey import Run, convolutions, last_map, require_maps, settled, spread, survey

__all__ = [
    "Layers",
    "Run",
    "StopForward",
    "clean",
    "compiled",
    "convolutions",
    "find",
    "find_one",
    "in_pieces",
    "last_map",
    "named",
    "record",
    "require",
    "require_maps",
    "settled",
    "spread",
    "survey",
    "wrappers",
]
