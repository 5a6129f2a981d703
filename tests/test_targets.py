import pytest
import torch

from lightning_convviz import targets

LOGITS = torch.tensor([[1.0, 4.0, -1.0], [0.5, -2.0, 0.25]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("predicted", [4.0, 0.5]),
        (2, [-1.0, 0.25]),
        (torch.tensor(2), [-1.0, 0.25]),
        (torch.tensor([1, 2]), [4.0, 0.25]),
        (torch.tensor([1, 2], dtype=torch.int32), [4.0, 0.25]),
        (targets.label(0), [1.0, 0.5]),
        (targets.contrast(targets.predicted, targets.label(2)), [5.0, 0.25]),
        (lambda logits: logits.sum(1), [4.0, -1.25]),
    ],
)
def test_a_target_is_one_score_for_each_image(target, expected):
    assert targets.resolve(target, 2)(slice(0, 2))(LOGITS).tolist() == expected


def test_classes_follow_the_slice():
    part = targets.resolve(torch.tensor([1, 2]), 2)(slice(1, 2))
    assert part(LOGITS[1:]).tolist() == [0.25]


def test_predicted_depends_on_the_winner_alone():
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(targets.predicted(logits).sum(), logits)
    assert gradient.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("predictd", ValueError, r"`target` is 'predictd'. It can be \['predicted'\]"),
        (torch.tensor([1, 2, 0]), ValueError, r"`target` has shape \(3,\) for 2 images. Give each image its class"),
        (torch.tensor([[1, 2]]), ValueError, r"`target` has shape \(1, 2\) for 2 images"),
        (True, TypeError, "`target` is a bool"),
        (None, TypeError, "`target` is a NoneType. It can be a name, a class, n classes or a function"),
    ],
)
def test_a_wrong_target_is_an_error(target, error, message):
    resolve = getattr(targets.resolve, "__wrapped__", targets.resolve)  # without the tests' type check
    with pytest.raises(error, match=message):
        resolve(target, 2)


@pytest.mark.parametrize(("classes", "named"), [(3, 3), (-1, -1), (torch.tensor([0, 7]), 7)])
def test_a_class_that_the_model_lacks_is_an_error(classes, named):
    with pytest.raises(ValueError, match=f"`target` holds class {named}; the model has classes 0 to 2"):
        targets.label(classes)(LOGITS)
