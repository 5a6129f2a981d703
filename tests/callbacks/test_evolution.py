"""Activations over time: strips that tell the whole run, scales that hold, figures of the whole validation, alarms."""

import logging
from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, facts, three, tile
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, layers
from lightning_convviz.callbacks.common import Scales
from lightning_convviz.history import Snapshot
from lightning_convviz.isolation import isolated

OVER_TIME = {
    "evolution/activations/net.conv1", "evolution/activations/net.conv2", "evolution/filters/net.conv1",
    "evolution/filters/net.conv2", "evolution/gradcam/probes",
}  # fmt: skip
ANIMATED = {tag.replace("evolution/", "animation/") for tag in OVER_TIME}


def activations(**arguments):
    return ActivationLogger(**{"on_error": "raise", "num_probes": 4} | arguments)


def still(module):
    """The same network in every validation."""
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.0
    return module


def test_strips_at_every_validation_and_animations_at_the_end(fit):
    events = Events(fit(three(), max_epochs=3).logger.log_dir)
    assert events.over_time == OVER_TIME | ANIMATED | {"layer_stats/activations"}
    for tag in OVER_TIME:
        assert events.steps(tag) == [5, 11, 17]
        assert facts(events.images(tag)[0])["columns"] == ["initial", "ep. 0"]
    for tag in ANIMATED:
        assert events.steps(tag) == [17]
        (image,) = events.images(tag)
        assert (image.format, image.n_frames) == ("GIF", 4)
    assert events.epochs("animation/gradcam")[0]["tags"] == ["animation/gradcam/probes"]


@pytest.mark.slow
def test_of_thirty_epochs_the_last_strip_tells_the_whole_story(fit):
    """Read as TensorBoard does by default, which keeps ten pictures of a tag at random."""
    callbacks = [activations(), GradCAMLogger(on_error="raise", num_probes=4, num_mistakes=0, heatmap_metrics=False)]

    class Slow(L.Callback):  # as slow as a real epoch: the writer keeps up
        def on_train_epoch_start(self, trainer, pl_module):
            callbacks[0]._coordinator.queue._writer.drain()

    trainer = fit([*callbacks, Slow()], max_epochs=30)
    default = EventAccumulator(trainer.logger.log_dir, size_guidance={"images": 10})
    default.Reload()
    for tag in ("evolution/activations/net.conv1", "evolution/gradcam/probes"):
        kept = default.Images(tag)
        assert len(kept) == 10
        assert kept[-1].step == 179
        (last,) = (
            image
            for step, image in zip(
                Events(trainer.logger.log_dir).steps(tag), Events(trainer.logger.log_dir).images(tag), strict=True
            )
            if step == 179
        )
        told = facts(last)["columns"]
        assert told[:2] == ["initial", "ep. 0"]
        assert told[-1] == "ep. 29"
        assert len(told) == 9
        epochs = [int(name.split()[1]) for name in told[1:]]
        gaps = [later - earlier for earlier, later in pairwise(epochs)]
        assert gaps[0] <= 2
        assert max(gaps[:3]) < max(gaps[3:]), "further and further apart"
    every = Events(trainer.logger.log_dir)
    for tag in every.every:
        steps = every.steps(tag)
        assert steps == sorted(set(steps))


