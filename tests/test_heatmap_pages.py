"""Pages of heatmaps from plain data: what is drawn where, and what the captions say."""

import pytest
import torch

from lightning_convviz.cams import ForwardResult
from lightning_convviz.history import History, Snapshot
from lightning_convviz.mistakes import Confusions, MistakeBatch
from lightning_convviz.pages.captions import WIDTH, prediction_caption
from lightning_convviz.pages.confusions import confusions_page
from lightning_convviz.pages.explained import ExplainedImages, Prediction, probes_of_mistakes
from lightning_convviz.pages.heatmap_strip import strip_facts, tracked_strip
from lightning_convviz.pages.heatmaps import HOW_TO_READ, HeatmapInfo, MapScale, mistakes_page, probes_page
from lightning_convviz.probes import Probes
from lightning_convviz.render import overlay

SNAPSHOT = Snapshot(3, 50, "epoch 3 · step 50")
NAMES = ["ant", "bee", "cat"]


def info(**options):
    scale = MapScale("evidence", 2.0, "logits", options.pop("signed", False))
    defaults = {
        "layer": "net.1", "method": "gradcam", "target": "auto", "has_classes": True, "high_res_layer": None,
        "snapshot": SNAPSHOT, "evidence": scale, "difference": MapScale("the other", 1.0, "logits", True, "pred."),
        "high_res": MapScale("high-res", 1.0, "logits"),
    }  # fmt: skip
    return HeatmapInfo(**defaults | options)


def explained(logits, labels=None, *, maps=2, **options):
    count = len(logits)
    probes = Probes(torch.rand(count, 3, 8, 10), labels, NAMES)
    return ExplainedImages(probes, ForwardResult(logits, {}, [torch.rand(count, 4, 5)] * maps, []), **options)


def words(picture):
    return [label.text for label in picture.labels]


LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0]])


# -- maps over photographs ---------------------------------------------------------------------------------------------


def test_what_speaks_against_a_class_is_cut_off_before_a_map_is_enlarged():
    photos, maps = torch.rand(1, 3, 6, 6), torch.tensor([[[2.0, -2.0], [-1.0, 1.0]]])
    steps = [min(max((i + 0.5) / 3 - 0.5, 0), 1) for i in range(6)]
    low, heat = maps[0].clamp(min=0), torch.zeros(1, 6, 6)
    for i, v in enumerate(steps):
        for j, u in enumerate(steps):
            top, bottom = low[0, 0] * (1 - u) + low[0, 1] * u, low[1, 0] * (1 - u) + low[1, 1] * u
            heat[0, i, j] = (top * (1 - v) + bottom * v) / 4
    assert torch.equal(MapScale("evidence", 4.0, "logits").overlay(photos, maps), overlay(photos, heat))


def test_signed_maps_stay_as_they_are():
    photos, maps = torch.rand(1, 3, 1, 4), torch.tensor([[[4.0, -4.0]]])
    heat = torch.tensor([[[1.0, 0.5, -0.5, -1.0]]])
    scale = MapScale("evidence", 4.0, "logits", diverging=True)
    assert torch.equal(scale.overlay(photos, maps), overlay(photos, heat, "RdBu_r", diverging=True))


@pytest.mark.parametrize(
    ("values", "signed", "note"),
    [
        ([0.0, -3.0], False, ("none",)),
        ([0.0, -3.0], True, ()),
        ([0.0, 0.01], False, ("hardly", "any")),
        ([0.0, float("nan")], False, ("not a", "number")),
        ([0.0, 1.0], False, ()),
    ],
)
def test_maps_that_show_nothing_say_so(values, signed, note):
    assert MapScale("evidence", 2.0, "logits", signed).empty_note(torch.tensor([values])) == note


# -- predictions and captions ------------------------------------------------------------------------------------------


def test_predictions_name_the_class_and_the_other_one_in_question():
    right, wrong = explained(LOGITS, [0, 2]).predictions
    assert (right.predicted, right.true, right.instead, right.right) == ("ant", "ant", "bee", True)
    assert (wrong.predicted, wrong.true, wrong.instead, wrong.right) == ("bee", "cat", "cat", False)
    assert (right.margin, wrong.margin) == (2.0, 1.0)
    assert right.p_predicted == right.p_true == pytest.approx(0.8438, abs=1e-4)


@pytest.mark.parametrize("logits", [LOGITS[:, :, None, None], LOGITS[:, :0].reshape(2, 0)], ids=["dense", "none"])
def test_scores_that_are_no_logits_of_classes_have_no_predictions(logits):
    found = explained(logits if logits.ndim == 4 else LOGITS, has_classes=logits.ndim == 4)
    assert found.predictions == []
    page = probes_page(info(), found, torch.rand(2, 3, 8, 10))
    assert page.about["items"] == [{"id": 0}, {"id": 1}]


def test_of_a_network_that_has_diverged_there_is_no_number():
    (item,) = explained(torch.full((1, 3), float("nan")), [1]).predictions
    assert item == Prediction(0, "bee")
    assert prediction_caption(item).text == "#0: not a number"


