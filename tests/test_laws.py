"""Laws 2, 3 and 4: what holds for every method, target, objective and canvas. Something new is one more row."""

import random
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from lightning_convviz import layers
from lightning_convviz.ascent import (
    OBJECTIVES,
    ascend,
    difference,
    direction,
    diverse,
    patterns,
    patterns_of_layers,
    resolve,
)
from lightning_convviz.cams import GRAPH_METHODS, METHODS, Explanation, heatmaps, run_forward
from lightning_convviz.canvas import CANVASES as NAMES
from lightning_convviz.canvas import Box, Canvas, FourierCanvas, PhaseCanvas, PixelCanvas, PlainCanvas, generators
from lightning_convviz.isolation import isolated
from lightning_convviz.targets import TARGETS, contrast, of_class, predicted

# -- the tables -------------------------------------------------------------------------------------------------------


def gradcam_loop(A, G):
    """Selvaraju et al. 2017, eqs. 1 and 2 without the ReLU."""
    n, c, y, x = A.shape
    L = A.new_zeros(n, y, x)
    for i in range(n):
        for k in range(c):
            alpha = sum(G[i, k, u, v] for u in range(y) for v in range(x)) / (y * x)
            L[i] += alpha * A[i, k]
    return L


def hirescam_loop(A, G):
    """Draelos and Carin 2020, eq. 5."""
    n, c, y, x = A.shape
    L = A.new_zeros(n, y, x)
    for i in range(n):
        for k in range(c):
            for u in range(y):
                for v in range(x):
                    L[i, u, v] += G[i, k, u, v] * A[i, k, u, v]
    return L


def inner_mean(values):
    """Of a table, without two rows and columns at each edge where there are eight or more."""
    y, x = len(values), len(values[0])
    edge = 2 if y >= 8 and x >= 8 else 0
    inner = [values[v][u] for v in range(edge, y - edge) for u in range(edge, x - edge)]
    return sum(inner) / len(inner)


def mean_loop(channels, blank, A):
    return torch.stack([inner_mean(A[i, channel]) for i, channel in enumerate(channels)])


def rise_loop(channels, blank, A):
    def counted(a):
        return a if a > 0 else a / 10

    values = []
    for i, channel in enumerate(channels):
        level = inner_mean(blank[0, channel])
        values.append(inner_mean([[counted(a - level) for a in row] for row in A[i, channel]]))
    return torch.stack(values)


