"""GradCAMLogger: why did the network predict this, where is the evidence, what went wrong in a mistake."""

from lightning_convviz.callbacks.gradcam.logger import GradCAMLogger

__all__ = ["GradCAMLogger"]
