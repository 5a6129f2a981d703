"""Filter patterns: gradient ascent in input space, from a blank image to one that a filter responds to most.

`objectives` says what is raised, `climb` how, for one batch, and `patterns` is the way in.
"""

from lightning_convviz.ascent.climb import RECTIFIERS, Patterns, ascend, joined
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
from lightning_convviz.ascent.patterns import check_canvas, many, patterns

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
    "joined",
    "many",
    "mean",
    "neuron",
    "patterns",
    "resolve",
    "rise",
]
