import pytest
import torch

from lightning_convviz.canvas import generators
from lightning_convviz.transforms import jitter

TRANSFORMS = {"jitter": lambda streams: jitter(3, streams)}


@pytest.fixture
def ramps():
    return torch.arange(2 * 1 * 7 * 9, dtype=torch.float64).reshape(2, 1, 7, 9)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_another_draw_for_each_image_and_each_call(name, ramps):
    transform = TRANSFORMS[name](generators([1, 2]))
    same = ramps[:1].repeat(2, 1, 1, 1)
    first, second = transform(same), transform(same)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_image_s_draws_do_not_depend_on_the_others(name, ramps):
    together, alone = TRANSFORMS[name](generators([1, 2])), TRANSFORMS[name](generators([2]))
    for _ in range(3):
        assert torch.equal(together(ramps)[1:], alone(ramps[1:]))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_gradient_is_that_of_the_change(name, ramps):
    def same_each_time(images):
        return TRANSFORMS[name](generators([1, 2]))(images)

    torch.autograd.gradcheck(same_each_time, ramps.requires_grad_())


def test_jitter_rolls_by_what_the_stream_draws(ramps):
    (stream,) = generators([5])
    offsets = torch.randint(-2, 3, (2,), generator=stream).tolist()
    assert offsets != [0, 0]
    expected = torch.roll(ramps[:1], offsets, dims=(2, 3))
    assert torch.equal(jitter(2, generators([5]))(ramps[:1]), expected)


def test_jitter_reaches_every_shift_up_to_its_size():
    shift = jitter(1, generators([0]))
    spot = torch.zeros(1, 1, 5, 5)
    spot[0, 0, 2, 2] = 1
    assert {tuple(shift(spot)[0, 0].nonzero()[0].tolist()) for _ in range(200)} == {
        (y, x) for y in (1, 2, 3) for x in (1, 2, 3)
    }


def test_jitter_by_nothing_is_nothing(ramps):
    assert torch.equal(jitter(0, generators([1, 2]))(ramps), ramps)
