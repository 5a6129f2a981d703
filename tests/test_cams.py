import pytest
import torch
from torch import nn

from lightning_convviz import cams
from lightning_convviz.cams import Explanation, heatmaps, run_forward
from lightning_convviz.isolation import isolated

LAYERS = ["conv1", "bn1", "relu1", "conv2", "bn2", "relu2"]


class Scarce(nn.Module):
    """Memory for two images at a time."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("tried to hold more than two images")
        return self.net(images)


def test_auto_explains_the_last_map(net, images):
    assert torch.equal(heatmaps(net, images), heatmaps(net, images, layer="dropout"))


def test_several_layers_come_as_a_dict_from_one_forward(net, images):
    calls = []

    def forward(images):
        calls.append(len(images))
        return net(images)

    found = heatmaps(net, images, layer=["relu2", "bn1"], forward=forward)
    assert calls == [4]
    assert list(found) == ["relu2", "bn1"]
    for name, maps in found.items():
        torch.testing.assert_close(maps, heatmaps(net, images, layer=name))
    assert list(heatmaps(net, images, layer=["relu2"])) == ["relu2"], "a list of one is a list"


@pytest.mark.parametrize("layer", LAYERS)
def test_an_inplace_relu_after_the_layer_changes_nothing(tiny, images, layer):
    twin = heatmaps(tiny(inplace=False), images, layer=layer, signed=True)
    assert torch.equal(heatmaps(tiny(), images, layer=layer, signed=True), twin)
    assert twin.abs().max() > 0.01


@pytest.mark.parametrize("layer", LAYERS)
def test_frozen_parameters_change_nothing(net, images, layer):
    expected = heatmaps(net, images, layer=layer, signed=True)
    assert torch.equal(heatmaps(net.requires_grad_(False), images, layer=layer, signed=True), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_around_changes_nothing(net, images, mode):
    expected = heatmaps(net, images)
    with mode():
        assert torch.equal(heatmaps(net, images.clone()), expected)


def test_training_mode_changes_nothing(tiny, images):
    assert torch.equal(heatmaps(tiny().train(), images), heatmaps(tiny().eval(), images))


def test_bfloat16_agrees_within_rounding(tiny, images):
    expected = heatmaps(tiny(), images, target=0, signed=True)
    rounded = heatmaps(tiny().bfloat16(), images.bfloat16(), target=0, signed=True)
    assert rounded.dtype == torch.float32
    assert (rounded - expected).abs().max() < 0.05 * expected.abs().max()


def test_autocast_agrees_within_rounding_and_the_user_s_gradients_still_come(net, images):
    expected = heatmaps(net, images, target=0, signed=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = heatmaps(net, images, target=0, signed=True)
        net(images).sum().backward()
    assert rounded.dtype == torch.float32
    assert (rounded - expected).abs().max() < 0.05 * expected.abs().max()
    assert all(parameter.grad is not None for parameter in net.parameters()), "autocast caches weights"


def test_double_in_double_out(tiny, images):
    maps = heatmaps(tiny().double(), images.double())
    assert maps.dtype == torch.float64
    torch.testing.assert_close(maps.float(), heatmaps(tiny(), images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("of_model", [False, True])
def test_channels_last_changes_nothing(net, images, of_model):
    expected = heatmaps(net, images)
    net = net.to(memory_format=torch.channels_last) if of_model else net
    found = heatmaps(net, images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_backbone_under_no_grad_changes_nothing(tiny, images, layer):
    class Transfer(tiny):
        def features(self, images):
            with torch.no_grad():
                return super().features(images)

    assert torch.equal(heatmaps(Transfer(), images, layer=layer), heatmaps(tiny(), images, layer=layer))


def test_a_module_called_twice_is_explained_at_its_last_call(images):
    first, second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    second.load_state_dict(first.state_dict())
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)]
    tied, untied = nn.Sequential(first, nn.ReLU(), first, *head), nn.Sequential(first, nn.ReLU(), second, *head)
    assert torch.equal(heatmaps(tied, images, layer="0", signed=True), heatmaps(untied, images, layer="2", signed=True))


def paper_s_heatmap(net, image, target, size):
    """Grad-CAM as it is written down, in loops: weights, ReLU at the layer's resolution, then bilinear enlarging."""
    A = net.features(image[None]).detach().requires_grad_()
    score = net.head(A.mean((2, 3)))[0, target]
    (G,) = torch.autograd.grad(score, A)
    _, c, h, w = A.shape
    low = torch.zeros(h, w, dtype=A.dtype)
    for y in range(h):
        for x in range(w):
            value = sum(G[0, k].mean() * A[0, k, y, x] for k in range(c)).item()
            low[y, x] = max(0.0, value)
    full = torch.zeros(size, dtype=A.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            v = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            u = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            y, x = int(v), int(u)
            below, right = min(y + 1, h - 1), min(x + 1, w - 1)
            top = low[y, x] * (1 - u + x) + low[y, right] * (u - x)
            bottom = low[below, x] * (1 - u + x) + low[below, right] * (u - x)
            full[i, j] = top * (1 - v + y) + bottom * (v - y)
    return full


def test_what_speaks_against_the_class_is_cut_off_before_the_map_is_enlarged(tiny, images):
    net, images = tiny().double().eval(), images.double()
    expected = torch.stack([paper_s_heatmap(net, image, 1, (12, 16)) for image in images])
    torch.testing.assert_close(heatmaps(net, images, target=1, layer="relu2"), expected)
    late = heatmaps(net, images, target=1, layer="relu2", signed=True).clamp(min=0)
    assert (expected - late).max() > 0.01 * expected.max(), "the order can be seen"
    assert (late <= expected + 1e-12).all(), "enlarged first, evidence against eats into the evidence for"


def test_signed_maps_keep_what_clamping_cuts_off(net, images):
    signed = heatmaps(net, images, target=1, signed=True)
    assert signed.min() < 0 < signed.max()
    with isolated(net):
        (low,) = run_forward(net, images, explanations=[Explanation("relu2", 1)]).maps
    assert torch.equal(signed, cams.heatmap.resize_maps(low, (12, 16)))


def test_the_score_s_scale_is_the_map_s(tiny, images):
    net = tiny().double()
    before = heatmaps(net, images.double(), target=2)
    net.head.weight.data.mul_(3)
    torch.testing.assert_close(heatmaps(net, images.double(), target=2), 3 * before)


def test_each_image_may_have_its_own_class(net, images):
    own = heatmaps(net, images, target=torch.tensor([0, 1, 2, 3]))
    for index in range(4):
        torch.testing.assert_close(own[index], heatmaps(net, images, target=index)[index])


def test_a_method_can_be_a_function(net, images):
    maps = heatmaps(net, images, method=lambda activations, gradients: activations[:, 0], layer="relu2")
    assert torch.equal(maps, heatmaps(net, images, method=lambda A, G: A[:, 0] + 0 * G[:, 0], layer="relu2"))


def test_enlarging_interpolates_between_centers():
    steps = cams.heatmap.resize_maps(torch.tensor([[[0.0, 4.0]]]), (1, 4))
    assert steps.tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


def test_a_look_gives_logits_outputs_and_maps(net, images):
    with isolated(net):
        seen = run_forward(
            net,
            images,
            layers=["conv1", "head"],
            explanations=[Explanation("relu2"), Explanation("relu2", target=0, method="hirescam")],
        )
        assert torch.equal(seen.logits, net(images))
    assert torch.equal(seen.outputs["head"], seen.logits)
    assert seen.outputs["conv1"].shape == (4, 4, 12, 16)
    assert [tuple(each.shape) for each in seen.maps] == [(4, 6, 8)] * 2
    assert not any(each.requires_grad for each in [seen.logits, *seen.outputs.values(), *seen.maps])


def test_out_of_memory_a_look_goes_on_in_chunks(net, images):
    wanted = {"layers": ["conv1"], "explanations": [Explanation("relu2", torch.arange(4)), Explanation("conv2")]}
    with isolated(net):
        whole = run_forward(net, images, **wanted)
        with pytest.raises(torch.OutOfMemoryError):
            Scarce(net)(images)
        parts = run_forward(net, images, forward=Scarce(net), **wanted)
    torch.testing.assert_close(parts.logits, whole.logits)
    torch.testing.assert_close(parts.outputs["conv1"], whole.outputs["conv1"])
    torch.testing.assert_close(parts.maps, whole.maps)


def test_out_of_memory_heatmaps_are_the_same(net, images):
    torch.testing.assert_close(heatmaps(Scarce(net), images), heatmaps(net, images))


def test_heatmaps_stay_on_the_device(tiny, images, device):
    maps = heatmaps(tiny().to(device), images.to(device))
    assert maps.device.type == device
    torch.testing.assert_close(maps.cpu(), heatmaps(tiny(), images), atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "conv"}, "`layer` is 'conv', which `TinyNet` does not have. Did you mean 'conv"),
        ({"layer": "conv*"}, r"`layer` is 'conv\*', which stands for 2 layers"),
        ({"layer": "head"}, r"`layer` is 'head', whose output has shape \(4, 5\). Choose a layer that returns maps"),
        ({"method": "gradcamm"}, r"`method` is 'gradcamm'. It can be \['eigencam',.*Did you mean 'gradcam"),
        ({"method": "zzz"}, "or a function.$"),
        ({"target": "best"}, "`target` is 'best'"),
        ({"target": 5}, "`target` holds class 5; the model has classes 0 to 4"),
        ({"target": torch.tensor([1, 2])}, r"`target` has shape \(2,\) for 4 images"),
        ({"forward": lambda images: images}, r"the model returned a tensor of shape \(4, 3, 12, 16\)"),
        ({"layer": "conv1", "forward": lambda images: images[:, :, 0, 0]}, r"layers \['conv1'\] never ran"),
    ],
)
def test_each_mistake_has_its_message(net, images, options, message):
    with pytest.raises(ValueError, match=message):
        heatmaps(net, images, **{"layer": "relu2", **options})


def test_a_target_that_mixes_images_or_a_method_that_is_none_is_an_error(net, images):
    resolve = getattr(cams.extended.resolve, "__wrapped__", cams.extended.resolve)  # without the tests' type check
    with pytest.raises(TypeError, match=r"`method` is a int. It can be \['eigencam',.* or a function"):
        resolve(3)
    with pytest.raises(ValueError, match=r"`target` returned shape \(\). Return one score for each image"):
        heatmaps(net, images, target=lambda logits: logits.sum())


def test_a_layer_that_does_not_lead_to_the_score_is_an_error(tiny, images):
    class Branched(tiny):
        def forward(self, images):
            logits = super().forward(images)
            self.conv1(images)  # once more, for nothing
            return logits.detach() if self.training else logits

    with pytest.raises(ValueError, match="`layer` is 'conv1', which does not lead to the score"):
        heatmaps(Branched(), images, layer="conv1")
    with pytest.raises(ValueError, match="`layer` is 'conv2', which does not lead to the score"):
        heatmaps(tiny(), images, layer="conv2", target=lambda logits: logits.detach()[:, 0])
