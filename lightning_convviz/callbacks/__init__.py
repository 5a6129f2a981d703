"""The callbacks: each says what it wants of the model and what it draws; `base` does the rest."""

from lightning_convviz.callbacks.activations import ActivationLogger
from lightning_convviz.callbacks.filters import FilterPatternLogger
from lightning_convviz.callbacks.gradcam import GradCAMLogger

__all__ = ["ActivationLogger", "FilterPatternLogger", "GradCAMLogger"]
