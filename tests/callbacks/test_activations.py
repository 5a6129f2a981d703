"""The pages of ActivationLogger in real fits: their pixels against those of the network at that moment."""

import numpy as np
import torch
from fits import Events, Watched, facts, tile
from torch import nn

from lightning_convviz import ActivationLogger, layers
from lightning_convviz.isolation import isolated
from lightning_convviz.render.color import LEVELS, colormap


class OneHot(nn.Module):
    """Channel 2 of four copies the picture's first channel; the others are silent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)
        nn.init.zeros_(self.conv.weight)
        self.conv.weight.data[2, 0] = 1
        self.conv.weight.requires_grad_(False)

    def forward(self, images):
        return self.head(self.relu(self.conv(images)).mean((2, 3)))


def test_a_one_hot_activation_lights_its_pixel_in_its_tile_and_no_other(fit):
    image = torch.zeros(1, 3, 12, 16)
    image[0, 0, 3, 5] = 1.0
    trainer = fit([ActivationLogger("net.conv", probes=image, on_error="raise")], module=Watched(OneHot()))
    (drawn, _) = Events(trainer.logger.log_dir).images("activations/net.conv")
    carried = facts(drawn)
    colors = colormap("viridis").numpy()
    for channel in range(4):
        shown = np.asarray(tile(drawn, carried["tiles"], channel).convert("RGB"))
        zoom = carried["tiles"]["w"] // 16
        expected = colors[np.zeros((12, 16), dtype=int)]
        if channel == 2:
            expected[3, 5] = colors[-1]
        else:  # never above 0 on any validation picture: hatched
            expected[(np.arange(12)[:, None] + np.arange(16)) % 6 == 0] = shown[0, 0]
            assert tuple(shown[0, 0]) not in {tuple(color) for color in colors}
        assert (shown == expected.repeat(zoom, 0).repeat(zoom, 1)).all()


def test_the_maps_in_a_picture_are_those_of_the_network_at_that_moment(fit):
    """The values in the last picture, read back through the palette and the scale, against a plain forward."""
    images = torch.randn(2, 3, 12, 16)
    trainer = fit([ActivationLogger("net.conv1", probes=images, on_error="raise")])
    drawn = Events(trainer.logger.log_dir).images("activations/net.conv1")[-1]
    carried = facts(drawn)
    module = trainer.lightning_module
    with isolated(module), torch.no_grad(), layers.record(module, ["net.conv1"]) as outputs:
        module(images)
    zoom, top = carried["tiles"]["w"] // 16, carried["scale"][1]
    for channel in range(4):
        values = np.asarray(tile(drawn, carried["tiles"], channel))[::zoom, ::zoom] / (LEVELS - 1) * top
        expected = outputs["net.conv1"][0, channel].clamp(0, top).numpy()
        assert np.abs(values - expected).max() <= top / (LEVELS - 1) / 2 + 1e-6


def test_an_activation_grid_of_large_maps_keeps_its_budget(fit):
    """64 channels of 112 x 112, as an ImageNet net's first layer: fewer channels, then pooled."""

    class Wide(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))

    watcher = ActivationLogger("net.0", probes=torch.randn(8, 3, 112, 112), on_error="raise")
    trainer = fit([watcher], module=Watched(Wide()), max_epochs=1)
    events = Events(trainer.logger.log_dir)
    carried = facts(events.images("activations/net.0")[0])
    assert len(carried["columns"]) == 16
    assert events.sizes()["activations/net.0"] < 150_000
