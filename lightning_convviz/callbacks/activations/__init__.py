"""ActivationLogger: what each channel of chosen layers responds to, over time."""

from lightning_convviz.callbacks.activations.logger import ActivationLogger

__all__ = ["ActivationLogger"]
