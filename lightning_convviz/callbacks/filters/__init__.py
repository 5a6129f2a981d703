"""FilterPatternLogger and its parts: which filters, how their patterns are made, and how they follow the network."""

from lightning_convviz.callbacks.filters.logger import FilterPatternLogger

__all__ = ["FilterPatternLogger"]
