"""How far can a heatmap be believed? Numbers for each image: does the net miss what is hot, and where is the heat?

A heatmap here is (n, h, w) at input size and not negative. Nothing mixes images or waits for the device. What a number
can't be computed from (a map of zeros points nowhere, a constant one ranks nothing) is NaN for that image.

What no number here can say:

- Masked pictures are unlike the training data: a probability may fall for the cut and not for the loss of evidence,
  and the shape of a mask tells of the class (Rong et al. 2022, https://arxiv.org/abs/2202.00449).
- Deletion, insertion and their kin reward blurry maps (https://arxiv.org/abs/2304.13836).
- Untrained nets point better than chance: read each number beside the initial net's (Adebayo et al. 2018,
  https://arxiv.org/abs/1810.03292).
- People find a broken model by its predictions, hardly by its heatmaps (Adebayo et al. 2020,
  https://arxiv.org/abs/2011.05429).
"""

from lightning_convviz.heatmap_metrics.localization import correlation, energy_inside, entropy, pointing
from lightning_convviz.heatmap_metrics.masking import Baseline, blurred, masked, mean_color, rank_pixels, relative
from lightning_convviz.heatmap_metrics.perturbation import Forward, confidence, deletion, insertion
from lightning_convviz.heatmap_metrics.summary import mean, report

__all__ = [
    "Baseline",
    "Forward",
    "blurred",
    "confidence",
    "correlation",
    "deletion",
    "energy_inside",
    "entropy",
    "insertion",
    "masked",
    "mean",
    "mean_color",
    "pointing",
    "rank_pixels",
    "relative",
    "report",
]
