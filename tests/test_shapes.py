"""The embedded data set: made from a seed alone, balanced, with honest masks, and a mark that gives one class away."""

import importlib.util
from pathlib import Path

import pytest
import torch

SPEC = importlib.util.spec_from_file_location("shapes", Path(__file__).parents[1] / "examples" / "shapes.py")
shapes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shapes)


@pytest.fixture(scope="module")
def drawn():
    return shapes.Shapes(200, seed=3)


def test_a_seed_makes_the_set_and_takes_nothing_from_the_generator(drawn):
    before = torch.get_rng_state()
    again, other = shapes.Shapes(200, seed=3), shapes.Shapes(200, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.images, drawn.images)
    assert torch.equal(again.labels, drawn.labels)
    assert not torch.equal(other.images, drawn.images)


def test_classes_are_balanced_and_named(drawn):
    assert len(drawn.classes) >= 8
    counts = drawn.labels.bincount(minlength=len(drawn.classes))
    assert counts.max() - counts.min() <= 1
    image, label = drawn[0]
    assert image.shape == (3, 48, 48)
    assert 0 <= image.min() <= image.max() <= 1
    assert label == drawn.labels[0]


@pytest.mark.parametrize("size", [48, 64])
def test_each_picture_has_its_object_s_mask(size):
    drawn = shapes.Shapes(40, size=size)
    share = drawn.masks.flatten(1).float().mean(1)
    assert drawn.masks.shape == (40, size, size)
    assert share.min() > 0.005
    assert share.max() < 0.6


def test_the_shortcut_marks_one_class_and_never_its_object(drawn):
    assert not drawn.marks.any()
    marked = shapes.Shapes(200, seed=3, shortcut=True)
    has = marked.marks.flatten(1).any(1)
    assert torch.equal(has, marked.labels == shapes.SHORTCUT_CLASS)
    assert not (marked.marks & marked.masks).any()
    changed = (marked.images != drawn.images).any(1)
    assert not (changed & ~marked.marks).any()


def test_the_mark_can_be_planted_on_every_picture(drawn):
    planted = drawn.planted()
    assert planted.marks.flatten(1).any(1).all()
    assert torch.equal(planted.labels, drawn.labels)
    assert not (planted.marks & planted.masks).any()
    some = drawn.planted(every=10)
    assert some.marks.flatten(1).any(1).nonzero().flatten().tolist() == list(range(0, 200, 10))
    assert torch.equal(some.images[1::10], drawn.images[1::10])
    assert not drawn.marks.any()
