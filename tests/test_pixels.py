from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision import datasets, transforms
from torchvision.transforms import v2

from lightning_convviz import pixels

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
SPACE = pixels.Denormalization(STD, MEAN)


def test_display_undoes_the_normalization():
    shown = torch.rand(2, 3, 4, 5)
    given = transforms.Normalize(MEAN, STD)(shown)
    torch.testing.assert_close(pixels.normalized(MEAN, STD).display(given), shown)


def test_display_clamps():
    assert pixels.Denormalization((1.0,), (0.0,)).display(torch.tensor([-1.0, 0.25, 9.0]).reshape(1, 3, 1, 1)).flatten(
    ).tolist() == [0, 0.25, 1]  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "shown"),
    [(1, [0.1, 0.1, 0.1]), (2, [0.1, 0.2, 0.0]), (3, [0.1, 0.2, 0.3]), (5, [0.1, 0.2, 0.3])],
)
def test_any_number_of_channels_is_shown_in_three(channels, shown):
    images = (torch.arange(1, channels + 1) / 10).reshape(1, channels, 1, 1)
    found = pixels.Denormalization((1.0,), (0.0,)).display(images).flatten()
    torch.testing.assert_close(found, torch.tensor(shown))


def test_display_is_single_precision_on_the_images_device(device):
    shown = SPACE.display(torch.rand(1, 3, 2, 2, dtype=torch.float64, device=device))
    assert shown.dtype == torch.float32
    assert shown.device.type == device


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.1, 0.2], "`mean` has 1 numbers and `std` has 2. Give one of each for each channel"),
        ([0.5, 0.5], [0.1, 0.0], r"`std` is \[0.1, 0.0\]. Each must be greater than 0"),
    ],
)
def test_a_normalization_that_can_t_be_undone_is_an_error(mean, std, message):
    with pytest.raises(ValueError, match=message):
        pixels.normalized(mean, std)


@pytest.mark.parametrize(("top", "scale"), [(1.0, 1.0), (255.0, 1 / 255)])
def test_images_in_a_usual_range_are_taken_as_they_are(top, scale):
    assert pixels.estimate(torch.tensor([0.0, top]).reshape(1, 1, 1, 2)) == pixels.Denormalization((scale,), (0.0,))


def test_other_ranges_are_stretched_alike_in_all_channels():
    images = torch.randn(4, 3, 32, 32) * torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    space = pixels.estimate(images)
    assert len(space.scale) == 1, "colors keep their balance"
    low, high = images.flatten().quantile(torch.tensor([0.001, 0.999])).tolist()
    ends = torch.tensor([low, high]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(space.display(ends)[0, 0, 0], torch.tensor([0.0, 1.0]))


def test_constant_images_have_a_space_too():
    assert pixels.estimate(torch.full((1, 3, 2, 2), -3.0)).display(torch.full((1, 3, 2, 2), -3.0)).isfinite().all()


def dataset(*steps, compose=transforms.Compose):
    return datasets.FakeData(4, (3, 8, 8), 2, transform=compose(list(steps)))


NORMALIZED = dataset(transforms.ToTensor(), transforms.Normalize(MEAN, STD))


@pytest.mark.parametrize(
    "data",
    [
        NORMALIZED,
        datasets.FakeData(4, transform=transforms.Normalize(MEAN, STD)),
        dataset(v2.ToImage(), v2.Normalize(list(MEAN), list(STD)), compose=v2.Compose),
        dataset(v2.Compose([v2.ToImage(), v2.Normalize(list(MEAN), list(STD))])),
        dataset(transforms.Normalize(torch.tensor(MEAN), torch.tensor(STD))),
        Subset(NORMALIZED, [0, 1]),
        Subset(Subset(NORMALIZED, [0, 1]), [0]),
        ConcatDataset([NORMALIZED, NORMALIZED]),
        ConcatDataset([Subset(NORMALIZED, [0])]),
        SimpleNamespace(transform=None, transforms=SimpleNamespace(transform=transforms.Normalize(MEAN, STD))),
    ],
    ids=lambda data: type(data).__name__,
)
def test_the_normalization_is_found_in_a_data_set(data):
    found = pixels.find_normalization(data)
    torch.testing.assert_close(found.scale + found.offset, STD + MEAN)


@pytest.mark.parametrize("data", [TensorDataset(torch.zeros(1)), dataset(transforms.ToTensor()), [1, 2], None])
def test_none_is_found_where_there_is_none(data):
    assert pixels.find_normalization(data) is None


def test_a_data_set_that_wraps_itself_ends():
    loop = SimpleNamespace()
    loop.dataset = loop
    assert pixels.find_normalization(loop) is None
    assert list(pixels.datasets(SimpleNamespace(dataset=NORMALIZED)))[1] is NORMALIZED
