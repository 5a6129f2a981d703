"""HOW to explain: class activation maps, one function for each paper, and `heatmaps`, which runs the model for them."""

from lightning_convviz.cams.choice import Choice, choose
from lightning_convviz.cams.extended import EXTENDED, check, finercam, scorecam, shapleycam, unit
from lightning_convviz.cams.fusion import FUSIONS, Fusion
from lightning_convviz.cams.graph import Graph, GraphCam
from lightning_convviz.cams.heatmap import heatmaps
from lightning_convviz.cams.look import Explanation, Look, look
from lightning_convviz.cams.methods import (
    METHODS,
    Cam,
    eigencam,
    elementwise,
    gradcam,
    gradcampp,
    hirescam,
    layercam,
    xgradcam,
)

__all__ = [
    "EXTENDED",
    "FUSIONS",
    "METHODS",
    "Cam",
    "Choice",
    "Explanation",
    "Fusion",
    "Graph",
    "GraphCam",
    "Look",
    "check",
    "choose",
    "eigencam",
    "elementwise",
    "finercam",
    "gradcam",
    "gradcampp",
    "heatmaps",
    "hirescam",
    "layercam",
    "look",
    "scorecam",
    "shapleycam",
    "unit",
    "xgradcam",
]
