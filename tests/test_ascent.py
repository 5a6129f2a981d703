import importlib
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_convviz import ascent
from lightning_convviz.ascent import (
    OBJECTIVES,
    RECTIFIERS,
    ascend,
    difference,
    direction,
    diverse,
    is_cheaper_together,
    joined,
    patterns,
    patterns_of_layers,
)
from lightning_convviz.ascent.recipes import build_config
from lightning_convviz.canvas import (
    CANVASES,
    Box,
    FourierCanvas,
    PhaseCanvas,
    PixelCanvas,
    PlainCanvas,
    box,
    generators,
)
from lightning_convviz.transforms import jitter, rotate, scale

PLAN = importlib.import_module("lightning_convviz.ascent.plan")
RANGE = Box(torch.full((3,), -2.0).double(), torch.full((3,), 2.0).double(), torch.eye(3).double())


class Counting:
    """A forward that counts how often it is called, and with how many images."""

    def __init__(self, model):
        self.model, self.sizes = model, []

    def __call__(self, images):
        self.sizes.append(len(images))
        return self.model(images)


def correlation(one, other):
    return torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].item()


# -- the ascent itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canvas", CANVASES.values())
@pytest.mark.parametrize("transform", [None, jitter, scale, rotate])
def test_ascent_raises_the_value(tiny, canvas, transform):
    net = tiny().double().eval()
    images = canvas((8, 9), RANGE, generators([1, 2]))
    size = {jitter: 1, scale: 0.05, rotate: 5}
    transforms = [transform(size[transform], generators([3, 4]))] if transform else []

    def value(images):
        return net.conv1(images)[:, 1].mean((1, 2))

    before = value(images())
    ascend(value, images, steps=20, transforms=transforms)
    assert (value(images()) > before + 0.1).all()


@pytest.mark.parametrize("canvas", [PixelCanvas, PlainCanvas])
def test_ascent_on_a_linear_model_finds_the_weight_s_direction(canvas):
    weight = torch.randn(3, 4, 5, dtype=torch.float64)
    images = canvas((4, 5), RANGE, generators([1]))
    ascend(lambda images: (images * weight).sum((1, 2, 3)), images, steps=400, rate=0.2)
    torch.testing.assert_close(images()[0], 2 * weight.sign(), atol=0.05, rtol=0)


@pytest.mark.parametrize(("canvas", "least"), [(FourierCanvas, 0.9), (PhaseCanvas, 0.75)])
def test_ascent_by_the_spectrum_comes_near_to_the_weight_s_direction(canvas, least):
    weight = torch.randn(3, 8, 9, dtype=torch.float64).sign()
    images = canvas((8, 9), RANGE, generators([1]))
    ascend(lambda images: (images * weight).sum((1, 2, 3)), images, steps=200, rate=0.1)
    assert correlation(images(), weight) > least


def value_of_all(images):
    return (images * torch.linspace(-1, 3, images[0].numel()).to(images).reshape(images[0].shape)).sum((1, 2, 3))


@pytest.mark.parametrize("canvas", [PixelCanvas, FourierCanvas, PhaseCanvas])
@pytest.mark.parametrize("rate", [None, 0.01, 0.5])
def test_the_first_step_of_adam_has_the_length_of_the_rate(canvas, rate):
    images = canvas((4, 5), RANGE, generators([1, 2]))
    before = images.values.detach().clone()
    ascend(value_of_all, images, steps=1, rate=rate)
    assert (images.values - before).abs().max().item() == pytest.approx(rate or canvas.rate, rel=1e-3)


