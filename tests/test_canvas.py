import math

import pytest
import torch

from lightning_convviz.canvas import (
    CANVASES as NAMES,
)
from lightning_convviz.canvas import (
    Box,
    Canvas,
    FourierCanvas,
    PhaseCanvas,
    PixelCanvas,
    PlainCanvas,
    box,
    generators,
)

CANVASES = [PixelCanvas, PlainCanvas, FourierCanvas, PhaseCanvas]
SIZES = [(6, 8), (6, 7), (5, 8), (5, 7), (1, 1)]


def unit(channels=3, dtype=torch.float64):
    return Box(torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype), torch.eye(channels, dtype=dtype))


def test_the_table_of_canvases_is_complete():
    assert set(CANVASES) == set(Canvas.__subclasses__()) == set(NAMES.values())


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("size", SIZES)
def test_images_have_the_asked_size_odd_or_even(canvas, size):
    assert canvas(size, unit(), generators([1, 2]))().shape == (2, 3, *size)


@pytest.mark.parametrize("canvas", CANVASES)
def test_images_stay_in_the_box_however_far_the_parameters_go(canvas):
    within = Box(torch.tensor([-2.0, 0.0, 1.0]), torch.tensor([-1.0, 5.0, 1.5]), torch.eye(3))
    images = canvas((5, 6), within, generators([1]), contrast=1e4)()
    assert (images >= within.low[:, None, None]).all()
    assert (images <= within.high[:, None, None]).all()
    assert images.min() == -2
    assert images.max() == 5


@pytest.mark.parametrize("canvas", CANVASES)
def test_the_start_is_blank_to_the_eye(canvas):
    images = canvas((12, 16), unit(), generators([1]))()
    assert (images - 0.5).abs().max() < 0.02
    assert images.std() > 0


@pytest.mark.parametrize("canvas", CANVASES)
def test_an_image_depends_on_its_own_parameters_and_stream_alone(canvas):
    both, single = (canvas((4, 5), unit(), generators(seeds)) for seeds in ([3, 4], [4]))
    assert torch.equal(both()[1:], single())
    (gradient,) = torch.autograd.grad(both()[1].square().sum(), list(both.parameters()))
    assert gradient[0].abs().sum() == 0
    assert gradient[1].abs().sum() > 0


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_reaches_all_that_can_be_seen(canvas, size):
    learnable = canvas(size, unit(), generators([1]))
    (gradient,) = torch.autograd.grad((learnable() * torch.randn(1, 3, *size).double()).sum(), [learnable.values])
    dead = (gradient == 0).sum() / gradient.numel()
    assert dead <= (0 if canvas is PixelCanvas else 0.5), "of a real image's spectrum some imaginary parts are void"


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_box_sets_the_precision_and_the_seed_the_image(canvas, dtype):
    images = canvas((4, 4), unit(dtype=dtype), generators([9]))()
    assert images.dtype == dtype
    torch.testing.assert_close(images.double(), canvas((4, 4), unit(), generators([9]))())


@pytest.mark.parametrize("size", [(6, 8), (6, 7), (5, 8), (5, 7)])
@pytest.mark.parametrize(("u", "v"), [(1, 1), (2, 0), (0, 2)])
def test_a_frequency_is_a_cosine_divided_by_its_frequency(size, u, v):
    h, w = size
    canvas = FourierCanvas(size, unit(1), generators([0]))
    canvas.values.data.zero_()
    canvas.values.data[0, 0, u, v, 0] = 1
    if v == 0:  # there the lower half of the column belongs to the same cosines
        canvas.values.data[0, 0, -u, v, 0] = 1
    f = math.hypot(u / h, v / w)
    for y in range(h):
        for x in range(w):
            expected = 0.25 * 2 / f / math.sqrt(h * w) * math.cos(2 * math.pi * (u * y / h + v * x / w))
            assert canvas.unbounded()[0, 0, y, x].item() == pytest.approx(expected, abs=1e-12)


def test_the_mean_counts_as_the_lowest_frequency():
    canvas = FourierCanvas((4, 9), unit(1), generators([0]))
    canvas.values.data.zero_()
    canvas.values.data[0, 0, 0, 0, 0] = 1
    torch.testing.assert_close(canvas.unbounded(), torch.full((1, 1, 4, 9), 0.25 * 9 / 6, dtype=torch.float64))


def test_colors_are_mixed_by_the_box():
    mix = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    within = Box(torch.zeros(2).double(), torch.ones(2).double(), mix)
    canvas = PixelCanvas((1, 1), within, generators([0]))
    canvas.values.data[0, :, 0, 0] = torch.tensor([2.0, -4.0])
    torch.testing.assert_close(canvas()[0, :, 0, 0], torch.tensor([2.0, -1.0]).double().sigmoid())


def test_a_box_leaves_out_the_outermost_thousandth():
    images = torch.linspace(0, 1000, 4004, dtype=torch.float64).reshape(1, 1, 44, 91).repeat(1, 2, 1, 1)
    images[:, 1] *= -1
    found = box(images)
    torch.testing.assert_close(found.low, torch.tensor([1.0, -999.0]).double())
    torch.testing.assert_close(found.high, torch.tensor([999.0, -1.0]).double())


def test_a_box_knows_how_channels_go_together():
    first, noise = torch.randn(2, 4, 50, 50, dtype=torch.float64)
    images = torch.stack([first, 0.8 * first + 0.6 * noise], dim=1)
    color = box(images).color
    correlation = color @ color.T / (color @ color.T)[0, 0]
    assert correlation[0, 1].item() == pytest.approx(0.8, abs=0.03)
    assert color.norm(dim=1).max().item() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_and_equal_channels_have_a_box_too(value):
    found = box(torch.full((2, 3, 4, 4), value))
    assert (found.low < found.high).all()
    assert found.color.isfinite().all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_a_box_of_half_precision_is_single(given, expected):
    assert box(torch.randn(2, 3, 4, 4).to(given)).low.dtype == expected


def test_a_box_of_many_pixels_is_that_of_a_sample():
    found = box(torch.rand(1, 1, 700, 700))
    assert found.low.item() == pytest.approx(0.001, abs=5e-4)
