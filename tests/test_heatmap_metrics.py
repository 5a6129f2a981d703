"""How far a heatmap can be believed: numbers by hand, slow loops from the papers, toy nets with a known truth."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from lightning_convviz import heatmap_metrics

NAN = float("nan")
MASKED = ["drop", "increase", "drop_removed", "deletion", "insertion"]


def bright(images):
    """Two classes; the logit of class 1 is the sum over the upper left quarter."""
    h, w = images.shape[2:]
    evidence = images[:, :, : h // 2, : w // 2].sum((1, 2, 3))
    return torch.stack([torch.zeros_like(evidence), evidence], dim=1)


def mixed(images):
    """Three classes of a linear net with a weight for each pixel."""
    stream = torch.Generator().manual_seed(3)
    weights = torch.randn(3, *images.shape[1:], generator=stream, dtype=torch.float64).to(images)
    return 0.3 * torch.einsum("nchw,kchw->nk", images, weights)


@pytest.fixture
def pictures():
    return torch.rand(3, 2, 6, 8, dtype=torch.float64)


@pytest.fixture
def heat():
    return torch.rand(3, 6, 8, dtype=torch.float64)


CLASSES = torch.tensor([0, 2, 1])


def everything(images, heat, **arguments):
    given = {"before": heat.flip(1), "initial": heat.square().roll(1, 2), "masks": heat > 0.5, **arguments}
    return heatmap_metrics.report(mixed, images, heat, CLASSES[: len(images)], **given)


# -- masking ----------------------------------------------------------------------------------------------------------


def test_what_is_kept_stays_and_the_rest_is_the_baseline(pictures):
    kept = torch.zeros(3, 6, 8)
    kept[:, :2] = 1
    for baseline in (heatmap_metrics.blurred, heatmap_metrics.mean_color):
        found = heatmap_metrics.masked(pictures, kept, baseline=baseline)
        assert torch.equal(found[:, :, :2], pictures[:, :, :2])
        assert torch.equal(found[:, :, 2:], baseline(pictures)[:, :, 2:])
    assert (heatmap_metrics.masked(pictures, kept) - pictures)[:, :, 2:].abs().mean() > 0.1, "the rest is gone"


@pytest.mark.parametrize("size", [(6, 8), (3, 5), (48, 48), (1, 16)])
def test_baselines_keep_the_mean_color_but_no_detail(size):
    stripes = torch.zeros(1, 1, *size, dtype=torch.float64)
    stripes[..., ::2] = 1
    for baseline in (heatmap_metrics.blurred, heatmap_metrics.mean_color):
        found = baseline(stripes)
        assert found.shape == stripes.shape
        assert found.mean().item() == pytest.approx(stripes.mean().item(), abs=0.1)
    if min(size) >= 6:
        assert heatmap_metrics.blurred(stripes).std() < 0.2 * stripes.std()


def test_the_order_is_from_hot_to_cold(heat):
    place = heatmap_metrics.rank_pixels(heat)
    assert torch.equal(place.flatten(1).sort(1).values, (torch.arange(48).double() / 48).expand(3, 48))
    for own, hot in zip(place, heat, strict=True):
        assert torch.equal(own.flatten().argsort(), hot.flatten().argsort(descending=True))


@pytest.mark.parametrize("size", [(8, 8), (48, 48), (30, 47)])
def test_equally_hot_pixels_go_all_over_the_image(size):
    first = heatmap_metrics.rank_pixels(torch.ones(2, *size))[0] < 0.25
    assert torch.equal(*heatmap_metrics.rank_pixels(torch.ones(2, *size)))
    for quarter in (first[: size[0] // 2, : size[1] // 2], first[size[0] // 2 :], first[:, size[1] // 2 :]):
        assert quarter.float().mean().item() == pytest.approx(0.25, abs=0.08)


# -- numbers that ask the net -----------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_confidence_by_hand():
    images = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    images[..., 0, 0] = 4.0  # the mean is 1; the logit of class 1 is the pixel above left
    heat = torch.tensor([[[3.0, 1.5], [0.0, 0.0]]]).double()
    found = heatmap_metrics.confidence(bright, images, heat, torch.tensor([1]), baseline=heatmap_metrics.mean_color)
    assert found["drop"].item() == 0  # the hottest pixel is kept as it is
    assert found["increase"].item() == 0
    assert found["drop_removed"].item() == pytest.approx(1 - sigmoid(1) / sigmoid(4))  # removed: it is the mean
    half = torch.tensor([[[1.5, 3.0], [0.0, 0.0]]]).double()  # half of the pixel is kept: 0.5 * 4 + 0.5 * 1
    found = heatmap_metrics.confidence(bright, images, half, torch.tensor([1]), baseline=heatmap_metrics.mean_color)
    assert found["drop"].item() == pytest.approx(1 - sigmoid(2.5) / sigmoid(4))
    assert found["drop_removed"].item() == pytest.approx(1 - sigmoid(2.5) / sigmoid(4))
    against = heatmap_metrics.confidence(bright, images, half, torch.tensor([0]), baseline=heatmap_metrics.mean_color)
    assert (against["drop"].item(), against["increase"].item()) == (0, 1)  # less of class 1 is more of class 0


def test_deletion_and_insertion_by_hand():
    images = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]]).double()
    heat = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]).double()  # the pixel that counts goes first
    gone, there = sigmoid(1), sigmoid(4)
    arguments = {"baseline": heatmap_metrics.mean_color, "steps": 4}
    found = heatmap_metrics.deletion(bright, images, heat, torch.tensor([1]), **arguments)
    assert found.item() == pytest.approx((there / 2 + 3 * gone + gone / 2) / 4)
    found = heatmap_metrics.insertion(bright, images, heat, torch.tensor([1]), **arguments)
    assert found.item() == pytest.approx((gone / 2 + 3 * there + there / 2) / 4)
    found = heatmap_metrics.deletion(bright, images, 5 - heat, torch.tensor([1]), **arguments)  # it goes last
    assert found.item() == pytest.approx((there / 2 + 3 * there + gone / 2) / 4)


def slow_curve(images, heat, classes, steps, baseline, inserting):
    """Pixel by pixel, as the paper has it: change some of the hottest, ask again, sum up trapezoids."""
    areas = []
    for image, hot, number in zip(images, heat, classes, strict=True):
        blank = baseline(image[None])[0]
        canvas, source = (blank.clone(), image) if inserting else (image.clone(), blank)
        ranking = sorted((-hot[y, x].item(), y, x) for y in range(6) for x in range(8))
        values = [mixed(canvas[None]).softmax(1)[0, number].item()]
        for step in range(steps):
            for _, y, x in ranking[math.ceil(step * 48 / steps) : math.ceil((step + 1) * 48 / steps)]:
                canvas[:, y, x] = source[:, y, x]
            values.append(mixed(canvas[None]).softmax(1)[0, number].item())
        areas.append(sum((a + b) / 2 for a, b in pairwise(values)) / steps)
    return torch.tensor(areas, dtype=torch.float64)


@pytest.mark.parametrize("baseline", [heatmap_metrics.blurred, heatmap_metrics.mean_color])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 48])
@pytest.mark.parametrize(("curve", "inserting"), [(heatmap_metrics.deletion, False), (heatmap_metrics.insertion, True)])
def test_curves_agree_with_a_slow_loop(pictures, heat, curve, inserting, steps, baseline):
    found = curve(mixed, pictures, heat, CLASSES, steps=steps, baseline=baseline)
    torch.testing.assert_close(found, slow_curve(pictures, heat, CLASSES, steps, baseline, inserting))


def test_the_true_region_scores_better_than_a_random_one():
    images = 0.2 * torch.rand(32, 1, 8, 8, dtype=torch.float64)
    images[:, :, :4, :4] += 0.4
    images -= 0.3
    true = torch.zeros(32, 8, 8, dtype=torch.float64)
    true[:, :4, :4] = 1
    truth = true.bool()
    true += 0.01 * torch.rand(32, 8, 8, dtype=torch.float64)
    other = torch.stack([own.flatten()[torch.randperm(64)].view(8, 8) for own in true])  # as many hot pixels elsewhere
    found, chance = [
        heatmap_metrics.mean(
            heatmap_metrics.report(
                bright, images, heat, torch.ones(32, dtype=torch.long), masks=truth, baseline=heatmap_metrics.mean_color
            )
        )
        for heat in (true, other)
    ]
    for name, better in {"drop": -1, "drop_removed": 1, "deletion": -1, "insertion": 1, "energy_inside": 1}.items():
        assert better * (found[name] - chance[name]) > 0.02, name
    assert (found["pointing"], found["entropy"]) == (1, pytest.approx(chance["entropy"]))


# -- numbers of the maps ----------------------------------------------------------------------------------------------


def slow_ranks(values):
    return [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]


def slow_spearman(one, other):
    r, s = (torch.tensor(slow_ranks(each.flatten().tolist()), dtype=torch.float64) for each in (one, other))
    return torch.corrcoef(torch.stack([r, s]))[0, 1]


def test_the_correlation_is_spearman_s_with_ties(heat):
    one, other = (heat - 0.4).clamp(min=0), (heat.roll(1, 2) + heat - 0.8).clamp(min=0)
    expected = torch.stack([slow_spearman(a, b) for a, b in zip(one, other, strict=True)])
    torch.testing.assert_close(heatmap_metrics.correlation(one, other), expected)
    assert expected.abs().min() > 0.05


def test_the_correlation_of_maps_that_rank_alike(heat):
    torch.testing.assert_close(heatmap_metrics.correlation(heat, 3 * heat**2 + 1), torch.ones(3).double())
    torch.testing.assert_close(heatmap_metrics.correlation(heat, 1 - heat), -torch.ones(3).double())


@pytest.mark.parametrize(("hot", "expected"), [(1, 0.0), (2, 0.25), (4, 0.5), (16, 1.0)])
def test_the_entropy_by_hand(hot, expected):
    heat = torch.zeros(1, 4, 4, dtype=torch.float64)
    heat.view(-1)[:hot] = 7.5
    assert heatmap_metrics.entropy(heat).item() == pytest.approx(expected)


MASK = torch.tensor([[[True, True, False, False, False]]])


@pytest.mark.parametrize(
    ("heat", "tolerance", "hit", "inside"),
    [
        ([3.0, 1.0, 0.0, 0.0, 0.0], 0, 1.0, 1.0),
        ([0.0, 1.0, 3.0, 0.0, 0.0], 0, 0.0, 0.25),
        ([0.0, 1.0, 3.0, 0.0, 0.0], 1, 1.0, 0.25),
        ([0.0, 1.0, 0.0, 3.0, 0.0], 1, 0.0, 0.25),
        ([0.0, 1.0, 0.0, 3.0, 0.0], 2, 1.0, 0.25),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 0, 0.4, 0.4),
        ([0.0, 0.0, 0.0, 0.0, 0.0], 0, NAN, NAN),
        ([0.0, NAN, 1.0, 0.0, 0.0], 0, NAN, NAN),
    ],
)
def test_pointing_and_energy_by_hand(heat, tolerance, hit, inside):
    heat = torch.tensor([[heat]])
    assert heatmap_metrics.pointing(heat, MASK, tolerance=tolerance).item() == pytest.approx(hit, nan_ok=True)
    assert heatmap_metrics.energy_inside(heat, MASK).item() == pytest.approx(inside, nan_ok=True)


def test_images_without_an_object_have_none_to_point_at(heat):
    masks = torch.stack([torch.zeros(6, 8), torch.ones(6, 8), torch.zeros(6, 8)]).bool()
    assert heatmap_metrics.pointing(heat, masks).isnan().tolist() == [True, False, True]
    assert heatmap_metrics.energy_inside(heat, masks).isnan().tolist() == [True, False, True]


# -- all at once ------------------------------------------------------------------------------------------------------


def test_the_report_is_what_its_parts_say(pictures, heat):
    found = everything(pictures, heat, steps=3)
    expected = {
        "entropy": heatmap_metrics.entropy(heat),
        **heatmap_metrics.confidence(mixed, pictures, heat, CLASSES),
        "deletion": heatmap_metrics.deletion(mixed, pictures, heat, CLASSES, steps=3),
        "insertion": heatmap_metrics.insertion(mixed, pictures, heat, CLASSES, steps=3),
        "stability": heatmap_metrics.correlation(heat, heat.flip(1)),
        "initial": heatmap_metrics.correlation(heat, heat.square().roll(1, 2)),
        "pointing": heatmap_metrics.pointing(heat, heat > 0.5),
        "energy_inside": heatmap_metrics.energy_inside(heat, heat > 0.5),
    }
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize(("steps", "chunk", "calls"), [(4, None, [30]), (4, 12, [12, 12, 6]), (1, None, [12])])
def test_the_net_is_asked_once_variant_by_variant(pictures, heat, steps, chunk, calls):
    seen = []

    def forward(images):
        seen.append(images)
        assert not torch.is_grad_enabled()
        return mixed(images)

    found = everything(pictures, heat, steps=steps)
    again = heatmap_metrics.report(forward, pictures, heat, CLASSES, steps=steps, chunk=chunk)
    assert [len(images) for images in seen] == calls
    assert torch.equal(torch.cat(seen)[:3], pictures), "variant 0 are the images"
    assert torch.equal(torch.cat(seen)[3:6], heatmap_metrics.blurred(pictures))
    for name in MASKED:
        torch.testing.assert_close(again[name], found[name], msg=name)


def test_images_do_not_mix(pictures, heat):
    found = everything(pictures, heat)
    order = torch.tensor([2, 0, 1])
    given = {"before": heat.flip(1), "initial": heat.square().roll(1, 2), "masks": heat > 0.5}
    for rows in ([0], [1], [2], [1, 2], order.tolist()):
        own = {key: value[rows] for key, value in given.items()}
        alone = heatmap_metrics.report(mixed, pictures[rows], heat[rows], CLASSES[rows], **own)
        for name, value in found.items():
            torch.testing.assert_close(alone[name], value[rows], msg=name)


def test_without_a_net_come_the_numbers_that_need_none(pictures, heat):
    assert list(heatmap_metrics.report(None, pictures, heat, CLASSES)) == ["entropy"]
    assert list(heatmap_metrics.report(None, pictures, heat, CLASSES, masks=heat > 0.5)) == [
        "entropy", "pointing", "energy_inside"
    ]  # fmt: skip


def test_a_map_of_zeros_has_no_numbers_and_spoils_none(pictures, heat):
    expected = everything(pictures, heat, masks=torch.ones(3, 6, 8).bool())
    heat = heat.clone()
    heat[1] = 0
    found = everything(pictures, heat, masks=torch.ones(3, 6, 8).bool())
    for name, values in found.items():
        assert values.isnan().tolist() == [False, True, False], name
        torch.testing.assert_close(values[[0, 2]], expected[name][[0, 2]], msg=name)
        assert math.isfinite(heatmap_metrics.mean(found)[name])


@pytest.mark.parametrize("value", [0, NAN, float("inf")])
def test_the_net_sees_only_finite_pictures_whatever_the_map(pictures, heat, value):
    seen = []
    heat[1] = value
    heatmap_metrics.report(lambda images: seen.append(images) or mixed(images), pictures, heat, CLASSES)
    assert torch.cat(seen).isfinite().all()


def test_a_constant_map_ranks_nothing_but_is_spread_and_points(pictures, heat):
    heat[1] = 0.7
    found = everything(pictures, heat)
    assert {name for name, values in found.items() if values[1].isnan()} == {"stability", "initial"}
    assert (found["entropy"][1].item(), found["drop"][1].item()) == (pytest.approx(1), pytest.approx(0))


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_maps_that_are_not_finite_have_no_numbers(pictures, heat, value):
    heat[0, 2, 3] = value
    found = everything(pictures, heat, masks=torch.ones(3, 6, 8).bool())
    for name, values in found.items():
        assert values.isnan().tolist() == [True, False, False], name


def test_half_precision_images_and_single_precision_heat(pictures, heat):
    exact = everything(pictures, heat)
    found = everything(pictures.bfloat16(), heat.float())
    for name in MASKED:
        assert found[name].dtype == torch.float32, name
        if name != "increase":
            torch.testing.assert_close(found[name].double(), exact[name], atol=0.1, rtol=0, msg=name)


def test_large_maps_rank_exactly_in_single_precision():
    heat = torch.rand(1, 300, 400)
    assert heatmap_metrics.correlation(heat, heat.square()).item() == pytest.approx(1, abs=1e-4)
    assert len(heatmap_metrics.rank_pixels(heat).unique()) == 120_000


def test_the_mean_leaves_out_what_is_not_defined():
    report = {"drop": torch.tensor([1.0, NAN, 2.0]), "entropy": torch.full((3,), NAN)}
    found = heatmap_metrics.mean(report)
    assert found["drop"] == 1.5
    assert math.isnan(found["entropy"])
    assert heatmap_metrics.mean({}) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, m: heatmap_metrics.report(mixed, x, m, CLASSES, steps=0), "`steps` is 0. Give 1 or more"),
        (lambda x, m: heatmap_metrics.deletion(mixed, x, m, CLASSES, steps=-1), "`steps` is -1"),
    ],
)
def test_what_does_not_fit_is_refused(pictures, heat, call, message):
    with pytest.raises(ValueError, match=message):
        call(pictures, heat)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_nothing_waits_for_the_device(pictures, heat):
    pictures, heat, classes = pictures.cuda(), heat.cuda(), CLASSES.cuda()
    weights = torch.randn(3, *pictures.shape[1:], dtype=torch.float64, device="cuda").flatten(1)

    def forward(images):
        return F.linear(images.flatten(1), weights)

    def all_of_it():
        return heatmap_metrics.report(forward, pictures, heat, classes, before=heat, initial=heat, masks=heat > 0.5)

    all_of_it()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = all_of_it()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(found) == 10
