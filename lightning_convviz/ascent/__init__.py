"""Filter patterns: gradient ascent in input space, from a blank image to one that a filter responds to most.

`objectives` says what is raised, `climb` how, for one batch, and `patterns` is the way in; `filters` says which ones.
"""

from lightning_convviz.ascent.climb import RECTIFIERS, Patterns, ascend, joined
from lightning_convviz.ascent.filters import most_active, most_important, receptive_fields
from lightning_convviz.ascent.objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveFactory,
    above_blank,
    difference,
    direction,
    diverse,
    mean,
    neuron,
    resolve,
)
from lightning_convviz.ascent.patterns import patterns, patterns_of_layers
from lightning_convviz.ascent.plan import is_cheaper_together
from lightning_convviz.ascent.recipes import check_canvas

__all__ = [
    "OBJECTIVES",
    "RECTIFIERS",
    "Objective",
    "ObjectiveFactory",
    "Patterns",
    "above_blank",
    "ascend",
    "check_canvas",
    "difference",
    "direction",
    "diverse",
    "is_cheaper_together",
    "joined",
    "mean",
    "most_active",
    "most_important",
    "neuron",
    "patterns",
    "patterns_of_layers",
    "receptive_fields",
    "resolve",
]
