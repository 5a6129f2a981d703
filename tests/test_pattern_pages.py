"""Pages of patterns and kernels, and grids of images, from plain data: where things stand and what is said of them."""

import json

import numpy as np
import pytest
import torch

from lightning_convviz import Probes, render
from lightning_convviz.ascent import Patterns
from lightning_convviz.history import History, Snapshot
from lightning_convviz.layer_stats import ChannelResponses
from lightning_convviz.pages.kernels import kernel_page, kernel_range
from lightning_convviz.pages.patterns import LayerPatterns, hatched, pattern_filmstrip, pattern_page, strip_frame
from lightning_convviz.render.layout import INK, UNKNOWN
from lightning_convviz.render.paint import paint

NOW = Snapshot(3, 40, "epoch 3, step 40")
PROBES = Probes(torch.rand(2, 3, 8, 10), class_names=["ant", "bee", "cat"], mean=[0.0], std=[1.0])


def patterns(peaks, improvement=None):
    peaks = torch.tensor(peaks)
    improvement = torch.ones_like(peaks) if improvement is None else torch.tensor(improvement)
    images = torch.linspace(0.1, 0.9, len(peaks)).view(-1, 1, 1, 1).expand(-1, 3, 8, 10)
    return Patterns(images, peaks, peaks, improvement, images)


def responses(peak, low=0.0):
    peak = torch.tensor(peak)
    n = len(peak)
    return ChannelResponses(
        channels=list(range(n)),
        count=20,
        mean=torch.zeros(n),
        deviation=torch.full((n,), 0.5),
        low=torch.full((n,), low),
        peak=peak,
        images=torch.rand(n, 3, 8, 10),
        places=torch.full((n, 2), 0.5),
    )


def layer(peaks, improvement=None, name="conv", **options):
    found = patterns(peaks, improvement)
    given = {"source": name or "", "channels": list(range(len(peaks))), "num_channels": 7, "steps": 16, "warm": True}
    return LayerPatterns(layer=name, patterns=found, **given | options)


def texts(picture):
    return [label.text for label in picture.labels]


def colors(picture):
    return {label.text: label.color for label in picture.labels}


def tile(picture, block, index):
    x, y = block.corner(index)
    w, h = block.size
    return np.asarray(paint(picture).convert("RGB"))[y : y + h, x : x + w].astype(int)


# -- patterns ---------------------------------------------------------------------------------------------------------


def test_captions_say_how_strongly_in_deviations_and_gray_where_the_real_image_is_stronger():
    page = pattern_page(layer([3.0, 1.0], responses=responses([2.0, 2.0])), PROBES, NOW, receptive_field=(0.5, 0.5))
    assert colors(page)["#0  6.0 | 4.0 σ"] == INK
    assert colors(page)["#1  2.0 | 4.0 σ"] == UNKNOWN
    assert "pattern | part of the best of 20 validation images" in texts(page)
    assert "below: largest responses, in σ of the validation" in texts(page)
    assert [item["sigmas"] for item in page.about["items"]] == [6.0, 2.0]
    assert [item["real_sigmas"] for item in page.about["items"]] == [4.0, 4.0]


def test_without_responses_the_largest_activation_stands_below():
    page = pattern_page(layer([3.0, 1.25]), PROBES, NOW, receptive_field=(0.5, 0.5))
    assert {"#0  3", "#1  1.25", "below each: filter, its largest activation"} <= set(texts(page))
    assert [item["real_sigmas"] for item in page.about["items"]] == [None, None]
    assert len(page.blocks) == 1, "patterns stand alone"


def test_the_whole_image_stands_beside_where_the_layer_sees_all_of_it():
    page = pattern_page(layer([3.0], responses=responses([2.0])), PROBES, NOW, receptive_field=(1.0, 0.9))
    assert "pattern | the best of 20 validation images" in texts(page)
    beside = tile(page, page.blocks[1], 0)
    assert np.abs(beside.mean((0, 1)) / 255 - 0.5).max() < 0.2


def test_a_dead_filter_is_crossed_out_and_a_silent_one_that_its_pattern_wakes_is_not():
    seen = responses([0.0, 0.0, 2.0], low=0.0)
    page = pattern_page(layer([0.0, 1.0, 3.0], [0.0, 1.0, 0.0], responses=seen), PROBES, NOW)
    assert {"#0  dead", "#1  woken", "#2  no response"} <= set(texts(page))
    zoom = page.blocks[0].zoom
    strokes = hatched(8, 10).numpy().repeat(zoom, 0).repeat(zoom, 1)
    crossed = [np.array_equal(tile(page, page.blocks[0], index), strokes) for index in range(3)]
    assert crossed == [True, False, True]


