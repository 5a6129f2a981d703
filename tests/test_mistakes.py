import time
from itertools import pairwise

import pytest
import torch

from lightning_convviz.history import History, Snapshot
from lightning_convviz.mistakes import Confusions, Mistakes


def batches(sizes, *, classes=4, seed=0):
    stream = torch.Generator().manual_seed(seed)
    for size in sizes:
        labels = torch.randint(classes, (size,), generator=stream)
        yield torch.randn(size, 2, 3, 3, generator=stream), labels, torch.randn(size, classes, generator=stream)


@pytest.mark.parametrize("sizes", [[40], [7, 7, 7, 7, 7, 5], [1] * 40, [3, 37]], ids=str)
def test_the_running_list_is_the_head_of_the_sorted_whole(sizes):
    mistakes, seen = Mistakes(6), list(batches(sizes))
    for images, labels, logits in seen:
        mistakes.update(images, labels, logits, {"age": images[:, 0, 0, 0]})
    images, labels, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
    confidence, predicted = logits.softmax(1).max(1)
    wrong = sorted((i for i in range(40) if predicted[i] != labels[i]), key=lambda i: -confidence[i])[:6]
    found = mistakes.compute()
    assert found.positions.tolist() == wrong
    assert torch.equal(found.images, images[wrong])
    assert torch.equal(found.labels, labels[wrong])
    assert torch.equal(found.extra_inputs["age"], images[wrong, 0, 0, 0])
    torch.testing.assert_close(found.confidence, confidence[wrong])
    table = torch.zeros(4, 4, dtype=torch.long)
    for true, guess in zip(labels, predicted, strict=True):
        table[true, guess] += 1
    assert torch.equal(mistakes.table, table)
    assert mistakes.seen == 40


def test_positions_in_the_data_may_be_given():
    mistakes, logits = Mistakes(4), torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    for positions in (range(1, 5, 2), range(5, 9, 2)):  # of the second of two ranks
        mistakes.update(torch.zeros(2, 1, 2, 2), torch.tensor([1, 1]), logits, positions=positions)
    assert mistakes.compute().positions.tolist() == [1, 5, 3, 7]


def test_confusions_of_several_ranks_are_those_of_the_whole():
    parts, whole = [Mistakes(2), Mistakes(2)], Mistakes(2)
    for place, batch in enumerate(batches([9, 9, 9, 9])):
        parts[place % 2].update(*batch)
        whole.update(*batch)
    merged, expected = Confusions.merge([part.confusions() for part in parts]), whole.confusions()
    assert (merged.seen, merged.labeled, merged.wrong) == (36, 36, expected.wrong)
    assert torch.equal(merged.table, expected.table)
    assert {kind: share for kind, (share, _) in merged.examples.items()} == {
        kind: pytest.approx(share) for kind, (share, _) in expected.examples.items()
    }
    assert Confusions.merge([Confusions(), Confusions()]).wrong is None


def test_fewer_mistakes_than_places_and_none_at_all():
    mistakes = Mistakes(5)
    assert mistakes.compute() is None
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    mistakes.update(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), logits)
    assert len(mistakes.compute()) == 0
    mistakes.update(torch.ones(2, 1, 2, 2), torch.tensor([1, 1]), logits)
    assert mistakes.compute().positions.tolist() == [2]
    mistakes.reset()
    assert (mistakes.compute(), mistakes.seen, mistakes.table) == (None, 0, None)


def test_marks_for_no_label_and_logits_that_are_no_numbers_do_not_count():
    mistakes = Mistakes(5)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [float("nan"), 0.0], [2.0, 0.0]])
    mistakes.update(torch.zeros(4, 1, 2, 2), torch.tensor([-100, 7, 1, 1]), logits)
    assert mistakes.compute().positions.tolist() == [3]
    assert mistakes.table.tolist() == [[0, 0], [1, 0]]


def test_what_is_kept_is_a_copy_and_also_comes_from_inference_mode():
    mistakes = Mistakes(1)
    with torch.inference_mode():
        images = torch.ones(1, 1, 2, 2)
        mistakes.update(images, torch.tensor([1]), torch.tensor([[2.0, 0.0]]))
        images.zero_()
    found = mistakes.compute()
    assert found.images.sum() == 4
    assert not found.images.is_inference()


def test_images_of_another_shape_are_counted_but_not_kept():
    mistakes = Mistakes(2)
    for width in (2, 3):
        mistakes.update(torch.ones(1, 1, 2, width), torch.tensor([1]), torch.tensor([[2.0, 0.0]]))
    assert mistakes.compute().images.shape == (1, 1, 2, 2)
    assert mistakes.table.tolist() == [[0, 0], [2, 0]]


