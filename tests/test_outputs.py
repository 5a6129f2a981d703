from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from lightning_convviz.outputs import logits

MAIN, AUX, LOSS = torch.randn(3, 5), torch.randn(3, 4), torch.tensor(0.7)
Inception = namedtuple("Inception", ["logits", "aux_logits"])


@pytest.mark.parametrize(
    "output",
    [
        MAIN,
        {"loss": LOSS, "logits": MAIN},
        {"aux": AUX, "out": MAIN},
        {"output": {"logits": MAIN}},
        (LOSS, MAIN, AUX),
        [MAIN, AUX],
        Inception(MAIN, AUX),
        SimpleNamespace(loss=LOSS, logits=MAIN),
        SimpleNamespace(y_hat=MAIN),
        (torch.zeros(3, dtype=torch.long), MAIN),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_found_in_whatever_a_model_returns(output):
    assert torch.equal(logits(output), MAIN)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_logit_becomes_two_classes_whose_softmax_is_the_sigmoid(shape):
    single = torch.tensor([-2.0, 0.5, 3.0])
    both = logits(single.reshape(shape))
    assert both.shape == (3, 2)
    torch.testing.assert_close(both.softmax(1)[:, 1], single.sigmoid())
    torch.testing.assert_close(both[:, 1] - both[:, 0], single)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_half_precision_is_widened_and_double_stays(given, expected):
    assert logits(MAIN.to(given)).dtype == expected


@pytest.mark.parametrize(
    ("output", "described"),
    [
        (torch.zeros(2, 3, 4, 4), r"a tensor of shape \(2, 3, 4, 4\)"),
        (torch.zeros(2, 3, dtype=torch.long), r"a tensor of shape \(2, 3\)"),
        ({"boxes": AUX, "a": 1}, r"a dict with the keys \['a', 'boxes'\]"),
        (None, "a NoneType"),
        ((LOSS, "x"), "a tuple"),
    ],
)
def test_what_can_t_be_read_is_described(output, described):
    with pytest.raises(ValueError, match=rf"the model returned {described}, where class logits.*Give `output=`"):
        logits(output)