@pytest.mark.parametrize("length", [3, 12, 30, 90])
@pytest.mark.parametrize("name", [7, 123456, "a_file.png"])
def test_a_caption_has_room_for_both_classes(length, name):
    text = prediction_caption(
        Prediction(name, "b" * length, "a" * length, 0.5, "b" * length, 0.25, 0.25, 1.5, False)
    ).text
    assert len(text) <= WIDTH
    assert "aaa" in text
    assert "bb" in text
    assert "truth" in text


def test_the_legend_has_the_words_of_the_captions():
    texts = [prediction_caption(each).text for each in explained(LOGITS, [0, 2]).predictions]
    assert texts == ["#0: ant 84%, 2nd bee 11%, margin 2", "#1: bee 67%, truth cat 24%, margin 1"]
    assert "`truth`" in HOW_TO_READ
    assert "`2nd`" in HOW_TO_READ
    assert "`is`" not in HOW_TO_READ


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "maps", "columns"),
    [
        ({}, 2, ["predicted", "true / 2nd", "difference"]),
        ({"high_res_layer": "net.0"}, 3, ["predicted", "true / 2nd", "difference", "high-res"]),
        ({"target": 1}, 1, ["bee"]),
        ({"target": "runner_up", "high_res_layer": "net.0"}, 2, ["runner_up", "high-res"]),
    ],
)
def test_the_columns_are_the_maps_that_were_asked_for(options, maps, columns):
    page = probes_page(info(**options), explained(LOGITS, [0, 2], maps=maps), torch.rand(2, 3, 8, 10))
    assert page.about["columns"] == ["input", *columns]
    assert any("high-res: hirescam at net.0, 4×5" in text for text in words(page)) == ("high-res" in columns)
    assert any("1 of 2 probes right" in text for text in words(page))


def test_without_mistakes_the_page_says_why():
    table = torch.eye(3).long()
    page = mistakes_page(info(), None, Confusions(3, 3, table))
    assert words(page)[0] == "No mistakes in this validation"
    assert "0 wrong of 3 seen" in words(page)[1]
    assert words(mistakes_page(info(), None, Confusions(3)))[0] == "No labeled pictures with finite logits"


def test_confusions_are_listed_by_their_number():
    table = torch.tensor([[5, 3, 0], [0, 5, 0], [0, 4, 1]])
    page = confusions_page(Confusions(18, 18, table), explained(LOGITS).probes, SNAPSHOT, {"kind": "confusions"})
    assert [(item["true"], item["predicted"], item["count"], item["of"]) for item in page.about["items"]] == [
        ("cat", "bee", 4, 5), ("ant", "bee", 3, 8),
    ]  # fmt: skip
    assert confusions_page(Confusions(18, 18), explained(LOGITS).probes, SNAPSHOT, {}) is None


def test_a_strip_tells_what_was_predicted_and_leaves_room_for_what_came_later():
    history = History(6)
    for rows in (1, 2):
        seen = explained(LOGITS, [0, 2]).select(range(rows))
        history.append(seen.result.maps[0], strip_facts(seen.predictions, rows), SNAPSHOT)
    strip = tracked_strip(info(), seen.probes, history)
    assert strip.rows == ["#0, truth ant: ant (2x)", "#1, truth cat: bee"]
    assert [[caption and caption[0] for caption in row] for row in strip.below] == [["✓84", "✓84"], [None, "✗24"]]
    assert (strip.tiles[1, 0] == 255).all()
    assert (strip.tiles[1, 1] != 255).any()


# -- several ranks -----------------------------------------------------------------------------------------------------


def test_mistakes_of_several_ranks_are_merged_worst_first():
    parts = [
        ExplainedImages(
            Probes(torch.full((2, 3, 8, 10), float(rank)), [1, 2], NAMES, ids=[rank, rank + 2]),
            ForwardResult(LOGITS, {}, [torch.full((2, 4, 5), float(rank))], []),
            torch.tensor(confidence),
        )
        for rank, confidence in enumerate([[0.9, 0.5], [0.8, 0.6]])
    ]
    merged = ExplainedImages.merge([parts[0], None, parts[1]], 3)
    assert merged.ids == [0, 1, 3]
    assert merged.result.maps[0][:, 0, 0].tolist() == merged.probes.images[:, 0, 0, 0].tolist() == [0.0, 1.0, 1.0]
    assert merged.confidence.tolist() == pytest.approx([0.9, 0.8, 0.6])
    assert ExplainedImages.merge([None, None], 3) is None


def test_mistakes_of_classes_without_a_name_are_called_by_number():
    found = MistakeBatch(torch.rand(1, 3, 8, 10), torch.tensor([4]), torch.tensor([9]), torch.tensor([0.9]), {})
    probes = probes_of_mistakes(found, explained(LOGITS).probes)
    assert (probes.name(2), probes.name(4), probes.ids) == ("cat", "class 4", (9,))
