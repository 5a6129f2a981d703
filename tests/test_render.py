import io
import json

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from lightning_convviz import render
from lightning_convviz.render import PageLayout, encode, paint
from lightning_convviz.render.color import LEVELS, NOT_A_NUMBER, OPACITY, PAGE
from lightning_convviz.render.layout import CARD, GAP, INK, MARGIN, WRONG, font, shorten, zoom_for

TOP = LEVELS - 1
VIRIDIS = colormaps["viridis"](np.linspace(0, 1, LEVELS, dtype=np.float32), bytes=True)[:, :3]
WORDS = "an extraordinarily long caption about African elephants and supercalifragilisticexpialidocious " * 3


def page(tiles, *, colormap="viridis", about=None, width=0, **options):
    sheet = PageLayout(width)
    sheet.write("A caption", bold=True)
    block = sheet.tiles(tiles, **{"columns": 3, **options})
    return sheet.picture(main=block, colormap=colormap, legend="how to read it", about=about or {"kind": "test"})


def decoded(picture, **options):
    encoded = encode(picture, **options)
    image = Image.open(io.BytesIO(encoded.data))
    assert image.size == (encoded.width, encoded.height) == (picture.width, picture.height)
    return image


# -- where it stands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lit", range(7))
@pytest.mark.parametrize("options", [{}, {"zoom": 3, "gap": 2}, {"above": 9, "below": 5, "x": 20}])
def test_a_lit_pixel_is_where_the_picture_s_facts_point(lit, options):
    codes = torch.zeros(7, 4, 5, dtype=torch.uint8)
    codes[lit, 1, 3] = TOP
    picture = page(codes, **options)
    spot, zoom = picture.about["tiles"], options.get("zoom", 1)
    assert (spot["w"], spot["h"]) == (5 * zoom, 4 * zoom)
    left, top = spot["x"] + lit % spot["cols"] * spot["dx"], spot["y"] + lit // spot["cols"] * spot["dy"]
    expected = np.zeros((picture.height, picture.width), dtype=bool)
    expected[top + zoom : top + 2 * zoom, left + 3 * zoom : left + 4 * zoom] = True
    assert np.array_equal(np.asarray(decoded(picture)) == TOP, expected)


@pytest.mark.parametrize("lit", range(5))
def test_a_photograph_is_where_the_picture_s_facts_point(lit):
    photos = torch.full((5, 4, 6, 3), 255, dtype=torch.uint8)
    photos[lit] = torch.tensor([10, 200, 30], dtype=torch.uint8)
    picture = page(photos, colormap=None, zoom=2)
    spot = picture.about["tiles"]
    left, top = spot["x"] + lit % spot["cols"] * spot["dx"], spot["y"] + lit // spot["cols"] * spot["dy"]
    expected = np.zeros((picture.height, picture.width), dtype=bool)
    expected[top : top + spot["h"], left : left + spot["w"]] = True
    assert np.array_equal((np.asarray(decoded(picture)) == [10, 200, 30]).all(-1), expected)


def test_tiles_neither_touch_nor_leave_the_page():
    picture = page(torch.full((6, 8, 8), 5, dtype=torch.uint8), gap=2)
    image = np.asarray(paint(picture))
    assert (image == 5).sum() == 6 * 8 * 8
    assert (image[:, -MARGIN:] == PAGE).all()
    assert (image[-MARGIN:] == PAGE).all()


def test_a_frame_surrounds_tiles_and_covers_none():
    sheet = PageLayout(0)
    sheet.write("room above")
    photos = torch.full((4, 6, 6, 3), 200, dtype=torch.uint8)
    block = sheet.tiles(photos, columns=2, gap=6, x=10)
    sheet.frame(block, 2, 3, WRONG)
    image = np.asarray(paint(sheet.picture(main=block, colormap=None, legend="", about={})))
    (x, y), (w, h) = block.corner(2), block.size
    right = block.corner(3)[0] + w
    outline = (image == WRONG).all(-1)
    assert outline[y - 2 : y, x - 2 : right + 2].all()
    assert outline[y + h : y + h + 2, x - 2 : right + 2].all()
    assert outline[y - 2 : y + h + 2, [x - 2, x - 1, right, right + 1]].all()
    assert outline.sum() == 2 * 2 * (right - x + 4) + 2 * 2 * h
    assert ((image == 200).all(-1)).sum() == 4 * 6 * 6


# -- what travels with it ---------------------------------------------------------------------------------------------

FACTS = {"kind": "gradcam", "epoch": 3, "items": [{"true": "Größe 猫", "p": 0.5}], "rows": [1, 2]}


@pytest.mark.parametrize("colormap", ["viridis", None])
def test_a_png_carries_its_facts(colormap):
    shape = (4, 8, 8) if colormap else (4, 8, 8, 3)
    picture = page(torch.zeros(shape, dtype=torch.uint8), colormap=colormap, about=FACTS)
    image = decoded(picture)
    assert image.format == "PNG"
    assert image.mode == ("P" if colormap else "RGB")
    assert image.text["convviz"] == picture.json()
    facts = json.loads(image.text["convviz"])
    assert facts == {"v": 1, **FACTS, "colormap": colormap, "tiles": picture.blocks[0].geometry()}
    assert " " not in picture.json().replace("Größe 猫", ""), "compact"


