import pytest
import torch
from torch import nn

from lightning_convviz import ascent
from lightning_convviz.ascent import ascend, patterns
from lightning_convviz.canvas import Box, FourierCanvas, PixelCanvas, generators
from lightning_convviz.transforms import jitter

RANGE = Box(torch.full((3,), -2.0).double(), torch.full((3,), 2.0).double(), torch.eye(3).double())


@pytest.mark.parametrize("canvas", [PixelCanvas, FourierCanvas])
@pytest.mark.parametrize("transforms", [[], [jitter(1, generators([3, 4]))]])
def test_ascent_raises_the_value(tiny, canvas, transforms):
    net = tiny().double().eval()
    images = canvas((8, 9), RANGE, generators([1, 2]))

    def value(images):
        return net.conv1(images)[:, 1].mean((1, 2))

    before = value(images())
    ascend(value, images, steps=20, transforms=transforms)
    assert (value(images()) > before + 0.1).all()


def test_ascent_on_a_linear_model_finds_the_weight_s_direction():
    weight = torch.randn(3, 4, 5, dtype=torch.float64)
    images = PixelCanvas((4, 5), RANGE, generators([1]))
    ascend(lambda images: (images * weight).sum((1, 2, 3)), images, steps=100, rate=0.2)
    torch.testing.assert_close(images()[0], 2 * weight.sign(), atol=0.05, rtol=0)


def test_no_steps_no_change():
    images = PixelCanvas((4, 5), RANGE, generators([1]))
    before = images()
    ascend(lambda images: images.sum((1, 2, 3)), images, steps=0)
    assert torch.equal(images(), before)


def test_patterns_lie_in_the_box_of_the_examples(net, images):
    found = patterns(net, "relu1", [0, 1, 2], like=images, steps=10).images
    low, high = images.transpose(0, 1).flatten(1).aminmax(dim=1)
    assert found.shape == (3, 3, 12, 16)
    assert (found >= low[:, None, None]).all()
    assert (found <= high[:, None, None]).all()


def test_activations_are_the_means_of_whole_maps_at_the_named_layer(net, images):
    found = patterns(net, "conv2", [4, 1], like=images, steps=5)
    net.eval()
    maps = net.conv2(net.relu1(net.bn1(net.conv1(found.images))))
    torch.testing.assert_close(found.activations, torch.stack([maps[0, 4].mean(), maps[1, 1].mean()]))


@pytest.mark.parametrize("objective", ["mean", "rise"])
@pytest.mark.parametrize("layer", ["conv1", "bn2"])
def test_more_steps_excite_more(net, images, layer, objective):
    none, few, many = (
        patterns(net, layer, [0, 3], like=images, steps=steps, objective=objective) for steps in (0, 4, 32)
    )
    aim = ascent.resolve(objective)([0, 3])

    def value(found):
        net.eval()
        with torch.no_grad():
            first = net.conv1(found.images)
            return aim(first if layer == "conv1" else net.bn2(net.conv2(net.relu1(net.bn1(first)))))

    start = value(none)
    assert (value(few) > start).all()
    assert (value(many) > value(few)).all()


def test_the_stream_of_a_pattern_depends_on_seed_layer_and_channel_only(net, images):
    def blank(layer, channel, seed):
        return patterns(net, layer, [channel], like=images, steps=0, seed=seed).images

    assert torch.equal(blank("conv1", 1, 0), blank("conv1", 1, 0))
    assert not torch.equal(blank("conv1", 1, 0), blank("conv1", 1, 1))
    assert not torch.equal(blank("conv1", 1, 0), blank("conv1", 2, 0))
    assert not torch.equal(blank("conv1", 1, 0), blank("bn1", 1, 0))


def test_the_forward_stops_at_the_layer(tiny, images):
    class Fragile(tiny):
        def forward(self, images):
            self.features(images)
            raise RuntimeError("went on after the layer")

    assert patterns(Fragile(), "relu2", [0], like=images, steps=1).images.isfinite().all()


def test_frozen_parameters_change_nothing(net, images):
    expected = patterns(net, "conv2", [0], like=images, steps=3)
    frozen = patterns(net.requires_grad_(False), "conv2", [0], like=images, steps=3)
    assert torch.equal(frozen.images, expected.images)