def test_a_strip_shows_what_each_drawing_showed(fit):
    """Codes of the pinned channels in each column against those of the pages, under today's scale."""
    trainer = fit([activations(layers="net.relu2")], max_epochs=3)
    events = Events(trainer.logger.log_dir)
    pages, strip = events.images("activations/net.relu2"), events.images("evolution/activations/net.relu2")[-1]
    told = facts(strip)
    for column, page in enumerate(pages, start=1):
        carried = facts(page)
        for row, channel in enumerate(told["rows"]):
            drawn = np.asarray(tile(page, carried["tiles"], carried["columns"].index(channel)), dtype=float)
            kept = np.asarray(tile(strip, told["tiles"], row * len(told["columns"]) + column), dtype=float)
            drawn = drawn[:: carried["tiles"]["w"] // 8, :: carried["tiles"]["w"] // 8] * carried["scale"][1]
            kept = kept[:: told["tiles"]["w"] // 8, :: told["tiles"]["w"] // 8] * told["scale"][1]
            inside = drawn < 175 * min(carried["scale"][1], told["scale"][1])  # neither is cut off there
            assert np.abs(drawn - kept)[inside].max(initial=0) <= 1.6 * max(carried["scale"][1], told["scale"][1])


def test_strips_go_on_after_a_resume(fit, tiny, tmp_path):
    trainer = fit([activations()])
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    logger = L.loggers.TensorBoardLogger(tmp_path / "again", name=None)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    callback = activations()
    after = L.Trainer(max_epochs=3, logger=logger, callbacks=[callback], enable_checkpointing=False,
                      log_every_n_steps=1, **options)  # fmt: skip
    loaders = DataLoader(data(), batch_size=8, shuffle=True), DataLoader(data(20, seed=1), batch_size=8)
    after.fit(Watched(tiny()), *loaders, ckpt_path=tmp_path / "two.ckpt")
    (strip,) = Events(after.logger.log_dir).images("evolution/activations/net.conv1")
    assert facts(strip)["columns"] == ["initial", "ep. 0", "ep. 1", "ep. 2"]
    before = Events(trainer.logger.log_dir).images("evolution/activations/net.conv1")[-1]
    assert facts(strip)["rows"] == facts(before)["rows"]


def test_two_drawings_of_one_network_are_alike_to_the_pixel(fit, tiny):
    callbacks = [activations(), GradCAMLogger(on_error="raise", num_probes=4, num_mistakes=0)]
    events = Events(fit(callbacks, module=still(Watched(tiny())), max_epochs=2).logger.log_dir)
    for tag in ("activations/net.conv1", "activations/net.conv2", "gradcam/probes"):
        first, second = events.images(tag)
        pair = []
        for image in (first, second):  # captions above may tell that a scale was changed in the first one
            pixels = np.asarray(image.convert("RGB"))
            pair.append(pixels[facts(image)["tiles"]["y"] :])
        assert pair[0].std() > 5
        assert (pair[0] == pair[1]).all()


def test_with_the_scale_held_one_stronger_channel_changes_its_own_tiles_only(fit, tiny):
    module = still(Watched(tiny()))

    class Louder(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.net.bn2.weight.data[1] *= 4
                pl_module.net.bn2.bias.data[1] *= 4

    trainer = fit([activations(layers="net.relu2"), Louder()], module=module)
    first, second = Events(trainer.logger.log_dir).images("activations/net.relu2")
    assert facts(first)["scale"] == facts(second)["scale"]
    columns, geometry = facts(first)["columns"], [facts(image)["tiles"] for image in (first, second)]
    changed = []
    for place, channel in enumerate(columns):
        one, other = (np.asarray(tile(*each, place)) for each in zip((first, second), geometry, strict=True))
        changed += [channel] if (one != other).any() else []
    assert changed == [1]
    also = facts(first)["also"]
    for row, channel in enumerate(also["rows"]):
        for column in range(len(also["columns"])):
            place = row * len(also["columns"]) + column
            one, other = (np.asarray(tile(each, facts(each)["also"]["tiles"], place)) for each in (first, second))
            assert channel == 1 or (one == other).all()


def test_each_channel_by_its_own_scale(fit):
    images = data(4, seed=5).tensors[0]
    trainer = fit([activations(layers="net.relu2", scale="channel", probes=images)], max_epochs=1)
    (page,) = Events(trainer.logger.log_dir).images("activations/net.relu2")
    told = facts(page)
    assert told["scale"] is None
    module = trainer.lightning_module
    with isolated(module), torch.no_grad(), layers.record(module, ["net.relu2"]) as outputs:
        module(images)
    maps = outputs["net.relu2"]
    for place, channel in enumerate(told["columns"]):
        codes = np.asarray(tile(page, told["tiles"], place))
        share = float(maps[0, channel].max() / maps[:, channel].max().clamp(min=1e-12))
        if share > 0:
            assert abs(codes.max() - round(175 * share)) <= 1


def test_figures_are_those_of_the_whole_validation(fit):
    """Against one plain forward of the whole validation set, by NumPy."""
    trainer = fit([activations(layers="net.relu2")], max_epochs=2)
    events = Events(trainer.logger.log_dir)
    module = trainer.lightning_module
    with isolated(module), torch.no_grad(), layers.record(module, ["net.relu2"]) as outputs:
        module(data(20, seed=1).tensors[0])
    maps = outputs["net.relu2"].double().numpy()
    expected = {
        "sparsity": (maps <= 0).mean(), "dead": (maps.max((0, 2, 3)) <= 0).mean(), "mean": maps.mean(),
        "dormant": (np.abs(maps).mean((0, 2, 3)) <= 0.025 * np.abs(maps).mean()).mean(),
    }  # fmt: skip
    for figure, value in expected.items():
        told = events.scalar(f"convviz/activations/{figure}/net.relu2")
        assert [step for step, _ in told] == [5, 11]
        assert told[-1][1] == pytest.approx(value, rel=1e-4, abs=1e-6)
    high = events.scalar("convviz/activations/high/net.relu2")[-1][1]
    assert high == pytest.approx(np.quantile(maps, 0.995), rel=0.07)
    spectrum = np.linalg.svd((means := maps.mean((2, 3))) - means.mean(0), compute_uv=False)
    shares = spectrum[spectrum > 1e-9] / spectrum.sum()
    rank = np.exp(-(shares * np.log(shares)).sum()) / maps.shape[1]
    assert events.scalar("convviz/activations/effective_rank/net.relu2")[-1][1] == pytest.approx(rank, rel=1e-3)


def test_similarity_and_change_are_told_from_the_second_drawing_on(fit, tiny):
    val = DataLoader(data(40, seed=1), batch_size=8)
    events = Events(fit([activations()], val=val, module=still(Watched(tiny())), max_epochs=3).logger.log_dir)
    # The initial network was seen on the probes alone: too few to compare features.
    assert [step for step, _ in events.scalar("convviz/activations/cka/net.conv2")] == [11, 17]
    assert all(value == pytest.approx(1) for _, value in events.scalar("convviz/activations/cka/net.conv2"))
    assert [value for _, value in events.scalar("convviz/activations/change/net.conv2")] == [0, 0, 0]


def test_figures_of_the_few_probes_of_the_initial_network_are_no_scalars(fit):
    events = Events(fit([activations()], max_epochs=1).logger.log_dir)
    assert events.images("activations/net.conv1", initial=True)
    steps = [event.step for event in events._all.Scalars("convviz/activations/sparsity/net.conv1")]
    assert steps == [5]


@pytest.mark.filterwarnings("ignore:.*shuffling enabled")
def test_other_pictures_are_not_compared(fit, tiny):
    val = DataLoader(data(40, seed=1), batch_size=8, shuffle=True)
    events = Events(fit([activations()], val=val, module=still(Watched(tiny())), max_epochs=3).logger.log_dir)
    assert "convviz/activations/cka/net.conv2" not in events.scalars


def test_the_chart_carries_its_numbers(fit):
    events = Events(fit([activations()], max_epochs=2).logger.log_dir)
    told = facts(events.images("layer_stats/activations")[-1])
    assert told["kind"] == "layer_stats"
    assert told["layer"] == ["net.conv1", "net.conv2"]
    sparsity = events.scalar("convviz/activations/sparsity/net.conv2")
    assert told["panels"]["values at 0 or below"][-1][1] == pytest.approx(sparsity[-1][1], abs=1e-4)
    assert told["panels"]["dead channels"][0] == [None, None], "a few pictures before training don't tell"


def test_a_layer_that_dies_is_told_of_hatched_and_logged(fit, tiny, caplog):
    class Kill(L.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch >= 1:
                pl_module.net.bn2.weight.data[:] = 0
                pl_module.net.bn2.bias.data[:] = -5

    module = still(Watched(tiny()))
    with caplog.at_level(logging.WARNING, logger="lightning_convviz"):
        trainer = fit([activations(layers=["net.relu1", "net.relu2"]), Kill()], module=module, max_epochs=4)
    told = [record.getMessage() for record in caplog.records if record.name == "lightning_convviz"]
    assert any("net.relu2" in text and "dead" in text.lower() for text in told)
    assert not any("net.relu1" in text and "dead" in text.lower() for text in told)
    events = Events(trainer.logger.log_dir)
    assert "convviz/diagnostics/activations/text_summary" in events._all.Tags()["tensors"]
    page = events.images("activations/net.relu2")[-1]
    assert len(facts(page)["items"][0]["dead"]) == len(facts(page)["columns"])
    image = events.images("evolution/activations/net.relu2")[-1]
    strip = facts(image)
    assert strip["columns"] == ["initial", "ep. 0", "ep. 1", "ep. 2", "ep. 3"]
    hatched = [bool((np.asarray(tile(image, strip["tiles"], column)) > 175).any()) for column in range(5)]
    assert hatched == [False, False, True, True, True]


def test_without_layer_stats_and_evolution_there_are_pages_only(fit):
    options = {"num_probes": 4, "evolution": False, "on_error": "raise"}
    callbacks = [
        ActivationLogger(layer_stats=False, **options),
        FilterPatternLogger(num_filters=3, steps=2, cold_steps=3, **options),
        GradCAMLogger(**options),
    ]
    events = Events(fit(callbacks, max_epochs=1).logger.log_dir)
    assert not events.over_time
    assert not [tag for tag in events.scalars if "sparsity" in tag]


def test_private_pictures_do_not_get_into_checkpoints_by_their_maps(fit):
    callback = activations(save_images=False)
    fit([callback])
    assert callback.export_state()["evolution"] is None


def test_a_scale_changes_by_a_factor_of_two_and_says_when():
    scales = Scales()
    assert scales.hold("a", 0.1, Snapshot(0, 0, "", initial=True)) == 0.1, "of the initial network nothing is held"
    assert scales.hold("a", 1.0, Snapshot(0, 10, "")) == 1.0
    assert scales.change_note("a") == ""
    assert scales.hold("a", 1.9, Snapshot(1, 10, "")) == 1.0
    assert scales.hold("a", 2.1, Snapshot(2, 20, "", training=False)) == 2.1, "a stand-alone validation shows its own"
    assert (scales.hold("a", 1.0, Snapshot(3, 30, "")), scales.change_note("a")) == (1.0, "")
    assert scales.hold("a", 2.1, Snapshot(4, 40, "")) == 2.1
    assert scales.change_note("a") == "changed in ep. 4: before, 1"
    down = Scales()
    assert [down.hold("a", high, Snapshot(0, 0, "")) for high in (1.0, 0.51, 0.4)] == [1.0, 1.0, 0.4]
    again = Scales()
    again.load_state_dict(scales.state_dict())
    assert (again.hold("a", 2.0, Snapshot(5, 50, "")), again.change_note("a")) == (2.1, scales.change_note("a"))
    assert scales.hold("b", float("nan"), Snapshot(5, 50, "")) == 1.0


def test_a_channel_that_is_blank_on_the_probe_is_marked_in_its_corner_only(fit, tiny):
    module, probe = still(Watched(tiny())), torch.zeros(2, 3, 12, 16)
    probe[1] = data(1).tensors[0]  # the page is about the first
    trainer = fit([activations(layers="net.relu2", probes=probe)], module=module, max_epochs=1)
    (page,) = Events(trainer.logger.log_dir).images("activations/net.relu2")
    told = facts(page)
    with isolated(module), torch.no_grad(), layers.record(module, ["net.relu2"]) as outputs:
        module(probe)
    silent = [channel for channel in told["columns"] if outputs["net.relu2"][0, channel].max() <= 0]
    assert told["items"][0]["blank"] == [each for each in silent if each not in told["items"][0]["dead"]]
    channel = told["items"][0]["blank"][0]
    codes = np.asarray(tile(page, told["tiles"], told["columns"].index(channel)))
    zoom = told["tiles"]["w"] // 8
    assert (codes[:zoom, :zoom] > 175).all()
    codes = codes.copy()
    codes[:zoom, :zoom] = 0
    assert (codes == 0).all()


def test_an_animation_moves(fit):
    (image,) = Events(fit([activations()], max_epochs=3).logger.log_dir).images("animation/activations/net.conv1")
    frames = []
    for number in range(image.n_frames):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")))
    assert all((one != other).any() for one, other in pairwise(frames))
    assert isinstance(image, Image.Image)
