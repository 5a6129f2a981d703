"""A trained net on real photographs: heat lies on the animal that is asked for."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_convviz.cams import heatmaps
from lightning_convviz.pixels import normalized

FOLDER = os.environ.get("CONVVIZ_DATA", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="CONVVIZ_DATA does not name the folder with the real data")

SPACE = normalized((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ELEPHANT, TIGER_CAT, BULL_MASTIFF = 386, 282, 243
# Where the animals are, as shares of width and height: left, top, right, bottom.
ELEPHANTS = [(0.45, 0.14, 1.0, 0.64), (0.16, 0.37, 0.58, 0.67)]
DOG, CAT = [(0.34, 0.06, 0.74, 0.54)], [(0.2, 0.53, 0.9, 1.0)]


@pytest.fixture(scope="module")
def squeezenet():
    from torchvision.models import squeezenet1_0

    net = squeezenet1_0()
    net.load_state_dict(torch.load(Path(FOLDER, "weights", "squeezenet1_0_imagenet.pt"), weights_only=True))
    return net


def photograph(name):
    image = Image.open(Path(FOLDER, "photos", name)).convert("RGB").resize((227, 227), Image.Resampling.BILINEAR)
    shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (SPACE.offset, SPACE.scale))
    return (shown - mean) / std


def share(heat, boxes):
    """How much of the heat lies in the boxes, and how much of the picture they are."""
    h, w = heat.shape
    inside = torch.zeros(h, w, dtype=torch.bool)
    for left, top, right, bottom in boxes:
        inside[round(top * h) : round(bottom * h), round(left * w) : round(right * w)] = True
    return (heat[inside].sum() / heat.sum()).item(), inside.float().mean().item()


@pytest.mark.parametrize("layer", ["auto", "features"])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])  # the others blur one class into the other
def test_an_african_elephant_is_seen_where_the_elephants_are(squeezenet, method, layer):
    images = photograph("african_elephants.jpg")
    assert squeezenet.eval()(images).argmax().item() == ELEPHANT
    heat = heatmaps(squeezenet.train(), images, method=method, layer=layer)[0]
    on, area = share(heat, ELEPHANTS)
    assert share(heat == heat.max(), ELEPHANTS)[0] == 1, "the hottest point"
    assert on / area > 3 * (1 - on) / (1 - area), "a point on an elephant is far hotter than one beside it"


@pytest.mark.parametrize("layer", ["auto", "features"])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])  # the others blur one class into the other
def test_cat_and_dog_are_told_apart(squeezenet, method, layer):
    images = photograph("cat_dog.png").repeat(2, 1, 1, 1)
    classes = torch.tensor([TIGER_CAT, BULL_MASTIFF])
    cat, dog = heatmaps(squeezenet, images, target=classes, method=method, layer=layer)
    assert share(cat == cat.max(), CAT)[0] == 1, "the hottest point"
    assert share(dog == dog.max(), DOG)[0] == 1, "the hottest point"
    assert share(cat, CAT)[0] > 2 * share(dog, CAT)[0]
    assert share(dog, DOG)[0] > 2 * share(cat, DOG)[0]