def neuron_loop(channels, blank, A):
    y, x = A.shape[2:]
    return torch.stack([A[i, channel, y // 2, x // 2] for i, channel in enumerate(channels)])


def diverse_loop(channels, blank, A, weight=1.0, aim=rise_loop):
    n, c, y, x = A.shape
    G = A.new_zeros(n, c, c)
    for i in range(n):
        for k in range(c):
            for j in range(c):
                G[i, k, j] = sum(A[i, k, v, u] * A[i, j, v, u] for v in range(y) for u in range(x))
    values = aim(channels, blank, A)
    for i in range(n):
        others = [j for j in range(n) if j != i and channels[j] == channels[i]]
        likeness = [(G[i] * G[j]).sum() / (G[i].norm() * G[j].norm()) for j in others]
        values[i] *= 1 - weight * (sum(likeness) / len(others) if others else 0)
    return values


def direction_loop(vectors, power, A):
    n, _, y, x = A.shape
    values = []
    for i in range(n):
        v, table = vectors[i], []
        for row in range(y):
            at = [A[i, :, row, column] for column in range(x)]
            cosines = [(v * a).sum() / (v.norm() * a.norm()) for a in at]
            table.append([(v * a).sum() * max(cos, 0.1) ** power for a, cos in zip(at, cosines, strict=True)])
        values.append(inner_mean(table))
    return torch.stack(values)


CAMS = {"gradcam": gradcam_loop, "hirescam": hirescam_loop}
AIMS = {"mean": mean_loop, "above_blank": rise_loop, "neuron": neuron_loop, "diverse": diverse_loop}
VECTORS = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MADE = {
    "direction": (direction(VECTORS), lambda channels, blank, A: direction_loop(VECTORS, 2, A)),
    "plain direction": (direction(VECTORS, power=0), lambda channels, blank, A: direction_loop(VECTORS, 0, A)),
    "difference": (
        difference([1, 3, 3]),
        lambda channels, blank, A: mean_loop(channels, blank, A) - mean_loop([1, 3, 3], blank, A),
    ),
    "diverse by half": (
        diverse(0.5, resolve("mean")),
        lambda channels, blank, A: diverse_loop(channels, blank, A, 0.5, mean_loop),
    ),
}
SCORES = {
    "predicted": "predicted",
    "one class": 2,
    "own class": torch.tensor([3, 0, 1, 2]),
    "runner_up": "runner_up",
    "finercam": "finercam",
    "contrast": contrast(predicted, of_class(0)),
    "function": lambda logits: logits.square().sum(1),
}
CANVASES = [PixelCanvas, PlainCanvas, FourierCanvas, PhaseCanvas]


def test_the_tables_are_complete():
    assert AIMS.keys() == OBJECTIVES.keys()
    assert SCORES.keys() >= TARGETS.keys()
    assert set(CANVASES) == set(Canvas.__subclasses__())


# -- law 2: no trace --------------------------------------------------------------------------------------------------


def draws_heatmaps(net, images):
    heatmaps(net, images, layer=["conv2", "relu2"])


def draws_heatmaps_of_the_layer_it_finds(net, images):
    heatmaps(net, images)


def draws_patterns(net, images):
    patterns(net, "conv2", [0, 1], like=images, steps=2)


def draws_patterns_of_several_layers_in_one_batch(net, images):
    patterns_of_layers(net, {"conv1": [0, 1], "relu2": [2], "head": [0]}, like=images, steps=2, share_batch=True)


def draws_patterns_layer_by_layer(net, images):
    patterns_of_layers(net, {"relu1": [0, 1], "conv2": [2]}, like=images, steps=2, share_batch=False)


def draws_patterns_by_the_cheaper_way(net, images):
    patterns_of_layers(net, {"relu1": [0, 1], "conv2": [2]}, like=images, steps=1)


def draws_patterns_of_classes(net, images):
    patterns(net, None, [0, 4], like=images, steps=2, canvas="maco")


def draws_patterns_as_the_textbook_does(net, images):
    patterns(net, "conv2", [0, 1], like=images, steps=2, recipe="textbook")


def goes_on_with_patterns(net, images):
    start = torch.zeros(1, 3, 12, 9, 2)
    patterns_of_layers(net, {"conv2": [0]}, like=images, steps=2, start={"conv2": start}, progress=True)


def records(net, images):
    with isolated(net), layers.record(net, ["conv1", "conv2"], differentiable=["conv2"]):
        net(images.clone())


def records_the_input(net, images):
    with isolated(net), layers.record(net, ["relu1", "conv2"], before=["relu1"], stop=True):
        net(images.clone())


def records_until_it_has_all(net, images):
    with isolated(net), layers.record(net, ["conv2"], differentiable=["conv2"], stop=True):
        net(images.clone())


def traces(net, images):
    with isolated(net):
        layers.trace(net, lambda: net(images.clone()))


def differentiates(net, images):
    with isolated(net):
        torch.autograd.grad(net(images.clone()).sum(), net.conv2.weight)


LOOKS = [
    draws_heatmaps, draws_heatmaps_of_the_layer_it_finds, draws_patterns, draws_patterns_of_several_layers_in_one_batch,
    draws_patterns_layer_by_layer, draws_patterns_by_the_cheaper_way, draws_patterns_of_classes,
    draws_patterns_as_the_textbook_does, goes_on_with_patterns, records, records_the_input, records_until_it_has_all,
    traces, differentiates,
]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True], ids=["ok", "forward raises"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("look_at", LOOKS)
def test_a_look_leaves_no_trace(busy, images, leaves_no_trace, look_at, mode, fails):
    net = busy(fails=fails)
    net.bn1.eval()
    net.conv1.weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    outcome = pytest.raises(RuntimeError, match="the forward failed") if fails else nullcontext()
    with mode(), leaves_no_trace(net), outcome:
        look_at(net, images.clone())


@pytest.mark.parametrize("look_at", [records, records_the_input, records_until_it_has_all, traces])
def test_hooks_alone_leave_no_trace_in_an_evaluated_model(tiny, images, leaves_no_trace, look_at, monkeypatch):
    monkeypatch.setattr("test_laws.isolated", lambda net: torch.no_grad())
    net = tiny().eval()
    with leaves_no_trace(net):
        look_at(net, images)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forward_that_writes_to_its_input_spoils_no_images(tiny, images, mode):
    class Normalizing(tiny):
        def forward(self, images):
            return super().forward(images.sub_(0.5).mul_(2))

    def out_of_place(images):
        return net((images - 0.5) * 2)

    net, inplace, before = tiny(), Normalizing(), images.clone()
    expected = heatmaps(net, images, layer="relu2", forward=out_of_place)
    excited = patterns(net, "conv2", [0], like=images, steps=3, forward=out_of_place)
    with mode():
        given = images.clone()
        assert torch.equal(heatmaps(inplace, given, layer="relu2"), expected)
        found = patterns(inplace, "conv2", [0], like=given, steps=3)
    assert torch.equal(given, before)
    assert torch.equal(found.images, excited.images)
    assert torch.equal(found.activations, excited.activations)


DEEDS = {
    "value of conv1.weight": lambda net: net.conv1.weight.data.add_(1),
    "value of bn1.running_mean": lambda net: net.bn1.running_mean.add_(1),
    "grad of conv2.weight": lambda net: net(torch.ones(2, 3, 8, 8)).sum().backward(),
    "requires_grad of head.bias": lambda net: net.head.bias.requires_grad_(False),
    "training of 'bn2'": lambda net: net.bn2.eval(),
    "calls of ''": lambda net: setattr(net, "calls", 9),
    "seen of ''": lambda net: net.seen.append(1),
    "new of ''": lambda net: setattr(net, "new", 9),
    "number of _forward_hooks of 'conv1'": lambda net: net.conv1.register_forward_hook(lambda *_: None),
    "number of _backward_hooks of 'head'": lambda net: net.head.register_full_backward_hook(lambda *_: None),
    "Python's RNG": lambda net: random.random(),
    "NumPy's RNG": lambda net: np.random.rand(),
    "torch's RNG": lambda net: torch.rand(1),
    "grad, inference and anomaly mode": lambda net: torch.set_grad_enabled(False),
}


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("trace", DEEDS)
def test_the_watch_sees_each_kind_of_trace(busy, leaves_no_trace, trace, raises):
    net = busy()
    with torch.enable_grad(), pytest.raises(pytest.fail.Exception, match=re.escape(trace)), leaves_no_trace(net):  # noqa: PT012
        DEEDS[trace](net)
        if raises:
            raise RuntimeError("the block failed")


# -- law 3: the paper is the oracle -----------------------------------------------------------------------------------


def maps_and_gradients(net, images, score):
    """`A` after the last ReLU and `∂S/∂A`, by plain autograd."""
    net.eval()
    A = net.features(images).detach().requires_grad_()
    logits = net.head(net.pool(A).flatten(1))
    (G,) = torch.autograd.grad(score(logits).sum(), A)
    return A.detach(), G


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("head", ["pooled", "positional"])
def test_a_method_is_what_its_paper_says(tiny, images, method, head):
    net, images = tiny().double(), images.double()
    if head == "positional":  # a head whose gradient differs from place to place
        net.pool, net.head = nn.GELU(), nn.Linear(6 * 6 * 8, 5).double()
    A, G = maps_and_gradients(net, images, predicted)
    expected = CAMS[method](A, G)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(METHODS[method](A, G), expected, atol=1e-10, rtol=0)
    with isolated(net):
        (found,) = run_forward(net, images, explanations=[Explanation("relu2", method=method)]).maps
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", CAMS)
def test_under_pooling_and_a_linear_head_a_map_is_cam_over_its_positions(tiny, images, method):
    net, images = tiny().double(), images.double()
    A, _ = maps_and_gradients(net, images, predicted)
    cam = torch.einsum("c,ncyx->nyx", net.head.weight[3].detach(), A)  # Zhou et al. 2016, eq. 2
    with isolated(net):
        (found,) = run_forward(net, images, explanations=[Explanation("relu2", 3, method)]).maps
    torch.testing.assert_close(found, cam / (6 * 8), atol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("target", sorted(SCORES.keys() - {"function"}))  # a square is not linear
def test_hirescam_sums_to_the_score_for_a_linear_head_without_bias(tiny, images, target):
    net, images = tiny(bias=False).double(), images.double()
    with isolated(net):
        seen = run_forward(net, images, explanations=[Explanation("relu2", SCORES[target], "hirescam")])
    scores = {
        "predicted": seen.logits.amax(1),
        "one class": seen.logits[:, 2],
        "own class": seen.logits[[0, 1, 2, 3], [3, 0, 1, 2]],
        "runner_up": seen.logits.topk(2).values[:, 1],
        "finercam": seen.logits.topk(4).values @ torch.tensor([1, -0.2, -0.2, -0.2], dtype=torch.float64),
        "contrast": seen.logits.amax(1) - seen.logits[:, 0],
    }
    torch.testing.assert_close(seen.maps[0].sum((1, 2)), scores[target], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", [*AIMS, *MADE])
@pytest.mark.parametrize("size", [(9, 10), (8, 8), (7, 12), (1, 1)])
@pytest.mark.parametrize("channels", [[2, 0, 2], [1, 1, 1], [3, 0, 1]])
def test_an_objective_is_what_its_formula_says(name, size, channels):
    maps, blank = torch.randn(3, 4, *size, dtype=torch.float64), torch.randn(1, 4, *size, dtype=torch.float64)
    aim, loop = MADE[name] if name in MADE else (resolve(name), AIMS[name])
    expected = loop(channels, blank, maps)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(aim(channels, blank)(maps), expected, atol=1e-10, rtol=0)
    same = blank.expand_as(maps)
    torch.testing.assert_close(aim(channels, blank)(same), loop(channels, blank, same), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["mean", "above_blank", "direction"])
@pytest.mark.parametrize(("size", "border"), [((7, 9), 0), ((9, 7), 0), ((8, 8), 2), ((1, 1), 0)])
def test_small_maps_keep_their_border(name, size, border):
    maps, vectors = torch.zeros(1, 1, *size), torch.ones(1, 1)
    objective = (direction(vectors) if name == "direction" else resolve(name))([0], maps.clone())
    for y, x in [(0, 0), (min(1, size[0] - 1), size[1] // 2), (size[0] // 2, size[1] - 1)]:
        edge = maps.clone()
        edge[0, 0, y, x] = 1
        assert (objective(edge).item() == 0) == (border > 0)


@pytest.mark.parametrize(("size", "middle"), [((7, 9), (3, 4)), ((8, 8), (4, 4)), ((1, 1), (0, 0))])
def test_a_neuron_is_the_middle_of_its_map_alone(size, middle):
    maps = torch.zeros(1, 2, *size)
    maps[0, 1] = -5
    maps[(0, 1, *middle)] = 3
    assert resolve("neuron")([1], maps)(maps).item() == 3


# -- law 4: images don't mix ------------------------------------------------------------------------------------------

ORDER = [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("method", "target"),
    [(method, "own class") for method in [*METHODS, *GRAPH_METHODS]] + [("gradcam", target) for target in SCORES],
)
def test_heatmaps_of_a_batch_are_those_of_its_images(tiny, images, method, target):
    net, images, target = tiny().double(), images.double(), SCORES[target]
    own = target if isinstance(target, torch.Tensor) else None
    options = {"method": method, "layer": "relu1", "signed": True}
    batch = heatmaps(net, images, target=target, **options)
    for i in range(4):
        single = heatmaps(net, images[i : i + 1], target=target if own is None else own[i : i + 1], **options)
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-12, rtol=0)
    permuted = heatmaps(net, images[ORDER], target=target if own is None else own[ORDER], **options)
    torch.testing.assert_close(permuted, batch[ORDER], atol=1e-12, rtol=0)


PATTERNS = {
    "textbook": {"recipe": "textbook"},
    **{name: {"objective": name} for name in AIMS},
    **{f"{name} canvas": {"canvas": name} for name in NAMES},
}


@pytest.mark.parametrize("options", PATTERNS)
def test_patterns_of_a_batch_are_those_of_its_channels(tiny, images, options):
    net, options = tiny().double(), {"like": images.double(), "steps": 8, **PATTERNS[options]}
    batch = patterns(net, "conv2", [0, 1, 2, 3], **options)
    for i in range(4):
        single = patterns(net, "conv2", [i], **options)
        torch.testing.assert_close(single.images[0], batch.images[i], atol=1e-6, rtol=0)
        torch.testing.assert_close(single.activations[0], batch.activations[i], atol=1e-6, rtol=0)
    permuted = patterns(net, "conv2", ORDER, **options)
    torch.testing.assert_close(permuted.images, batch.images[ORDER], atol=1e-6, rtol=0)


def test_fine_patterns_of_a_batch_are_those_of_its_channels(tiny, images):
    net, options = tiny().double(), {"like": images.double(), "shape": (3, 64, 66), "steps": 3}
    batch, single = (patterns(net, "conv2", channels, **options) for channels in ([0, 1], [1]))
    torch.testing.assert_close(single.images[0], batch.images[1], atol=1e-6, rtol=0)


def test_patterns_along_directions_do_not_mix(tiny, images):
    net, vectors = tiny().double(), torch.randn(4, 6, dtype=torch.float64)
    options = {"like": images.double(), "steps": 8}
    batch = patterns(net, "conv2", [0, 1, 2, 3], objective=direction(vectors), **options)
    for i in range(4):
        single = patterns(net, "conv2", [i], objective=direction(vectors[i : i + 1]), **options)
        torch.testing.assert_close(single.images[0], batch.images[i], atol=1e-6, rtol=0)


@pytest.mark.parametrize("objective", AIMS)
def test_in_single_precision_they_agree_by_objective_and_correlation(net, images, objective):
    options = {"like": images, "steps": 24, "objective": objective}
    batch = patterns(net, "conv2", [0, 2, 3, 4, 5], **options)
    singles = [patterns(net, "conv2", [channel], **options) for channel in (0, 2, 3, 4, 5)]
    values = torch.cat([single.activations for single in singles])
    assert (values / batch.activations - 1).abs().max() < 0.1
    both = zip(batch.images, (single.images[0] for single in singles), strict=True)
    assert torch.stack([torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in both]).median() > 0.9


@pytest.mark.parametrize("options", PATTERNS)
def test_the_same_seed_gives_the_same_picture(net, images, options):
    options = {"like": images, "steps": 8, **PATTERNS[options]}
    one, other = (patterns(net, "bn2", [0, 1], **options) for _ in range(2))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.activations, other.activations)


@pytest.mark.parametrize("canvas", CANVASES)
def test_ascent_of_a_batch_is_that_of_its_images(tiny, canvas):
    net = tiny().double().eval()
    bound = torch.full((3,), 2.0, dtype=torch.float64)
    within = Box(-bound, bound, torch.eye(3, dtype=torch.float64))
    together, alone = (canvas((9, 8), within, generators(seeds)) for seeds in ([1, 2, 3], [2]))
    for images in (together, alone):
        ascend(lambda images: net.conv2(net.conv1(images))[:, 0].square().mean((1, 2)), images, steps=20)
    torch.testing.assert_close(together()[1:2], alone(), atol=1e-6, rtol=0)
