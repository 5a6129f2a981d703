"""Charts: what is drawn where, in which color, and what travels with it."""

import dataclasses
import io
import json
import math
import threading
import time

import numpy as np
import pytest
import torch
from matplotlib import colormaps, pyplot
from PIL import Image

from lightning_convviz.render import Chart, Panel, encode
from lightning_convviz.render.axes import linear, logarithmic
from lightning_convviz.render.page import WIDTH
from lightning_convviz.render.plot import FAINT, PALEST, PLOT, Box, _short

LAYERS = ["net.stem.2", "net.stage1.0.relu", "net.stage2.0.relu"]
DARKEST = tuple(int(each) for each in colormaps["viridis_r"](1.0, bytes=True)[:3])
PALE = tuple(int(each) for each in colormaps["viridis_r"](PALEST, bytes=True)[:3])


def chart(lines, *, layers=LAYERS, drawings=("initial", "epoch 0", "epoch 1"), about=None, **options):
    return Chart(
        "A title", ["a caption"], layers[: len(lines[0])], drawings[-len(lines) :], [Panel("share", lines, **options)],
        about or {"kind": "depth"}, "how to read it",
    )  # fmt: skip


def image(drawn):
    encoded = encode(drawn)
    opened = Image.open(io.BytesIO(encoded.data))
    assert opened.size == (encoded.width, encoded.height)
    return opened


def places(drawn, color):
    """The pixels of a color, below the key: rows and columns."""
    pixels = np.asarray(image(drawn).convert("RGB"))
    rows, columns = np.nonzero((pixels == color).all(-1))
    below = rows > 118
    return rows[below], columns[below]


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_a_line_goes_where_its_values_are():
    """The last line's center at each layer, read back from the pixels, gives its values."""
    values = [0.2, 0.9, 0.6]
    rows, columns = places(chart([values], unit="%", low=0, high=1), DARKEST)
    left, right = columns.min() + 5, columns.max() - 5  # of the markers, ten pixels wide
    found = [rows[abs(columns - x) <= 1].mean() for x in (left, (left + right) / 2, right)]
    slope = (found[0] - found[1]) / (values[1] - values[0])
    assert slope == pytest.approx(PLOT / 1.08, rel=0.02)  # a margin of 4 % above and below
    assert found[0] - found[2] == pytest.approx(slope * 0.4, abs=1.5)


def test_the_last_line_is_dark_the_first_epoch_pale_and_the_initial_one_gray():
    drawn = chart([[0.1] * 3, [0.5] * 3, [0.9] * 3], low=0, high=1)
    heights = [np.median(places(drawn, color)[0]) for color in (FAINT, PALE, DARKEST)]
    gray, pale, dark = heights[0], heights[1], heights[2]
    assert dark < pale
    assert len(places(drawn, DARKEST)[0]) > 2 * len(places(drawn, PALE)[0]) > 0, "the last one is thick"
    rows, columns = places(drawn, FAINT)
    dashes = np.sort(columns[abs(rows - (2 * pale - dark)) <= 1])
    assert (np.diff(dashes) > 2).sum() > 5, "the initial one is dashed"
    assert gray > pale


@pytest.mark.parametrize("unknown", [None, math.nan])
def test_what_is_not_known_is_a_gap(unknown):
    whole = places(chart([[0.1, 0.2, 0.3]], low=0, high=1), DARKEST)[1]
    columns = places(chart([[0.1, unknown, 0.3]], low=0, high=1), DARKEST)[1]
    step = (whole.max() - whole.min() - 10) / 2
    assert np.diff(np.sort(np.unique(whole))).max() == 1
    widest = np.diff(np.sort(np.unique(columns))).max()
    # Not known: nothing between the marks of the first and the last. Not finite: a mark of its own in the middle.
    assert widest > (1.8 if unknown is None else 0.8) * step


