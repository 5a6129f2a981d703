"""Feature maps that pass -> running figures: what filters answer to real pictures, and how a layer fares.

Everything stays on the device, and nothing waits for it, until figures are asked for.
"""

from lightning_convviz.layer_stats.layer import Batch, LayerAccumulator
from lightning_convviz.layer_stats.reading import Figures, figures
from lightning_convviz.layer_stats.responses import (
    FIGURES,
    SIDE,
    ChannelResponses,
    ResponseAccumulator,
    patches,
    reduced,
)
from lightning_convviz.layer_stats.similarity import cka, fingerprints, same
from lightning_convviz.layer_stats.sums import PICTURES, Sums

__all__ = [
    "FIGURES",
    "PICTURES",
    "SIDE",
    "Batch",
    "ChannelResponses",
    "Figures",
    "LayerAccumulator",
    "ResponseAccumulator",
    "Sums",
    "cka",
    "figures",
    "fingerprints",
    "patches",
    "reduced",
    "same",
]