def test_with_very_many_classes_there_is_no_table():
    mistakes = Mistakes(1)
    mistakes.update(torch.ones(1, 1, 2, 2), torch.tensor([1]), torch.eye(1001)[:1])
    assert mistakes.table is None
    assert len(mistakes.compute()) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_adding_a_batch_does_not_wait_for_the_device():
    mistakes = Mistakes(3)
    pieces = [[part.cuda() for part in batch] for batch in batches([8, 8, 8])]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels, logits in pieces:
            mistakes.update(images, labels, logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(mistakes.compute()) == 3


@pytest.mark.parametrize("limit", [5, 7])
def test_a_history_keeps_the_first_the_last_and_some_between_further_and_further_apart(limit):
    history = History(limit)
    for number in range(1, 201):
        history.append(torch.full((1, 1, 1), float(number)), [{}], Snapshot(0, number, ""))
        numbers = [frame.number for frame in history.frames]
        assert len(numbers) <= limit
        assert numbers[0] == 1
        assert numbers[-1] == number
    steps = [later / earlier for earlier, later in pairwise(numbers)]
    assert max(steps) <= 200 ** (1 / (limit - 1)) * 2, "none is far from an even spread over the logarithm"


def test_a_history_outlives_a_checkpoint(tmp_path):
    history = History(3)
    history.append(torch.rand(2, 3, 3), [{"right": True}, {"right": None}], Snapshot(4, 50, ""))
    torch.save(history.state_dict(), tmp_path / "state")
    again = History(3)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(again.frames[0].maps(), history.frames[0].maps())
    assert again.frames[0].facts == [{"right": True}, {"right": None}]


@pytest.mark.parametrize("sizes", [[200], [7] * 28 + [4]], ids=["at once", "in batches"])
def test_of_each_frequent_kind_of_confusion_the_most_confident_example_is_kept(sizes):
    mistakes, seen = Mistakes(2), list(batches(sizes))
    for images, labels, logits in seen:
        mistakes.update(images, labels, logits)
    images, labels, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
    confidence, predicted = logits.softmax(1).max(1)
    found = mistakes.examples()
    assert len(found) == 12, "four classes have twelve kinds, and all occur"
    for (true, guess), (share, image) in found.items():
        rows = [i for i in range(200) if (int(labels[i]), int(predicted[i])) == (true, guess)]
        best = max(rows, key=lambda i: float(confidence[i]))
        assert share == pytest.approx(float(confidence[best]))
        assert torch.equal(image, images[best])


def test_examples_of_the_rarest_kinds_go_first_and_large_ones_are_made_small():
    mistakes = Mistakes(1)
    for kind in range(60):  # class `kind` is taken for the next one, the even ones twice
        logits = torch.zeros(1, 61)
        logits[0, kind + 1] = 5
        for _ in range(2 - kind % 2):
            mistakes.update(torch.full((1, 1, 96, 64), float(kind)), torch.tensor([kind]), logits)
    found = mistakes.examples()
    assert {kind for kind, _ in found} >= set(range(0, 60, 2))
    assert all(image.shape == (1, 48, 32) and image.mean() == kind for (kind, _), (_, image) in found.items())


def test_inputs_of_another_name_or_length_do_not_get_into_each_other_s_way():
    mistakes = Mistakes(4)
    for length in (3, 5):
        extra_inputs = {"scores": torch.full((2, 1), 9.0), "images": torch.ones(2, 1), "tokens": torch.ones(2, length)}
        mistakes.update(torch.zeros(2, 1, 2, 2), torch.tensor([1, 1]), torch.tensor([[2.0, 0.0]] * 2), extra_inputs)
    found = mistakes.compute()
    assert found.images.shape == (2, 1, 2, 2), "what differs in length can't be kept"
    assert found.confidence.max() < 1
    assert set(found.extra_inputs) == {"scores", "images", "tokens"}
    assert mistakes.table.sum() == 4


def test_labels_in_few_bits_do_not_overflow():
    mistakes = Mistakes(1)
    logits = torch.zeros(1, 300)
    logits[0, 7] = 9
    mistakes.update(torch.ones(1, 1, 2, 2), torch.tensor([200], dtype=torch.uint8), logits)
    assert mistakes.examples().keys() == {(200, 7)}
    assert mistakes.labeled() == 1


def test_a_whole_data_set_in_one_batch_needs_no_table_of_all_pairs():
    mistakes = Mistakes(8)
    stream = torch.Generator().manual_seed(0)
    images, labels = torch.zeros(20_000, 1, 2, 2), torch.randint(10, (20_000,), generator=stream)
    start = time.process_time()
    mistakes.update(images, labels, torch.randn(20_000, 10, generator=stream))
    assert time.process_time() - start < 3, "9.7 s and 2 GB where all pairs were compared"
    assert len(mistakes.compute()) == 8
