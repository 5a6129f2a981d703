"""All callbacks in one list, as the README has them: in any order each draws what it draws alone."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from fits import Events, facts, three
from settings import two_loaders

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, batches

NAMES = ("activations", "filters", "gradcam")
ORDERS = [*itertools.permutations(range(3)), *((place,) for place in range(3))]


def drawn(fit: Any, order: tuple[int, ...], tmp_path: Any, **arguments: Any) -> dict[str, Any]:
    """What the callbacks of one order left in the log: by name of the callback, all tags with all that they hold."""
    callbacks = three(**arguments)
    trainer = fit([callbacks[place] for place in order])
    events = Events(trainer.logger.log_dir)
    found: dict[str, Any] = {}
    for place in order:
        own = {tag for tag in events.every if NAMES[place] in tag.split("/")}
        found[NAMES[place]] = {
            "scalars": {
                tag: events.scalar(tag)
                for tag in events.scalars
                if NAMES[place] in tag.split("/") and "/seconds/" not in tag
            },
            "pictures": {tag: [(facts(image), np.asarray(image.convert("RGB")))
                               for initial in (True, False) for image in events.images(tag, initial=initial)]
                         for tag in own},
            "steps": {tag: events.steps(tag) for tag in own},
        }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def default_order() -> dict[str, Any]:
    """Kept from the first order that runs, to compare the others with."""
    return {}


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join("afg"[place] for place in order))
def test_in_any_order_each_callback_draws_the_same(fit, tmp_path, order, default_order):
    if not default_order:
        default_order |= drawn(fit, (0, 1, 2), tmp_path / "first")
    found = default_order if order == (0, 1, 2) else drawn(fit, order, tmp_path)
    assert set(found) == {NAMES[place] for place in order}
    for name, own in found.items():
        expected = default_order[name]
        assert own["pictures"].keys() == expected["pictures"].keys()
        assert own["scalars"].keys() == expected["scalars"].keys()
        assert own["steps"] == expected["steps"]
        for tag, values in own["scalars"].items():
            assert [step for step, _ in values] == [step for step, _ in expected["scalars"][tag]]
            assert [value for _, value in values] == pytest.approx([value for _, value in expected["scalars"][tag]])
        for tag, pictures in own["pictures"].items():
            for (said, pixels), (said_first, pixels_first) in zip(pictures, expected["pictures"][tag], strict=True):
                assert said == said_first, tag
                assert np.abs(pixels.astype(int) - pixels_first.astype(int)).max() <= 1, tag


def test_in_the_readme_s_order_every_callback_observes_the_validation(fit):
    trainer = fit(three())
    events = Events(trainer.logger.log_dir)
    assert "layer_stats/activations" in events.every  # of layers' outputs
    assert "gradcam/mistakes" in events.every  # of logits
    page = facts(events.images("filters/net.conv1")[-1])  # of single filters
    assert all(item["sigmas"] is not None and item["real_sigmas"] is not None for item in page["items"])
    assert any(tag.endswith("/above_best_real") for tag in events.scalars)


@pytest.mark.parametrize("loader", [None, 1], ids=["one loader", "the second of two"])
def test_a_batch_is_read_once_whoever_wants_it(fit, monkeypatch, loader):
    read, calls = batches.read, Counter()
    monkeypatch.setattr(batches, "read", lambda batch: calls.update([id(batch)]) or kept.append(batch) or read(batch))
    kept: list[Any] = []  # so that no identity is given twice
    fit(three(dataloader_idx=loader or 0), val=None if loader is None else two_loaders())
    assert calls
    assert set(calls.values()) == {1}


def test_the_callbacks_of_the_readme_with_all_defaults(fit):
    """As in the README: no argument at all; nothing is told and everything is there."""
    trainer = fit([ActivationLogger(), FilterPatternLogger(), GradCAMLogger()], max_epochs=1)
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == set(NAMES)
