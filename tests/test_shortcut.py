"""What the mistakes' heatmaps are for: a planted shortcut, found where it is."""

import sys
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms as T

from lightning_convviz import cams, heatmap_metrics

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow  # it trains
CELL = 4  # pixels of a cell of the last map: heat can't be placed better


def near(masks):
    """The masks and what lies within a cell of them."""
    return F.max_pool2d(masks.float()[:, None], 2 * CELL + 1, 1, CELL)[:, 0] > 0


@pytest.fixture(scope="module")
def demo():
    """The demo's net after three epochs with the mark on every star, and pictures of other classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        sys.modules.pop("shapes", None)
        import shapes
        import train
    L.seed_everything(0, verbose=False)
    normalize = T.Normalize(*train.STATISTICS["shapes"])
    data = shapes.Shapes(2000, shortcut=True, transform=normalize)
    net = train.ConvNet(channels=3, classes=len(data.classes))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=False, **quiet)
    trainer.fit(net, DataLoader(data, 32, shuffle=True))
    plain = shapes.Shapes(300, seed=7)
    others = plain.labels != shapes.SHORTCUT_CLASS
    parts = []
    for part in (plain, plain.planted()):
        images = normalize(part.images[others].float() / 255)
        parts.append((images, part.masks[others], part.marks[others]))
    return net.eval(), shapes.SHORTCUT_CLASS, *parts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("layer", "method"), [("auto", "gradcam"), ("stage1", "hirescam")])
def test_in_mistakes_the_evidence_lies_on_the_mark_and_without_it_on_the_object(demo, layer, method):
    net, star, (plain, objects, _), (marked, _, marks) = demo
    with torch.no_grad():
        fooled = net(marked).argmax(1) == star
    assert fooled.float().mean() > 0.5, "the net fell for the mark"
    plain, marked, objects, marks = (part[fooled] for part in (plain, marked, near(objects), near(marks)))
    with_mark = cams.heatmaps(net, marked, layer=layer, method=method)
    without = cams.heatmaps(net, plain, layer=layer, method=method)
    energy = {
        "on the mark": heatmap_metrics.energy_inside(with_mark, marks),
        "on the object beside the mark": heatmap_metrics.energy_inside(with_mark, objects),
        "on the object without a mark": heatmap_metrics.energy_inside(without, objects),
        "where the mark would be": heatmap_metrics.energy_inside(without, marks),
    }
    share = {name: float(each.nanmean()) for name, each in energy.items()}
    assert marks.float().mean() < 0.07
    assert share["on the mark"] > 0.45
    assert share["on the mark"] > 2 * share["on the object beside the mark"]
    assert share["on the object without a mark"] > 0.35
    assert share["where the mark would be"] < 0.15
