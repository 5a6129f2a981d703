import math

import pytest
import torch
from torch.nn import functional as F

from lightning_convviz.canvas import generators
from lightning_convviz.transforms import ANGLE, BLOCK, ZOOM, alternate, jitter, rotate, scale, standard


def all_of(size):
    def made(streams):
        def changed(images):
            for transform in transforms:
                images = transform(images)
            return images

        transforms = standard(size, streams)
        return changed

    return made


TRANSFORMS = {
    "jitter": lambda streams: jitter(3, streams),
    "scale": lambda streams: scale(0.3, streams),
    "rotate": lambda streams: rotate(20, streams),
    "standard": all_of((96, 72)),
}


@pytest.fixture
def ramps():
    return torch.arange(2 * 2 * 7 * 9, dtype=torch.float64).reshape(2, 2, 7, 9)


@pytest.fixture
def smooth():
    """A picture without edges, not square, that looks different in every direction."""
    y, x = torch.meshgrid(torch.arange(44.0).double(), torch.arange(52.0).double(), indexing="ij")
    picture = (2 * math.pi * x / 26).sin() + (2 * math.pi * y / 22).cos() * (2 * math.pi * x / 52).cos()
    return picture[None, None]


# -- every transform --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_another_draw_for_each_image_and_each_call(name, ramps):
    transform = TRANSFORMS[name](generators([1, 2]))
    same = ramps[:1].repeat(2, 1, 1, 1)
    first, second = transform(same), transform(same)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_draws_never_begin_again(name, ramps):
    transform = TRANSFORMS[name](generators([1, 2]))
    calls = torch.stack([transform(ramps) for _ in range(2 * BLOCK + 4)])
    for later in range(1, 2 * BLOCK + 1):
        assert not torch.equal(calls[:4], calls[later : later + 4])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_image_s_draws_do_not_depend_on_the_others(name, ramps):
    together, alone = TRANSFORMS[name](generators([1, 2])), TRANSFORMS[name](generators([2]))
    for _ in range(2 * BLOCK + 3):
        torch.testing.assert_close(together(ramps)[1:], alone(ramps[1:]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(4, 5), (4, 3)])
def test_the_gradient_is_that_of_the_change(name, size):
    images = torch.randn(2, 1, *size, dtype=torch.float64, requires_grad=True)

    def same_each_time(images):
        return TRANSFORMS[name](generators([1, 2]))(images)

    torch.autograd.gradcheck(same_each_time, images)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(7, 9), (6, 4), (1, 1), (1, 5)])
def test_what_leaves_at_an_edge_comes_in_at_the_other(name, size):
    flat = torch.tensor([-3.0, 2.0]).double()[None, :, None, None].expand(1, 2, *size)
    torch.testing.assert_close(TRANSFORMS[name](generators([1]))(flat), flat, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_stays(name, ramps, dtype):
    assert TRANSFORMS[name](generators([1, 2]))(ramps.to(dtype)).dtype == dtype


# -- one by one -------------------------------------------------------------------------------------------------------


def offsets(shift, pixels, size, calls=200):
    """Where a bright spot comes to lie, from where it was."""
    spot = torch.zeros(1, 1, *size)
    spot[0, 0, pixels, pixels] = 1
    return {tuple((shift(spot)[0, 0].nonzero()[0] - pixels).tolist()) for _ in range(calls)}


def test_jitter_rolls_by_whole_pixels(ramps):
    shift = jitter(2, generators([5, 6]))
    for _ in range(20):
        for moved, image in zip(shift(ramps), ramps, strict=True):
            y, x = (moved[0] == image[0, 3, 3]).nonzero()[0] - 3
            assert torch.equal(moved, image.roll((int(y), int(x)), dims=(1, 2)))


def test_jitter_reaches_every_shift_up_to_its_size():
    assert offsets(jitter(1, generators([0])), 1, (5, 5)) == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}


def test_jitter_by_nothing_is_nothing(ramps):
    assert torch.equal(jitter(0, generators([1, 2]))(ramps), ramps)


@pytest.mark.parametrize("nothing", [scale(0, generators([1, 2])), rotate(0, generators([1, 2]))])
def test_no_scale_and_no_angle_change_nothing(nothing, ramps):
    torch.testing.assert_close(nothing(ramps), ramps, atol=1e-12, rtol=0)


def warped(picture, zoom, degrees):
    """A picture enlarged and turned about its middle, by torch's own sampling: the oracle."""
    h, w = picture.shape[2:]
    y, x = torch.meshgrid(torch.arange(h).double() - (h - 1) / 2, torch.arange(w).double() - (w - 1) / 2, indexing="ij")
    c, s = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    places = torch.stack([(c * x + s * y) * 2 / w, (c * y - s * x) * 2 / h], dim=2)
    return F.grid_sample(picture, places[None], padding_mode="reflection", align_corners=False)


def nearest(found, picture, warps):
    """Which of some changes comes nearest to what was found, and the largest error left, far from the edges."""
    errors = [(warped(picture, *warp) - found)[..., 8:-8, 8:-8].abs().max().item() for warp in warps]
    best = min(range(len(warps)), key=errors.__getitem__)
    return warps[best], errors[best]


def test_rotate_turns_about_the_middle(smooth):
    turn = rotate(ANGLE, generators([3]))
    angles = []
    for _ in range(12):
        (_, angle), error = nearest(turn(smooth), smooth, [(1.0, a / 10) for a in range(-60, 61)])
        assert error < 0.05, "a bystander would be 0.5 off at 5 degrees"
        angles.append(angle)
    assert -ANGLE <= min(angles) < -2
    assert 2 < max(angles) <= ANGLE


def test_scale_enlarges_about_the_middle(smooth):
    zoom = scale(ZOOM, generators([3]))
    factors = []
    for _ in range(12):
        (factor, _), error = nearest(zoom(smooth), smooth, [(1 + z / 400, 0.0) for z in range(-24, 25)])
        assert error < 0.03
        factors.append(factor)
    assert 1 - ZOOM <= min(factors) < 0.98
    assert 1.02 < max(factors) <= 1 + ZOOM


# -- together ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "pixels"), [((28, 28), 0), ((32, 32), 1), ((48, 48), 1), ((63, 96), 3), ((96, 96), 3), ((64, 130), 4)]
)
def test_the_standard_shift_is_in_proportion_to_the_longer_side(size, pixels):
    *_, shift = standard(size, generators([0]))
    reached = offsets(shift, pixels, (12, 12), calls=600)
    assert {y for y, _ in reached} == {x for _, x in reached} == set(range(-pixels, pixels + 1))


@pytest.mark.parametrize(("size", "count"), [((63, 63), 1), ((63, 200), 1), ((64, 64), 2), ((224, 224), 2)])
def test_fine_images_are_only_shifted(size, count):
    assert len(standard(size, generators([0]))) == count


def test_scale_and_rotation_take_turns(ramps):
    same = ramps[:1].repeat(2, 1, 1, 1)
    turning = alternate([scale(0.3, generators([1, 2])), rotate(20, generators([3, 4]))])
    expected = [scale(0.3, generators([1, 2])), rotate(20, generators([3, 4]))]
    for transform in expected:
        assert torch.equal(turning(same), transform(same))
