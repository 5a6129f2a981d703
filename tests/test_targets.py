import itertools

import pytest
import torch

from lightning_convviz import targets

LOGITS = torch.tensor([[1.0, 4.0, -1.0], [0.5, -2.0, 0.25]])
MANY = torch.tensor([[5.0, 4.0, 3.0, -1.0, -9.0], [0.0, -2.0, 1.0, 6.0, 2.0]])


def score(target, logits):
    return targets.resolve(target, len(logits))(slice(0, len(logits)))(logits)


def last(logits):
    return logits[:, -1]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("predicted", [4.0, 0.5]),
        ("runner_up", [1.0, 0.25]),
        ("finercam", [4.0, 0.5 - 0.6 * -0.875]),  # rivals have mean 0 and -0.875
        (2, [-1.0, 0.25]),
        (torch.tensor(2), [-1.0, 0.25]),
        (torch.tensor([1, 2]), [4.0, 0.25]),
        (torch.tensor([1, 2], dtype=torch.int32), [4.0, 0.25]),
        ([1, 2], [4.0, 0.25]),
        ((0, 1), [1.0, -2.0]),
        (["predicted", "runner_up"], [4.0, 0.25]),
        (["runner_up", 1], [1.0, -2.0]),
        ([last, torch.tensor(1)], [-1.0, -2.0]),
        (targets.of_class(0), [1.0, 0.5]),
        (targets.of_class(torch.tensor([2, 1])), [-1.0, -2.0]),
        (targets.true_or_runner_up(1), [1.0, -2.0]),  # right: the second-best; wrong: the true class
        (targets.true_or_runner_up(torch.tensor([2, 0])), [-1.0, 0.25]),
        (targets.contrast(targets.predicted, targets.of_class(2)), [5.0, 0.25]),
        (targets.contrast(targets.runner_up, targets.true_or_runner_up(torch.tensor([2, 0]))), [2.0, 0.0]),
        (targets.per_image([targets.predicted, last]), [4.0, 0.25]),
        (lambda logits: logits.sum(1), [4.0, -1.25]),
    ],
)
def test_a_target_is_one_score_for_each_image(target, expected):
    torch.testing.assert_close(score(target, LOGITS), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        (targets.finercam(), [[0, 1, 2, 3], [3, 4, 2, 0]]),
        (targets.finercam(count=1), [[0, 1], [3, 4]]),
        (targets.finercam(count=9), [[0, 1, 2, 3, 4], [3, 0, 1, 2, 4]]),  # there are only four others
        (targets.finercam(2), [[2, 1, 0, 3], [2, 0, 4, 1]]),  # |5 - 3| < |-1 - 3|; 0 and 2 are as close to 1
        (targets.finercam(torch.tensor([3, 0]), count=2), [[3, 2, 1], [0, 2, 1]]),
    ],
)
@pytest.mark.parametrize("gamma", [0.6, 1.0])
def test_finer_subtracts_the_classes_whose_logits_are_closest(target, chosen, gamma):
    target = targets.finercam(target.classes, count=target.count, gamma=gamma)
    expected = [row[own] - gamma * row[others].mean() for row, (own, *others) in zip(MANY, chosen, strict=True)]
    torch.testing.assert_close(target(MANY), torch.stack(expected))


def test_finer_is_no_rival_of_itself_where_logits_tie():
    assert targets.finercam(1, count=1)(torch.tensor([[2.0, 2.0, 7.0]])).tolist() == pytest.approx([2 - 0.6 * 2])
    logits = torch.tensor([[2.0, 2.0, 7.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(targets.finercam(1, count=1)(logits).sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-0.6, 1.0, 0.0]]))


