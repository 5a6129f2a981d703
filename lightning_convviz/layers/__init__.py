"""Find layers by name, glob, type or "auto"; record what they output; stop the forward early."""

from lightning_convviz.layers.layout import Layout, layout
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
from lightning_convviz.layers.survey import (
    Run,
    convolutions,
    last_map,
    require_maps,
    require_ran,
    settled,
    spread,
    survey,
)

__all__ = [
    "Layers",
    "Layout",
    "Run",
    "StopForward",
    "clean",
    "compiled",
    "convolutions",
    "find",
    "find_one",
    "in_pieces",
    "last_map",
    "layout",
    "named",
    "record",
    "require",
    "require_maps",
    "require_ran",
    "settled",
    "spread",
    "survey",
    "wrappers",
]
