"""Filter patterns: gradient ascent in input space, from a blank image to one that a filter responds to most.

`objectives` says what is raised, `climb` how, for one batch, and `patterns` is the way in; `filters` says which ones.
"""

from lightning_convviz.ascent.climb import RECTIFIERS, Patterns, ascend, joined
from lightning_convviz.ascent.filters import most_active, most_important, receptive_fields
from lightning_convviz.ascent.objectives import (
    OBJECTIVES,
    Aim,
    Objective,
    difference,
    direction,
    diverse,
    mean,
    neuron,
    resolve,
    rise,
)
from lightning_convviz.ascent.patterns import many, patterns
from lightning_convviz.ascent.plan import is_cheaper_together
from lightning_convviz.ascent.recipes import check_canvas

__all__ = [
    "OBJECTIVES",
    "RECTIFIERS",
    "Aim",
    "Objective",
    "Patterns",
    "ascend",
    "check_canvas",
    "difference",
    "direction",
    "diverse",
    "is_cheaper_together",
    "joined",
    "many",
    "mean",
    "most_active",
    "most_important",
    "neuron",
    "patterns",
    "receptive_fields",
    "resolve",
    "rise",
]
