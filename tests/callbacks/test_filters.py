"""FilterPatternLogger: patterns that follow the network, beside real pictures, with what is dead, and kernels."""

import math

import numpy as np
import pytest
import torch
from fits import Events, Watched, data, facts, tile
from torch import nn
from torch.utils.data import DataLoader

from lightning_convviz import FilterPatternLogger, ascent, layers, render
from lightning_convviz.ascent import Patterns
from lightning_convviz.callbacks.base import VisualizationCallback
from lightning_convviz.callbacks.filters.tracking import AUDIT_EVERY, PatternTracker, TrackedPatterns
from lightning_convviz.engine.contract import DrawResult
from lightning_convviz.isolation import isolated
from lightning_convviz.pages.patterns import hatched

LAYERS = ["net.conv1", "net.conv2"]


def logger(*layers_, **arguments):
    arguments = {"num_filters": 3, "steps": 2, "cold_steps": 3, "num_probes": 4, "on_error": "raise"} | arguments
    return FilterPatternLogger(list(layers_) or "auto", **arguments)


class Still(Watched):
    """Does not learn, nor count statistics: what changes in a drawing are the patterns alone."""

    def on_train_epoch_start(self):
        self.net.eval()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def drawn(trainer, tag):
    return [facts(image) for image in Events(trainer.logger.log_dir).images(tag)]


# -- from drawing to drawing ------------------------------------------------------------------------------------------


def test_the_first_drawing_is_cold_and_the_others_go_on_from_it(fit):
    trainer = fit([logger()], max_epochs=4)
    for layer in LAYERS:
        assert [page["warm"] for page in drawn(trainer, f"filters/{layer}")] == [False, True, True, True]
    cold = fit([logger(warm=False)], max_epochs=3)
    assert [page["warm"] for page in drawn(cold, "filters/net.conv1")] == [False] * 3


def test_patterns_of_a_network_that_stands_still_get_stronger_from_drawing_to_drawing(fit, tiny):
    watcher = logger("net.bn2", steps=8, cold_steps=8)
    pages_ = drawn(fit([watcher], module=Still(tiny()), max_epochs=3), "filters/net.bn2")
    peaks = np.array([[item["peak"] for item in page["items"]] for page in pages_])
    assert (np.diff(peaks.mean(1)) > 0).all()
    cold = drawn(fit([logger("net.bn2", steps=8, cold_steps=8, warm=False)], module=Still(tiny())), "filters/net.bn2")
    assert cold[0]["items"] == cold[1]["items"] == pages_[0]["items"]