@pytest.mark.parametrize("rate", [None, 0.01, 0.1])
def test_a_step_along_the_gradient_has_the_rate_as_its_root_mean_square(rate):
    images = PlainCanvas((4, 5), RANGE, generators([1, 2]))
    before = images.values.detach().clone()
    ascend(lambda images: value_of_all(images) * torch.tensor([1.0, 1e6]), images, steps=1, rate=rate)
    moved = (images.values - before).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(moved, torch.full((2,), rate or 0.03).double(), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("canvas", [PixelCanvas, PlainCanvas])
def test_where_there_is_no_gradient_nothing_moves(canvas):
    images = canvas((4, 5), RANGE, generators([1]))
    before = images.values.detach().clone()
    ascend(lambda images: 0 * images.sum((1, 2, 3)), images, steps=3)
    assert torch.equal(images.values, before)


def test_no_steps_no_change():
    images = PixelCanvas((4, 5), RANGE, generators([1]))
    before = images()
    ascend(lambda images: images.sum((1, 2, 3)), images, steps=0)
    assert torch.equal(images(), before)


@pytest.mark.parametrize("canvas", CANVASES)
def test_the_gradient_reaches_no_weight(net, images, canvas):
    before = {name: parameter.grad for name, parameter in net.named_parameters()}
    patterns(net, None, [0, 1], like=images, steps=3, canvas=canvas)
    assert {name: parameter.grad for name, parameter in net.named_parameters()} == before
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))


# -- patterns of a layer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"canvas": name} for name in CANVASES] + [{"recipe": "textbook"}])
def test_patterns_lie_in_the_box_of_the_examples(net, images, options):
    found = patterns(net, "relu1", [0, 1, 2], like=images, **options, steps=10).images
    low, high = images.transpose(0, 1).flatten(1).aminmax(dim=1)
    assert found.shape == (3, 3, 12, 16)
    assert (found >= low[:, None, None]).all()
    assert (found <= high[:, None, None]).all()


def test_activations_are_the_means_of_whole_maps_at_the_named_layer(net, images):
    found = patterns(net, "conv2", [4, 1], like=images, steps=5)
    net.eval()
    maps = net.conv2(net.relu1(net.bn1(net.conv1(found.images))))
    torch.testing.assert_close(found.activations, torch.stack([maps[0, 4].mean(), maps[1, 1].mean()]))


@pytest.mark.parametrize("layer", ["conv2", "relu2"])
def test_peaks_are_the_largest_of_whole_maps_at_the_named_layer(tiny, images, layer):
    net = tiny(inplace=False).eval()
    found = patterns(net, layer, [4, 1], like=images, steps=5)
    maps = net.conv2(net.relu1(net.bn1(net.conv1(found.images))))
    maps = maps if layer == "conv2" else net.relu2(net.bn2(maps))
    torch.testing.assert_close(found.peaks, torch.stack([maps[0, 4].max(), maps[1, 1].max()]))
    torch.testing.assert_close(found.activations, torch.stack([maps[0, 4].mean(), maps[1, 1].mean()]))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("layer", ["conv1", "bn2"])
def test_more_steps_excite_more_and_gained_is_by_how_much(tiny, images, layer, objective):
    net = tiny(inplace=False).double().eval()
    images = images.double()
    within = box(images)

    def maps(given):
        first = net.conv1(given)
        return first.detach() if layer == "conv1" else net.bn2(net.conv2(net.relu1(net.bn1(first)))).detach()

    none, few, more = (
        patterns(net, layer, [0, 3], like=images, steps=steps, objective=objective, augment=False)
        for steps in (0, 4, 32)
    )
    blank = maps(((within.low + within.high) / 2)[None, :, None, None].expand(1, 3, 12, 16))
    aim = ascent.resolve(objective)([0, 3], blank)
    for found in (none, few, more):
        expected = aim(maps(found.images)) - aim(blank.expand(2, *blank.shape[1:]))
        torch.testing.assert_close(found.improvement, expected, atol=1e-10, rtol=0)
    assert (few.improvement > none.improvement).all()
    assert (more.improvement > few.improvement).all()


def test_a_direction_brings_out_its_combination_of_channels(net, images):
    vectors = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    options = {"like": images, "objective": direction(vectors)}
    none, some = (patterns(net, "conv1", [0, 0], **options, steps=steps) for steps in (0, 32))
    assert (some.improvement > none.improvement + 0.1).all()
    maps = net.conv1(some.images).mean((2, 3))
    blank = net.conv1(none.images).mean((2, 3))
    assert ((vectors * (maps - blank)).sum(1) > 0.1).all()


