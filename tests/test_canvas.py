import cmath
import math

import pytest
import torch

from lightning_convviz.canvas import CANVASES as NAMES
from lightning_convviz.canvas import Box, Canvas, FourierCanvas, PhaseCanvas, PixelCanvas, PlainCanvas, box, generators

CANVASES = [PixelCanvas, PlainCanvas, FourierCanvas, PhaseCanvas]
BLANK = [PixelCanvas, PlainCanvas, FourierCanvas]  # of a phase canvas all amplitudes are given: it has none
SIZES = [(6, 8), (6, 7), (5, 8), (5, 7), (1, 1)]


def unit(channels=3, dtype=torch.float64, spectrum=None):
    low = torch.zeros(channels, dtype=dtype)
    return Box(low, low + 1, torch.eye(channels, dtype=dtype), spectrum)


def frequencies(h, w):
    """Cycles per pixel, in the order of `rfft2`."""
    rows = [(v if v < h / 2 else v - h) / h for v in range(h)]
    return torch.tensor([[math.hypot(v, u / w) for u in range(w // 2 + 1)] for v in rows]).double()


# -- every canvas -----------------------------------------------------------------------------------------------------


def test_the_table_of_canvases_is_complete():
    assert set(CANVASES) == set(Canvas.__subclasses__()) == set(NAMES.values())


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("size", SIZES)
def test_images_have_the_asked_size_odd_or_even(canvas, size):
    assert canvas(size, unit(), generators([1, 2]))().shape == (2, 3, *size)


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("size", [(5, 6), (4, 7)])
def test_images_stay_in_the_box_however_far_the_parameters_go(canvas, size):
    within = Box(torch.tensor([-2.0, 0.0, 1.0]), torch.tensor([-1.0, 5.0, 1.5]), torch.eye(3))
    learnable = canvas(size, within, generators([1, 2]))
    learnable.values.data += 1e4 * torch.randn_like(learnable.values)
    learnable.project()  # as after every step
    images = learnable()
    assert (images >= within.low[:, None, None]).all()
    assert (images <= within.high[:, None, None]).all()
    if canvas in BLANK:  # a phase has no size
        assert images.min() == -2
        assert images.max() == 5


@pytest.mark.parametrize("canvas", BLANK)
def test_the_start_is_blank_to_the_eye(canvas):
    images = canvas((12, 16), unit(), generators([1]))()
    assert (images - 0.5).abs().max() < 0.05
    assert images.std() > 0


@pytest.mark.parametrize("canvas", CANVASES)
def test_the_blank_image_is_the_middle_of_the_box(canvas):
    within = Box(torch.tensor([-2.0, 0.0]), torch.tensor([4.0, 5.0]), torch.eye(2))
    expected = torch.tensor([1.0, 2.5])[None, :, None, None].expand(1, 2, 3, 4)
    assert torch.equal(canvas((3, 4), within, generators([1, 2])).blank(), expected)


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
    assert dead <= (0 if canvas in (PixelCanvas, PlainCanvas) else 0.5), (
        "of a real image's spectrum some imaginary parts are void"
    )


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_box_sets_the_precision_and_the_seed_the_image(canvas, dtype):
    images = canvas((4, 4), unit(dtype=dtype), generators([9]))()
    assert images.dtype == dtype
    torch.testing.assert_close(images.double(), canvas((4, 4), unit(), generators([9]))())


# -- going on from earlier parameters ---------------------------------------------------------------------------------


def grown(canvas, seeds=(1, 2)):
    """Images whose parameters have been somewhere, and a fresh start of the same."""
    earlier, fresh = (canvas((6, 7), unit(), generators(seeds)) for _ in range(2))
    earlier.values.data += torch.randn_like(earlier.values)
    earlier.project()
    return earlier, fresh


@pytest.mark.parametrize("canvas", CANVASES)
def test_without_shrinking_an_image_goes_on_as_it_was(canvas):
    earlier, fresh = grown(canvas)
    fresh.resume([0, 1], earlier.values.detach(), 1.0)
    assert torch.equal(fresh.values, earlier.values)
    assert torch.equal(fresh(), earlier())


@pytest.mark.parametrize("canvas", BLANK)
def test_what_is_shrunk_to_nothing_begins_anew(canvas):
    earlier, fresh = grown(canvas)
    begin = fresh().detach()
    fresh.resume([0, 1], earlier.values.detach(), 0.0)
    assert torch.equal(fresh(), begin)


@pytest.mark.parametrize("canvas", BLANK)
def test_halfway_is_half_of_each(canvas):
    earlier, fresh = grown(canvas)
    expected = (earlier.values + fresh.values) / 2
    fresh.resume([0, 1], earlier.values.detach(), 0.5)
    torch.testing.assert_close(fresh.values, expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize("shrink", [0.0, 0.5, 0.9])
def test_phases_are_turned_by_up_to_a_quarter_of_the_circle(shrink):
    earlier, fresh = grown(PhaseCanvas)
    fresh.resume([0, 1], earlier.values.detach(), shrink)
    turned = (fresh.values - earlier.values).abs() / (math.pi / 2)
    assert 0.9 * (1 - shrink) < turned.max() <= 1 - shrink


@pytest.mark.parametrize("canvas", CANVASES)
def test_only_the_named_images_go_on_also_from_half_precision(canvas):
    earlier, fresh = grown(canvas, (1, 2, 3))
    begin = fresh.values.detach().clone()
    fresh.resume([2, 0], earlier.values.detach()[[2, 0]].half(), 1.0)
    assert torch.equal(fresh.values[1], begin[1])
    assert fresh.values.dtype == torch.float64
    torch.testing.assert_close(fresh.values[[0, 2]], earlier.values[[0, 2]], atol=0.01, rtol=0.01)
    assert fresh.values.requires_grad


# -- pixels as they are -----------------------------------------------------------------------------------------------


def test_plain_pixels_are_cut_off_at_the_ends_and_come_back():
    within = Box(torch.tensor([-1.0]), torch.tensor([3.0]), torch.eye(1))
    canvas = PlainCanvas((1, 3), within, generators([0]))
    canvas.values.data = torch.tensor([[[[-7.0, 0.25, 9.0]]]])
    canvas.project()
    assert torch.equal(canvas()[0, 0, 0], torch.tensor([-1.0, 2.0, 3.0]))
    (gradient,) = torch.autograd.grad(canvas().sum(), canvas.values)
    assert torch.equal(gradient, torch.full((1, 1, 1, 3), 4.0)), "at the ends of the range too"


def test_plain_pixels_are_not_mixed():
    canvas = PlainCanvas(
        (2, 2), Box(torch.zeros(2), torch.ones(2), torch.tensor([[1.0, 0], [0.5, 0.5]])), generators([0])
    )
    assert torch.equal(canvas(), 0.5 + canvas.values)


# -- phases -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def examples():
    """Pictures with a spectrum of their own: more down than across."""
    noise = torch.randn(5, 3, 24, 31, dtype=torch.float64)
    return torch.nn.functional.avg_pool2d(noise, (1, 5), 1, (0, 2))


@pytest.mark.parametrize("size", [(8, 8), (12, 16), (24, 31), (25, 30), (5, 7), (48, 62)])
@pytest.mark.parametrize("known", [True, False])
def test_phases_have_the_contrast_of_a_photograph_on_average(examples, size, known):
    within = box(examples) if known else unit()
    values = PhaseCanvas(size, within, generators(range(200))).unbounded()
    assert values.square().mean().sqrt().item() == pytest.approx(PhaseCanvas.CONTRAST, rel=0.03)


@pytest.mark.parametrize(("h", "w"), [(24, 31), (24, 30)])
def test_phases_have_the_examples_amplitudes(examples, h, w):
    within = box(examples[..., :h, :w])
    found = torch.fft.rfft2(PhaseCanvas((h, w), within, generators([1, 2])).unbounded(), norm="ortho").abs()
    whole = slice(1, (w + 1) // 2)  # the others hold a frequency twice, of which a real image keeps the mean
    ratios = (found / within.spectrum)[..., whole]
    torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [(12, 12), (40, 24), (33, 47)])
def test_at_another_size_amplitudes_are_those_of_the_same_cycles_per_pixel(size):
    given = (1 + frequencies(24, 24))[None].expand(3, -1, -1)
    amplitudes = PhaseCanvas(size, unit(spectrum=given), generators([1])).amplitudes
    ratios = amplitudes / (1 + frequencies(*size))
    torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), atol=0, rtol=0.03)
    inner = int(0.45 * size[0])
    up, down = amplitudes[:, 1 : inner + 1], amplitudes[:, -inner:].flip(1)
    torch.testing.assert_close(up, down, atol=1e-12, rtol=0)


def test_without_examples_amplitudes_fall_with_frequency():
    amplitudes = PhaseCanvas((9, 12), unit(), generators([1])).amplitudes * frequencies(9, 12).clamp(min=1 / 12)
    torch.testing.assert_close(amplitudes, amplitudes.mean().expand_as(amplitudes))


def test_phases_leave_no_bright_corner():
    values = PhaseCanvas((12, 16), unit(1), generators(range(200))).unbounded()[:, 0]
    assert abs(values[:, 0, 0].mean()) < 4 / math.sqrt(200)
    assert values[:, 0, 0].square().mean().item() == pytest.approx(values.square().mean().item(), rel=0.4)


def test_phases_are_uniform_over_the_circle():
    phases = PhaseCanvas((16, 16), unit(), generators(range(20))).values.detach()
    share = phases.flatten().histc(8, -math.pi, math.pi) / phases.numel()
    torch.testing.assert_close(share, torch.full_like(share, 1 / 8), atol=0.01, rtol=0)


# -- spectra ----------------------------------------------------------------------------------------------------------


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


# -- the box ----------------------------------------------------------------------------------------------------------


def test_colors_are_mixed_by_the_box():
    mix = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    within = Box(torch.zeros(2).double(), torch.ones(2).double(), mix)
    canvas = PixelCanvas((1, 1), within, generators([0]))
    canvas.values.data[0, :, 0, 0] = torch.tensor([2.0, -4.0])
    expected = 0.5 + Canvas.STRETCH * (torch.tensor([2.0, -1.0]).double().sigmoid() - 0.5)
    torch.testing.assert_close(canvas()[0, :, 0, 0], expected)


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


def test_a_box_knows_the_mean_spectrum_of_independent_channels():
    first, noise = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    images = torch.stack([3 + first, 5 * (0.6 * first + 0.8 * noise)], dim=1)
    found, (n, c, h, w) = box(images), images.shape
    standard = images.clone()
    for d in range(c):
        standard[:, d] = (images[:, d] - images[:, d].mean()) / images[:, d].std(correction=0)
    apart = torch.linalg.solve(found.color, standard.transpose(0, 1).flatten(1)).reshape(c, n, h, w)
    assert found.spectrum.shape == (c, h, 3)
    for d, v, u in [(0, 0, 0), (0, 3, 1), (1, 0, 2), (1, 2, 0), (1, 1, 2)]:
        amplitudes = []
        for i in range(n):
            turns = {(y, x): v * y / h + u * x / w for y in range(h) for x in range(w)}
            waves = [apart[(d, i, *at)].item() * cmath.exp(-2j * math.pi * turn) for at, turn in turns.items()]
            amplitudes.append(abs(sum(waves)) / math.sqrt(h * w))
        assert found.spectrum[d, v, u].item() == pytest.approx(sum(amplitudes) / n, abs=1e-10)


def test_numbers_that_are_none_do_not_spoil_a_box():
    images = torch.randn(2, 3, 6, 6)
    images[0, 0, 0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    found = box(images)
    assert all(value.isfinite().all() for value in vars(found).values())
