"""Animations: every frame in its colors and for its time, within the budget."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from lightning_convviz.render import Animation, PageLayout, Picture, animate, encode, paint, rgb
from lightning_convviz.render.color import LEVELS

WHITE = 255


def page(epoch, *, colormap="viridis", lines=1, photo=None, side=24):
    sheet = PageLayout(0)
    for _ in range(lines):
        sheet.write(f"conv1 · epoch {epoch}", bold=True)
    if photo is not None:
        sheet.tiles(photo, columns=1)
    stream = torch.Generator().manual_seed(epoch)
    shape = (6, side, side) if colormap else (6, side, side, 3)
    tiles = torch.randint(0, LEVELS, shape, dtype=torch.uint8, generator=stream)
    block = sheet.tiles(tiles, columns=3)
    return sheet.picture(main=block, colormap=colormap, legend="", about={"kind": "activations", "epoch": epoch})


def animation(pictures, **options):
    return Animation(pictures, {"kind": "evolution", "layer": "conv1"}, "how to read it", **options)


def decoded(data):
    """The frames in RGB, and how long each stays in milliseconds."""
    opened = Image.open(io.BytesIO(data))
    assert opened.format == "GIF"
    assert opened.info["loop"] == 0, "for ever"
    frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(opened)]
    return [frame for frame, _ in frames], [duration for _, duration in frames]


def test_pictures_with_a_colormap_keep_every_color_also_of_their_photographs():
    photos = [torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8) for _ in range(5)]
    pictures = [page(epoch, photo=photo) for epoch, photo in enumerate(photos)]
    frames, durations = decoded(encode(animation(pictures), budget=10**7).data)
    assert durations == [800] * 4 + [2400]
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.array_equal(frame, np.asarray(paint(picture).convert("RGB")))


def test_colormaps_may_differ_from_frame_to_frame():
    pictures = [page(epoch, colormap=name) for epoch, name in enumerate(("viridis", "magma", "RdBu_r"))]
    frames, _ = decoded(encode(animation(pictures), budget=10**7).data)
    assert all(np.array_equal(f, np.asarray(paint(p).convert("RGB"))) for f, p in zip(frames, pictures, strict=True))


@pytest.mark.parametrize("colormap", ["viridis", None])
def test_frames_of_other_sizes_are_padded_with_white(colormap):
    pictures = [page(0, colormap=colormap, lines=3), page(1, colormap=colormap, side=40), page(2, colormap=colormap)]
    encoded = encode(animation(pictures), budget=10**7)
    frames, _ = decoded(encoded.data)
    assert (encoded.width, encoded.height) == (frames[0].shape[1], frames[0].shape[0])
    assert encoded.height == max(picture.height for picture in pictures)
    for frame, picture in zip(frames, pictures, strict=True):
        assert (frame[picture.height :] == WHITE).all()
        assert (frame[: picture.height, : picture.width] != WHITE).any()


def gradient(epoch):
    """A photograph that stays, with a corner that changes."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=-1).copy()
    pixels[:30, :30] = np.random.default_rng(epoch).integers(0, 256, (30, 30, 3))
    pixels[60:, 60:] = WHITE
    return Image.fromarray(pixels)


@pytest.mark.parametrize("count", [3, 40])
def test_photographs_share_one_palette_so_that_what_stays_stays_the_same(count):
    originals = [gradient(epoch) for epoch in range(count)]
    frames, _ = decoded(animate(originals))
    for frame, original in zip(frames, originals, strict=True):
        assert np.array_equal(frame[30:], frames[0][30:])
        assert np.array_equal(frame[:, 30:], frames[0][:, 30:])
        assert (frame[60:, 60:] == WHITE).all(), "the page stays white"
        error = np.abs(frame[30:].astype(int) - np.asarray(original)[30:])
        assert error.mean() < 3.3
    assert not np.array_equal(frames[0], frames[1])


def test_a_little_white_among_many_colors_stays_white():
    stream = np.random.default_rng(0)
    noise = [stream.integers(0, 256, (100, 100, 3)).astype(np.uint8) for _ in range(2)]
    for pixels in noise:
        pixels[:3, :3] = WHITE
    frames, _ = decoded(animate(list(map(Image.fromarray, noise))))
    assert all((frame[:3, :3] == WHITE).all() for frame in frames)


def test_a_palette_without_white_and_other_modes_are_shown_too():
    black = Image.new("P", (8, 8))
    black.putpalette([0, 0, 0])
    frames, _ = decoded(animate([black, Image.new("L", (12, 4), 128), Image.new("RGBA", (4, 12), "red")]))
    assert [tuple(frame[0, 0]) for frame in frames] == [(0, 0, 0), (128, 128, 128), (255, 0, 0)]
    assert all((frame[-1, -1] == WHITE).all() for frame in frames)
    assert frames[0].shape == (12, 12, 3)


def test_an_animation_carries_its_facts_however_many():
    drawn = Animation([page(0), page(1)], {"kind": "evolution", "items": ["Größe 猫"] * 200}, "")
    encoded = encode(drawn)
    assert encoded.suffix == ".gif"
    comment = Image.open(io.BytesIO(encoded.data)).info["comment"]
    assert comment.decode() == drawn.json()
    assert json.loads(comment) == {"v": 1, "kind": "evolution", "items": ["Größe 猫"] * 200}


def test_a_frame_that_is_as_the_last_one_takes_its_time_too():
    _, durations = decoded(animate([gradient(0), gradient(0), gradient(1)], seconds=0.5))
    assert durations == [1000, 1500]


def test_a_single_picture_stands_still():
    encoded = encode(animation([page(0)]))
    assert encoded.suffix == ".gif"
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(encoded.data)).convert("RGB")), np.asarray(paint(page(0)).convert("RGB"))
    )
    with pytest.raises(ValueError, match="`pictures` is empty"):
        animation([])


def test_over_the_budget_frames_go_and_then_colors_but_never_the_first_or_the_last():
    pictures = [page(epoch) for epoch in range(9)]
    whole = len(encode(animation(pictures), budget=10**7).data)
    first, last = (np.asarray(paint(pictures[index]).convert("RGB")) for index in (0, -1))
    counts, sizes = [], []
    for budget in (whole, whole - 1, whole // 2, whole // 4, 1):
        data = encode(animation(pictures, budget=budget)).data
        frames, durations = decoded(data)
        counts.append(len(frames))
        sizes.append(len(data))
        assert len(data) <= budget or budget == 1
        assert durations[-1] == 3 * durations[0]
        if budget >= whole // 2:
            assert np.array_equal(frames[0], first)
            assert np.array_equal(frames[-1], last)
    assert counts == [9, 6, 4, 4, 4]
    assert sizes == sorted(sizes, reverse=True)


def test_moving_to_main_memory_moves_every_picture(monkeypatch):
    moved = []
    monkeypatch.setattr(Picture, "cpu", lambda picture: moved.append(picture) or picture)
    drawn = animation([page(0), page(1)], seconds=0.3, budget=5)
    there = drawn.cpu()
    assert moved == list(drawn.pictures) == list(there.pictures)
    assert (there.seconds, there.budget, there.json()) == (0.3, 5, drawn.json())


def test_photographic_pictures_keep_their_page_white():
    pictures = [page(epoch, colormap=None, photo=rgb(torch.rand(1, 3, 30, 30))) for epoch in range(3)]
    frames, _ = decoded(encode(animation(pictures)).data)
    for frame, picture in zip(frames, pictures, strict=True):
        white = (np.asarray(paint(picture)) == WHITE).all(-1)
        assert (frame[white] == WHITE).all()
