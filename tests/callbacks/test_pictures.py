"""What three callbacks leave in the event file: tags, steps, sizes, pictures, and the data that pictures carry."""

import numpy as np
import pytest
import torch
from fits import Events, Watched, data, facts, three, tile
from torch import nn
from torch.utils.data import DataLoader

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, Probes, cams, layers
from lightning_convviz.callbacks import lens
from lightning_convviz.isolation import isolated
from lightning_convviz.render import heat
from lightning_convviz.render.color import LEVELS, colormap

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
    assert all(events.steps(tag) == [6, 12, 18] for tag in TAGS)
    assert events.epochs("filters")[0] == {
        "v": 1, "epoch": 0, "step": 6,
        "tags": [
            "filters/net.conv1", "evolution/filters/net.conv1", "filters/net.conv2", "evolution/filters/net.conv2",
            "filters/kernels",
        ],
    }  # fmt: skip
    assert [entry["epoch"] for entry in events.epochs("gradcam")] == [0, 1, 2]


def test_each_callback_logs_its_seconds(fit):
    events = Events(fit(three()).logger.log_dir)
    for name in ("activations", "filters", "gradcam"):
        assert [step for step, _ in events.scalar(f"convviz/seconds/{name}")] == [6, 12]


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
        for image, step, epoch in zip(events.images(tag), (6, 12), (0, 1), strict=True):
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


class OneHot(nn.Module):
    """Channel 2 of four copies the picture's first channel; the others are silent."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)
        nn.init.zeros_(self.conv.weight)
        self.conv.weight.data[2, 0] = 1
        self.conv.weight.requires_grad_(False)

    def forward(self, images):
        return self.head(self.relu(self.conv(images)).mean((2, 3)))


def test_a_one_hot_activation_lights_its_pixel_in_its_tile_and_no_other(fit):
    image = torch.zeros(1, 3, 12, 16)
    image[0, 0, 3, 5] = 1.0
    trainer = fit([ActivationLogger("net.conv", probes=image, on_error="raise")], module=Watched(OneHot()))
    (drawn, _) = Events(trainer.logger.log_dir).images("activations/net.conv")
    carried = facts(drawn)
    colors = colormap("viridis").numpy()
    for channel in range(4):
        shown = np.asarray(tile(drawn, carried["tiles"], channel).convert("RGB"))
        zoom = carried["tiles"]["w"] // 16
        expected = colors[np.zeros((12, 16), dtype=int)]
        if channel == 2:
            expected[3, 5] = colors[-1]
        else:  # never above 0 on any validation picture: hatched
            expected[(np.arange(12)[:, None] + np.arange(16)) % 6 == 0] = shown[0, 0]
            assert tuple(shown[0, 0]) not in {tuple(color) for color in colors}
        assert (shown == expected.repeat(zoom, 0).repeat(zoom, 1)).all()


def test_the_maps_in_a_picture_are_those_of_the_network_at_that_moment(fit):
    """The values in the last picture, read back through the palette and the scale, against a plain forward."""
    images = torch.randn(2, 3, 12, 16)
    trainer = fit([ActivationLogger("net.conv1", probes=images, on_error="raise")])
    drawn = Events(trainer.logger.log_dir).images("activations/net.conv1")[-1]
    carried = facts(drawn)
    module = trainer.lightning_module
    with isolated(module), torch.no_grad(), layers.record(module, ["net.conv1"]) as outputs:
        module(images)
    zoom, top = carried["tiles"]["w"] // 16, carried["scale"][1]
    for channel in range(4):
        values = np.asarray(tile(drawn, carried["tiles"], channel))[::zoom, ::zoom] / (LEVELS - 1) * top
        expected = outputs["net.conv1"][0, channel].clamp(0, top).numpy()
        assert np.abs(values - expected).max() <= top / (LEVELS - 1) / 2 + 1e-6


def test_gradcam_tells_what_the_network_says_of_each_probe(fit):
    dataset = data(6, seed=3)
    probes = Probes(dataset.tensors[0], dataset.tensors[1], class_names=list("abcde"))
    trainer = fit([GradCAMLogger(probes=probes, on_error="raise")])
    carried = facts(Events(trainer.logger.log_dir).images("gradcam/probes")[-1])
    module = trainer.lightning_module.eval()
    probabilities = module(probes.images).softmax(1).detach()
    assert carried["columns"] == ["input", "predicted", "true / 2nd", "difference", "finer"]
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
    assert carried["columns"] == ["input", "predicted", "2nd best", "difference", "finer"]
    assert carried["items"][0]["true"] is None


def test_the_same_filters_and_probes_are_drawn_all_through_a_run(fit):
    events = Events(fit(three(), max_epochs=3).logger.log_dir)
    for tag in CHOSEN:
        chosen = {str((facts(image)["rows"], facts(image)["columns"])) for image in events.images(tag)}
        assert len(chosen) == 1


def test_the_initial_network_is_drawn_in_the_sanity_check_and_kept_but_not_logged(fit):
    watchers = three()
    events = Events(fit(watchers).logger.log_dir)
    assert all(0 not in events.steps(tag) for tag in TAGS)
    assert {tag for watcher in watchers for tag in watcher.initial_pictures} == TAGS - {"gradcam/followed"}
    assert "initial network" in str(watchers[0].initial_pictures["activations/net.conv1"].labels)


def test_without_a_sanity_check_given_probes_are_tried_at_the_start(fit):
    watcher = FilterPatternLogger(probes=torch.randn(2, 3, 12, 16), num_filters=2, steps=1, on_error="raise")
    fit([watcher], num_sanity_val_steps=0)
    assert set(watcher.initial_pictures) == {"filters/net.conv1", "filters/net.conv2", "filters/kernels"}


@pytest.mark.parametrize(
    ("every", "drawn"), [(1, [6, 12, 18, 24, 30]), (2, [12, 24]), ("log", [6, 12, 24])], ids=str
)  # fmt: skip
def test_schedule(fit, every, drawn):
    events = Events(fit([GradCAMLogger(every_n_epochs=every, on_error="raise")], max_epochs=5).logger.log_dir)
    assert events.steps("gradcam/probes") == drawn


def test_several_validations_in_an_epoch_and_several_loaders(fit):
    loaders = [DataLoader(data(20, seed=seed), batch_size=8) for seed in (1, 2)]
    trainer = fit([GradCAMLogger(on_error="raise", num_probes=3)], val=loaders, val_check_interval=0.5)
    events = Events(trainer.logger.log_dir)
    assert events.steps("gradcam/probes") == [3, 6, 9, 12]


def test_an_activation_grid_of_large_maps_keeps_its_budget(fit):
    """64 channels of 112 x 112, as an ImageNet net's first layer: fewer channels, then pooled."""

    class Wide(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))

    watcher = ActivationLogger("net.0", probes=torch.randn(8, 3, 112, 112), on_error="raise")
    trainer = fit([watcher], module=Watched(Wide()), max_epochs=1)
    events = Events(trainer.logger.log_dir)
    carried = facts(events.images("activations/net.0")[0])
    assert len(carried["columns"]) == 16
    assert events.sizes()["activations/net.0"] < 150_000


def test_the_maps_in_a_heatmap_are_those_of_the_network_at_that_moment(fit, monkeypatch):
    """The maps behind the last page against a plain run: two classes, their difference, HiResCAM at a finer layer."""
    seen = []
    original = heat.heat_rows

    def spy(photos, columns, *arguments, **options):
        seen.append(columns)
        return original(photos, columns, *arguments, **options)

    monkeypatch.setattr(lens, "heat_rows", spy)
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