def test_a_backbone_under_no_grad_changes_nothing(tiny, images):
    class Transfer(tiny):
        @torch.no_grad()
        def forward(self, images):
            return super().forward(images)

    expected = patterns(tiny(), "conv2", [0], like=images, steps=3)
    assert torch.equal(patterns(Transfer(), "conv2", [0], like=images, steps=3).images, expected.images)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_around_changes_nothing(net, images, mode):
    expected = patterns(net, "conv2", [0], like=images, steps=3)
    with mode():
        assert torch.equal(patterns(net, "conv2", [0], like=images.clone(), steps=3).images, expected.images)


def test_a_layer_followed_by_an_inplace_relu_keeps_its_values(tiny, images):
    inplace, plain = (patterns(tiny(inplace=kind), "bn2", [0, 1], like=images, steps=3) for kind in (True, False))
    assert torch.equal(inplace.images, plain.images)
    assert torch.equal(inplace.activations, plain.activations)


def test_size_and_range_without_examples(net):
    found = patterns(net, "conv1", [0], shape=(3, 9, 7), steps=40).images
    assert found.shape == (1, 3, 9, 7)
    assert 0.5 < found.abs().max() <= 2


def test_another_size_than_the_examples(net, images):
    assert patterns(net, "conv1", [0], like=images, shape=(3, 9, 7), steps=1).images.shape == (1, 3, 9, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_model_s_precision_is_met_and_results_are_wide(tiny, images, dtype):
    found = patterns(tiny().to(dtype), "conv2", [0], like=images.to(dtype), steps=2)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert found.images.dtype == found.activations.dtype == wide


def test_patterns_stay_on_the_device(tiny, images, device):
    found = patterns(tiny().to(device), "conv2", [0, 1], like=images.to(device), steps=2)
    assert found.images.device.type == found.activations.device.type == device
    assert patterns(tiny().to(device), "conv1", [0], shape=(3, 8, 8), steps=1).images.device.type == device


def test_out_of_memory_patterns_are_the_same(tiny, images):
    class Scarce(tiny):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("tried to hold more than two images")
            return super().forward(images)

    options = {"layer": "conv2", "channels": [0, 1, 2, 3, 4], "like": images.double(), "steps": 12}
    whole, parts = patterns(tiny().double(), **options), patterns(Scarce().double(), **options)
    torch.testing.assert_close(parts.images, whole.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(parts.activations, whole.activations, atol=1e-6, rtol=0)


def test_a_forward_of_one_s_own(net, images):
    found = patterns(
        net, "conv2", [0], like=images[:, :1], steps=2, forward=lambda gray: net(gray.expand(-1, 3, -1, -1))
    )
    assert found.images.shape == (1, 1, 12, 16)


@pytest.mark.parametrize(
    ("layer", "channels", "options", "message"),
    [
        ("conv3", [0], {}, "`layer` is 'conv3', which `TinyNet` does not have. Did you mean 'conv"),
        ("conv*", [0], {}, r"`layer` is 'conv\*', which stands for 2 layers"),
        ("conv1", [], {}, "`channels` is empty. Name at least one"),
        ("conv1", [0, 4], {}, "`channels` holds 4; layer 'conv1' has channels 0 to 3"),
        ("conv1", [-1, 2], {}, "`channels` holds -1; layer 'conv1' has channels 0 to 3"),
        ("head", [0], {}, r"`layer` is 'head', whose output has shape \(1, 5\). Choose one with maps"),
        ("conv1", [0], {"steps": -1}, "`steps` is -1. It must be at least 0"),
        ("conv1", [0], {"objective": "meen"}, r"`objective` is 'meen'. It can be \['mean', 'rise'\] or a function"),
        ("conv1", [0], {"shape": (1, 8, 8)}, r"`shape` is \(1, 8, 8\), but `like` has 3 channels. Make them agree"),
        ("conv1", [0], {"like": None}, "`like` and `shape` are both missing"),
        ("conv1", [0], {"forward": lambda images: images}, r"layers \['conv1'\] never ran in this forward"),
    ],
)
def test_each_mistake_has_its_message(net, images, layer, channels, options, message):
    with pytest.raises(ValueError, match=message):
        patterns(net, layer, channels, **{"like": images, "steps": 1, **options})


def test_a_layer_behind_a_detach_is_an_error(images):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1).requires_grad_(False)

        def forward(self, images):
            return self.conv(images.detach())

    with pytest.raises(ValueError, match="`layer` is 'conv', whose output is detached from the images"):
        patterns(Detached(), "conv", [0], like=images, steps=1)
