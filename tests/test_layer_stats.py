"""Figures of layers over a validation against NumPy, whatever way the images come."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_convviz.layer_stats import (
    PICTURES,
    LayerAccumulator,
    bins,
    cka,
    figures,
    fingerprints,
    layer,
    same,
)

FIGURES = ("sparsity", "mean", "high", "effective_rank", "saturation")
SHARED = ("peak", "low", "magnitude", "mean", "scatter", "features", "fingerprints")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def passed(maps, batches=None, *, pictures=PICTURES, images=None):
    """A tally after a validation: images of a network that is the identity are its maps."""
    tally = LayerAccumulator(pictures)
    images = maps if images is None else images
    batches = batches or [len(maps)]
    for part, each in zip(maps.split(batches), images.split(batches), strict=True):
        tally.update(tally.reduce(part), each)
    return tally.compute()


def close(found, expected, names=FIGURES, **how):
    for name in names:
        one, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}", **how)
    assert found.dead.tolist() == expected.dead.tolist()
    assert found.dormant.tolist() == expected.dormant.tolist()


# -- a known net ------------------------------------------------------------------------------------------------------

WEIGHTS = np.array([[1, 0, 0], [0, 2, -1], [0, 0, 0], [1, 1, 1], [0.01, 0, 0], [3, 0, 1], [-1, -1, 0]], float)
BIASES = np.array([0.5, 0, 0.25, -50, 0, 1, 0])  # the third channel is constant, the fourth is dead, the fifth dormant


@pytest.fixture
def known():
    """A net whose weights are set by hand, images, and its output as NumPy has it."""
    net = nn.Sequential(nn.Conv2d(3, 7, 1), nn.ReLU(inplace=True))
    net[0].weight.data = torch.tensor(WEIGHTS, dtype=torch.float32)[:, :, None, None]
    net[0].bias.data = torch.tensor(BIASES, dtype=torch.float32)
    images = drawn(40, 3, 5, 8)
    maps = np.einsum("kc,ncyx->nkyx", WEIGHTS, images.double().numpy()) + BIASES[:, None, None]
    return net, images, np.maximum(maps, 0)


def test_a_known_net_has_the_figures_of_numpy(known):
    net, images, maps = known
    tally = LayerAccumulator()
    net[1].register_forward_hook(lambda module, args, output: held.append(tally.reduce(output.detach())))
    for part in images.split(16):
        held = []
        net(part)
        tally.update(held[0], part)
    found = figures(tally.compute())

    assert (found.count, found.channels) == (40, 7)
    assert found.sparsity == np.mean(maps <= 0)
    assert found.mean == pytest.approx(maps.mean(), rel=1e-6)
    assert found.dead.tolist() == [False, False, True, True, False, False, False]
    magnitude = np.abs(maps).mean((0, 2, 3))
    np.testing.assert_array_equal(found.dormant, magnitude <= 0.025 * magnitude.mean())
    assert found.dormant.tolist() == [False, False, False, True, True, False, False]
    within_a_bin(found.high, np.quantile(maps, 0.995, method="inverted_cdf"))

    features = maps.mean((2, 3))
    np.testing.assert_allclose(found.features, features, rtol=1e-5, atol=1e-6)
    singular = np.linalg.svd(features - features.mean(0), compute_uv=False)
    share = singular[singular > 1e-9] / singular.sum()
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    held = np.cumsum(singular**2) / (singular**2).sum()
    assert found.saturation == (np.argmax(held >= 0.99) + 1) / 7
    assert 1 < found.effective_rank < 7
    assert 1 / 7 < found.saturation < 1


def test_scalars_are_shares_where_figures_count_channels(known):
    found = figures(passed(torch.from_numpy(known[2])))
    scalars = found.scalars()
    assert scalars["dead"] == pytest.approx(2 / 7)
    assert scalars["dormant"] == pytest.approx(2 / 7)
    assert scalars["effective_rank"] == pytest.approx(found.effective_rank / 7)
    assert {name: scalars[name] for name in ("sparsity", "mean", "high", "saturation")} == {
        name: getattr(found, name) for name in ("sparsity", "mean", "high", "saturation")
    }


# -- batches, ranks, ways to hold a tensor ----------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 20, 256])
@pytest.mark.parametrize("batches", [[1] * 30, [16, 14], [7, 1, 22]])
@pytest.mark.parametrize("shape", [(6, 5, 7), (40, 33, 20)], ids=["read whole", "sampled"])
def test_any_batches_give_the_figures_of_one(batches, shape, together, monkeypatch):
    monkeypatch.setattr(layer, "TOGETHER", together)
    maps = drawn(30, *shape) * drawn(shape[0], 1, 1, seed=1).exp() + 100
    whole, parts = passed(maps), passed(maps, batches)
    assert torch.equal(parts.bins, whole.bins)
    assert int(whole.bins.sum()) >= 30 * min(math.prod(shape), layer.VALUES // 4)
    for name in SHARED:
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    close(figures(parts), figures(whole), rtol=1e-5, atol=0)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_have_the_figures_of_one_process(world):
    maps = drawn(60, 6, 5, 7) * drawn(6, 1, 1, seed=1).exp() + 3
    parts = [passed(maps[rank::world], [8] * 2 + [60 // world - 16], pictures=9) for rank in range(world)]
    found, expected = LayerAccumulator.merge([None, *parts, None]), passed(maps, pictures=9)
    assert torch.equal(found.bins, expected.bins)
    close(figures(found), figures(expected), rtol=1e-6, atol=0)
    assert found.count == 60
    rows = torch.cat([maps[rank::world][:9] for rank in range(world)])
    torch.testing.assert_close(found.features, rows.mean((2, 3)))
    torch.testing.assert_close(found.fingerprints, fingerprints(rows))
    assert LayerAccumulator.merge([None]) is None


def test_ranks_keep_no_more_than_256_features_and_one_with_another_net_is_left_out():
    parts = [passed(drawn(200, 3, 1, 1, seed=rank)) for rank in range(2)]
    found = LayerAccumulator.merge([*parts, passed(drawn(10, 4, 1, 1))])
    assert (found.count, len(found.features), len(found.fingerprints)) == (400, 256, 256)
    torch.testing.assert_close(found.features[200:], parts[1].features[:56])


def test_the_features_of_the_first_images_are_kept_and_no_more():
    maps = drawn(70, 3, 4, 4)
    found = passed(maps, [32, 32, 6], pictures=40, images=drawn(70, 3, 8, 8))
    torch.testing.assert_close(found.features, maps[:40].mean((2, 3)))
    torch.testing.assert_close(found.fingerprints, fingerprints(drawn(70, 3, 8, 8)[:40]))
    assert found.features.untyped_storage().nbytes() == 40 * 3 * 4
    assert found.count == 70


def test_what_waits_to_be_summed_is_bounded():
    tally = LayerAccumulator()
    for _ in range(70):
        tally.update(tally.reduce(drawn(10, 2, 4, 4)), drawn(10, 1, 4, 4))
        assert sum(map(len, tally._waiting)) < 256
        assert sum(len(features) for features, _ in tally._kept) <= 256
    assert tally.compute().count == 700


def test_a_new_validation_begins_with_nothing():
    tally = LayerAccumulator()
    tally.update(tally.reduce(drawn(3, 2, 4, 4)), drawn(3, 1, 4, 4))
    tally.reset()
    assert tally.compute() is None
    tally.update(tally.reduce(drawn(2, 5, 4, 4)), drawn(2, 1, 4, 4))
    assert (tally.compute().count, tally.compute().channels) == (2, 5)


@pytest.mark.parametrize("shape", [(6, 5, 7), (40, 33, 20), (2000, 2, 3)])
def test_memory_order_changes_nothing(shape):
    maps = drawn(5, *shape)
    one, two = passed(maps), passed(maps.contiguous(memory_format=torch.channels_last))
    assert torch.equal(one.bins, two.bins)
    close(figures(one), figures(two), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 2, 3), (3, 20, 20)])
def test_what_the_net_does_to_its_tensors_later_changes_nothing(shape):
    tally, maps, images = LayerAccumulator(), drawn(6, *shape), drawn(6, 3, 8, 8)
    expected = passed(maps.clone(), images=images.clone())
    batch = tally.reduce(maps)
    maps.fill_(7)
    tally.update(batch, images)
    images.zero_()
    found = tally.compute()
    tally.update(tally.reduce(maps), images)
    tally.compute()  # those that were handed out stay as they are
    for name in (*SHARED, "bins"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_sums_of_inference_mode_are_normal_tensors(monkeypatch):
    monkeypatch.setattr(layer, "TOGETHER", 4)
    tally = LayerAccumulator()
    with torch.inference_mode():
        maps = drawn(6, 4, 5, 5)
        tally.update(tally.reduce(maps), maps)
    tally.update(tally.reduce(maps.clone()), maps.clone())  # sums are updated in place
    found = tally.compute()
    kept = [each for each in vars(found).values() if isinstance(each, torch.Tensor)]
    assert not any(each.is_inference() for each in kept)
    torch.ones(4, requires_grad=True).mul(found.features[0]).sum().backward()
    assert torch.is_grad_enabled()


def test_nothing_of_a_graph_is_kept():
    maps = drawn(6, 4, 5, 5).requires_grad_()
    tally = LayerAccumulator()
    batch = tally.reduce(maps * 2)
    assert not any(each.requires_grad for each in vars(batch).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_summed_in_float32_or_better(dtype):
    maps = (drawn(64, 4, 20, 20) + 100).to(dtype)
    sums = passed(maps, [32, 32])
    assert sums.features.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(sums.features.double(), maps.double().mean((2, 3)), rtol=1e-6, atol=0)
    expected = passed(maps.double(), [32, 32])
    torch.testing.assert_close(sums.magnitude, expected.magnitude, rtol=1e-6, atol=0)
    assert torch.equal(sums.bins, expected.bins)
    close(figures(sums), figures(expected), rtol=1e-3, atol=0)


@pytest.mark.parametrize("exact", [torch.float32, torch.float64], ids=str)
def test_autocast_does_not_reach_the_sums(exact, monkeypatch):
    monkeypatch.setattr(layer, "_exact", lambda device: exact)
    maps = drawn(6, 4, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = passed(maps, [4, 2])
    expected = passed(maps, [4, 2])
    for name in SHARED:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_a_device_without_float64_has_the_same_figures(monkeypatch):
    maps = drawn(60, 6, 5, 7) * drawn(6, 1, 1, seed=1).exp() + 100
    expected = figures(passed(maps))
    monkeypatch.setattr(layer, "_exact", lambda device: torch.float32)
    monkeypatch.setattr(layer, "TOGETHER", 16)
    sums = passed(maps, [8] * 7 + [4])
    assert sums.scatter.dtype == torch.float32
    close(figures(sums), expected, rtol=1e-4, atol=0)
    low = torch.arange(-30.0, 30.0)[:, None] * torch.tensor([1.0, -2.0, 4.0, 0.5] * 4) + 100
    assert of_features(low).effective_rank == pytest.approx(1, abs=0.01)


# -- what is sick -----------------------------------------------------------------------------------------------------


def test_one_value_anywhere_makes_a_channel_alive():
    maps = -drawn(9, 3, 50, 50).abs()
    maps[7, 1, 49, 3] = 1e-6
    maps[2, 2, 0, 0] = 0.0
    found = figures(passed(maps, [4, 5]))
    assert found.dead.tolist() == [True, False, True]
    assert found.high == 0.0
    assert found.sparsity == 1.0


def test_a_constant_channel_is_dead_and_one_that_varies_below_zero_is_too():
    maps = drawn(9, 4, 12, 12)
    maps[:, 0], maps[:, 1] = 5.7, -maps[:, 1].abs()
    maps[4:, 2], maps[:4, 2] = 2.0, 3.0
    maps[:, 3] = 100
    maps[7, 3, 5, 5] = 99
    assert figures(passed(maps, [4, 5])).dead.tolist() == [True, True, False, False]
    assert figures(LayerAccumulator.merge([passed(maps[:4]), passed(maps[4:])])).dead.tolist() == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("scale", "dormant"), [(0.0247, True), (0.0248, False)])
def test_a_channel_is_dormant_up_to_a_fortieth_of_the_mean(scale, dormant):
    maps = torch.ones(4, 100, 2, 2) * torch.tensor([1.0, -1.0])[:, None].expand(2, 2)  # |h| = 1 and no mean
    maps[:, 0] *= scale  # the mean over channels is (99 + scale) / 100
    assert figures(passed(maps)).dormant.tolist() == [dormant] + [False] * 99


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [0, 5])
def test_values_that_are_not_finite_are_told(value, when):
    maps = drawn(8, 4, 6, 6)
    maps[when, 1] = value
    sums = passed(maps, [4, 4])
    found = figures(sums)
    assert not math.isfinite(found.mean)
    assert math.isnan(found.effective_rank)
    assert math.isnan(found.saturation)
    assert not found.dead[1]
    assert found.sparsity == pytest.approx(float((maps <= 0).float().mean()))
    assert found.high == pytest.approx(value, nan_ok=True) or value == -math.inf
    assert math.isnan(cka(found.features, found.features))
    assert figures(LayerAccumulator.merge([sums, passed(drawn(8, 4, 6, 6))])).count == 16


def test_more_channels_than_a_matrix_may_have_are_judged_by_the_kept_features():
    basis = drawn(3, 1500)
    maps = (drawn(50, 3, seed=1) @ basis)[:, :, None, None]
    sums = passed(maps, [20, 30], pictures=30)
    assert sums.scatter is None
    found, expected = figures(sums), singular_rank(maps[:30, :, 0, 0])
    assert found.effective_rank == pytest.approx(expected, rel=1e-3)
    assert found.saturation == pytest.approx(3 / 1500)
    assert figures(LayerAccumulator.merge([sums, sums])).effective_rank == pytest.approx(expected, rel=1e-3)


# -- spectra ----------------------------------------------------------------------------------------------------------


def singular_rank(features):
    values = np.linalg.svd((features - features.mean(0)).double().numpy(), compute_uv=False)
    values = values[values > 1e-6 * values[0]] / values[values > 1e-6 * values[0]].sum()
    return float(np.exp(-(values * np.log(values)).sum()))


def of_features(features, shift=0.0):
    batches = [1] + [9] * (len(features) // 9) + [len(features) % 9 - 1]
    return figures(passed((features + shift)[:, :, None, None], batches))


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_features_of_equal_variance_in_all_directions_have_full_rank(shift):
    features = torch.cat([torch.eye(16), -torch.eye(16)])
    found = of_features(features, shift)
    assert found.effective_rank == pytest.approx(16, rel=1e-6)
    assert found.saturation == 1.0


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_features_along_one_direction_have_rank_one(shift):
    features = torch.arange(-20.0, 12.0)[:, None] * torch.tensor([1.0, -2.0, 4.0, 0.5] * 4)
    found = of_features(features, shift)
    assert found.effective_rank == pytest.approx(1, abs=1e-3)
    assert found.saturation == 1 / 16


def test_a_known_spectrum():
    turn = torch.linalg.qr(drawn(6, 6).double()).Q
    scale = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 0.0]).double()  # singular values; 64 + 16 + 4 + 1 of 86 is 98.8 %
    features = torch.cat([torch.eye(6), -torch.eye(6)]).double() * scale @ turn
    share = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    found = of_features(features)
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)
    assert found.saturation == 5 / 6


def test_where_nothing_varies_rank_and_saturation_are_the_lowest_there_are():
    alike = torch.stack([drawn(5, 9).index_select(1, torch.randperm(9)) for _ in range(8)]).view(8, 5, 3, 3)
    for maps in (torch.zeros(8, 5, 3, 3), torch.full((8, 5, 3, 3), 0.1), drawn(1, 5, 3, 3), alike):
        found = figures(passed(maps))
        assert (found.effective_rank, found.saturation) == (1.0, 1 / 5)


# -- percentiles ------------------------------------------------------------------------------------------------------


def within_a_bin(found, value):
    index = int(bins.counts(torch.tensor([value], dtype=torch.float32)).argmax())
    assert bins.edge(index) <= found <= bins.edge(index + 1)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e5])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.995])
def test_percentiles_are_within_a_bin(scale, share):
    values = drawn(5000) * scale
    found = bins.percentile(bins.counts(values), share, float(values.max()))
    within_a_bin(found, np.quantile(values.numpy(), share, method="inverted_cdf"))
    assert found == pytest.approx(np.quantile(values.numpy(), share), rel=0.0625)


def test_bins_are_where_their_edges_say():
    edges = torch.tensor([bins.edge(index) for index in range(1, bins.BINS)])
    found = bins.counts(edges)
    assert found[0] == 0
    assert (found[1:] == 1).all()
    below = torch.nextafter(edges, torch.tensor(0.0))
    assert bins.counts(below)[1:].tolist() == [2] + [1] * (bins.BINS - 3) + [0]
    assert bins.counts(-edges)[0] == len(edges)


def test_values_beyond_all_bins():
    odd = torch.tensor([0.0, -0.0, -math.inf, 1e-40, math.inf, math.nan, -math.nan], dtype=torch.float64)
    found = bins.counts(odd)
    assert (found[0], found[1], found[-1]) == (3, 1, 3)
    assert bins.counts(torch.tensor([1e-60], dtype=torch.float64))[0] == 0  # above zero, if not as a float32
    assert bins.percentile(bins.counts(torch.tensor([1e9] * 4)), 0.995, 1e9) == 1e9


def test_the_percentile_is_not_above_the_largest_value():
    assert figures(passed(torch.full((4, 3, 2, 2), 1.001))).high == pytest.approx(1.001)


def test_a_sample_stands_for_all_values():
    maps = (drawn(40, 24, 50, 50) * drawn(24, 1, 1, seed=1).exp()).relu_()
    maps += torch.linspace(0.02, 1, 50) * (torch.arange(24) % 2)[:, None, None]  # brighter to the right in every second
    found = figures(passed(maps))
    assert found.sparsity == pytest.approx(float((maps <= 0).float().mean()), abs=0.01)
    assert found.high == pytest.approx(float(np.quantile(maps.numpy(), 0.995)), rel=0.1)
    assert found.mean == pytest.approx(float(maps.mean()), rel=1e-5)


@pytest.mark.parametrize("side", [1, 5, 8, 9, 15, 16, 50, 112, 113])
def test_the_grid_is_in_the_middle(side):
    (places,) = layer._grid(torch.arange(float(side)).view(1, 1, 1, side))[0, 0].int().tolist()
    assert len(places) == side if side <= 8 else 3 <= len(places) <= 4
    assert len(places) == side or places[-1] + places[0] - side + 1 in {-1, 0, 1}
    assert len({b - a for a, b in pairwise(places)}) <= 1


@pytest.mark.parametrize("shape", [(64, 8, 8), (512, 7, 7), (256, 4, 4), (48, 8, 6), (30, 112, 112)])
def test_a_sample_reads_all_positions_alike(shape):
    grid = layer._grid(torch.zeros(1, *shape))
    assert max(grid.shape[2:]) <= 8
    places = torch.arange(grid[0, 0].numel()).view(grid.shape[2:]).expand(grid.shape).float()
    found = layer._sample(places)
    assert found.shape[1] <= layer.VALUES
    times = torch.bincount(found[0].long(), minlength=grid[0, 0].numel())
    assert times.max() - times.min() <= 1


# -- alike ------------------------------------------------------------------------------------------------------------


def test_cka_is_the_papers():
    x, y = drawn(30, 5).double() + 3, drawn(30, 40, seed=1).double()
    y[:, :5] += 2 * x
    p, q = (each.numpy() - each.numpy().mean(0) for each in (x, y))
    expected = np.linalg.norm(q.T @ p) ** 2 / (np.linalg.norm(p.T @ p) * np.linalg.norm(q.T @ q))
    assert 0.1 < expected < 0.9
    assert cka(x, y) == pytest.approx(expected, rel=1e-12)
    assert cka(y, x) == pytest.approx(expected, rel=1e-12)
    assert cka(x.float(), y.float()) == pytest.approx(expected, rel=1e-5)


def test_rotations_scales_and_shifts_change_no_cka():
    x, y = drawn(30, 6).double(), drawn(30, 6, seed=1).double()
    turn = torch.linalg.qr(drawn(6, 6, seed=2).double()).Q
    assert cka(x, 1e-3 * x @ turn + 7) == pytest.approx(1, rel=1e-9)
    assert cka(x @ turn, y) == pytest.approx(cka(x, y), rel=1e-9)
    assert cka(x * torch.arange(1.0, 7.0), y) != pytest.approx(cka(x, y), rel=1e-3)


def test_cka_of_features_that_do_not_vary_is_no_number():
    for count in range(3, 12):  # of some of these counts the mean is not quite 0.1
        assert math.isnan(cka(torch.full((count, 3), 0.1, dtype=torch.float64), drawn(count, 3)))
    with pytest.raises(ValueError, match=r"`y` is features of 7 images\. As many as in `x`, 8"):
        cka(drawn(8, 3), drawn(7, 3))


def test_prints_tell_whether_the_images_are_the_same():
    maps, images = drawn(12, 4, 6, 6), drawn(12, 3, 9, 9)

    def seen(images, batches=(12,)):
        return passed(maps[: len(images)], list(batches), images=images).fingerprints

    first = seen(images)
    assert same(first, seen(images, (5, 7)))
    assert same(first, seen(images + 1e-7))
    noisy = images + 0.01 * drawn(12, 3, 9, 9, seed=3)
    for other in (images.flip(3), images.flip(2), images.flip(0), noisy, images[:11]):
        assert not same(first, seen(other, (len(other),)))
    assert not same(first, seen(images.clone().index_fill_(0, torch.tensor(3), math.nan)))


def test_prints_read_large_images_and_whole_numbers():
    images = (drawn(3, 3, 300, 200) * 255).byte()
    assert torch.equal(fingerprints(images), fingerprints(images.contiguous(memory_format=torch.channels_last)))
    assert len(set(fingerprints(images).tolist())) == 3


# -- inside a user's validation ---------------------------------------------------------------------------------------


WAITING = {"_local_scalar_dense", "nonzero", "bincount", "is_nonzero", "equal", "masked_select", "histc", "_unique2"}


class Unhurried(TorchDispatchMode):
    """Fails where the host would wait for the device, draw from a generator, or reach for what CUDA does by chance."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits, or is not deterministic"
        assert torch.Tag.nondeterministic_seeded not in func.tags, f"{name} draws random numbers"
        found = func(*args, **(kwargs or {}))
        self.made = getattr(self, "made", 0) + 1
        return found


@pytest.mark.parametrize("shape", [(6, 5, 7), (40, 33, 20), (1100, 2, 2)])
def test_nothing_waits_for_the_device(shape, monkeypatch):
    monkeypatch.setattr(layer, "TOGETHER", 4)
    maps = drawn(9, *shape)
    with Unhurried() as watch:
        passed(maps, [4, 5])
    assert watch.made > 20
    with pytest.raises(AssertionError, match="waits"), Unhurried():
        float(maps.sum())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_has_the_same_figures_and_is_not_waited_for(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    maps = drawn(9, 40, 33, 20)
    ready = maps.cuda()
    passed(ready, [4, 5])
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = passed(ready, [4, 5])
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found.bins.cpu(), passed(maps).bins)
    close(figures(found), figures(passed(maps)), rtol=1e-4, atol=0)
