"""What three callbacks leave in the event file: tags, steps, sizes, pictures, and the data that pictures carry."""

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, facts, three, tile
from settings import TwoOptimizers
from torch.utils.data import DataLoader

from lightning_convviz import FilterPatternLogger, GradCAMLogger, Probes, cams
from lightning_convviz.isolation import isolated
from lightning_convviz.pages import heatmaps

TAGS = {
    "activations/net.conv1", "activations/net.conv2", "filters/net.conv1", "filters/net.conv2", "filters/kernels",
    "gradcam/probes", "gradcam/mistakes", "gradcam/confusions", "gradcam/followed",
}  # fmt: skip
KINDS = {tag: tag.split("/")[1] for tag in TAGS if tag.startswith("gradcam/")}
KINDS |= {"gradcam/probes": "gradcam", "filters/kernels": "kernels"}
CHOSEN = TAGS - {"gradcam/mistakes", "gradcam/confusions", "gradcam/followed"}


def test_every_validation_leaves_one_picture_of_each_tag(fit):
    events = Events(fit(three(), max_epochs=3).logger.log_dir)
    assert events.tags == TAGS
    assert all(events.steps(tag) == [5, 11, 17] for tag in TAGS)
    assert events.epochs("filters")[0] == {
        "v": 1, "epoch": 0, "step": 5,
        "tags": [
            "filters/net.conv1", "evolution/filters/net.conv1", "filters/net.conv2", "evolution/filters/net.conv2",
            "filters/kernels",
        ],
    }  # fmt: skip
    assert [entry["epoch"] for entry in events.epochs("gradcam")] == [0, 1, 2]


def test_each_callback_logs_its_seconds(fit):
    events = Events(fit(three()).logger.log_dir)
    for name in ("activations", "filters", "gradcam"):
        assert [step for step, _ in events.scalar(f"convviz/seconds/{name}")] == [5, 11]


def test_pictures_decode_and_are_legible_and_small(fit):
    events = Events(fit(three()).logger.log_dir)
    for tag in TAGS:
        for image in events.images(tag):
            assert 350 <= image.width <= 1200
            assert facts(image)["v"] == 1
            assert np.asarray(image.convert("RGB")).std() > 5  # not one color
    assert max(events.sizes().values()) < 150_000
    assert sum(events.sizes().values()) < 1_000_000


def test_a_picture_carries_what_it_shows(fit):
    events = Events(fit(three()).logger.log_dir)
    for tag in TAGS:
        for image, step, epoch in zip(events.images(tag), (5, 11), (0, 1), strict=True):
            carried = facts(image)
            assert carried.keys() >= {
                "kind", "layer", "epoch", "step", "scale", "colormap", "tiles", "rows", "columns", "items",
            }  # fmt: skip
            kind = KINDS.get(tag, tag.split("/")[0])
            assert (carried["kind"], carried["step"], carried["epoch"]) == (kind, step, epoch)
            named = {"kernels": "net.conv1"}.get(kind, "net.relu2")
            assert carried["layer"] == (named if tag in KINDS else tag.split("/")[1])
            last = tile(image, carried["tiles"], len(carried["rows"]) * len(carried["columns"]) - 1)
            assert last.width == carried["tiles"]["w"]
            assert last.height == carried["tiles"]["h"]


def test_gradcam_tells_what_the_network_says_of_each_probe(fit):
    dataset = data(6, seed=3)
    probes = Probes(dataset.tensors[0], dataset.tensors[1], class_names=list("abcde"))
    trainer = fit([GradCAMLogger(probes=probes, on_error="raise")])
    carried = facts(Events(trainer.logger.log_dir).images("gradcam/probes")[-1])
    module = trainer.lightning_module.eval()
    probabilities = module(probes.images).softmax(1).detach()
    assert carried["columns"] == ["input", "predicted", "true / 2nd", "difference", "high-res"]
    for row, item in enumerate(carried["items"]):
        best, second = probabilities[row].argsort(descending=True)[:2].tolist()
        true = int(probes.labels[row])
        instead = second if best == true else true
        assert (item["predicted"], item["true"], item["instead"]) == ("abcde"[best], "abcde"[true], "abcde"[instead])
        assert item["right"] == (item["predicted"] == item["true"])
        for key, index in {"p_predicted": best, "p_true": true, "p_instead": instead}.items():
            assert item[key] == pytest.approx(float(probabilities[row, index]), abs=1e-3)
        margin = float(probabilities[row, best].log() - probabilities[row, instead].log())
        assert item["margin"] == pytest.approx(margin, rel=6e-3)  # three digits


def test_where_labels_are_not_known_the_second_best_class_stands_beside(fit):
    trainer = fit([GradCAMLogger(probes=torch.randn(2, 3, 12, 16), on_error="raise")])
    carried = facts(Events(trainer.logger.log_dir).images("gradcam/probes")[-1])
    assert carried["columns"] == ["input", "predicted", "2nd best", "difference", "high-res"]
    assert carried["items"][0]["true"] is None


