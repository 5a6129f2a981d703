"""HOW to explain: class activation maps, one function for each paper, and `heatmaps`, which runs the model for them."""

from lightning_convviz.cams.heatmap import Explanation, Look, heatmaps, look
from lightning_convviz.cams.methods import METHODS, Cam, gradcam, hirescam

__all__ = ["METHODS", "Cam", "Explanation", "Look", "gradcam", "heatmaps", "hirescam", "look"]
