"""Find layers by name, glob, type or "auto"; record what they output; stop the forward early."""

from lightning_convviz.layers.layout import Layout, layout
from lightning_convviz.layers.record import (
    Layers,
    StopForward,
    canonical_name,
    compiled_regions,
    find,
    find_one,
    is_fsdp,
    named_layers,
    record,
    require,
    wrappers,
)
from lightning_convviz.layers.trace import (
    LayerTrace,
    convolutions,
    evenly_spaced,
    post_activation,
    require_maps,
    require_ran,
    trace,
)

__all__ = [
    "LayerTrace",
    "Layers",
    "Layout",
    "StopForward",
    "canonical_name",
    "compiled_regions",
    "convolutions",
    "evenly_spaced",
    "find",
    "find_one",
    "is_fsdp",
    "layout",
    "named_layers",
    "post_activation",
    "record",
    "require",
    "require_maps",
    "require_ran",
    "trace",
    "wrappers",
]