def test_the_same_filters_and_probes_are_drawn_all_through_a_run(fit):
    events = Events(fit(three(), max_epochs=3).logger.log_dir)
    for tag in CHOSEN:
        chosen = {str((facts(image)["rows"], facts(image)["columns"])) for image in events.images(tag)}
        assert len(chosen) == 1


def test_the_initial_network_is_drawn_in_the_sanity_check_and_logged_at_step_0(fit):
    callbacks = three()
    events = Events(fit(callbacks).logger.log_dir)
    expected = TAGS - {"gradcam/followed"}
    assert {tag for callback in callbacks for tag in callback.initial_pictures} == expected
    assert "initial network" in str(callbacks[0].initial_pictures["activations/net.conv1"].labels)
    for tag in events.tags:
        drawn = events.images(tag, initial=True)
        assert [facts(image)["step"] for image in drawn] == ([0] if tag in expected else []), tag


def test_a_resumed_training_draws_no_initial_network(fit, tmp_path):
    before = fit([GradCAMLogger(on_error="raise")])
    before.save_checkpoint(tmp_path / "two.ckpt")
    trainer = L.Trainer(
        max_epochs=3, accelerator="cpu", logger=L.loggers.TensorBoardLogger(tmp_path / "again", name=None),
        callbacks=[GradCAMLogger(on_error="raise")], enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    loader = DataLoader(data(20, seed=1), batch_size=8)
    trainer.fit(before.lightning_module, DataLoader(data(), batch_size=8), loader, ckpt_path=tmp_path / "two.ckpt")
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/probes") == [17]
    assert not events.has_initial


def test_everything_stands_at_the_step_of_the_metrics(fit, tiny):
    """Also where the user's own metric "step" says where that is, and where several optimizers step."""

    class Steps(Watched):
        def on_validation_epoch_end(self) -> None:
            self.log("step", torch.tensor(1000.0 * (self.current_epoch + 1)))

    for module, expected in ((Steps(tiny()), [1000, 2000]), (TwoOptimizers(tiny()), [5, 11])):
        events = Events(fit(three(), module=module).logger.log_dir)
        assert events.metric("val_loss") == expected
        assert {tuple(events.steps(tag)) for tag in events.tags} == {tuple(expected)}
        ours = {tag for tag in events.scalars if tag.startswith("convviz/")}
        assert {step for tag in ours for step, _ in events.scalar(tag)} == set(expected)


def test_without_a_sanity_check_given_probes_are_tried_at_the_start(fit):
    watcher = FilterPatternLogger(probes=torch.randn(2, 3, 12, 16), num_filters=2, steps=1, on_error="raise")
    fit([watcher], num_sanity_val_steps=0)
    assert set(watcher.initial_pictures) == {"filters/net.conv1", "filters/net.conv2", "filters/kernels"}


@pytest.mark.parametrize(
    ("every", "drawn"), [(1, [5, 11, 17, 23, 29]), (2, [11, 23]), ("log", [5, 11, 23])], ids=str
)  # fmt: skip
def test_schedule(fit, every, drawn):
    events = Events(fit([GradCAMLogger(every_n_epochs=every, on_error="raise")], max_epochs=5).logger.log_dir)
    assert events.steps("gradcam/probes") == drawn


def test_several_validations_in_an_epoch_and_several_loaders(fit):
    loaders = [DataLoader(data(20, seed=seed), batch_size=8) for seed in (1, 2)]
    trainer = fit([GradCAMLogger(on_error="raise", num_probes=3)], val=loaders, val_check_interval=0.5)
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/probes") == [2, 5, 8, 11]


def test_the_maps_in_a_heatmap_are_those_of_the_network_at_that_moment(fit, monkeypatch):
    """The maps behind the last page against a plain run: two classes, their difference, HiResCAM at a finer layer."""
    seen = []
    original = heatmaps.heatmap_rows

    def spy(photos, columns, *arguments, **options):
        seen.append(columns)
        return original(photos, columns, *arguments, **options)

    monkeypatch.setattr(heatmaps, "heatmap_rows", spy)
    dataset = data(6, seed=3)
    trainer = fit([GradCAMLogger(probes=Probes(*dataset.tensors), num_mistakes=0, on_error="raise")])
    module, images = trainer.lightning_module.eval(), dataset.tensors[0]
    best = module(images).argsort(dim=1, descending=True).detach()
    other = torch.where(best[:, 0] == dataset.tensors[1], best[:, 1], dataset.tensors[1])
    with isolated(module):
        wanted = [("net.relu2", best[:, 0], "gradcam"), ("net.relu2", other, "gradcam")]
        wanted.append(("net.relu1", best[:, 0], "hirescam"))
        first, second, finer = cams.run_forward(
            module, images, explanations=[cams.Explanation(*each) for each in wanted]
        ).maps
    for column, expected in zip(seen[-1], [first, second, first - second, finer], strict=True):
        torch.testing.assert_close(column.maps, expected, atol=1e-6, rtol=1e-4)
