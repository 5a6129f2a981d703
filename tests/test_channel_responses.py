"""Running figures against NumPy on all the images at once."""

import math

import numpy as np
import pytest
import torch

from lightning_convviz.layer_stats import ResponseAccumulator, patches, top_images

CHANNELS = [3, 0, 2]


@pytest.fixture
def maps():
    return torch.randn(23, 4, 5, 7) * torch.tensor([1.0, 5.0, 0.1, 2.0])[:, None, None] + 100


@pytest.fixture
def pictures():
    return torch.arange(23.0)[:, None, None, None].expand(23, 3, 10, 14).clone()


def heard(maps, pictures, batches=(8, 8, 7)):
    responses = ResponseAccumulator(CHANNELS)
    for part, images in zip(maps.split(list(batches)), pictures.split(list(batches)), strict=True):
        responses.update(responses.reduce(part), images)
    return responses.compute()


@pytest.mark.parametrize("batches", [(23,), (8, 8, 7), (1, 2, 20)])
def test_figures_are_those_of_all_images_at_once(maps, pictures, batches):
    seen, values = heard(maps, pictures, batches), maps.double().numpy()[:, CHANNELS]
    assert seen.count == 23
    np.testing.assert_allclose(seen.mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(seen.deviation, values.std((0, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(seen.low, values.min((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(seen.peak, values.max((0, 2, 3)), rtol=1e-6)
    for k in range(3):
        image, y, x = np.unravel_index(values[:, k].argmax(), (23, 5, 7))
        assert (seen.images[k] == image).all()
        assert seen.places[k].tolist() == pytest.approx([(y + 0.5) / 5, (x + 0.5) / 7])


def test_what_several_saw_is_what_one_would_have_seen(maps, pictures):
    whole = heard(maps, pictures)
    parts = [heard(maps[rows], pictures[rows], (len(rows),)) for rows in (range(0, 23, 2), range(1, 23, 2))]
    found = ResponseAccumulator.merge([parts[0], None, parts[1]])
    for name in ("mean", "deviation", "low", "peak", "images", "places"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-4)
    assert found.count == 23
    assert ResponseAccumulator.merge([None]) is None


def test_sigmas_are_deviations_above_the_mean_and_a_silent_channel_has_none(maps, pictures):
    maps[:, 2] = 0.5
    seen = heard(maps, pictures)
    assert seen.silent.tolist() == [False, False, True]
    expected = (seen.peak - seen.mean) / seen.deviation
    torch.testing.assert_close(seen.sigmas(seen.peak)[:2], expected[:2])
    assert seen.sigmas(seen.peak)[2] == 0


def test_a_value_that_is_no_number_wins_nothing(maps, pictures):
    maps[5] = torch.nan
    seen = heard(maps, pictures)
    assert (seen.images[:, 0, 0, 0] != 5).all()
    assert seen.peak.isfinite().all()


def test_images_of_another_shape_are_kept_at_the_size_of_the_first(maps, pictures):
    responses = ResponseAccumulator([0])
    responses.update(responses.reduce(maps[:4]), pictures[:4])
    responses.update(responses.reduce(maps[4:8] + 1000), torch.full((4, 3, 20, 20), 9.0))
    seen = responses.compute()
    assert seen.count == 8
    assert seen.peak > 1000
    assert seen.images.shape == (1, 3, 10, 14)
    assert (seen.images == 9).all()


def test_large_images_are_kept_small():
    responses = ResponseAccumulator([0])
    responses.update(responses.reduce(torch.rand(2, 1, 4, 4)), torch.rand(2, 3, 448, 300))
    assert responses.compute().images.shape == (1, 3, 224, 150)


def test_nothing_is_seen_where_nothing_passed_or_after_it_was_cleared(maps, pictures):
    responses = ResponseAccumulator(CHANNELS)
    assert responses.compute() is None
    responses.update(responses.reduce(maps), pictures)
    responses.reset()
    assert responses.compute() is None


@pytest.mark.parametrize(("y", "x"), [(0, 0), (4, 6), (2, 3), (4, 0)])
def test_a_patch_shows_the_place_of_the_peak(y, x):
    maps, pictures = torch.zeros(1, 1, 5, 7), torch.zeros(1, 3, 50, 70)
    maps[0, 0, y, x] = 1
    pictures[0, :, 10 * y : 10 * y + 10, 10 * x : 10 * x + 10] = 1
    responses = ResponseAccumulator([0])
    responses.update(responses.reduce(maps), pictures)
    (cut,) = patches(responses.compute(), (0.2, 10 / 70), (20, 20))
    assert cut.shape == (3, 20, 20)
    assert (cut == 1).all(), "the field is as large as a cell"
    (whole,) = patches(responses.compute(), (1.0, 1.0), (50, 70))
    assert torch.equal(whole, pictures[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_nothing_waits_for_the_device(maps, pictures):
    responses = ResponseAccumulator(CHANNELS)
    maps, pictures = maps.cuda(), pictures.cuda()
    responses.update(responses.reduce(maps), pictures)
    torch.cuda.set_sync_debug_mode("error")
    try:
        responses.update(responses.reduce(maps), pictures)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- the best pictures of each channel ---------------------------------------------------------------------------------


def ranked(maps, pictures, batches=(8, 8, 7)):
    running = top_images.TopImagesAccumulator(lambda count: CHANNELS)
    for part, images in zip(maps.split(list(batches)), pictures.split(list(batches)), strict=True):
        running.update(running.reduce(part), images)
    return running.compute()


def by_hand(maps, count=3):
    """For each channel the largest values with their pictures and places, by looking at each number in turn."""
    found = []
    for channel in CHANNELS:
        peaks = []
        for picture in range(len(maps)):
            values = {
                (y, x): float(maps[picture, channel, y, x])
                for y in range(maps.shape[2])
                for x in range(maps.shape[3])
            }  # fmt: skip
            if not any(math.isnan(value) for value in values.values()):
                place = max(values, key=values.get)
                peaks.append((-values[place], picture, place))
        found.append(sorted(peaks)[:count])
    return found


SPLITS = [(23,), (8, 8, 7), (1, 2, 20), (1,) * 23, (2, 21)]


@pytest.mark.parametrize("batches", SPLITS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_pictures_are_those_of_a_search_through_all(maps, pictures, batches, ties):
    maps = (maps - 100).div(2).round().clamp(-1, 1) if ties else maps
    maps[4, 3, 2, 2] = maps[9, 0, 0, 0] = torch.nan
    found = ranked(maps, pictures, batches)
    assert (found.channels, found.count) == (CHANNELS, 23)
    for k, wanted in enumerate(by_hand(maps)):
        assert found.pictures[k].tolist() == [picture for _, picture, _ in wanted]
        assert found.peaks[k].tolist() == [-value for value, _, _ in wanted]
        assert found.images[k, :, 0, 0, 0].tolist() == found.pictures[k].tolist()
        for place, (_, _, (y, x)) in zip(found.places[k].tolist(), wanted, strict=True):
            assert place == pytest.approx([(y + 0.5) / 5, (x + 0.5) / 7])


def test_places_are_left_free_where_there_are_too_few_pictures_or_no_numbers(maps, pictures):
    maps[1] = torch.nan
    found = ranked(maps[:3], pictures[:3], (1, 2))
    assert found.count == 3
    assert (found.pictures[:, 2] == -1).all()
    assert (found.peaks[:, 2] == -torch.inf).all()
    assert sorted(found.pictures[0, :2].tolist()) == [0, 2]
    assert top_images.TopImagesAccumulator(lambda count: CHANNELS).compute() is None


@pytest.mark.parametrize("ties", [False, True])
def test_several_find_the_best_pictures_that_one_would_have_found(maps, pictures, ties):
    maps = (maps - 100).div(2).round().clamp(-1, 1) if ties else maps
    maps[0, :, 1, 2] = 200  # the one that is dealt twice is among the best
    whole = ranked(maps, pictures)
    # As Lightning deals them out: every other picture, and the first once more, so that both have as many.
    shares = [list(range(0, 23, 2)), [*range(1, 23, 2), 0]]
    found = top_images.TopImagesAccumulator.merge([ranked(maps[rows], pictures[rows], (5, 7)) for rows in shares])
    assert found.count == 24
    for name in ("peaks", "pictures", "images", "places"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert top_images.TopImagesAccumulator.merge([None, None]) is None
    alone = top_images.TopImagesAccumulator.merge([None, ranked(maps, pictures)])
    assert torch.equal(alone.peaks, whole.peaks)


def test_best_pictures_are_kept_small_and_at_the_size_of_the_first():
    running = top_images.TopImagesAccumulator(lambda count: [0, 1, 2])
    running.update(running.reduce(torch.rand(2, 3, 4, 4)), torch.rand(2, 3, 448, 300))
    assert running.compute().images.shape == (3, 3, 3, 96, 64)
    running.update(running.reduce(torch.rand(12, 3, 4, 4) + 1), torch.full((12, 3, 50, 50), 9.0))
    assert (running.compute().images == 9).all()
    assert running.compute().images.shape == (3, 3, 3, 96, 64)


def test_best_pictures_are_copies(maps, pictures):
    running = top_images.TopImagesAccumulator(lambda count: CHANNELS)
    with torch.inference_mode():
        shown, answered = pictures.clone(), maps.clone()
        running.update(running.reduce(answered), shown)
        before = running.compute().cpu()
        shown.zero_(), answered.zero_()
    assert torch.equal(before.images, running.compute().images)
    assert not running.compute().images.is_inference()
    assert before.images.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_nothing_waits_for_the_device_where_the_best_are_kept(maps, pictures):
    running = top_images.TopImagesAccumulator(lambda count: CHANNELS)
    maps, pictures = maps.cuda(), pictures.cuda()
    running.update(running.reduce(maps), pictures)
    torch.cuda.set_sync_debug_mode("error")
    try:
        running.update(running.reduce(maps), pictures)
    finally:
        torch.cuda.set_sync_debug_mode("default")
