import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_convviz import layers


class Shared(nn.Module):
    """Calls one convolution twice; holds one that it never calls."""

    def __init__(self):
        super().__init__()
        self.conv, self.idle = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.conv(self.conv(images).relu())


def test_names_are_free_of_wrapper_parts(net):
    names = layers.named_layers(nn.ModuleDict({"net": torch.compile(net, backend="eager")}))
    assert "net.conv1" in names
    assert not any("_orig_mod" in name for name in names)
    assert names["net"] is net, "the content, not the wrapper"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("conv1", ["conv1"]),
        ("conv*", ["conv1", "conv2"]),
        (nn.ReLU, ["relu1", "relu2"]),
        (["relu2", "*1"], ["relu2", "conv1", "bn1", "relu1"]),
        (["conv1", "conv*", nn.Conv2d], ["conv1", "conv2"]),
        ("_orig_mod.conv1", ["conv1"]),
    ],
)
def test_layers_are_found_by_name_glob_and_type_each_once(net, wanted, found):
    assert layers.find(net, wanted) == found


def test_an_unknown_layer_is_an_error_that_offers_the_nearest(net):
    with pytest.raises(ValueError, match=r"`layers` is 'conv3', which `TinyNet` does not have. Did you mean 'conv"):
        layers.find(net, "conv3")
    with pytest.raises(ValueError, match=r"`wants` is 'zzz'.*Its layers begin \['conv1'"):
        layers.find(net, "zzz", argument="wants")
    with pytest.raises(ValueError, match="which `TinyNet` does not have"):
        layers.find(net, nn.Conv3d)


def test_one_layer_means_one(net):
    assert layers.find_one(net, "he*") == "head"
    with pytest.raises(ValueError, match=r"`layer` is 'conv\*', which stands for 2 layers"):
        layers.find_one(net, "conv*")


def test_what_is_recorded_is_not_overwritten_by_an_inplace_relu(net, images):
    net.eval()
    with layers.record(net, ["bn1", "relu1"]) as outputs:
        net(images)
    assert outputs["bn1"].min() < 0
    assert torch.equal(outputs["relu1"], outputs["bn1"].relu())


def test_recording_does_not_change_the_output(net, images):
    net.eval()
    plain = net(images)
    with layers.record(net, ["conv1", "bn2", "head"], differentiable=["bn2"]):
        assert torch.equal(net(images), plain)


def test_autograd_starts_at_the_first_differentiable_layer(net, images):
    with torch.no_grad(), layers.record(net.eval(), ["conv1", "conv2"], differentiable=["conv2"]) as outputs:
        logits = net(images)
        assert torch.is_grad_enabled(), "so that the rest of the forward is recorded"
    assert logits.requires_grad
    assert outputs["conv2"].is_leaf
    assert not outputs["conv1"].requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_recording_puts_the_grad_mode_back(net, images, mode):
    with mode():
        before = torch.is_grad_enabled()
        with layers.record(net, ["conv1"], differentiable=["conv1"], stop=True):
            net(images)
        assert torch.is_grad_enabled() is before


def test_stop_ends_the_forward_when_all_have_run(net, images):
    ran = []
    net.conv2.register_forward_hook(lambda *_: ran.append("conv2"))
    with layers.record(net, ["relu1", "bn1"], stop=True) as outputs:
        net(images)
        pytest.fail("the forward went on")
    assert set(outputs) == {"relu1", "bn1"}
    assert not ran


def test_stop_gets_past_a_forward_that_catches_exceptions(images):
    class Careful(nn.Sequential):
        def forward(self, images):
            try:
                return super().forward(images)
            except Exception:
                return None

    model = Careful(nn.ReLU())
    with layers.record(model, ["0"], stop=True):
        model(images)
        pytest.fail("the forward went on")


def test_a_layer_that_runs_twice_is_recorded_at_its_last_call(images):
    model = Shared()
    with layers.record(model, ["conv"]) as outputs:
        result = model(images)
    assert torch.equal(outputs["conv"], result)
    with layers.record(model, ["conv"], stop=True) as outputs:
        model(images)
    assert torch.equal(outputs["conv"], model.conv(images))


class Again(nn.Module):
    """Calls one ReLU twice, and a convolution in between."""

    def __init__(self):
        super().__init__()
        self.relu, self.conv = nn.ReLU(), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.relu(self.conv(self.relu(images)))


@pytest.mark.parametrize("before", [[], ["relu"]])
def test_also_while_others_are_waited_for_stop_takes_the_first_call(images, before):
    model = Again()
    with layers.record(model, ["relu", "conv"], before=before, stop=True) as outputs:
        model(images)
        pytest.fail("the forward went on")
    assert torch.equal(outputs["relu"], images if before else images.relu())
    with layers.record(net := nn.Sequential(model, nn.Tanh()), ["0.relu", "1"], stop=True) as outputs:
        net(images)
        pytest.fail("the forward went on")
    assert torch.equal(outputs["0.relu"], images.relu()), "the second call comes before the last layer"
    assert torch.equal(outputs["1"], model(images).tanh())


@pytest.mark.parametrize("before", [[], ["relu"]])
def test_the_first_call_can_be_asked_for_without_a_stop(images, before):
    model = Again()
    with layers.record(model, ["relu"], before=before, first=True) as outputs:
        result = model(images)
    assert torch.equal(outputs["relu"], images if before else images.relu())
    assert torch.equal(result, model(images)), "the later calls go on as they would"


