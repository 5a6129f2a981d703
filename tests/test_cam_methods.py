"""Each method against a slow loop written from its paper, and the laws that connect them; all in float64."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_convviz import targets
from lightning_convviz.cams import FUSIONS, GRAPH_METHODS, METHODS, BackwardContext, extended, fusion
from lightning_convviz.cams.fusion import resize_maps

SIZES = [(5,), (3, 4), (2, 3, 2)]
GAMMA = 2  # of LayerCAM's fusion
LINEAR = ["gradcam", "hirescam", "xgradcam"]


def pair(size, *, n=2, c=6, relu=True):
    """Activations and gradients; with 6 channels at 5 positions or more."""
    activations, gradients = torch.randn(2, n, c, *size, dtype=torch.float64)
    return (activations.relu() if relu else activations), gradients


def positions(size):
    return list(product(*map(range, size)))


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


# -- the papers, as loops ---------------------------------------------------------------------------------------------


def weighted(A, weigh):
    """`Σ_c w_c A_c`, where `weigh(n, c)` is a number."""
    maps = torch.zeros(A.shape[:1] + A.shape[2:], dtype=A.dtype)
    for n, c in positions(A.shape[:2]):
        weight = weigh(n, c)
        for p in positions(A.shape[2:]):
            maps[(n, *p)] += weight * A[(n, c, *p)]
    return maps


def each_position(A, g, term):
    maps = torch.zeros(A.shape[:1] + A.shape[2:], dtype=A.dtype)
    for n, c in positions(A.shape[:2]):
        for p in positions(A.shape[2:]):
            maps[(n, *p)] += term(A[(n, c, *p)].item(), g[(n, c, *p)].item())
    return maps


def slow_gradcam(A, g):
    everywhere = positions(A.shape[2:])
    return weighted(A, lambda n, c: sum(g[(n, c, *p)] for p in everywhere) / len(everywhere))


def slow_gradcampp(A, g):
    def weigh(n, c):
        weight, total = 0.0, sum(A[(n, c, *p)].item() for p in positions(A.shape[2:]))
        for p in positions(A.shape[2:]):
            slope = g[(n, c, *p)].item()
            below = 2 * slope**2 + total * slope**3
            alpha = slope**2 / below if below != 0 else 0.0
            weight += alpha * max(0.0, slope)
        return weight

    return weighted(A, weigh)


def slow_xgradcam(A, g):
    def weigh(n, c):
        total = sum(A[(n, c, *p)].item() for p in positions(A.shape[2:]))
        return sum(g[(n, c, *p)].item() * A[(n, c, *p)].item() / total for p in positions(A.shape[2:])) if total else 0

    return weighted(A, weigh)


def slow_eigencam(A, g):
    maps = []
    for activations in A:
        O = activations.flatten(1).T  # noqa: E741  (the paper's letter)
        v = torch.linalg.svd(O, full_matrices=False).Vh[0]
        projected = torch.tensor([sum(a * b for a, b in zip(row, v, strict=True)) for row in O], dtype=A.dtype)
        maps.append((projected if projected.sum() >= 0 else -projected).reshape(A.shape[2:]))
    return torch.stack(maps)


PAPERS = {
    "gradcam": slow_gradcam,
    "hirescam": lambda A, g: each_position(A, g, lambda a, slope: slope * a),
    "layercam": lambda A, g: each_position(A, g, lambda a, slope: max(0.0, slope) * a),
    "gradcam++": slow_gradcampp,
    "xgradcam": slow_xgradcam,
    "elementwise": lambda A, g: each_position(A, g, lambda a, slope: max(0.0, slope * a)),
    "eigencam": slow_eigencam,
}


def test_each_method_has_its_paper():
    assert set(PAPERS) == set(METHODS)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_paper_s_formula(method, size, relu):
    A, g = pair(size, relu=relu)
    close(METHODS[method](A, g), PAPERS[method](A, g))


# -- laws of the methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_under_pooling_and_a_linear_head_four_methods_are_cam(size):
    A = pair(size)[0].requires_grad_()
    head = nn.Linear(6, 3).double()
    (g,) = torch.autograd.grad(head(A.flatten(2).mean(2))[:, 1].sum(), A)
    cam = weighted(A.detach(), lambda n, c: head.weight[1, c].item()) / math.prod(size)
    for method in LINEAR:
        close(METHODS[method](A.detach(), g), cam)


@pytest.mark.parametrize("method", ["hirescam", "xgradcam"])
def test_with_a_linear_tail_without_bias_the_map_sums_to_the_logit(method):
    tail = nn.Sequential(nn.Conv2d(6, 3, 2, bias=False), nn.Flatten(), nn.Linear(3 * 2 * 3, 4, bias=False)).double()
    A = pair((3, 4))[0].requires_grad_()
    score = tail(A)[:, 2]
    (g,) = torch.autograd.grad(score.sum(), A)
    close(METHODS[method](A.detach(), g).flatten(1).sum(1), score.detach())
    assert (METHODS["gradcam"](A.detach(), g).flatten(1).sum(1) - score).abs().max() > 0.01


def of_contrast(method):
    """The difference of the maps for the predicted and another class, and the map for the contrast of both."""
    graph = small(2)
    truth = targets.of_class(3)
    wanted = [targets.predicted, truth, targets.contrast(targets.predicted, truth)]
    one, other, both = [METHODS[method](graph.activations, graph.gradient(target)) for target in wanted]
    assert both.abs().max() > 1e-3
    return one - other, both


@pytest.mark.parametrize("method", LINEAR)
def test_the_difference_of_two_maps_is_the_map_of_the_contrast(method):
    close(*of_contrast(method))


@pytest.mark.parametrize("method", ["layercam", "gradcam++", "elementwise"])
def test_for_methods_with_an_inner_relu_it_is_not(method):
    difference, both = of_contrast(method)
    assert (difference - both).abs().max() > 1e-2 * both.abs().max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_images_don_t_mix(method, size):
    A, g = pair(size, n=3)
    together = METHODS[method](A, g)
    for i in range(3):
        close(METHODS[method](A[i : i + 1], g[i : i + 1])[0], together[i])


@pytest.mark.parametrize("method", METHODS)
def test_the_map_scales_with_the_score_save_grad_cam_pp_s(method):
    A, g = pair((3, 4))
    single, triple = METHODS[method](A, g), METHODS[method](A, 3 * g)
    if method == "gradcam++":
        assert (triple - 3 * single).abs().max() > 0.01
    else:
        close(triple, single if method == "eigencam" else 3 * single)


@pytest.mark.parametrize("method", METHODS)
def test_a_dead_channel_takes_no_part(method):
    A, g = pair((3, 4))
    A[:, 0] = 0
    close(METHODS[method](A, g), METHODS[method](A[:, 1:], g[:, 1:]))


@pytest.mark.parametrize("empty", ["activations", "gradients", "both"])
@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_is_the_map_is_0_and_no_nan(method, empty):
    A, g = pair((3, 4))
    A = A if empty == "gradients" else torch.zeros_like(A)
    g = g if empty == "activations" else torch.zeros_like(g)
    found = METHODS[method](A, g)
    assert found.isfinite().all()
    assert not found.any() or (method == "eigencam" and empty == "gradients")


def test_grad_cam_pp_does_not_underflow():
    A, g = pair((3, 4))
    tiny = METHODS["gradcam++"](A.float(), 1e-25 * g.float())
    torch.testing.assert_close(tiny.double() / 1e-25, slow_gradcampp(A, 1e-25 * g) / 1e-25, atol=1e-5, rtol=1e-4)
    assert tiny.any()


def test_grad_cam_pp_leaves_out_where_it_would_divide_by_0():
    A, g = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[2.0, 1.0]]])  # 2 + 2 (1 - 2) = 0 at the first position
    assert METHODS["gradcam++"](A, g).tolist() == [[1.0, -2.0]]


def test_xgrad_cam_gives_no_weight_to_a_channel_whose_sum_is_rounding():
    A = torch.tensor([[[0.1, 0.2, -0.3], [1.0, 1.0, 0.0]]], dtype=torch.float64)
    assert A[0, 0].sum() != 0, "rounding"
    assert METHODS["xgradcam"](A, torch.ones_like(A)).tolist() == [[1.0, 1.0, 0.0]]


def test_eigen_cam_is_not_negative_after_a_relu_and_ignores_the_gradient():
    A, g = pair((3, 4), n=8)
    found = METHODS["eigencam"](A, g)
    assert found.min() > -1e-12
    assert torch.equal(METHODS["eigencam"](A, -g), found)


@pytest.mark.parametrize("c", [3, 50])
def test_eigen_cam_survives_large_and_small_values(c):
    A, g = pair((3, 4), c=c)
    for scale in (1e-15, 1e15):
        found = METHODS["eigencam"]((scale * A).float(), g.float())
        torch.testing.assert_close(found.double() / scale, slow_eigencam(A, g), atol=1e-3, rtol=1e-3)


def test_methods_stay_on_the_device_and_don_t_wait_for_it(device):
    A, g = pair((3, 4))
    moved = A.to(device), g.to(device)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = {name: method(*moved) for name, method in METHODS.items()}
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    for name, maps in found.items():
        assert maps.device.type == device
        close(maps.cpu(), METHODS[name](A, g))


# -- methods that need the graph --------------------------------------------------------------------------------------

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def net(axes, *, smooth=True):
    """A net with curvature in two parts: up to the explained layer, and the rest."""
    conv, bend = CONVOLUTIONS[axes], (nn.Softplus() if smooth else nn.ReLU())
    body = nn.Sequential(conv(2, 11, 3, padding=1), nn.ReLU())
    rest = nn.Sequential(conv(11, 4, 2), bend, nn.Flatten(), nn.LazyLinear(5))
    return body.double(), rest.double()


def graph_of(body, rest, images, target=targets.predicted):
    output = body(images)
    return BackwardContext(
        images, output, rest(output), target, lambda maps: maps, lambda other: rest(body(other)).detach()
    )


def small(axes, target=targets.predicted, *, smooth=True, n=3):
    body, rest = net(axes, smooth=smooth)
    images = torch.randn(n, 2, *(4, 5, 3)[:axes], dtype=torch.float64)
    return graph_of(body, rest, images, target)


def slow_shapleycam(body, rest, images, score):
    """From the whole Hessian."""
    A = body(images).detach()
    slopes, bends = torch.zeros_like(A), torch.zeros_like(A)
    everywhere = positions(A.shape[1:])
    for n in range(len(A)):
        own = score(rest(A[n : n + 1]))
        function = lambda one, own=own: own(rest(one[None])[0])  # noqa: E731
        slopes[n] = torch.autograd.functional.jacobian(function, A[n])
        hessian = torch.autograd.functional.hessian(function, A[n])
        for p in everywhere:
            bends[(n, *p)] = sum(hessian[(*p, *q)] * A[(n, *q)] for q in everywhere)
    assert bends.abs().max() > 1e-3
    return slow_gradcam(A, slopes - 0.5 * bends)


def best(logits):
    """The score of the class that won: row -> its logit."""
    return lambda row: row[logits[0].argmax()]


@pytest.mark.parametrize("axes", [1, 2])
def test_shapley_cam_is_its_paper_s_formula(axes):
    body, rest = net(axes)
    images = torch.randn(2, 2, *(3, 3)[:axes], dtype=torch.float64)
    found = GRAPH_METHODS["shapleycam"](graph_of(body, rest, images))
    close(found, slow_shapleycam(body, rest, images, best))


def slow_scorecam(body, rest, images, baseline):
    A = body(images).detach()
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[images.ndim - 2]

    def logit(image, own):
        return rest(body(image[None]))[0, own].item()

    maps = []
    for n in range(len(images)):
        own = rest(A[n : n + 1])[0].argmax()
        gains = []
        for c in range(A.shape[1]):
            mask = F.interpolate(A[n, c][None, None], size=images.shape[2:], mode=mode, align_corners=False)[0]
            low, high = mask.min(), mask.max()
            mask = (mask - low) / (high - low) if high > low else torch.zeros_like(mask)
            gains.append(logit(images[n] * mask, own) - logit(baseline, own))
        total = sum(math.exp(gain) for gain in gains)
        shares = [math.exp(gain) / total for gain in gains]
        maps.append(weighted(A[n : n + 1], lambda _, c, shares=shares: shares[c])[0])
    return torch.stack(maps)


@pytest.mark.parametrize("at_once", [(8, 64), (3, 64), (8, 1), (50, 64)])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_score_cam_is_its_paper_s_algorithm(axes, at_once, monkeypatch):
    monkeypatch.setattr(extended, "REPEATS", at_once[0])
    monkeypatch.setattr(extended, "IMAGES", at_once[1])
    body, rest = net(axes)
    body.append({1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[axes](2, ceil_mode=True))  # masks to be enlarged
    rest[0] = CONVOLUTIONS[axes](11, 4, 1).double()
    body[0].weight.data[4] = body[0].bias.data[4] = 0  # a map without anything to scale
    images = 3 * torch.randn(3, 2, *(4, 5, 3)[:axes], dtype=torch.float64)
    found = GRAPH_METHODS["scorecam"](graph_of(body, rest, images))
    close(found, slow_scorecam(body, rest, images, torch.zeros_like(images[0])))


@pytest.mark.parametrize("size", [(37, 39), (31, 64), (5, 8)])
def test_score_cam_shows_nothing_through_a_flat_map(size):
    """Enlarged, a constant is one within rounding errors, which must not be scaled to [0, 1]."""
    seen, images = [], torch.ones(1, 3, *size)
    A = torch.stack([torch.rand(5, 7), torch.full((5, 7), 0.3), torch.full((5, 7), 2.6423548)])[None]

    def forward(masked):
        seen.extend(masked.amax((1, 2, 3)).tolist())
        return masked.mean((2, 3))

    GRAPH_METHODS["scorecam"](
        BackwardContext(images, A, torch.ones(1, 3), targets.of_class(0), lambda maps: maps, forward)
    )
    assert seen == [1, 0, 0]


def test_score_cam_asks_for_whole_repeats_and_few_at_a_time():
    sizes, graph = [], small(2, n=9)

    def forward(images):
        sizes.append(len(images))
        assert not images.requires_grad
        return graph.forward(images)

    GRAPH_METHODS["scorecam"](
        BackwardContext(graph.images, graph.output, graph.logits, graph.target, graph.maps, forward)
    )
    assert sizes == [63, 36]


def test_score_cam_asks_about_the_class_that_was_predicted_for_the_whole_image():
    graph = small(2)
    own = graph.logits.argmax(1)
    flip = BackwardContext(
        graph.images, graph.output, graph.logits, targets.predicted, graph.maps, lambda i: -graph.forward(i)
    )
    named = BackwardContext(graph.images, graph.output, graph.logits, targets.of_class(own), graph.maps, flip.forward)
    close(GRAPH_METHODS["scorecam"](flip), GRAPH_METHODS["scorecam"](named))


def slow_finercam(body, rest, images, classes=None):
    A = body(images).detach()
    slopes = torch.zeros_like(A)
    for n in range(len(images)):
        one = A[n : n + 1].clone().requires_grad_()
        logits = rest(one)[0]
        values = logits.tolist()
        own = values.index(max(values)) if classes is None else classes[n]
        others = sorted((k for k in range(len(values)) if k != own), key=lambda k: abs(values[k] - values[own]))
        score = logits[own] - 0.6 * sum(logits[k] for k in others[:3]) / 3
        slopes[n] = torch.autograd.grad(score, one)[0][0]
    return slow_gradcam(A, slopes)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_finer_cam_is_its_paper_s_formula(axes):
    body, rest = net(axes)
    images = torch.randn(3, 2, *(4, 5, 3)[:axes], dtype=torch.float64)
    close(GRAPH_METHODS["finercam"](graph_of(body, rest, images)), slow_finercam(body, rest, images))
    classes = [4, 0, 2]
    for target in (targets.of_class(torch.tensor(classes)), lambda logits: logits[torch.arange(3), classes]):
        close(
            GRAPH_METHODS["finercam"](graph_of(body, rest, images, target)), slow_finercam(body, rest, images, classes)
        )


@pytest.mark.parametrize("target", [targets.contrast(targets.predicted, targets.of_class(0)), lambda z: 2 * z[:, 0]])
def test_finer_cam_needs_a_class(target):
    with pytest.raises(ValueError, match="`target` is not the logit of one class"):
        GRAPH_METHODS["finercam"](small(2, target))


@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_images_don_t_mix_in_methods_with_a_graph(method):
    body, rest = net(2)
    images = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    together = GRAPH_METHODS[method](graph_of(body, rest, images))
    for i in range(3):
        close(GRAPH_METHODS[method](graph_of(body, rest, images[i : i + 1]))[0], together[i])


@pytest.mark.parametrize("method", ["shapleycam", "finercam"])
def test_maps_of_methods_with_a_graph_scale_with_the_score(method):
    body, rest = net(2)
    images = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    before = GRAPH_METHODS[method](graph_of(body, rest, images))
    rest[-1].weight.data.mul_(3)
    rest[-1].bias.data.mul_(3)
    close(GRAPH_METHODS[method](graph_of(body, rest, images)), 3 * before)


@pytest.mark.parametrize("frozen", [True, False])
def test_without_curvature_shapley_cam_is_grad_cam(frozen):
    body, rest = net(2, smooth=False)
    images = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    rest(body(images))  # now the linear layer knows its size
    rest.requires_grad_(not frozen)
    graph = graph_of(body, rest, images)
    expected = METHODS["gradcam"](graph.activations, graph.gradient())
    close(GRAPH_METHODS["shapleycam"](graph), expected)
    straight = BackwardContext(
        graph.images, graph.output, graph.output.flatten(2).mean(2), graph.target, graph.maps, rest
    )
    close(GRAPH_METHODS["shapleycam"](straight), METHODS["gradcam"](graph.activations, straight.gradient()))


@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_methods_with_a_graph_are_finite_where_nothing_is(method):
    body, rest = net(2)
    body[0].weight.data.zero_()
    body[0].bias.data.fill_(-1)
    found = GRAPH_METHODS[method](graph_of(body, rest, torch.randn(2, 2, 4, 5, dtype=torch.float64)))
    assert torch.equal(found, torch.zeros(2, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("method", GRAPH_METHODS)
def test_methods_with_a_graph_leave_it_for_the_next_and_no_gradient_behind(method):
    body, rest = net(2)
    graph = graph_of(body, rest, torch.randn(2, 2, 4, 5, dtype=torch.float64))
    with torch.no_grad():
        first = GRAPH_METHODS[method](graph)
    close(GRAPH_METHODS[method](graph), first)
    assert not first.requires_grad
    assert all(parameter.grad is None for parameter in [*body.parameters(), *rest.parameters()])


@pytest.mark.parametrize("method", ["shapleycam", "finercam"])
def test_a_layer_that_leads_nowhere_is_an_error(method):
    graph = small(2)
    aside = BackwardContext(graph.images, 2 * graph.output, graph.logits, graph.target, graph.maps, graph.forward)
    with pytest.raises(ValueError, match="the layer does not lead to the score"):
        GRAPH_METHODS[method](aside)


def test_shapley_cam_says_where_second_derivatives_are_missing():
    tokens = torch.randn(2, 6, 8, requires_grad=True)
    mixed = F.scaled_dot_product_attention(*[tokens[:, None]] * 3)[:, 0].mean(1)
    graph = BackwardContext(tokens, tokens, mixed, targets.predicted, lambda t: t.mT, lambda t: t.mean(1))
    with pytest.raises(ValueError, match=r"`method` is 'shapleycam', which needs second derivatives: .*sdpa_kernel"):
        GRAPH_METHODS["shapleycam"](graph)


# -- fusions ----------------------------------------------------------------------------------------------------------


def at(maps, p, size):
    """The value of one map at a position of a finer grid, between centers of pixels; past the outer ones it stays."""
    value = 0.0
    places = [
        min(max((i + 0.5) * old / new - 0.5, 0), old - 1) for i, old, new in zip(p, maps.shape, size, strict=True)
    ]
    for corner in product(*[{math.floor(place), math.ceil(place)} for place in places]):
        value += maps[corner].item() * math.prod(1 - abs(i - place) for i, place in zip(corner, places, strict=True))
    return value


def slow_enlarge(maps, size):
    flat = [[at(each, p, size) for p in positions(size)] for each in maps]
    return torch.tensor(flat, dtype=maps.dtype).reshape(len(maps), *size)


@pytest.mark.parametrize(
    ("small", "large"), [((5,), (13,)), ((3, 4), (7, 4)), ((3, 4), (6, 8)), ((2, 3, 2), (5, 3, 4)), ((1, 1), (3, 2))]
)
def test_enlarging_is_linear_between_centers(small, large):
    maps = torch.randn(2, *small, dtype=torch.float64)
    close(resize_maps(maps, large), slow_enlarge(maps, large))


def test_maps_of_the_right_size_stay():
    maps = torch.randn(2, 3, 4)
    assert resize_maps(maps, (3, 4)) is maps


def slow_geometric(layers):
    size = max((tuple(each.shape[1:]) for each in layers), key=math.prod)
    fused = torch.zeros(len(layers[0]), *size, dtype=layers[0].dtype)
    for n in range(len(fused)):
        for p in positions(size):
            agreed = math.prod(at(each[n].clamp(min=0), p, size) for each in layers)
            fused[(n, *p)] = agreed ** (1 / len(layers))
    return fused


def slow_maximal(layers):
    """For layers from shallow to deep."""
    size = layers[0].shape[1:]
    fused = torch.zeros(len(layers[0]), *size, dtype=layers[0].dtype)
    for n in range(len(fused)):
        peak = max(0.0, layers[-1][n].max().item())
        for p in positions(size):
            found = [at(layers[-1][n].clamp(min=0), p, size) / peak if peak else 0.0]
            for each in layers[:-1]:
                own = max(0.0, each[n].max().item())
                found.append(math.tanh(GAMMA * at(each[n].clamp(min=0), p, size) / own) if own else 0.0)
            fused[(n, *p)] = peak * max(found)
    return fused


FUSED = {"refinecam": slow_geometric, "layercam-fused": slow_maximal}
LAYERS = [[(8,), (5,), (3,)], [(6, 8), (6, 8), (3, 4)], [(6, 8), (3, 4), (3, 4)], [(4, 4, 3), (2, 2, 2)], [(3, 4)]]


def layers_of(sizes):
    return [scale * torch.randn(3, *size, dtype=torch.float64) for size, scale in zip(sizes, (1, 0.01, 30))]  # noqa: B905


def test_each_fusion_has_its_loop_and_a_method_to_fuse():
    assert set(FUSED) == set(FUSIONS)
    assert {base for base, _ in FUSIONS.values()} <= set(METHODS)


@pytest.mark.parametrize("sizes", LAYERS)
@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_its_formula(name, sizes):
    layers = layers_of(sizes)
    layers[0][1] = -1  # no evidence for
    close(FUSIONS[name][1](layers), FUSED[name](layers))


@pytest.mark.parametrize("scale", [1e-12, 3, 1e12])
@pytest.mark.parametrize("sizes", LAYERS)
@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_keeps_the_scale(name, sizes, scale):
    layers = layers_of(sizes)
    fuse = FUSIONS[name][1]
    torch.testing.assert_close(fuse([scale * each for each in layers]), scale * fuse(layers))
    assert fuse(layers).any()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_of_one_layer_is_its_evidence_for(name):
    (maps,) = layers_of([(3, 4)])
    close(FUSIONS[name][1]([maps]), maps.clamp(min=0))


@pytest.mark.parametrize("name", FUSIONS)
def test_the_order_of_layers_of_different_size_does_not_matter(name):
    layers = layers_of([(8, 6), (4, 6), (3, 3)])
    close(FUSIONS[name][1](layers[::-1]), FUSIONS[name][1](layers))


@pytest.mark.parametrize("name", FUSIONS)
def test_images_don_t_mix_in_a_fusion(name):
    layers = layers_of([(6, 8), (3, 4)])
    together = FUSIONS[name][1](layers)
    for i in range(3):
        close(FUSIONS[name][1]([each[i : i + 1] for each in layers])[0], together[i])


@pytest.mark.parametrize("name", FUSIONS)
def test_fusing_nothing_gives_nothing(name):
    nothing = [torch.zeros(2, 6, 8), torch.full((2, 3, 4), -1.0)]
    assert torch.equal(FUSIONS[name][1](nothing), torch.zeros(2, 6, 8))


def test_the_geometric_mean_does_not_underflow():
    layers = [torch.full((1, 2), 1e-30)] * 3
    torch.testing.assert_close(fusion.geometric(layers), layers[0], atol=0, rtol=1e-5)


# -- names ------------------------------------------------------------------------------------------------------------

NAMES = sorted([*METHODS, *GRAPH_METHODS, *FUSIONS])


def test_no_name_stands_in_two_tables():
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_all_names_are_known_and_those_of_one_layer_resolve(name):
    extended.check(name)
    assert extended.is_extended(name) == (name in GRAPH_METHODS)
    if name not in FUSIONS:
        function = extended.resolve(name)
        assert extended.resolve(function) is function
        assert extended.is_extended(function) == (name in GRAPH_METHODS)
        assert extended.unit_of(function, False) == extended.unit_of(name, False)
    else:
        with pytest.raises(ValueError, match=f"`method` is '{name}', which fuses maps of several layers"):
            extended.resolve(name)


@pytest.mark.parametrize(
    ("wrong", "close_to"), [("gradcamm", "gradcam"), ("score-cam", "scorecam"), ("refine", "refinecam"), ("zzz", None)]
)
def test_an_unknown_name_lists_all_and_the_closest(wrong, close_to):
    with pytest.raises(ValueError, match=f"`method` is '{wrong}'. It can be") as caught:
        extended.check(wrong)
    assert str(NAMES) in str(caught.value)
    assert str(caught.value).endswith(f"Did you mean {close_to!r}?" if close_to else "or a function.")


@pytest.mark.parametrize("wrong", [3, None, ["gradcam"]])
def test_a_method_that_can_t_be_called_is_an_error(wrong):
    with pytest.raises(TypeError, match=rf"`method` is a {type(wrong).__name__}. It can be \['eigencam', .* function"):
        extended.check(wrong)


def test_a_function_of_the_user_s_own_takes_activations_and_gradients():
    def mine(activations, gradients):
        return activations[:, 0]

    extended.check(mine)
    assert extended.resolve(mine) is mine
    assert not extended.is_extended(mine)
    assert extended.unit_of(mine, True) == "units of mine"


def test_a_method_may_be_an_object_that_can_t_be_hashed():
    class Mine(list):
        def __call__(self, activations, gradients):
            return activations[:, 0]

    extended.check(Mine())
    assert not extended.is_extended(Mine())
    assert extended.unit_of(Mine(), True) == "units of the method"


@pytest.mark.parametrize(
    ("method", "uniform", "expected"),
    [
        ("hirescam", False, "logits"),
        ("gradcam", True, "logits"),
        ("gradcam", False, "units of gradcam"),
        ("xgradcam", True, "logits"),
        ("xgradcam", False, "units of xgradcam"),
        ("layercam", True, "units of layercam"),
        ("gradcam++", True, "units of gradcam++"),
        ("refinecam", True, "units of refinecam"),
        (METHODS["gradcam"], True, "logits"),
    ],
)
def test_units_are_logits_only_where_the_map_is(method, uniform, expected):
    assert extended.unit_of(method, uniform) == expected