def test_a_difference_raises_one_channel_above_the_other(net, images):
    aim = difference([3, 0])
    found = patterns(net, "conv1", [0, 3], like=images, objective=aim, steps=32)
    maps = net.conv1(found.images).mean((2, 3))
    assert maps[0, 0] > maps[0, 3] + 0.5
    assert maps[1, 3] > maps[1, 0] + 0.5


def likeness(net, images):
    """Mean over pairs of the cosine of Gram matrices, at conv2."""
    net.eval()
    flat = net.conv2(net.relu1(net.bn1(net.conv1(images)))).flatten(2)
    grams = F.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1)
    return torch.stack([grams[i] @ grams[j] for i, j in combinations(range(len(images)), 2)]).mean().item()


def test_images_of_one_channel_are_pushed_apart_and_others_are_not(tiny, images):
    net, options = tiny(inplace=False).double(), {"like": images.double(), "steps": 48, "augment": False}
    alike = patterns(net, "conv2", [1, 4, 1, 1], **options, objective="above_blank")
    apart = patterns(net, "conv2", [1, 4, 1, 1], **options, objective="diverse")
    ones = [0, 2, 3]
    assert likeness(net, apart.images[ones]) < likeness(net, alike.images[ones]) - 0.05
    torch.testing.assert_close(apart.images[1], alike.images[1], atol=1e-6, rtol=0)
    free = patterns(net, "conv2", [1, 4, 1, 1], **options, objective=diverse(0.0))
    torch.testing.assert_close(free.images, alike.images, atol=1e-6, rtol=0)


def test_images_of_one_channel_begin_apart_and_the_first_as_if_it_were_alone(net, images):
    several = patterns(net, "conv1", [2, 0, 2, 2], like=images, steps=0).images
    assert torch.equal(several[:1], patterns(net, "conv1", [2], like=images, steps=0).images)
    for i, j in combinations(range(4), 2):
        assert not torch.equal(several[i], several[j])


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


# -- where nothing comes through --------------------------------------------------------------------------------------


