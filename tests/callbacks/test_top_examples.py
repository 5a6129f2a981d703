"""The strongest channels for a probe and the most exciting pictures for a channel, in real fits and by hand."""

import pytest
import torch
from fits import Events, Watched, data, facts, tile
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_convviz import ActivationLogger
from lightning_convviz.callbacks.activations.top_examples import TopExamples
from lightning_convviz.engine.contract import RunInfo
from lightning_convviz.isolation import isolated
from lightning_convviz.pages.top_examples import YELLOW, draw_frame

KINDS = ("strongest", "exciting")


def callback(**arguments):
    arguments = {"strongest": 3, "exciting": 2, "num_probes": 4, "evolution": False} | arguments
    return ActivationLogger(on_error="raise", **arguments)


def maps_of(module, images, layer):
    """What a layer, after its BatchNorm and ReLU, answers, as the trained module is."""
    net = module.net
    with isolated(module), torch.no_grad():
        first = net.relu1(net.bn1(net.conv1(images)))
        return first if layer == "net.conv1" else net.relu2(net.bn2(net.conv2(first)))


@pytest.mark.parametrize("layer_stats", [True, False])
def test_each_validation_draws_both_of_each_layer(fit, tiny, layer_stats):
    module = Watched(tiny())
    events = Events(fit([callback(layer_stats=layer_stats)], module=module).logger.log_dir)
    own = {f"activations/{layer}/{kind}" for layer in ("net.conv1", "net.conv2") for kind in KINDS}
    assert events.tags == own | {"activations/net.conv1", "activations/net.conv2"}
    assert all(events.steps(tag) == [5, 11] for tag in own)
    assert any("sparsity" in tag for tag in events.scalars) is layer_stats, "both observe the same layers"
    images = data(20, seed=1).tensors[0]
    for layer, count in (("net.conv1", 4), ("net.conv2", 6)):
        about = facts(events.images(f"activations/{layer}/exciting")[-1])
        peaks, pictures = maps_of(module, images, layer).amax((2, 3)).sort(dim=0, descending=True, stable=True)
        assert {key: about[key] for key in ("kind", "layer", "epoch", "step", "columns", "count")} == {
            "kind": "exciting", "layer": layer, "epoch": 1, "step": 11, "columns": [0, count - 1], "count": 20,
        }  # fmt: skip
        for channel, item in zip(about["columns"], about["items"], strict=True):
            assert item["pictures"] == pictures[:3, channel].tolist()
            assert item["peaks"] == pytest.approx(peaks[:3, channel].tolist(), rel=0.01)


def test_the_strongest_channels_are_those_with_the_largest_values(fit, tiny):
    module, one = Watched(tiny()), callback(probes=data(4, seed=5).tensors[0], exciting=0, layer_stats=False)
    trainer = fit([one], module=module)
    assert not any("exciting" in tag for tag in Events(trainer.logger.log_dir).tags)
    image = Events(trainer.logger.log_dir).images("activations/net.conv2/strongest")[-1]
    about, maps = facts(image), maps_of(module, data(4, seed=5).tensors[0], "net.conv2")
    assert (about["rows"], about["columns"]) == ([0, 1, 2, 3], [1, 2, 3])
    assert (about["kind"], about["epoch"], about["step"], about["scale"][0]) == ("strongest", 1, 11, 0)
    for row, answered in enumerate(maps.amax((2, 3))):
        wanted, channels = answered.sort(descending=True)
        items = about["items"][3 * row : 3 * row + 3]
        assert [item["channel"] for item in items] == channels[:3].tolist()
        assert [item["peak"] for item in items] == pytest.approx(wanted[:3].tolist(), rel=0.01)
        for place, channel in enumerate(channels[:3].tolist()):
            codes = torch.tensor(list(tile(image, about["tiles"], 3 * row + place).tobytes()))
            zoom = about["tiles"]["w"] // maps.shape[3]
            codes = codes.view(about["tiles"]["h"], -1)[::zoom, ::zoom]
            levels = maps[row, channel] / about["scale"][1] * 175
            assert (codes - levels.clamp(0, 175)).abs().max() <= 3


def test_by_default_nothing_is_drawn_and_nothing_observed():
    one = ActivationLogger(layer_stats=False)
    one.adopt_choice({"net.conv1": "net.conv1"})
    assert not one.needs.divisible
    assert list(one.start_validation(RunInfo())) == []
    one = ActivationLogger(layer_stats=False, exciting=1)
    one.adopt_choice({"net.conv1": "net.conv1"})
    assert one.needs.divisible
    assert [name for name, _ in one.start_validation(RunInfo())] == ["net.conv1"]


def test_the_dry_run_knows_no_exciting_pictures_yet(fit):
    one = callback()
    fit([one])
    assert "activations/net.conv1/strongest" in one.initial_pictures
    assert not any("exciting" in tag for tag in one.initial_pictures)