@pytest.mark.parametrize("wild", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_marked_at_the_head_and_moves_no_scale(wild):
    tame = chart([[0.1, None, 0.3]])
    marked = chart([[0.1, wild, 0.3]])
    rows, columns = places(tame, DARKEST)
    others, their_columns = places(marked, DARKEST)
    middle = (columns.min() + columns.max()) / 2
    assert not (abs(columns - middle) < 20).any()
    # The key's "not finite" stays in its line, so the rows below are the same.
    assert others[abs(their_columns - middle) < 20].mean() < rows.min() + 5
    assert others[abs(their_columns - middle) > 20].tolist() == rows.tolist()


def test_one_layer_is_drawn_as_marks_from_old_to_new():
    drawn = chart([[0.1], [0.5], [0.9]], low=0, high=1)
    old, middle, new = (np.median(places(drawn, color)[1]) for color in (FAINT, PALE, DARKEST))
    assert middle < new
    assert len(places(drawn, DARKEST)[0]) > 80, "a mark of thirteen pixels"
    assert old < new


def test_a_chart_without_a_value_says_so():
    nothing, something = chart([[None, None, None]]), chart([[0.1, 0.2, 0.3]])
    assert len(places(nothing, DARKEST)[0]) == 0 < len(places(something, DARKEST)[0])
    assert (np.asarray(image(nothing).convert("L")) < 120).sum() > 1000


def test_dollars_are_letters_and_no_formula():
    drawn = chart([[0.1]], layers=["$\\oops"])
    assert image(drawn).width == WIDTH
    assert image(dataclasses.replace(drawn, title=r"$\frac$")).height == image(drawn).height


def test_many_layers_are_numbered_and_few_are_named():
    """Forty names below a panel would be taller than two lines of text."""
    many = chart([[0.5] * 40], layers=[f"stage.{index}.relu" for index in range(40)])
    assert image(many).height < image(chart([[0.5] * 8], layers=[f"net.stage{i}.relu" for i in range(8)])).height


def test_names_lose_what_they_share_and_their_middle():
    assert _short(LAYERS) == ["stem.2", "stage1.0.relu", "stage2.0.relu"]
    assert _short(["net", "net.a"]) == ["net", "net.a"]
    assert _short(["net.conv"]) == ["net.conv"]
    (short,) = _short(["features.denseblock4.denselayer16.relu2"])
    assert short.startswith("feat")
    assert short.endswith("relu2")
    assert "…" in short


def test_layers_stand_from_the_left_to_the_right_of_a_box():
    places = Box(100, 0, 200, 50).layers(5)
    assert places == sorted(places)
    assert 100 < places[0] < places[-1] < 300
    assert Box(100, 0, 200, 50).layers(1) == [200]


# -- axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([0.0, 1.0], True, ["0%", "25%", "50%", "75%", "100%"]),
        ([0.0, 0.0], True, ["0%", "25%", "50%", "75%", "100%"]),
        ([], False, ["0", "0.25", "0.5", "0.75", "1"]),
        ([0.001, 0.04], True, ["0%", "1%", "2%", "3%", "4%"]),
        ([101.0, 102.0], False, ["101", "101.2", "101.5", "101.8", "102"]),
        ([-3.0, 5.0], False, ["-2", "0", "2", "4"]),
        ([7.0], False, ["6.5", "7", "7.5"]),
    ],
)
def test_ticks_of_a_linear_axis(values, percent, expected):
    axis = linear(values, percent=percent)
    assert [text for _, text in axis.ticks] == expected
    assert all(0 <= axis.place(value) <= 1 for value in values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e-5, 1.0], ["0.0001", "0.01", "1"]),
        ([0.1, 10.0], ["0.1", "1", "10"]),
        ([2.0, 40.0], ["3", "10", "30"]),
        ([3.0, 3.0], ["3"]),
        ([0.0, 1.0, 100.0], ["0", "1", "10", "100"]),
        ([-1.0, 1.0, 100.0], ["≤ 0", "1", "10", "100"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(values, expected):
    axis = logarithmic(values)
    assert [text for _, text in axis.ticks] == expected
    assert [axis.place(value) for value in values if value <= 0] == [0.0] * sum(value <= 0 for value in values)
    assert all(0 < axis.place(value) < 1 for value in values if value > 0)


def test_equal_factors_are_equal_distances_on_a_logarithmic_axis():
    axis = logarithmic([0.1, 1.0, 10.0])
    places = [axis.place(value) for value in (0.1, 1.0, 10.0)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])


def test_limits_are_the_least_that_an_axis_reaches():
    assert linear([0.4, 0.6], 0, 1, percent=False).place(0.5) == pytest.approx(0.5)
    assert linear([0.4, 1.6], 0, 1, percent=False).place(1.6) < 1
    assert 0 < logarithmic([1.0], 0.1, 10).place(0.1) < logarithmic([1.0], 0.1, 10).place(10) < 1


# -- what travels with it ---------------------------------------------------------------------------------------------


def test_a_chart_carries_its_numbers_of_four_digits():
    lines = [[0.123456, None, math.nan], [12345.6, -math.inf, 0.0]]
    drawn = chart(lines, about={"kind": "depth", "epoch": 3})
    opened = image(drawn)
    assert (opened.format, opened.mode) == ("PNG", "P")
    assert opened.text["convviz"] == drawn.json()
    assert json.loads(opened.text["convviz"]) == {
        "v": 1, "kind": "depth", "epoch": 3, "layers": LAYERS, "drawings": ["epoch 0", "epoch 1"],
        "panels": {"share": [[0.1235, None, None], [12350.0, None, 0.0]]},
    }  # fmt: skip
    assert drawn.cpu() is drawn


@pytest.mark.parametrize(
    "lines", [[[0.1, 0.2], [0.1, 0.2, 0.3]], [[0.1, 0.2, 0.3]]], ids=["a value too few", "a line too few"]
)
def test_lines_that_do_not_fit_are_told(lines):
    with pytest.raises(ValueError, match=r"`lines` of 'share' have .* 2 drawings, with a value for each of 3 layers"):
        Chart("", [], LAYERS, ["epoch 0", "epoch 1"], [Panel("share", lines)], {}, "")


def test_two_panels_of_one_title_are_told():
    panel = Panel("share", [[0.1]])
    with pytest.raises(ValueError, match="`panels` has the title 'share' twice"):
        Chart("", [], ["a"], ["epoch 0"], [panel, panel], {}, "")


@pytest.mark.parametrize("empty", ["layers", "drawings", "panels"])
def test_a_chart_of_nothing_is_told(empty):
    whole = {"layers": ["a"], "drawings": ["epoch 0"], "panels": [Panel("share", [[0.1]])]} | {empty: []}
    with pytest.raises(ValueError, match=f"`{empty}` is empty"):
        Chart("", [], **whole, about={}, legend="")


def large():
    stream = np.random.default_rng(0)
    lines = (stream.random((6, 9, 40)) * np.linspace(0.2, 1, 9)[:, None]).tolist()
    names = [f"net.stage{index // 8}.{index % 8}.relu" for index in range(40)]
    panels = [Panel(f"panel {index}", each, log=index % 2 == 1) for index, each in enumerate(lines)]
    drawings = ["initial", *(f"epoch {epoch}" for epoch in (0, 1, 2, 4, 7, 11, 18, 29))]
    return Chart("Large", ["a caption"], names, drawings, panels, {"kind": "depth"}, "")


def test_the_largest_chart_keeps_its_budget():
    encoded = encode(large())
    assert encoded.width == WIDTH
    assert len(encoded.data) <= large().budget
    assert len(encode(large(), budget=1).data) < len(encode(large(), budget=10**6).data)


# -- whose settings ---------------------------------------------------------------------------------------------------


def test_a_user_s_style_changes_nothing():
    drawn = chart([[0.1, None, 0.3], [0.2, math.inf, 0.5]], unit="%")
    expected = encode(drawn).data
    with pyplot.style.context(["dark_background", "ggplot"]), pyplot.xkcd():
        pyplot.rcParams.update({
            "text.usetex": True, "figure.constrained_layout.use": True, "figure.dpi": 33, "font.size": 40,
            "axes.grid": True, "lines.antialiased": False, "text.antialiased": False, "text.parse_math": True,
            "lines.dash_capstyle": "round", "lines.solid_capstyle": "round", "lines.markerfacecolor": "red",
            "figure.facecolor": "black", "savefig.facecolor": "black",
        })  # fmt: skip
        before = dict(pyplot.rcParams)
        assert encode(drawn).data == expected
        assert dict(pyplot.rcParams) == before
    assert pyplot.get_fignums() == []


def test_charts_are_drawn_beside_a_user_s_own_figures():
    drawn, found, done = chart([[0.1, 0.2, 0.3]] * 3), [], threading.Event()
    expected = encode(drawn).data

    def draw():
        found.extend(encode(drawn).data for _ in range(5))
        done.set()

    thread = threading.Thread(target=draw)
    thread.start()
    while not done.is_set():
        figure = pyplot.figure()
        figure.gca().plot([1, 2, 3], label="$x^2$")
        figure.legend()
        figure.canvas.draw()
        pyplot.close(figure)
    thread.join()
    assert found == [expected] * 5


def test_drawing_a_chart_touches_nothing_of_torch_and_is_quick():
    torch.set_default_dtype(torch.float64)
    try:
        before = torch.random.get_rng_state()
        encode(large())
        start = time.process_time()
        encode(large())
        assert time.process_time() - start < 1.5  # a third of a second on an idle core
        assert torch.equal(torch.random.get_rng_state(), before)
    finally:
        torch.set_default_dtype(torch.float32)
