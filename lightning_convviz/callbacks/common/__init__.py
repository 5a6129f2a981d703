"""What several callbacks keep from drawing to drawing: the ends of their color scales, and film strips."""

from lightning_convviz.callbacks.common.filmstrips import Filmstrips
from lightning_convviz.callbacks.common.scales import Scales

__all__ = ["Filmstrips", "Scales"]