DENSE = torch.tensor([[[[1.0, 2.0, 5.0]], [[3.0, 4.0, 0.0]]], [[[9.0, 0.0, 1.0]], [[0.0, 0.0, 3.0]]]])
HALF = torch.tensor([[[True, True, False]], [[False, True, True]]])
EMBEDDING = torch.tensor([[2.0, 0.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("target", "outputs", "expected"),
    [
        (targets.region(), DENSE, [7.0, 9.0]),  # class 1 wins two places; class 0 two, of a tie the first
        (targets.region(0), DENSE, [5.0, 9.0]),
        (targets.region(1), DENSE, [7.0, 3.0]),
        (targets.region(torch.tensor([0, 1])), DENSE, [5.0, 3.0]),
        (targets.region(0, HALF), DENSE, [3.0, 1.0]),
        (targets.region(0, HALF[:1]), DENSE, [3.0, 9.0]),
        (targets.region(1, 0.5 * HALF), DENSE, [3.5, 1.5]),
        (targets.region(None, HALF), DENSE, [7.0, 1.0]),  # in the second half each class wins one: the first
        (targets.region(None, torch.tensor([[[False, False, True]]])), DENSE, [5.0, 3.0]),  # not the image's winner
        (targets.region(1, ~HALF & HALF), DENSE, [0.0, 0.0]),
        (targets.region(), DENSE[:, :1] - 1, [5.0, 8.0]),  # of one class: where it is positive
        (targets.region(0), DENSE[:, :, 0], [5.0, 9.0]),  # of one axis
        (targets.region(0), DENSE[:, :, None], [5.0, 9.0]),  # of three
        (targets.similarity(torch.tensor([1.0, 0.0])), EMBEDDING, [1.0, 0.6]),
        (targets.similarity(torch.tensor([[0.0, 5.0], [-3.0, -4.0]])), EMBEDDING, [0.0, -1.0]),
        (targets.similarity(torch.zeros(2)), EMBEDDING, [0.0, 0.0]),
    ],
)
def test_targets_of_other_outputs(target, outputs, expected):
    torch.testing.assert_close(score(target, outputs), torch.tensor(expected))


OWN = {
    "classes": (torch.tensor([1, 2]), LOGITS),
    "a list of classes": ([1, 2], LOGITS),
    "a list": (["runner_up", last], LOGITS),
    "label": (targets.of_class(torch.tensor([2, 1])), LOGITS),
    "other": (targets.true_or_runner_up(torch.tensor([1, 1])), LOGITS),
    "finercam": (targets.finercam(torch.tensor([2, 0])), LOGITS),
    "contrast": (
        targets.contrast(targets.true_or_runner_up(torch.tensor([1, 1])), targets.finercam(torch.tensor([2, 0]))),
        LOGITS,
    ),
    "region's classes": (targets.region(torch.tensor([0, 1])), DENSE),
    "region's masks": (targets.region(0, HALF), DENSE),
    "region's one mask": (targets.region(0, HALF[:1]), DENSE),
    "similarity": (targets.similarity(torch.tensor([[0.0, 5.0], [-3.0, -4.0]])), EMBEDDING),
    "frozen": (targets.freeze(targets.finercam(), LOGITS), LOGITS),
    "frozen region": (targets.freeze(targets.region(), DENSE), DENSE),
    "per image of frozen": (
        targets.freeze(targets.per_image([targets.runner_up, targets.true_or_runner_up(1)]), LOGITS),
        LOGITS,
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_what_each_image_has_of_its_own_follows_the_slice(name):
    target, outputs = OWN[name]
    of = targets.resolve(target, 2)
    whole = of(slice(0, 2))(outputs)
    assert torch.equal(torch.cat([of(slice(i, i + 1))(outputs[i : i + 1]) for i in range(2)]), whole)
    assert whole[0] != whole[1], "else it shows nothing"


@pytest.mark.parametrize(
    ("target", "outputs"),
    [
        (targets.predicted, LOGITS),
        (targets.runner_up, LOGITS),
        (targets.true_or_runner_up(0), LOGITS),
        (targets.finercam(), LOGITS),
        (targets.finercam(count=1), LOGITS),  # whose closest class would be another, too
        (targets.contrast(targets.of_class(0), targets.runner_up), LOGITS),
        (targets.per_image([targets.runner_up, targets.predicted]), LOGITS),
        (targets.region(), DENSE),
        (targets.region(None, HALF), DENSE),
    ],
)
def test_a_choice_stays_that_of_the_logits_it_was_made_from(target, outputs):
    frozen, altered = targets.freeze(target, outputs), outputs.flip(1)
    torch.testing.assert_close(frozen(outputs), target(outputs))
    torch.testing.assert_close(frozen(outputs + altered), frozen(outputs) + frozen(altered))
    assert not torch.equal(frozen(altered), target(altered)), "else it shows nothing"


@pytest.mark.parametrize("target", [last, targets.of_class(1), targets.similarity(torch.ones(3))])
def test_where_nothing_is_chosen_there_is_nothing_to_fix(target):
    assert targets.freeze(target, LOGITS) is target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (targets.predicted, [[0, 1, 0], [1, 0, 0]]),
        (targets.runner_up, [[1, 0, 0], [0, 0, 1]]),
        (targets.true_or_runner_up(0), [[1, 0, 0], [0, 0, 1]]),
        (targets.contrast(targets.predicted, targets.of_class(2)), [[0, 1, -1], [1, 0, -1]]),
        (targets.finercam(gamma=1.0), [[-0.5, 1, -0.5], [1, -0.5, -0.5]]),
    ],
)
def test_a_target_depends_on_its_classes_alone(target, expected):
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target(logits).sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("target", [targets.predicted, targets.runner_up])
def test_of_a_tie_one_class_is_taken(target):
    logits = torch.zeros(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(target(logits).sum(), logits)
    assert gradient.sum() == 1
    assert gradient.max() == 1


def test_ties_go_to_different_classes():
    logits = torch.zeros(1, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(targets.contrast(targets.predicted, targets.runner_up)(logits).sum(), logits)
    assert sorted(gradient[0].tolist()) == [-1, 0, 1]


def test_no_gradient_flows_into_a_reference():
    reference = torch.ones(2, requires_grad=True)
    assert not targets.similarity(reference)(EMBEDDING).requires_grad


def test_a_binary_head_as_two_columns():
    z = torch.tensor([3.0, -1.0])
    two = torch.stack([-z / 2, z / 2], 1)
    assert score("predicted", two).tolist() == [1.5, 0.5]
    assert score("runner_up", two).tolist() == [-1.5, -0.5]
    torch.testing.assert_close(score("finercam", two), torch.tensor([1.5 + 0.9, 0.5 + 0.3]))


def test_double_in_double_out():
    for name in targets.TARGETS:
        assert score(name, LOGITS.double()).dtype == torch.float64
    assert score(targets.region(0, HALF), DENSE.double()).dtype == torch.float64
    assert score(targets.similarity(torch.ones(2)), EMBEDDING.double()).dtype == torch.float64


def test_what_targets_hold_follows_the_logits_to_their_device(device):
    for name, (target, outputs) in OWN.items():
        found = score(target, outputs.to(device))
        assert found.device.type == device, name
        torch.testing.assert_close(found.cpu(), score(target, outputs))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (
            "predictd",
            ValueError,
            r"`target` is 'predictd'. It can be \['finercam', 'predicted', 'runner_up'\].* 'predicted'\?",
        ),
        ("zzz", ValueError, r"or a list of one of these for each image\.$"),
        (torch.tensor([1, 2, 0]), ValueError, r"`target` has shape \(3,\) for 2 images. Give each image its class"),
        (torch.tensor([[1, 2]]), ValueError, r"`target` has shape \(1, 2\) for 2 images"),
        (torch.tensor([1.0, 2.0]), TypeError, r"`target` holds torch.float32. Classes are whole numbers"),
        (torch.tensor([True, False]), TypeError, r"`target` holds torch.bool"),
        ([1, 2, 0], ValueError, "`target` lists 3 for 2 images. Give each image its own"),
        ([], ValueError, "`target` lists 0 for 2 images"),
        (["predicted", "runer_up"], ValueError, r"`target` is 'runer_up'.* Did you mean 'runner_up'\?"),
        ([1, True], TypeError, "`target` is a bool"),
        (targets.per_image([last]), ValueError, "`target` lists 1 for 2 images"),
        (targets.of_class(torch.tensor([1, 2, 0])), ValueError, r"`target` has shape \(3,\) for 2 images"),
        (targets.true_or_runner_up(torch.tensor([1])), ValueError, r"`target` has shape \(1,\) for 2 images"),
        (targets.finercam(torch.tensor([1])), ValueError, r"`target` has shape \(1,\) for 2 images"),
        (targets.contrast(last, targets.of_class(torch.tensor([1]))), ValueError, r"`target` has shape \(1,\) for 2"),
        (targets.region(0, torch.ones(3, 1, 3)), ValueError, r"`mask` has shape \(3, 1, 3\) for 2 images. Give each"),
        (targets.similarity(torch.ones(3, 2)), ValueError, r"`reference` has shape \(3, 2\) for 2 images. Give each"),
        (True, TypeError, "`target` is a bool"),
        (None, TypeError, "`target` is a NoneType. It can be .* a class, n classes, a function, or a list"),
    ],
)
def test_a_wrong_target_is_an_error_before_any_forward(target, error, message):
    resolve = getattr(targets.resolve, "__wrapped__", targets.resolve)  # without the tests' type check
    with pytest.raises(error, match=message):
        resolve(target, 2)


@pytest.mark.parametrize(("classes", "named"), [(3, 3), (-1, -1), (torch.tensor([0, 7]), 7)])
@pytest.mark.parametrize("make", [targets.of_class, targets.true_or_runner_up, targets.finercam])
def test_a_class_that_the_model_lacks_is_an_error(make, classes, named):
    with pytest.raises(ValueError, match=f"`target` holds class {named}; the model has classes 0 to 2"):
        make(classes)(LOGITS)


@pytest.mark.parametrize(
    ("target", "outputs", "message"),
    [
        (targets.predicted, DENSE, r"the model returned shape \(2, 2, 1, 3\), where this target needs class logits"),
        (
            targets.of_class(0),
            DENSE,
            r"For segmentation there is `targets.region`, for embeddings `targets.similarity`",
        ),
        (targets.runner_up, LOGITS[:, :1], "the model has 1 class, where this target needs 2"),
        (targets.finercam(), LOGITS[:, :1], "the model has 1 class"),
        (targets.region(), LOGITS, r"the model returned shape \(2, 3\). `region` needs logits \(n, k, \*yx\)"),
        (targets.region(2), DENSE, "`target` holds class 2; the model has classes 0 to 1"),
        (targets.region(0, HALF[:, :, :2]), DENSE, r"`mask` has shape \(2, 1, 2\) for logits of .*Give one of shape"),
        (
            targets.similarity(torch.ones(3)),
            EMBEDDING,
            r"`reference` has shape \(3,\) for embeddings of shape \(2, 2\)",
        ),
        (
            targets.per_image([last, lambda z: z.sum()]),
            LOGITS,
            r"`target` returned shape \(\) for one image. Return \(1,\)",
        ),
    ],
)
def test_a_target_that_does_not_fit_the_outputs_is_an_error(target, outputs, message):
    with pytest.raises(ValueError, match=message):
        target(outputs)


@pytest.mark.parametrize("count", [0, -1])
def test_finer_needs_a_class_to_compare_with(count):
    with pytest.raises(ValueError, match=f"`count` is {count}. Give at least 1 class"):
        targets.finercam(count=count)


def test_targets_of_several_sets_follow_their_rows_and_stay_frozen():
    """One batch of two sets, in any chunks, gives what each set gives alone; frozen, for other logits too."""
    logits, others, labels = torch.randn(5, 4), torch.randn(5, 4), torch.tensor([3, 0])
    sets = [("runner_up", 3), (targets.true_or_runner_up(labels), 2)]
    both = targets.concatenate([target for target, _ in sets], [count for _, count in sets])
    score = targets.resolve(both, 5)
    alone = [targets.resolve(target, count)(slice(0, count)) for target, count in sets]
    expected = torch.cat([target(part) for target, part in zip(alone, logits.split([3, 2]), strict=True)])
    for ends in ([0, 5], [0, 3, 5], [0, 1, 4, 5], [0, 2, 5]):
        chunks = [slice(first, last) for first, last in itertools.pairwise(ends)]
        assert torch.equal(torch.cat([score(rows)(logits[rows]) for rows in chunks]), expected)
    frozen = torch.cat(
        [targets.freeze(target, part)(other) for target, part, other in zip(
            alone, logits.split([3, 2]), others.split([3, 2]), strict=True)]
    )  # fmt: skip
    assert torch.equal(targets.freeze(both, logits)(others), frozen)
    assert not torch.equal(both(others), frozen)