def test_the_input_of_a_layer_is_kept_from_what_the_layer_does_to_it(net, images):
    net.eval()
    plain = net(images)
    with layers.record(net, ["bn1", "relu1", "conv2"], before=["relu1", "conv2"]) as outputs:
        assert torch.equal(net(images), plain)
    assert outputs["relu1"].min() < 0, "the ReLU works in place"
    assert torch.equal(outputs["relu1"], outputs["bn1"])
    assert torch.equal(outputs["conv2"], outputs["bn1"].relu())


def test_a_layer_whose_input_is_asked_for_does_not_run_before_a_stop(net, images):
    ran = []
    for name in ("bn1", "relu1"):
        net.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    with layers.record(net, ["relu1"], before=["relu1"], stop=True) as outputs:
        net(images)
        pytest.fail("the forward went on")
    assert list(outputs) == ["relu1"]
    assert ran == ["bn1"]
    assert not net.relu1._forward_pre_hooks


def test_what_is_given_beside_the_input_arrives(images):
    class Scaled(nn.Module):
        def forward(self, images, factor, *, shift):
            return images * factor + shift

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.scaled = Scaled()

        def forward(self, images):
            return self.scaled(images, 2, shift=1)

    with layers.record(model := Outer(), ["scaled"], before=["scaled"]) as outputs:
        assert torch.equal(model(images), 2 * images + 1)
    assert torch.equal(outputs["scaled"], images)


def test_autograd_can_start_at_the_input_of_a_layer(net, images):
    names = {"differentiable": ["relu2"], "before": ["relu2"]}
    with torch.no_grad(), layers.record(net.eval(), ["relu2"], **names) as outputs:
        logits = net(images)
    (gradient,) = torch.autograd.grad(logits.sum(), outputs["relu2"])
    assert gradient.shape == outputs["relu2"].shape


def test_recording_names_its_errors(net, images):
    with pytest.raises(ValueError, match="`layers` is 'conv9'"), layers.record(net, ["conv9"]):
        pass
    rnn = nn.Sequential(nn.LSTM(16, 2))
    with pytest.raises(TypeError, match=r"layer '0' returns a tuple. Choose a layer that returns a tensor"):  # noqa: SIM117
        with layers.record(rnn, ["0"]):
            rnn(images[0])
    with layers.record(Shared(), ["idle"]) as outputs:
        pass
    with pytest.raises(ValueError, match=r"layers \['idle'\] never ran in this forward"):
        layers.require(outputs, ["idle"])


def test_a_trace_tells_what_ran_in_which_order(net, images):
    runs = layers.trace(net, lambda: net(images))
    assert list(runs) == ["conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "dropout", "pool", "head"]
    assert runs["conv2"].shape == (4, 6, 6, 8)
    assert runs["conv2"].is_map
    assert not runs["pool"].is_map, "one position is no map"
    assert not runs["head"].is_map
    assert runs["conv1"].next_call == ("bn1", 1)


def test_a_trace_counts_calls_and_moves_repeaters_to_the_end(images):
    model = nn.Sequential(shared := nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), shared)
    runs = layers.trace(model, lambda: model(images))
    assert list(runs) == ["1", "0"]
    assert runs["0"].calls == 2


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ([nn.BatchNorm2d(4), nn.ReLU(inplace=True)], "2"),
        ([nn.ReLU(), nn.MaxPool2d(2)], "1"),
        ([nn.Conv2d(4, 4, 1), nn.ReLU()], "0"),
        ([nn.Dropout(), nn.GELU(), nn.Flatten()], "2"),
    ],
)
def test_a_value_has_settled_after_normalization_and_nonlinearity(images, after, expected):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *after)
    assert layers.post_activation(layers.trace(model, lambda: model(images)), "0") == expected


def test_a_shared_relu_settles_nothing_before_its_last_call(images):
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), relu, nn.Conv2d(3, 3, 1), relu)
    runs = layers.trace(model, lambda: model(images))
    assert layers.post_activation(runs, "0") == "0", "the relu recorded later is not this one's"
    assert layers.post_activation(runs, "2") == "1"


def test_a_functional_relu_settles_nothing(images):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 3, 1), nn.Identity()

        def forward(self, images):
            return self.pool(F.relu(self.conv(images)))

    model = Functional()
    assert layers.post_activation(layers.trace(model, lambda: model(images)), "conv") == "conv"


def test_auto_layers_are_convolutions_spread_over_depth(images):
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(4)), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1))
    runs = layers.trace(model, lambda: model(images))
    assert layers.convolutions(runs, count=2) == ["0", "3"], "the 1 x 1 map at the end is none"
    assert layers.convolutions(runs, count=9) == ["0", "1", "2", "3"]


def test_projections_around_residual_blocks_are_no_auto_layers(images):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 4, 1))
    assert layers.convolutions(layers.trace(model, lambda: model(images)), count=9) == ["0", "2"]


def test_auto_says_when_there_is_no_map(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 2))
    runs = layers.trace(model, lambda: model(images))
    with pytest.raises(ValueError, match='`layers` is "auto", but no convolution'):
        layers.convolutions(runs, count=3)


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (99, list(range(10)))])
def test_evenly_spaced_keeps_both_ends(count, expected):
    assert layers.evenly_spaced(range(10), count) == expected


def test_an_input_given_by_keyword_is_recorded_too(images):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, images):
            return self.relu(input=images)

    net, given = Named(), images.clone()
    with layers.record(net, ["relu"], before=["relu"]) as outputs:
        net(given)
    assert torch.equal(outputs["relu"], images)
    assert torch.equal(given, images), "a clone went on"