def test_named_channels_are_those_and_a_layer_that_lacks_one_is_an_error(fit):
    events = Events(fit([callback(exciting=[3, 1])], max_epochs=1).logger.log_dir)
    assert facts(events.images("activations/net.conv2/exciting")[0])["columns"] == [3, 1]
    with pytest.raises(ValueError, match=r"`exciting` holds 4; layer 'net.conv1' has channels 0 to 3"):
        fit([callback(exciting=[4])])


def test_fewer_pictures_than_three_leave_the_others_blank(fit):
    val = DataLoader(data(2, seed=1), batch_size=1)
    events = Events(fit([callback(num_probes=2)], val=val, max_epochs=1).logger.log_dir)
    about = facts(events.images("activations/net.conv1/exciting")[0])
    assert about["count"] == 2
    for item in about["items"]:
        assert sorted(item["pictures"]) == [-1, 0, 1]
        assert item["pictures"][2] == -1
        assert item["peaks"][2] is None


class Halves(nn.Module):
    """Two channels whose values are set by the pictures: bright pixels, and none at all."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 5)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 0]]).view(2, 3, 1, 1))
            self.conv.bias.copy_(torch.tensor([0.0, -1]))
        self.conv.requires_grad_(False)

    def forward(self, images):
        return self.head(self.conv(images).mean((2, 3)))


def test_the_frame_is_where_the_value_is_and_a_silent_channel_has_none(fit):
    images = torch.zeros(5, 3, 16, 16)
    for index, (y, x) in enumerate([(2, 2), (2, 13), (13, 2), (13, 13), (8, 8)]):
        images[index, 0, y, x] = index + 1
    val = DataLoader(TensorDataset(images, torch.zeros(5).long()), batch_size=2)
    one = callback(layers="net.conv", layer_stats=False, strongest=0)
    events = Events(fit([one], module=Watched(Halves()), train=val, val=val, max_epochs=1).logger.log_dir)
    image = events.images("activations/net.conv/exciting")[0]
    about = facts(image)
    assert [item["pictures"] for item in about["items"]] == [[4, 3, 2], [0, 1, 2]]
    assert [item["peaks"] for item in about["items"]] == [[5, 4, 3], [-1, -1, -1]]
    pixels = torch.tensor(list(tile(image.convert("RGB"), about["tiles"], 0).tobytes())).view(64, -1, 3)
    yellow = (pixels - torch.tensor(YELLOW)).abs().amax(2) < 60
    for place, (y, x) in enumerate([(8, 8), (13, 13), (13, 2)]):
        rows, columns = yellow[:, 66 * place : 66 * place + 64].nonzero().T
        middle = (rows.min() + rows.max() + 1) / 8 - 0.5, (columns.min() + columns.max() + 1) / 8 - 0.5
        assert torch.tensor(middle).sub(torch.tensor([y, x])).abs().max() <= 0.6
    silent = torch.tensor(list(tile(image.convert("RGB"), about["tiles"], 1).tobytes())).view(64, -1, 3)
    assert not ((silent - torch.tensor(YELLOW)).abs().amax(2) < 60).any()


@pytest.mark.parametrize(("y", "x"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.2)])
def test_a_frame_leaves_the_picture_inside_and_outside_as_it_is(y, x):
    shown = torch.full((64, 40, 3), 77, dtype=torch.uint8)
    draw_frame(shown, y, x)
    inside = shown[round(y * 63), round(x * 39)] if 0 < y < 1 else shown[3 if y == 0 else -4, 3 if x == 0 else -4]
    assert (inside == 77).all()
    assert 0.8 < (shown == 77).all(2).float().mean() < 1


class Wide(Halves):
    """Many channels with large maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 24, 3, padding=1), nn.Linear(24, 5)


def test_both_pages_of_a_large_layer_stay_small(fit):
    val = DataLoader(TensorDataset(torch.rand(9, 3, 48, 48), torch.arange(9) % 5), batch_size=4)
    one = callback(layers="net.conv", strongest=12, exciting=24, num_probes=8, layer_stats=False)
    events = Events(fit([one], module=Watched(Wide()), train=val, val=val, max_epochs=1).logger.log_dir)
    assert len(facts(events.images("activations/net.conv/exciting")[0])["items"]) == 24
    sizes = {kind: events.sizes()[f"activations/net.conv/{kind}"] for kind in KINDS}
    assert max(sizes.values()) < 60_000, sizes


def test_ranks_that_saw_nothing_leave_the_picture_out():
    one = TopExamples(1)
    ((name, accumulator),) = one.start_validation(["a"])
    assert name == "a"
    assert one.compute() == {"a": None}
    assert accumulator.merge([None, None]) is None
    one.end_validation()
    assert one.compute() == {}, "nothing stays on the device"