def test_a_resumed_run_goes_on_from_the_patterns_it_had(fit, tiny, tmp_path):
    first = logger("net.bn2")
    trainer = fit([first], module=Still(tiny()), max_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    again = logger("net.bn2")
    resumed = fit([again], module=Still(tiny()), max_epochs=1)
    later = type(trainer)(
        max_epochs=3, accelerator="cpu", logger=resumed.logger, callbacks=[again], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    loaders = DataLoader(data(), batch_size=8), DataLoader(data(20, seed=1), batch_size=8)
    later.fit(Still(tiny()), *loaders, ckpt_path=tmp_path / "two.ckpt")
    whole = fit([logger("net.bn2")], module=Still(tiny()), max_epochs=3)
    pages_ = [drawn(each, "filters/net.bn2")[-1] for each in (later, whole)]
    assert pages_[0]["warm"]
    assert pages_[0]["items"] == pages_[1]["items"]


@pytest.mark.parametrize("change", [{"canvas": "pixels"}, {"size": 10}, {"num_filters": 2}])
def test_patterns_of_other_arguments_are_not_gone_on_from(fit, tiny, tmp_path, change):
    fit([logger("net.bn2")], module=Still(tiny())).save_checkpoint(tmp_path / "two.ckpt")
    state = torch.load(tmp_path / "two.ckpt", weights_only=True)["callbacks"]
    watcher = logger("net.bn2", **change)
    watcher.import_state(state[watcher.state_key]["own"])
    assert watcher.export_state()["patterns"]["layers"] == []
    same = logger("net.bn2")
    same.import_state(state[same.state_key]["own"])
    assert same.export_state()["patterns"]["layers"] == ["net.bn2"]


def test_a_state_without_room_for_patterns_is_read_and_they_start_from_blank(fit, tiny):
    watcher = logger("net.bn2")
    fit([watcher], module=Still(tiny()))
    state = watcher.export_state()
    again = logger("net.bn2")
    again.import_state(state | {"patterns": None, "filmstrips": None})
    assert again.export_state()["patterns"]["layers"] == []
    assert again.export_state()["selection"] == state["selection"]
    assert set(watcher.droppable) == {"patterns", "filmstrips"} <= set(state)


# -- the audit --------------------------------------------------------------------------------------------------------


class FakeAscent:
    """Stands for the ascent: notes what was asked for, and improves by what it is told."""

    def __init__(self, warm, cold):
        self.warm, self.cold, self.asked = warm, cold, []

    def __call__(self, channels, *, steps, start):
        self.asked.append((dict(channels), steps, sorted(start)))
        return {layer: patterns(each, self.warm if layer in start else self.cold) for layer, each in channels.items()}


def patterns(channels, improvement):
    values = torch.tensor(channels, dtype=torch.float32)
    return Patterns(values.view(-1, 1, 1, 1), values, values, torch.full_like(values, improvement), values[:, None])


OPTIONS = {"parameter_shape": (1,), "initial": False, "keep": True, "audit": True}


def track(ascend, times, **options):
    tracker = PatternTracker(16, 48, warm=True)
    return [tracker.update(ascend, {"a": [5, 7], "b": [1]}, **OPTIONS | options) for _ in range(times)]


def test_every_fifth_drawing_one_filter_of_each_layer_is_tried_cold_another_one_each_time():
    ascend = FakeAscent(warm=0.9, cold=1.0)
    found = track(ascend, 2 * AUDIT_EVERY)
    ratios = [each["a"].warm_over_cold for each in found]
    assert [ratio is not None for ratio in ratios] == 2 * ([False] * (AUDIT_EVERY - 1) + [True])
    assert ratios[AUDIT_EVERY - 1] == pytest.approx(0.9)
    tried = [channels for channels, steps, start in ascend.asked[1:] if steps == 48 and not start]
    assert tried == [{"a": [5], "b": [1]}, {"a": [7], "b": [1]}]
    assert all(each["a"].warm and not each["a"].restarted for each in found[1:])


def test_a_layer_that_reaches_too_little_begins_anew():
    found = track(FakeAscent(warm=0.5, cold=1.0), AUDIT_EVERY)[-1]
    assert found["a"].restarted
    assert not found["a"].warm
    assert found["a"].steps == 48
    assert found["a"].warm_over_cold == 0.5
    assert found["a"].patterns.improvement.tolist() == [1.0, 1.0]


def test_what_is_not_finite_is_not_gone_on_from_and_a_ratio_that_is_no_number_is_a_low_one():
    class NotFinite(FakeAscent):
        def __call__(self, channels, *, steps, start):
            found = super().__call__(channels, steps=steps, start=start)
            if len(self.asked) == 2:  # in the second drawing
                found["a"].values[0] = torch.nan
            return found

    ascend = NotFinite(warm=0.9, cold=1.0)
    found = track(ascend, 3)
    assert [each["a"].warm for each in found] == [False, True, False]
    assert [each["b"].warm for each in found] == [False, True, True]
    assert track(FakeAscent(warm=torch.nan, cold=1.0), AUDIT_EVERY)[-1]["a"].restarted


def test_parameters_of_another_shape_are_not_gone_on_from():
    tracker, ascend = PatternTracker(16, 48, warm=True), FakeAscent(0.9, 1.0)
    warm = [
        tracker.update(ascend, {"a": [5]}, **OPTIONS | {"parameter_shape": shape})["a"].warm
        for shape in ((1,), (1,), (2,))
    ]
    assert warm == [False, True, False]


def test_of_an_initial_network_nothing_is_kept_and_no_rank_audits_alone():
    ascend = FakeAscent(1.0, 1.0)
    track(ascend, 3, initial=True, keep=False)
    assert [asked[1:] for asked in ascend.asked] == [(16, [])] * 3
    assert all(each["a"].warm_over_cold is None for each in track(FakeAscent(0.1, 1.0), AUDIT_EVERY, audit=False))


def test_what_ranks_made_stands_in_the_order_of_the_filters():
    parts = [
        TrackedPatterns(patterns([0, 2, 4], 1.0), 16, True, 0.9),
        TrackedPatterns(patterns([1, 3], 1.0), 48, False),
        None,
    ]
    merged = TrackedPatterns.merge(parts)
    assert merged.patterns.activations.tolist() == [0, 1, 2, 3, 4]
    assert (merged.steps, merged.warm, merged.warm_over_cold) == (48, False, 0.9)


def test_the_audit_is_logged_and_a_network_that_was_replaced_shows_in_it(fit, tiny):
    class Turned(Still):
        """After four epochs every filter of the second layer looks for the opposite."""

        def on_train_epoch_start(self):
            super().on_train_epoch_start()
            if self.current_epoch == AUDIT_EVERY - 1:
                with torch.no_grad():
                    self.net.conv2.weight.neg_()

    trainer = fit([logger("net.conv2", steps=2, cold_steps=32)], module=Turned(tiny()), max_epochs=AUDIT_EVERY + 1)
    events = Events(trainer.logger.log_dir)
    ((step, ratio),) = events.scalar("convviz/filters/net.conv2/warm_over_cold")
    assert step == 6 * AUDIT_EVERY - 1
    assert ratio < 0.7
    assert [page["warm"] for page in drawn(trainer, "filters/net.conv2")] == [False, True, True, True, False, True]


# -- beside real pictures ---------------------------------------------------------------------------------------------


def test_deviations_and_the_best_picture_are_those_of_the_whole_validation(fit):
    trainer = fit([logger("net.bn2")])
    module, images = trainer.lightning_module, torch.stack([image for image, _ in data(20, seed=1)])
    with isolated(module), torch.no_grad(), layers.record(module, ["net.bn2"]) as outputs:
        module(images)
    page, maps = drawn(trainer, "filters/net.bn2")[-1], outputs["net.bn2"]
    for channel, item in zip(page["columns"], page["items"], strict=True):
        own = maps[:, channel]
        deviation = own.std(correction=0)
        assert item["real_sigmas"] == pytest.approx(((own.max() - own.mean()) / deviation).item(), rel=0.02)
        rounded = 0.005 * abs(item["peak"]) / deviation.item()
        expected = ((item["peak"] - own.mean()) / deviation).item()
        assert item["sigmas"] == pytest.approx(expected, rel=0.02, abs=rounded + 0.02)
    above = Events(trainer.logger.log_dir).scalar("convviz/filters/net.bn2/above_best_real")[-1][1]
    best = maps.amax((0, 2, 3))[page["columns"]].tolist()
    assert above == pytest.approx(
        sum(item["peak"] > b for item, b in zip(page["items"], best, strict=True)) / 3, abs=1e-6
    )


class Before(VisualizationCallback):
    """Another callback, which stands before and draws the probes."""

    name = "before"

    def draw(self, context, parts):
        names = [context.probes.name(label) for label in context.probes.labels.tolist()]
        return DrawResult({"before/probes": render.picture_grid(context.photos, names, title="probes")})


@pytest.mark.parametrize("others", [(), ("before",), ("after",), ("before", "after")], ids=str)
def test_deviations_are_there_whatever_other_callbacks_stand_before_or_after(fit, others):
    callbacks = [logger("net.bn2")]
    if "before" in others:
        callbacks.insert(0, Before(on_error="raise"))
    if "after" in others:
        callbacks.append(Before(name="after", on_error="raise"))
    trainer = fit(callbacks)
    pages = drawn(trainer, "filters/net.bn2")
    assert len(pages) == 2
    for page in pages:
        assert all(item["real_sigmas"] is not None and item["sigmas"] is not None for item in page["items"])
    assert len(Events(trainer.logger.log_dir).scalar("convviz/filters/net.bn2/above_best_real")) == 2


def test_the_best_picture_stands_beside_its_pattern(fit):
    class Bright(nn.Module):
        """Channel 1 of two answers to the mean of the picture."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)
            self.pool, self.head = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(2, 5)
            nn.init.ones_(self.conv.weight)

        def forward(self, images):
            return self.head(self.pool(self.conv(images)).flatten(1))

    images = torch.zeros(16, 3, 12, 16)
    images[9, :, 4:6, 10:12] = 1.0
    loader = DataLoader(torch.utils.data.TensorDataset(images, torch.arange(16) % 5), batch_size=4)
    trainer = fit([logger("net.conv", probes=images[8:10])], module=Still(Bright()), val=loader)
    image = Events(trainer.logger.log_dir).images("filters/net.conv")[-1].convert("RGB")
    geometry = drawn(trainer, "filters/net.conv")[-1]["tiles"]
    beside = {**geometry, "x": geometry["x"] + geometry["w"] + 2}
    shown = np.asarray(tile(image, beside, 0)).astype(int)
    middle = shown[geometry["h"] // 2, 3 * geometry["w"] // 4]
    assert middle.min() > 200, "the bright spot"
    assert shown[2, 2].max() < 60, "the dark around it"


def test_without_examples_the_figures_are_the_same(fit):
    trainers = [fit([logger(num_filters=6, examples=examples)]) for examples in (True, False)]
    one, other = (drawn(trainer, "filters/net.conv2")[-1] for trainer in trainers)
    assert one["items"] == other["items"]
    assert one["tiles"]["w"] < other["tiles"]["w"], "there is more room"


def test_in_the_dry_run_nothing_has_passed_and_patterns_stand_alone(fit):
    watcher = logger()
    fit([watcher], num_sanity_val_steps=0, module=None)
    watcher = logger(probes=torch.randn(2, 3, 12, 16))
    fit([watcher], num_sanity_val_steps=0)
    (first, *_) = watcher.initial_pictures["filters/net.conv1"].about["items"]
    assert first["real_sigmas"] is None
    assert first["peak"] is not None


def test_of_a_model_that_is_called_twice_the_first_call_counts(fit, tiny):
    class Twice(Still):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self(10 * batch[0])

    once, twice = (fit([logger("net.bn2")], module=module(tiny())) for module in (Still, Twice))
    figures = [[item["real_sigmas"] for item in drawn(each, "filters/net.bn2")[-1]["items"]] for each in (once, twice)]
    assert figures[0] == figures[1]


def test_figures_are_there_under_another_default_type(fit):
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        fit([logger("net.bn2", probes=torch.randn(2, 3, 12, 16))], max_epochs=1)
    finally:
        torch.set_default_dtype(before)


def test_an_objective_by_channel_survives_audits_and_chunks(fit):
    aim = ascent.difference({0: 3, 1: 4, 2: 5})
    trainer = fit([logger("net.conv2", filters=[0, 1, 2], objective=aim, chunk=2)], max_epochs=AUDIT_EVERY + 1)
    assert len(drawn(trainer, "filters/net.conv2")) == AUDIT_EVERY + 1


# -- dead filters -----------------------------------------------------------------------------------------------------


class Sick(nn.Module):
    """Filter 0 is well, 1 has no weights, 2 is far below its ReLU, 3 so little that a pattern can wake it."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)
        with torch.no_grad():
            self.conv.weight.copy_(0.05 * torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
            self.conv.weight[1] = 0
            self.conv.bias.copy_(torch.tensor([0.5, -1.0, -100.0, -1.3]))

    def forward(self, images):
        return self.head(self.relu(self.conv(images)).mean((2, 3)))


def test_dead_filters_are_hatched_in_place_and_sleeping_ones_woken(fit):
    watcher = logger(num_filters=4, cold_steps=48)
    trainer = fit([watcher], module=Still(Sick()))
    page = drawn(trainer, "filters/net.conv")[0]
    assert page["columns"] == [0, 1, 2, 3]
    assert [item["silent"] for item in page["items"]] == [False, True, True, True]
    assert [item["peak"] > 0 for item in page["items"]] == [True, False, False, True]
    image = Events(trainer.logger.log_dir).images("filters/net.conv")[0].convert("RGB")
    zoom = page["tiles"]["w"] // 16
    strokes = hatched(12, 16).numpy().repeat(zoom, 0).repeat(zoom, 1).astype(int)
    for index in range(4):
        likeness = np.abs(np.asarray(tile(image, page["tiles"], index)).astype(int) - strokes).mean()
        assert (likeness < 6) == (index in (1, 2)), "within what a JPEG changes"


# -- which filters ----------------------------------------------------------------------------------------------------


def test_filters_by_number_are_drawn_as_asked(fit):
    assert drawn(fit([logger("net.conv2", filters=[5, 0])]), "filters/net.conv2")[0]["columns"] == [5, 0]


def test_the_most_active_filters_are_chosen_in_the_first_drawing_and_stay(fit, tiny):
    probes = torch.randn(4, 3, 12, 16)
    watcher = logger("net.relu2", filters="active", num_filters=2, probes=probes)
    module = Watched(tiny())
    trainer = fit([watcher], module=module, max_epochs=1)
    with isolated(module), torch.no_grad(), layers.record(module, ["net.relu2"]) as outputs:
        module(probes)
    expected = sorted(outputs["net.relu2"].mean((0, 2, 3)).topk(2).indices.tolist())
    assert drawn(trainer, "filters/net.relu2")[0]["columns"] == expected
    more = drawn(fit([logger("net.relu2", filters="active", num_filters=2)], max_epochs=4), "filters/net.relu2")
    assert len({tuple(page["columns"]) for page in more}) == 1


def test_the_filters_that_matter_for_a_class_are_those_whose_share_of_its_logit_is_largest(fit, tiny):
    probes = torch.randn(4, 3, 12, 16)
    watcher = logger("net.relu2", important_for=3, num_filters=2, probes=probes)
    module = Watched(tiny())
    trainer = fit([watcher], module=module, max_epochs=1)
    with isolated(module), torch.no_grad(), layers.record(module, ["net.relu2"]) as outputs:
        module(probes)
    share = outputs["net.relu2"].mean((0, 2, 3)) * module.net.head.weight[3]  # pooling and a linear head
    assert drawn(trainer, "filters/net.relu2")[0]["columns"] == sorted(share.topk(2).indices.tolist())


def test_classes_have_a_page_of_their_own(fit):
    trainer = fit([logger("net.conv1", classes=[4, 1], cold_steps=32)], module=None)
    (page, _) = drawn(trainer, "filters/classes")
    assert page["columns"] == [4, 1]
    assert all(item["peak"] > 0 for item in page["items"])


# -- kernels ----------------------------------------------------------------------------------------------------------


def test_kernels_are_the_weights_on_one_scale_and_their_change(fit):
    watcher = logger("net.conv2")
    trainer = fit([watcher])
    image, weights = Events(trainer.logger.log_dir).images("filters/kernels")[-1], watcher._last_kernels
    page = facts(image)
    assert torch.equal(weights, trainer.lightning_module.net.conv1.weight.detach())
    zoom, high = page["tiles"]["w"] // 3, page["scale"][1]
    for channel in range(4):
        shown = np.asarray(tile(image.convert("RGB"), page["tiles"], channel))[zoom // 2 :: zoom, zoom // 2 :: zoom]
        expected = (weights[channel].permute(1, 2, 0) / (2 * high) + 0.5).clamp(0, 1) * 255
        np.testing.assert_allclose(shown, expected, atol=1)
    assert all(0 < item["change"] < 1 for item in page["items"])
    assert drawn(trainer, "filters/kernels")[0]["items"] == [{}] * 4, "of the first drawing nothing is known"


def test_without_a_convolution_on_the_pictures_there_are_no_kernels(fit):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

        def forward(self, images):
            return self.head(self.conv(self.inner(images.mean(1, keepdim=True))).mean((2, 3)))

    assert "filters/kernels" not in Events(fit([logger()], module=Watched(Pooled())).logger.log_dir).tags
    assert "filters/kernels" not in Events(fit([logger(kernels=False)]).logger.log_dir).tags


# -- memory -----------------------------------------------------------------------------------------------------------


def test_chunks_bound_how_many_images_run_at_once(fit, tiny):
    class Counting(tiny):
        most = 0

        def forward(self, images):
            if torch.is_grad_enabled() and not self.training:
                self.most = max(self.most, len(images))
            return super().forward(images)

    most = []
    for chunk in (None, 2):
        net = Counting()
        seen = []
        net.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(len(args[0])) if args[0].requires_grad else None
        )
        fit([logger("net.conv2", num_filters=5, chunk=chunk, examples=False)], module=Watched(net), max_epochs=1)
        most.append(max(seen))
    assert most == [5, 2]


def test_nothing_of_a_validation_stays_in_the_callback(fit):
    watcher = logger()
    fit([watcher])
    assert watcher._accumulators == {}


def test_of_a_drawing_that_fails_nothing_stays_either(fit, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no luck")

    watcher = logger(on_error="warn", initial=False)
    monkeypatch.setattr(PatternTracker, "update", fail)
    with pytest.warns(UserWarning, match="no luck"):
        fit([watcher])
    assert watcher._accumulators == {}


def test_values_are_kept_in_half_precision_and_are_finite(fit):
    watcher = logger()
    fit([watcher])
    state = watcher.export_state()["patterns"]
    assert state["layers"] == LAYERS
    assert all(values.dtype == torch.float16 and values.isfinite().all() for values in state["values"])
    assert math.prod(state["values"][0].shape) == 3 * 3 * 12 * 9 * 2