def noise(count=6, side=64):
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)


def test_a_photograph_over_the_budget_is_a_jpeg_with_its_facts_in_the_comment():
    picture = page(noise(), colormap=None, about=FACTS)
    image = decoded(picture, budget=60_000)
    assert image.format == "JPEG"
    assert image.info["comment"].decode() == picture.json()
    assert len(encode(picture, budget=60_000).data) <= 60_000
    assert decoded(picture, budget=1_000_000).format == "PNG"


def test_the_tighter_the_budget_the_smaller_the_file():
    picture = page(noise(), colormap=None)
    sizes = [len(encode(picture, budget=budget).data) for budget in (10**6, 70_000, 45_000, 1)]
    assert sizes == sorted(sizes, reverse=True)


def test_facts_that_no_comment_can_hold_stay_in_a_png():
    picture = page(noise(), colormap=None, about={"items": ["x" * 70_000]})
    image = decoded(picture, budget=1)
    assert image.format == "PNG"
    assert json.loads(image.text["convviz"])["items"] == ["x" * 70_000]


def test_maps_are_never_a_jpeg():
    picture = page(torch.randint(0, LEVELS, (6, 64, 64), dtype=torch.uint8))
    assert decoded(picture, budget=1).mode == "P"


# -- values and colors ------------------------------------------------------------------------------------------------


def test_every_code_of_a_map_can_be_read_back_and_has_its_color():
    codes = torch.arange(LEVELS, dtype=torch.uint8).reshape(1, 11, 16)
    picture = page(codes)
    spot, image = picture.about["tiles"], decoded(picture)
    area = (spot["x"], spot["y"], spot["x"] + spot["w"], spot["y"] + spot["h"])
    assert np.array_equal(np.asarray(image.crop(area)), codes[0].numpy())
    assert np.array_equal(np.asarray(image.crop(area).convert("RGB")), VIRIDIS.reshape(11, 16, 3))


def test_values_are_levels_between_low_and_high():
    values = torch.tensor([-9.0, 2.0, 2.49 + 2 / TOP, 4.5, 7.0, 99.0, float("inf"), -float("inf")])
    codes = render.encode_values(values, 2.0, 7.0)
    assert codes.tolist() == [0, 0, round((0.49 + 2 / TOP) / 5 * TOP), round(TOP / 2), TOP, TOP, TOP, 0]
    assert codes.dtype == torch.uint8


def test_a_constant_map_is_no_accident():
    assert render.encode_values(torch.full((1, 2, 2), 3.0), 3.0, 3.0).unique().tolist() == [0]
    assert render.encode_values(torch.zeros(1, 2, 2), 0.0, 0.0).unique().tolist() == [0]


def test_what_is_no_number_has_a_color_of_its_own():
    values = torch.tensor([[[0.0, float("nan"), 1.0]]])
    codes = render.encode_values(values, 0.0, 1.0)
    assert codes.tolist() == [[[0, NOT_A_NUMBER, TOP]]]
    picture = page(codes)
    spot, image = picture.about["tiles"], decoded(picture).convert("RGB")
    colors = [image.getpixel((spot["x"] + u, spot["y"])) for u in range(3)]
    assert colors == [tuple(VIRIDIS[0]), (255, 0, 255), tuple(VIRIDIS[-1])]
    assert (255, 0, 255) not in map(tuple, VIRIDIS)


@pytest.mark.parametrize("name", ["viridis", "magma", "inferno"])
def test_a_colormap_is_matplotlib_s(name):
    assert np.array_equal(render.colormap(name).numpy()[[0, -1]], colormaps[name]([0.0, 1.0], bytes=True)[:, :3])


def test_an_unknown_colormap_is_an_error():
    with pytest.raises(ValueError, match="`colormap` is 'virids', which matplotlib does not have"):
        render.colormap("virids")


def test_without_heat_an_overlay_is_the_gray_photograph():
    photos = torch.rand(2, 3, 5, 6)
    luma = 0.299 * photos[:, 0] + 0.587 * photos[:, 1] + 0.114 * photos[:, 2]
    expected = (luma * 255).round().to(torch.uint8)[..., None].expand(-1, -1, -1, 3)
    assert torch.equal(render.overlay(photos, torch.zeros(2, 5, 6)), expected)
    assert torch.equal(render.overlay(photos, torch.full((2, 5, 6), float("nan"))), expected)


def test_full_heat_lets_a_quarter_of_the_photograph_through():
    photos = torch.rand(1, 3, 4, 4)
    found = render.overlay(photos, torch.full((1, 4, 4), 7.0)).float() / 255
    gray = torch.einsum("c,nchw->nhw", torch.tensor([0.299, 0.587, 0.114]), photos)[..., None]
    hottest = torch.tensor(colormaps["inferno"](1.0)[:3]).float()
    torch.testing.assert_close(found, gray * (1 - OPACITY) + hottest * OPACITY, atol=0.004, rtol=0)