def asleep(rectifier):
    """A filter that a blank image leaves far below zero, though not all images do, and one that nothing reaches."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), rectifier).double()
    with torch.no_grad():
        net[0].weight[0] = torch.tensor([1.0, -1.0, 1.0])[:, None, None]
        net[0].weight[1] = 0
        net[0].bias.fill_(-8)
    return net


@pytest.mark.parametrize(
    "rectifier", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Threshold(0, 0), nn.Hardswish()]
)
@pytest.mark.parametrize("objective", ["mean", "above_blank"])
def test_a_filter_that_is_cut_off_on_the_blank_image_is_woken(rectifier, objective):
    net = asleep(rectifier)
    found = patterns(net, "1", [0, 1], shape=(3, 7, 7), steps=24, objective=objective)
    assert found.activations[0] > 0.1
    torch.testing.assert_close(found.activations[0], net(found.images)[0, 0].mean())
    torch.testing.assert_close(found.peaks[0], net(found.images)[0, 0].max())
    assert found.improvement[0] > 8
    assert found.improvement[1] == 0, "with weights of zero there is nothing to gain, exactly"


def test_rectifiers_are_those_that_cut_off():
    assert isinstance(nn.ReLU6(), RECTIFIERS)
    assert not isinstance(nn.LeakyReLU(), RECTIFIERS)
    assert not isinstance(nn.GELU(), RECTIFIERS)


# -- vectors and classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_layer_of_vectors_has_patterns(net, images, objective):
    none, some = (patterns(net, "head", [4, 0], like=images, steps=steps, objective=objective) for steps in (0, 12))
    logits = net.eval()(some.images)
    torch.testing.assert_close(some.activations, logits[[0, 1], [4, 0]])
    assert torch.equal(some.peaks, some.activations)
    assert (some.improvement > none.improvement + 0.1).all()


@pytest.mark.parametrize("canvas", CANVASES)
def test_patterns_of_classes_raise_their_logits(net, images, canvas):
    options = {"like": images, "canvas": canvas, "augment": False}
    none, some = (patterns(net, None, range(5), **options, steps=steps) for steps in (0, 24))
    logits = net.eval()(some.images)
    torch.testing.assert_close(some.activations, logits.diagonal())
    assert (logits.diagonal() > net(none.images).diagonal() + 0.1).all()


def test_logits_are_read_from_what_the_model_returns(net, images):
    expected = patterns(net, None, [3, 1], like=images, steps=4)
    options = {
        "forward": lambda images: {"mine": (images, net(images))},
        "output": lambda returned: returned["mine"][1],
    }
    found = patterns(net, None, [3, 1], like=images, steps=4, **options)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.activations, expected.activations)


def test_one_logit_is_two_classes(images):
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = patterns(net, None, [0, 1], like=images, steps=16)
    torch.testing.assert_close(found.activations, net(found.images)[:, 0] * torch.tensor([-0.5, 0.5]))
    assert (found.improvement > 0.1).all()


# -- several layers ---------------------------------------------------------------------------------------------------

WANTED = {"relu2": [5, 0], "conv1": [1], None: [4, 2], "bn1": [0, 3], "head": [2]}


@pytest.mark.parametrize("share_batch", [True, False])
@pytest.mark.parametrize("wanted", [WANTED, {"relu2": [5, 0], "conv1": [1, 1], "relu1": [2]}])
@pytest.mark.parametrize("options", [{}, {"canvas": "maco", "objective": "above_blank"}, {"recipe": "textbook"}])
def test_patterns_of_several_layers_are_those_of_each(tiny, images, share_batch, wanted, options):
    net, options = tiny().double(), {"like": images.double(), "steps": 5, **options}
    found = patterns_of_layers(net, wanted, share_batch=share_batch, **options)
    assert list(found) == list(wanted)
    for layer, channels in wanted.items():
        expected = patterns(net, layer, channels, **options)
        for name, value in vars(expected).items():
            torch.testing.assert_close(getattr(found[layer], name), value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share_batch", [True, False])
def test_a_relu_that_runs_twice_is_the_same_whoever_else_is_asked(images, share_batch):
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)

        def forward(self, images):
            return self.relu(self.last(self.relu(self.conv(images)))).mean((2, 3))

    net, options = Again().double(), {"like": images.double(), "steps": 4}
    found = patterns_of_layers(net, {"relu": [0, 1], "last": [1], None: [2]}, share_batch=share_batch, **options)
    expected = patterns(net, "relu", [0, 1], **options)
    torch.testing.assert_close(found["relu"].images, expected.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["relu"].activations, net.conv(expected.images).relu().mean((2, 3)).diagonal())


def test_layers_share_forwards_or_run_to_their_own_depth(net, images):
    forwards = {way: Counting(net) for way in (True, False)}
    for share_batch, forward in forwards.items():
        patterns_of_layers(
            net, {"conv1": [0, 1], "bn2": [2]}, like=images, steps=3, share_batch=share_batch, forward=forward
        )
    assert forwards[True].sizes == [1, 3, 3, 3, 3], "the blank image, the steps, and what was reached"
    assert forwards[False].sizes == [1, 2, 2, 2, 2, 1, 1, 1, 1, 1]


def test_a_layer_without_channels_has_no_patterns(net, images):
    found = patterns_of_layers(net, {"conv1": [], "bn2": [2], "conv2": []}, like=images, steps=1)
    assert {layer: len(each) for layer, each in found.items()} == {"conv1": 0, "bn2": 1, "conv2": 0}


@pytest.mark.parametrize(("shared", "cheaper"), [(1.9, True), (2.1, False)])
def test_what_is_measured_to_be_cheaper_is_done(net, images, monkeypatch, shared, cheaper):
    monkeypatch.setattr(PLAN, "_seconds", lambda way, counts, *_: 1.0 if len(counts) == 1 else shared)
    wanted, forward = {"conv1": [0, 1], "bn2": [2]}, Counting(net)
    patterns_of_layers(net, wanted, like=images, steps=3, forward=forward)
    assert forward.sizes == ([1, 3, 3, 3, 3] if cheaper else [1, 2, 2, 2, 2, 1, 1, 1, 1, 1])
    assert is_cheaper_together(net, wanted, like=images) is cheaper


def test_what_does_not_fit_together_is_not_cheaper(net, images):
    def scarce(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("tried to hold more than two images")
        return net(images)

    assert not is_cheaper_together(net, {"conv1": [0, 1], "bn2": [2]}, like=images, forward=scarce)
    assert is_cheaper_together(net, {"bn2": [2]}, like=images)


def test_a_measurement_takes_time_and_no_more_images_than_asked_for(net, images):
    forward = Counting(net)
    way = importlib.import_module("lightning_convviz.ascent.climb").LayerReader(net, forward)
    with torch.enable_grad():
        assert PLAN._seconds(way, {"conv1": 3, None: 2}, box(images), (12, 16), 2) > 0
    assert set(forward.sizes) == {2}


# -- in chunks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [{"conv2": [0, 1, 2, 3, 4]}, {"conv1": [0, 1, 2], "relu2": [3, 4]}])
@pytest.mark.parametrize("chunk", [1, 2, 99])
def test_patterns_in_chunks_are_the_same(tiny, images, wanted, chunk):
    net, options = tiny().double(), {"like": images.double(), "steps": 5, "share_batch": True}
    whole, forward = patterns_of_layers(net, wanted, **options), Counting(net)
    parts = patterns_of_layers(net, wanted, chunk=chunk, forward=forward, **options)
    assert max(forward.sizes) == min(chunk, 5)
    for layer in wanted:
        torch.testing.assert_close(parts[layer].images, whole[layer].images, atol=1e-6, rtol=0)
        torch.testing.assert_close(parts[layer].activations, whole[layer].activations, atol=1e-6, rtol=0)


@pytest.mark.parametrize("chunk", [None, 3])
def test_out_of_memory_patterns_are_the_same(tiny, images, chunk):
    class Scarce(tiny):
        def forward(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("tried to hold more than two images")
            return super().forward(images)

    options = {"layer": "conv2", "channels": [0, 1, 2, 3, 4], "like": images.double(), "steps": 12}
    whole, parts = patterns(tiny().double(), **options), patterns(Scarce().double(), **options, chunk=chunk)
    torch.testing.assert_close(parts.images, whole.images, atol=1e-6, rtol=0)
    torch.testing.assert_close(parts.activations, whole.activations, atol=1e-6, rtol=0)


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_the_textbook_takes_thirty_steps_along_the_normalized_gradient_of_the_mean(tiny, images):
    net, forward = tiny(inplace=False).double().eval(), Counting(tiny().double())
    images = images.double()
    found = patterns(
        forward.model, "conv2", [1], like=images, recipe="textbook", forward=forward, objective="above_blank"
    )
    assert forward.sizes == [1] * 32, "the blank image, 30 steps, and what was reached"
    begin = patterns(net, "conv2", [1], like=images, recipe="textbook", steps=0)
    assert begin.values.std().item() == pytest.approx(0.06, rel=0.1)
    within, values = box(images), begin.values.clone()
    low, width = within.low[:, None, None], (within.high - within.low)[:, None, None]
    for _ in range(30):
        values.requires_grad_()
        maps = net.conv2(net.relu1(net.bn1(net.conv1(low + width * (0.5 + values)))))
        mean = maps[0, 1].mean() if min(maps.shape[2:]) < 8 else maps[0, 1, 2:-2, 2:-2].mean()
        (gradient,) = torch.autograd.grad(mean, values)
        values = (values + 0.03 * gradient / gradient.square().mean().sqrt()).detach().clamp(-0.5, 0.5)
    torch.testing.assert_close(found.values, values, atol=1e-9, rtol=0)
    assert found.improvement > begin.improvement


@pytest.mark.parametrize("canvas", CANVASES)
def test_the_rate_is_the_length_of_a_step(net, images, canvas):
    options = {"like": images, "canvas": canvas, "augment": False}
    begin = patterns(net, "conv1", [0], **options, steps=0).values
    for rate in (None, 0.01):
        moved = (patterns(net, "conv1", [0], **options, steps=1, rate=rate).values - begin).abs()
        length = moved.square().mean().sqrt() if canvas == "textbook" else moved.max()
        assert length.item() == pytest.approx(rate or CANVASES[canvas].rate, rel=0.02)


def test_patterns_need_not_survive_shifts(net, images):
    sure, free = (patterns(net, "conv1", [0], like=images, steps=4, augment=augment) for augment in (True, False))
    assert not torch.equal(sure.images, free.images)


def test_phases_excite_with_the_examples_spectrum(net, images):
    options = {"like": images, "canvas": "maco", "augment": False}
    none, some = (patterns(net, "conv2", [0, 3], **options, steps=steps) for steps in (0, 24))
    assert (some.activations > none.activations + 0.1).all()
    assert patterns(net, "conv2", [0], shape=(3, 9, 7), steps=2, canvas="maco").images.shape == (1, 3, 9, 7)


# -- going on from earlier patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("canvas", CANVASES)
def test_going_on_by_no_steps_is_the_same_picture(net, images, canvas):
    options = {"like": images, "canvas": canvas}
    before = patterns(net, "conv2", [3, 0, 3], **options, steps=4)
    again = patterns(net, "conv2", [3, 0, 3], **options, steps=0, start=before, shrink=1.0)
    assert torch.equal(again.images, before.images)
    assert torch.equal(again.activations, before.activations)
    assert torch.equal(again.values, before.values)


@pytest.mark.parametrize("canvas", CANVASES)
def test_a_warm_start_reaches_more_in_a_few_steps(net, images, canvas):
    options = {"like": images, "canvas": canvas, "augment": False}
    before = patterns(net, "conv2", [0, 1, 2, 3], **options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    cold = patterns(net, "conv2", [0, 1, 2, 3], **options, steps=4)
    warm = patterns(net, "conv2", [0, 1, 2, 3], **options, steps=4, start=before)
    assert (warm.improvement > 1.02 * cold.improvement).all()


def test_some_layers_go_on_and_others_begin(net, images):
    wanted = {"conv1": [0, 2], "bn2": [1]}
    before = patterns_of_layers(net, wanted, like=images, steps=4)
    start = {"conv1": before["conv1"].values.half()}
    again = patterns_of_layers(net, wanted, like=images, steps=0, start=start, shrink=1.0, chunk=2)
    torch.testing.assert_close(again["conv1"].images, before["conv1"].images, atol=0.02, rtol=0)
    assert torch.equal(again["bn2"].images, patterns(net, "bn2", [1], like=images, steps=0).images)
    assert again["conv1"].values.dtype == torch.float32


@pytest.mark.parametrize(
    ("start", "options"),
    [
        ({"conv1": [0, 1], "steps": 1}, {"canvas": "pixels"}),
        ({"conv1": [0, 1], "steps": 1}, {"shape": (3, 12, 18)}),
        ({"conv1": [0, 1, 2], "steps": 1}, {}),
        ({"conv2": [0, 1], "steps": 1}, {}),
    ],
)
def test_parameters_that_do_not_fit_are_an_error(net, images, start, options):
    steps = start.pop("steps")
    start = patterns_of_layers(net, start, like=images, steps=steps)
    with pytest.raises(
        ValueError, match=r"`start` has parameters of shape \(., 3, 12, 9, 2\) for 'conv.', where \(. ?,.*"
    ):
        patterns_of_layers(net, {"conv1": [0, 1]}, like=images, start=start, steps=1, **options)


# -- and the rest -----------------------------------------------------------------------------------------------------


def test_patterns_can_be_taken_and_joined(net, images):
    found = patterns(net, "conv1", [0, 1, 2, 3], like=images, steps=1)
    assert len(found) == 4
    for name, value in vars(found.take([2, 0])).items():
        assert torch.equal(value, getattr(found, name)[[2, 0]])
    again = joined([found.take(slice(0, 1)), found.take(slice(1, 4))])
    assert all(torch.equal(value, getattr(found, name)) for name, value in vars(again).items())
    assert all(value.device.type == "cpu" for value in vars(found.cpu()).values())


@pytest.mark.parametrize("share_batch", [True, False])
def test_progress_is_shown_where_it_is_wanted(net, images, capsys, share_batch):
    options = {"like": images, "steps": 3, "share_batch": share_batch}
    patterns_of_layers(net, {"conv1": [0], None: [1]}, **options)
    assert capsys.readouterr().err == ""
    patterns_of_layers(net, {"conv1": [0], None: [1]}, **options, progress=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert ("conv1, classes: 100%" if share_batch else "classes: 100%") in shown


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
        (None, [5], {}, r"`channels` holds 5; \(of a callback `classes`\) the model has classes 0 to 4"),
        (None, [0], {"output": lambda _: "nothing"}, r"`output` returned a str, where class logits"),
        ("conv1", [0], {"forward": lambda images: images}, r"layers \['conv1'\] never ran in this forward"),
        ("conv1", [0], {"steps": -1}, "`steps` is -1. It must be at least 0"),
        ("conv1", [0], {"chunk": 0}, "`chunk` is 0. It must be at least 1, or None"),
        ("conv1", [0], {"shrink": 1.5}, r"`shrink` is 1.5. It must lie in \[0, 1\]"),
        (
            "conv1",
            [0],
            {"canvas": "fouriers"},
            r"`canvas` is 'fouriers'. It can be \['fourier', 'maco', 'pixels', 'text",
        ),
        (
            "conv1",
            [0],
            {"objective": "meen"},
            r"`objective` is 'meen'. It can be \['above_blank', 'diverse', 'mean', 'neuron'\]",
        ),
        ("conv1", [0], {"objective": difference([1, 2])}, "`others` has 2 channels for 1 images. Give one for each"),
        (
            "conv1",
            [0, 1],
            {"objective": direction(torch.ones(2, 5))},
            r"`vectors` has shape \(2, 5\). 2 images of a layer with 4 channels want \(2, 4\)",
        ),
        (
            "conv1",
            [0],
            {"objective": direction(torch.ones(2, 4))},
            r"`vectors` has shape \(2, 4\). 1 images of a layer with 4 channels want \(1, 4\)",
        ),
        ("conv1", [0], {"shape": (1, 8, 8)}, r"`shape` is \(1, 8, 8\), but `like` has 3 channels. Make them agree"),
        ("conv1", [0], {"like": None}, "`like` and `shape` are both missing"),
    ],
)
def test_each_mistake_has_its_message(net, images, layer, channels, options, message):
    with pytest.raises(ValueError, match=message):
        patterns(net, layer, channels, **{"like": images, "steps": 1, **options})


def test_what_is_no_name_has_its_message():
    with pytest.raises(TypeError, match=r"`canvas` is a type. It can be \['fourier', 'maco', 'pixels', 'textbook'\]"):
        ascent.check_canvas(PixelCanvas)
    with pytest.raises(ValueError, match=r"`recipe` is 'cookbook'. It can be 'textbook' or None"):
        build_config(None, None, 0, "mean", "fourier", "cookbook", True, 0.5)


def test_several_layers_are_named_in_full(net, images):
    with pytest.raises(ValueError, match=r"`channels` is 'conv3', which `TinyNet` does not have. Did you mean 'conv"):
        patterns_of_layers(net, {"conv1": [0], "conv3": [0]}, like=images, steps=1)
    with pytest.raises(ValueError, match=r"`channels` names \['\*1'\]. Name each layer in full"):
        patterns_of_layers(net, {"*1": [0]}, like=images, steps=1)


def test_patterns_to_go_on_from_are_as_many_as_channels(net, images):
    start = patterns(net, "conv1", [0, 1], like=images, steps=1)
    with pytest.raises(ValueError, match=r"`start` has 2 patterns for 3 channels. Give one for each"):
        patterns(net, "conv1", [0, 1, 2], like=images, start=start)


def test_a_layer_without_maps_is_an_error(images):
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(2))
    with pytest.raises(ValueError, match=r"`layer` is '1', whose output has shape \(1, 2, 192\). Choose one with maps"):
        patterns(net, "1", [0], like=images, steps=1)


def test_a_layer_behind_a_detach_is_an_error(images):
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1).requires_grad_(False)

        def forward(self, images):
            return self.conv(images.detach())

    with pytest.raises(ValueError, match="`layer` is 'conv', whose output is detached from the images"):
        patterns(Detached(), "conv", [0], like=images, steps=1)