def test_classes_are_called_by_name_and_have_logits():
    page = pattern_page(layer([2.0, 1.5], name=None, channels=[2, 0]), PROBES, NOW)
    assert " ".join(texts(page)[:2]) == "What the network would call a perfect example"
    assert {"2  cat", "1.5  ant", "below each: its logit", "epoch 3, step 40 · 2 classes"} <= set(texts(page))
    assert page.about["layer"] == "classes"
    assert page.about["columns"] == [2, 0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "16 steps from the last patterns"),
        ({"warm": False, "steps": 48}, "48 steps from blank images"),
        ({"warm_over_cold": 0.9}, "16 steps from the last patterns"),
        ({"warm": False, "warm_over_cold": 0.5}, "started anew: the last patterns led to 50% of this"),
    ],
)
def test_a_page_says_how_its_patterns_came_about_and_what_was_asked_for(options, line):
    page = pattern_page(layer([1.0], request=["canvas maco"], **options), PROBES, NOW)
    assert {line, "canvas maco", "epoch 3, step 40 · 1 of 7 filters"} <= set(texts(page))
    assert page.about["request"] == ["canvas maco"]


def test_the_module_whose_output_is_raised_is_named_where_it_is_another():
    assert texts(pattern_page(layer([1.0], source="relu"), PROBES, NOW))[0] == "What excites filters of conv → relu"


def test_what_is_not_finite_is_null_in_the_facts():
    page = pattern_page(layer([float("nan")], responses=responses([1.0])), PROBES, NOW)
    assert json.loads(page.json())["items"][0]["peak"] is None


def test_a_film_strip_shows_three_filters_at_each_drawing():
    shown, history = layer([1.0, 2.0, 3.0, 4.0, 5.0]), History()
    for epoch in range(2):
        history.append(*strip_frame(shown, PROBES), Snapshot(epoch, 10 * epoch, ""))
    strip = pattern_filmstrip(shown, PROBES, NOW, history)
    assert strip.rows == ["filter 0", "filter 2", "filter 4"]
    assert strip.columns == ["ep. 0", "ep. 1"]
    assert strip.tiles.shape == (3, 2, 8, 10, 3)
    assert strip.picture().about["items"] == [[1.0, 1.0], [3.0, 3.0], [5.0, 5.0]]
    assert {"filter 4", "5", "below each tile its largest activation"} <= set(texts(strip.picture()))


def test_a_film_strip_keeps_small_copies():
    shown = layer([1.0])
    large = Patterns(**{**vars(shown.patterns), "images": torch.rand(1, 3, 48, 96)})
    images, facts = strip_frame(LayerPatterns(**{**vars(shown), "patterns": large}), PROBES)
    assert images.shape == (1, 3, 18, 36)
    assert facts == [{"channel": 0, "peak": 1.0}]


# -- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_kernels_are_colors_around_gray(channels):
    weights = torch.randn(70, channels, 3, 3)
    page = kernel_page(weights, None, layer="conv1", snapshot=NOW, high=2.0)
    assert page.about["columns"][-1] == 69
    assert len(page.about["columns"]) == 64
    kernels = page.blocks[1]
    shown = tile(page, kernels, 63)[kernels.zoom // 2 :: kernels.zoom, kernels.zoom // 2 :: kernels.zoom]
    expected = ((weights[69] / 4 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    for color in range(3):
        known = 127.5 if channels == 2 and color == 2 else expected[..., 0 if channels == 1 else color]
        np.testing.assert_allclose(shown[..., color], np.broadcast_to(known, (3, 3)), atol=1)
    assert any("the first three of them as colors" in text for text in texts(page)) == (channels == 5)


def test_the_change_of_each_kernel_is_a_share_of_its_norm():
    before = torch.ones(3, 1, 2, 2)
    weights = before * torch.tensor([1.0, 1.1, 1.5]).view(3, 1, 1, 1)
    page = kernel_page(weights, before, layer="conv1", snapshot=NOW, high=2.0, change_note="changed in ep. 1")
    assert page.about["items"] == [{"change": 0.0}, {"change": 0.1}, {"change": 0.5}]
    assert {"most: #2 50%, #1 10%, #0 0% of its norm; gray: none", "scale changed in ep. 1"} <= set(texts(page))
    assert len(page.blocks) == 4, "two bars, and two grids"


def test_a_few_weights_that_are_far_out_do_not_set_the_scale():
    weights = torch.ones(10, 1, 10, 10)
    weights[0, 0, 0, 0] = 100
    assert kernel_range(weights) == 1
    weights[0, 0, 0, 0] = torch.nan
    assert kernel_range(weights) == 1


# -- grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_has_a_word_below_each_image():
    images = torch.rand(3, 3, 6, 6)
    picture = render.picture_grid(images, ["a", "b", 3], title="images", lines=["more"], legend="how to read it")
    assert texts(picture) == ["images", "more", "a", "b", "3"]
    assert picture.legend == "how to read it"
    assert json.loads(picture.json())["columns"] == ["a", "b", "3"]
    block = picture.blocks[0]
    for index in range(3):
        expected = (images[index].permute(1, 2, 0) * 255).numpy().repeat(block.zoom, 0).repeat(block.zoom, 1)
        np.testing.assert_allclose(tile(picture, block, index), expected, atol=1)
    line = picture.labels[1].y - picture.labels[0].y
    assert render.grid(images, ["a", "b", "c"]).size == (picture.width, picture.height - 2 * line)


def test_a_grid_wants_a_name_for_each_image():
    with pytest.raises(ValueError, match=r"`names` has 1 items for 2 images\. Give one for each"):
        render.picture_grid(torch.rand(2, 3, 4, 4), ["a"])
