"""The callbacks: each says what it needs of the model and what it draws; `engine` does the rest."""

from lightning_convviz.callbacks.activations import ActivationLogger
from lightning_convviz.callbacks.base import VisualizationCallback
from lightning_convviz.callbacks.filters import FilterPatternLogger
from lightning_convviz.callbacks.gradcam import GradCAMLogger

__all__ = ["ActivationLogger", "FilterPatternLogger", "GradCAMLogger", "VisualizationCallback"]
