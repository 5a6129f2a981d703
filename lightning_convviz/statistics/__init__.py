"""Feature maps that pass -> running figures: what filters answer to real pictures, and how a layer fares.

Everything stays on the device, and nothing waits for it, until figures are asked for.
"""

from lightning_convviz.statistics.layer import Batch, Tally
from lightning_convviz.statistics.reading import Figures, figures
from lightning_convviz.statistics.responses import FIGURES, SIDE, Responses, Seen, merged, patches, reduced
from lightning_convviz.statistics.similarity import cka, prints, same
from lightning_convviz.statistics.sums import PICTURES, Sums, summed

__all__ = [
    "FIGURES",
    "PICTURES",
    "SIDE",
    "Batch",
    "Figures",
    "Responses",
    "Seen",
    "Sums",
    "Tally",
    "cka",
    "figures",
    "merged",
    "patches",
    "prints",
    "reduced",
    "same",
    "summed",
]
