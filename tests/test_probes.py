"""Probes: where they come from, what is refused, and what a batch is read as."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from lightning_convviz import Probes, batches, probes
from lightning_convviz._probing import checked_class_names
from lightning_convviz.engine import checkpoint


class Items(Dataset):
    classes = ("ant", "bee")

    def __init__(self, transform=None):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = torch.full((3, 4, 5), index / 10)
        return (self.transform(image) if self.transform else image), index % 2


def test_labels_and_names():
    found = Probes(torch.rand(2, 3, 4, 4), [1, 0], ["cat", "dog"])
    assert [found.name(int(label)) for label in found.labels] == ["dog", "cat"]
    assert Probes(torch.rand(1, 3, 4, 4)).name(7) == "class 7"


@pytest.mark.parametrize(
    "names",
    [
        ["ant", "great ape", "bee"],
        ("ant", " great\nape ", "bee"),
        np.array(["ant", "great\tape", "bee"]),
        np.array(["ant", "great ape\r\n", "bee"], dtype=object),
        {0: "ant", 1: "great\n\nape", 2: "bee"},
        {np.int64(2): "bee", np.int64(0): "ant", np.int64(1): "great ape"},
    ],
    ids=["list", "tuple", "array", "objects", "dictionary", "NumPy's integers"],
)
def test_class_names_come_in_several_forms_and_are_kept_in_one_line(names):
    found = Probes(torch.rand(2, 3, 4, 4), [1, 2], names)
    assert found.class_names == ["ant", "great ape", "bee"]
    assert Probes.from_state_dict(found.state_dict()).class_names == found.class_names
    assert found.select([0]).name(1) == "great ape"


def test_classes_without_a_name_are_called_by_their_number():
    found = Probes(torch.rand(1, 3, 4, 4), [2], {0: "ant", 2: "bee", 3: " \n"})
    assert [found.name(label) for label in range(5)] == ["ant", "class 1", "bee", "class 3", "class 4"]


@pytest.mark.parametrize(
    "names",
    [torch.arange(2), np.arange(2), np.array("ant"), [0, 1], {"ant": 0}, {-1: "ant"}, {0: 1}, "ab", b"ab", {"a"}, 2],
    ids=repr,
)
def test_class_names_that_are_none_are_refused(names):
    with pytest.raises(TypeError, match=r"`class_names` is .*Give a list of names, one for each class, or a dictiona"):
        checked_class_names(names)


def test_ids_are_kept_in_one_line():
    assert Probes(torch.rand(2, 3, 4, 4), ids=["a\nb.png", 7]).ids == ("a b.png", 7)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array(["ant", "bee"]), ["ant", "bee"]),
        ({0: "ant", 1: "bee"}, ["ant", "bee"]),
        ([3, 5], ["3", "5"]),
        ({"ant": 0, "bee": 1}, None),
        (2, None),
        ([], None),
    ],
    ids=repr,
)
def test_class_names_of_a_data_set_come_in_several_forms(classes, expected):
    dataset = Items()
    dataset.classes = classes
    assert probes.find_class_names(dataset) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 1, 1]}, r"`labels` has shape \(3,\) and type torch.int64. Give 2 integers"),
        ({"labels": torch.tensor([0.0, 1.0])}, "type torch.float32"),
        ({"labels": [-1, 0]}, "Labels count from 0"),
        ({"labels": [0, 2], "class_names": ["a", "b"]}, "`class_names` has 2 names, but `labels` holds 2"),
        ({"mean": [0.5]}, "Give both or neither"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, "`mean` has 2 numbers for 3 channels"),
        ({"mean": [0.5], "std": [0.0]}, "`std` is .*greater than 0"),
        ({"masks": torch.ones(2, 3, 4).bool()}, r"`masks` has shape \(2, 3, 4\) and type .*Give booleans \(2, 4, 4\)"),
        ({"masks": torch.ones(2, 4, 4)}, "type torch.float32. Give booleans"),
        ({"masks": torch.ones(2, 4, 4).bool(), "boxes": [[], []]}, "Give one of them"),
        ({"boxes": [[(0, 0, 1, 1)]]}, "`boxes` has 1 items for 2 images. Give a tensor"),
        ({"boxes": torch.ones(2, 5)}, r"`boxes` holds tensor.* for image 0. Give a tensor \(n, 4\)"),
        ({"boxes": [[], ["left"]]}, r"`boxes` holds \['left'\] for image 1. Give"),
        (
            {"boxes": [[(0, 0, 5, 1)], []]},
            r"\(0.0, 0.0, 5.0, 1.0\) for image 0 of 4 x 4 pixels. Give 0 <= x0 < x1 <= 4",
        ),
        ({"boxes": [[], [(0, 0, 1, 1), (2, 2, 2, 3)]]}, r"\(2.0, 2.0, 2.0, 3.0\) for image 1"),
        ({"boxes": [[], [(3, 0, 2, 4)]]}, r"for image 1 .*x0 < x1"),
        ({"boxes": [(0.1, 0.2, 0.7, 0.8)] * 2}, "for image 0 of 4 x 4 pixels.* in pixels"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Probes(torch.rand(2, 3, 4, 4), **arguments)


def test_mean_and_std_undo_the_normalization_for_display_only():
    images = torch.rand(2, 3, 4, 4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    normalized = Normalize(mean, std)(images)
    found = Probes(normalized, mean=mean, std=std)
    assert torch.equal(found.images, normalized)
    torch.testing.assert_close(found.display(), images)


def test_from_dataset_keeps_indices_and_finds_names_and_normalization():
    dataset = Subset(ConcatDataset([Items(Compose([Normalize([0.5], [0.25])]))]), range(6))
    found = Probes.from_dataset(dataset, [4, 1])
    assert (found.ids, found.labels.tolist(), found.class_names) == ((4, 1), [0, 1], ["ant", "bee"])
    torch.testing.assert_close(found.display()[:, 0, 0, 0], torch.tensor([0.4, 0.1]))


@pytest.mark.parametrize(("indices", "message"), [([], "`indices` is empty"), ([6], "items 0 to 5")])
def test_unknown_indices_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        Probes.from_dataset(Items(), indices)


def test_reading_a_data_set_with_random_transforms_takes_nothing_from_the_generator():
    before = torch.get_rng_state()
    Probes.from_dataset(Items(RandomHorizontalFlip()), [0, 1, 2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("given", [torch.rand(2, 3, 4, 4), (torch.rand(2, 3, 4, 4), [0, 1]), (Items(), [0, 1])])
def test_probes_may_be_given_in_short(given):
    assert len(probes.as_probes(given)) == 2


def test_a_folder_of_pictures(tmp_path):
    for name, color in (("b.png", "red"), ("a.jpg", "blue")):
        Image.new("RGB", (5, 4), color).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = Probes.from_folder(tmp_path)
    assert found.ids == ("a.jpg", "b.png")
    assert found.images[1, :, 0, 0].tolist() == [1, 0, 0]
    assert len(Probes.from_folder(str(tmp_path), transform=Compose([ToTensor(), Normalize([0.5], [0.5])]))) == 2


def test_folders_that_hold_no_pictures_broken_or_ragged_ones(tmp_path):
    with pytest.raises(ValueError, match=r"where there are no pictures"):
        Probes.from_folder(tmp_path)
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b.png has shape \(3, 4, 4\), a.png has \(3, 4, 5\). Give a transform"):
        Probes.from_folder(tmp_path)
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"'b.png', which can't be read as a picture"):
        Probes.from_folder(tmp_path)


@pytest.mark.parametrize(
    "boxes",
    [
        torch.tensor([[1, 0, 3, 2], [0, 3, 5, 4]]),
        [(1, 0, 3, 2), torch.tensor([0.0, 3.0, 5.0, 4.0])],
        [[(1, 0, 2, 2), (2, 0, 3, 2)], [(0, 3, 3, 4), (2, 3, 5, 4)]],
    ],
)
def test_boxes_become_masks_with_their_ends_outside(boxes):
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 0:2, 1:3] = masks[1, 3, :] = True
    found = Probes(torch.rand(2, 3, 4, 5), boxes=boxes)
    assert torch.equal(found.masks, masks)
    assert torch.equal(Probes(found.images, masks=masks).masks, masks)


def test_an_image_may_be_without_an_object():
    found = Probes(torch.rand(2, 3, 4, 4), boxes=[[], [(0, 0, 4, 4)]])
    assert found.masks.flatten(1).sum(1).tolist() == [0, 16]


@pytest.mark.parametrize("argument", ["masks", "boxes"])
def test_what_is_no_mask_and_no_box_at_all_is_refused(argument):
    with pytest.raises((TypeError, ValueError), match=f"`{argument}`|beartype|type"):
        Probes(torch.rand(2, 3, 4, 4), **{argument: 7})


def test_masks_follow_their_images(device):
    masks = torch.rand(3, 4, 5) > 0.5
    found = Probes(torch.rand(3, 3, 4, 5, device=device), masks=masks.to(device))
    assert torch.equal(found.select([2, 0]).masks.cpu(), masks[[2, 0]])
    assert found.cpu().masks.device.type == "cpu"
    assert torch.equal(replace(found, class_names=["ant"]).masks.cpu(), masks)
    boxed = Probes(torch.rand(1, 3, 4, 5), boxes=[(0, 0, 1, 1)])
    assert torch.equal(replace(boxed, class_names=["ant"]).masks, boxed.masks), "boxes are asked for once"


def test_masks_outlive_a_run():
    probes_ = Probes(torch.rand(2, 3, 4, 5), [0, 1], boxes=[(0, 0, 1, 1), (2, 2, 5, 4)])
    buffer = io.BytesIO()
    torch.save(probes_.state_dict(), buffer)
    buffer.seek(0)
    found = Probes.from_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(found.masks, probes_.masks)
    assert Probes.from_state_dict(Probes(torch.rand(1, 3, 4, 5)).state_dict()).masks is None


def test_masks_count_for_the_size_of_a_state():
    images, masks = torch.rand(2, 3, 4, 5), torch.ones(2, 4, 5, dtype=torch.bool)
    assert checkpoint.size(Probes(images).state_dict()) == 4 * images.numel()
    assert checkpoint.size(Probes(images, masks=masks).state_dict()) == 4 * images.numel() + masks.numel()


def test_take_keeps_everything_together():
    found = Probes(torch.rand(3, 3, 4, 4), [0, 1, 2], ids="xyz", extra_inputs={"age": torch.arange(3.0)}).select([2, 0])
    assert (found.labels.tolist(), found.ids, found.extra_inputs["age"].tolist()) == ([2, 0], ("z", "x"), [2.0, 0.0])


IMAGES, LABELS = torch.rand(4, 3, 5, 5), torch.tensor([1, 0, 2, 2])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS[:, None]],
        {"image": IMAGES, "label": LABELS},
        {"mask": torch.rand(4, 1, 5, 5), "pixel_values": IMAGES, "index": torch.arange(4), "labels": LABELS},
        (torch.arange(4).float(), IMAGES, LABELS),
    ],
)
def test_batches_in_many_forms(batch):
    images, labels, _ = batches.read(batch)
    assert images is IMAGES
    assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("labels", [torch.rand(4), torch.rand(4, 5), torch.ones(4, dtype=torch.bool)])
def test_what_is_no_class_index_is_no_label(labels):
    assert batches.read((IMAGES, labels))[1] is None


@pytest.mark.parametrize("batch", [IMAGES.byte(), {"tokens": torch.ones(4, 7)}, [], "text"])
def test_batches_without_images_are_refused(batch):
    with pytest.raises(ValueError, match=r"without images.*Give `probes=`"):
        batches.read(batch)


def test_further_inputs_go_to_the_forward_by_name_or_place():
    found = Probes(IMAGES, extra_inputs={"age": LABELS.float(), 2: LABELS})
    assert list(found.arguments(lambda images: None)) == []
    assert found.arguments(lambda images, age: None)["age"] is found.extra_inputs["age"]
    assert found.arguments(lambda images, kind: None)["kind"] is LABELS
    assert list(found.arguments(lambda images, scale=2.0: None)) == []
    with pytest.raises(ValueError, match="forward needs 'sex' beside the images"):
        found.arguments(lambda images, kind, sex: None)
