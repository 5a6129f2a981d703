"""HOW to explain: class activation maps, one function for each paper, and `heatmaps`, which runs the model for them."""

from lightning_convviz.cams.choice import Choice, choose
from lightning_convviz.cams.extended import GRAPH_METHODS, check, finercam, scorecam, shapleycam, unit_of
from lightning_convviz.cams.forward import Explanation, ForwardResult, run_forward
from lightning_convviz.cams.fusion import FUSIONS, Fusion
from lightning_convviz.cams.graph import BackwardContext, GraphCam
from lightning_convviz.cams.heatmap import heatmaps
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
    "FUSIONS",
    "GRAPH_METHODS",
    "METHODS",
    "BackwardContext",
    "Cam",
    "Choice",
    "Explanation",
    "ForwardResult",
    "Fusion",
    "GraphCam",
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
    "run_forward",
    "scorecam",
    "shapleycam",
    "unit_of",
    "xgradcam",
]