def test_heat_stays_where_it_is():
    heat = torch.zeros(2, 4, 5)
    heat[1, 2, 3] = 1
    changed = render.overlay(torch.ones(2, 3, 4, 5), heat) != 255
    assert changed.any(-1).nonzero().tolist() == [[1, 2, 3]]


def test_colors_are_computed_on_the_device(device):
    photos, heat = torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4)
    tiles = render.overlay(photos.to(device), heat.to(device))
    codes = render.encode_values(heat.to(device), 0, 1)
    assert tiles.device.type == codes.device.type == device
    assert (tiles.cpu().int() - render.overlay(photos, heat).int()).abs().max() <= 1
    picture = page(codes)
    assert picture.blocks[0].tiles.device.type == device, "pictures stay there until they are painted"
    assert np.array_equal(np.asarray(paint(picture)), np.asarray(paint(picture.cpu())))


@pytest.mark.parametrize("colors", [1, 4, 60])
def test_few_colors_of_photographs_beside_maps_survive_nearly(colors):
    table = torch.randint(0, 256, (colors, 3), dtype=torch.uint8)
    photos = table[torch.arange(2 * 8 * 8) % colors].reshape(2, 8, 8, 3)
    sheet = PageLayout(0)
    first = sheet.tiles(photos, columns=2)
    maps = sheet.tiles(torch.full((2, 8, 8), TOP, dtype=torch.uint8), columns=2)
    image = paint(sheet.picture(main=maps, colormap="viridis", legend="", about={}))
    shown = np.asarray(image.convert("RGB")).astype(int)
    for index in range(2):
        x, y = first.corner(index)
        assert np.abs(shown[y : y + 8, x : x + 8] - photos[index].numpy()).mean() < 4
        x, y = maps.corner(index)
        assert (np.asarray(image)[y : y + 8, x : x + 8] == TOP).all()


# -- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, 500, 1200])
@pytest.mark.parametrize("bold", [False, True])
def test_no_caption_leaves_the_page(width, bold):
    sheet = PageLayout(width)
    sheet.write(WORDS, bold=bold)
    sheet.write(WORDS.replace(" ", "_"), bold=bold, x=50)
    sheet.label(WORDS, 200, sheet.y, bold=bold, width=sheet.width - 200)
    sheet.scale_bar("-0.123", "1.23e+04", note=WORDS)
    block = sheet.tiles(torch.zeros(1, 4, 4, dtype=torch.uint8), columns=1)
    picture = sheet.picture(main=block, colormap="viridis", legend="", about={})
    assert len(picture.labels) > 6
    for label in picture.labels:
        assert label.x >= MARGIN
        assert label.x + font(label.size, label.bold).getlength(label.text) <= picture.width
        assert label.y + label.size < picture.height


def test_a_wrapped_caption_loses_no_word():
    sheet = PageLayout(0)
    sheet.write("one two three " * 20)
    words = [word for label in sheet._labels for word in label.text.split()]
    assert words == ["one", "two", "three"] * 20
    assert len(sheet._labels) > 1
    assert len({label.y for label in sheet._labels}) == len(sheet._labels), "one line below the other"


def test_a_shortened_text_says_so():
    assert shorten("elephant", 1000, 11) == "elephant"
    cut = shorten("African elephant", 60, 11)
    assert cut.endswith("…")
    assert "African elephant".startswith(cut[:-1])


def test_captions_grow_with_the_page():
    assert PageLayout(10).width == CARD
    assert PageLayout(2 * CARD).text >= 2 * PageLayout(CARD).text


@pytest.mark.parametrize("colormap", ["viridis", None])
@pytest.mark.parametrize("color", [INK, WRONG])
def test_captions_of_any_color_are_drawn(colormap, color):
    sheet = PageLayout(0)
    sheet.write("A caption", color=color)
    shape = (1, 4, 4) if colormap else (1, 4, 4, 3)
    block = sheet.tiles(torch.zeros(shape, dtype=torch.uint8), columns=1)
    image = np.asarray(paint(sheet.picture(main=block, colormap=colormap, legend="", about={})).convert("RGB"))
    assert (image[: block.y] < 128).any()


def test_a_boxed_caption_is_readable_on_a_photograph():
    sheet = PageLayout(0)
    block = sheet.tiles(torch.zeros(1, 40, 200, 3, dtype=torch.uint8), columns=1)
    sheet.label("no evidence", block.x + 4, block.y + 4, boxed=True)
    image = np.asarray(paint(sheet.picture(main=block, colormap=None, legend="", about={})))
    assert (image[block.y : block.y + 40, block.x : block.x + 200] == 255).all(-1).any()


@pytest.mark.parametrize(("tile", "columns"), [(1, 1), (7, 8), (56, 4), (400, 8)])
def test_a_zoom_is_whole_and_comes_near_the_card(tile, columns):
    zoom = zoom_for(tile, columns)
    assert zoom >= 1
    wide = (zoom * tile + GAP) * columns + 2 * MARGIN
    assert zoom == 1 or abs(wide - CARD) <= tile * columns / 2  # another zoom would be further off
