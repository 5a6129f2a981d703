"""Picture -> image file, in main memory: done by the thread that writes, not by the one that trains."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lightning_convviz.render.color import LEVELS, NOT_A_NUMBER, PAGE, PHOTO_COLORS, TONES, colormap
from lightning_convviz.render.layout import INK, Picture, TileGrid, font

Array = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

WHITE = (255, 255, 255)
MAGENTA = (255, 0, 255)

# What a JPEG's comment can hold, in bytes; with more to tell, a picture stays a PNG whatever its size.
JPEG_COMMENT = 65_533


@dataclass(frozen=True)
class Encoded:
    """An image file in memory: its bytes and its size in pixels."""

    data: bytes
    width: int
    height: int

    @property
    def suffix(self) -> str:
        """What a file of it is called: `.png`, `.gif` or `.jpg`."""
        return {b"\x89PNG": ".png", b"GIF8": ".gif"}.get(self.data[:4], ".jpg")


def encode_picture(picture: Picture, *, budget: int | None = None) -> Encoded:
    """The picture as a PNG that carries its data in a text chunk `convviz`.

    Maps are written with a palette: every value code can be read back. A photographic picture that comes out over
    `budget` bytes (by default the picture's own) becomes a JPEG of quality 90, or as low as 35 to keep
    the budget, with the data in its comment.
    """
    budget = picture.budget if budget is None else budget
    image = paint(picture)
    facts = picture.json().encode()
    jpegs = [_jpeg(quality, facts) for quality in (90, 75, 60, 45, 35)] if image.mode == "RGB" else []
    if len(facts) > JPEG_COMMENT:
        jpegs = []
    # A large photograph's PNG takes ten times a JPEG's time, only to be thrown away.
    large = 3 * image.width * image.height > 4 * budget
    for options in jpegs if jpegs and large else [png_options(picture.json()), *jpegs]:
        buffer = io.BytesIO()
        image.save(buffer, **options)
        if buffer.tell() <= budget:
            break
    return Encoded(buffer.getvalue(), *image.size)


def png_options(facts: str) -> dict[str, Any]:
    """What Pillow's `save` is told, for a PNG that carries its facts."""
    info = PngInfo()
    info.add_itxt("convviz", facts, zip=True)
    return {"format": "PNG", "pnginfo": info, "compress_level": 6}


def _jpeg(quality: int, facts: bytes) -> dict[str, Any]:
    return {"format": "JPEG", "quality": quality, "comment": facts}


def paint(picture: Picture) -> Image.Image:
    """The picture as an image: of palette codes where it has a colormap, else in RGB."""
    picture = picture.cpu()
    return _painted_codes(picture) if picture.colormap else _painted_rgb(picture)


def _painted_codes(picture: Picture) -> Image.Image:
    canvas = np.full((picture.height, picture.width), PAGE, dtype=np.uint8)
    photos = [block for block in picture.blocks if block.tiles.ndim == 4]
    palette, codes = _photo_palette(photos)
    for block in picture.blocks:
        _place(canvas, block, codes.pop(0) if block.tiles.ndim == 4 else block.tiles.numpy())
    text = np.asarray(_text_mask(picture))
    tones = PAGE + np.round(text * ((TONES - 1) / 255)).astype(np.uint8)
    canvas = np.where(text > 255 / TONES / 2, tones, canvas)
    image = Image.fromarray(canvas)  # mode "L"; a palette makes the gray values codes
    image.putpalette(_palette(picture.colormap or "viridis", palette).tobytes())
    return image


def _painted_rgb(picture: Picture) -> Image.Image:
    canvas = np.full((picture.height, picture.width, 3), 255, dtype=np.uint8)
    ramp = colormap("inferno").numpy()
    for block in picture.blocks:
        _place(canvas, block, block.tiles.numpy() if block.tiles.ndim == 4 else ramp[block.tiles.numpy()])
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for label in picture.labels:
        if label.boxed:
            x, y, right, bottom = draw.textbbox((label.x, label.y), label.text, font(label.size, label.bold))
            draw.rectangle((x - 2, y - 2, right + 2, bottom + 2), WHITE)
    for color in dict.fromkeys(label.color for label in picture.labels):
        image.paste(color, mask=_text_mask(picture, color))
    for frame in picture.frames:
        draw.rectangle((frame.x - 2, frame.y - 2, frame.x + frame.w + 1, frame.y + frame.h + 1), None, frame.color, 2)
    return image


def _place(canvas: Array, block: TileGrid, tiles: Array) -> None:
    w, h = block.size
    for index, tile in enumerate(tiles):
        x, y = block.corner(index)
        canvas[y : y + h, x : x + w] = tile.repeat(block.zoom, 0).repeat(block.zoom, 1)


def _text_mask(picture: Picture, color: tuple[int, int, int] | None = None) -> Image.Image:
    """How much ink there is at each pixel, of one color or of all."""
    mask = Image.new("L", (picture.width, picture.height))
    draw = ImageDraw.Draw(mask)
    for label in picture.labels:
        if color in (None, label.color):
            draw.text((label.x, label.y), label.text, fill=255, font=font(label.size, label.bold))
    return mask


def _photo_palette(blocks: list[TileGrid]) -> tuple[UInt8[Tensor, "colors 3"], list[Array]]:
    """The colors that stand for the photographs' own, and the photographs in codes of these."""
    if not blocks:
        return torch.zeros(0, 3, dtype=torch.uint8), []
    pixels = torch.cat([block.tiles.reshape(-1, 3) for block in blocks])
    strip = Image.fromarray(pixels[None].numpy()).quantize(PHOTO_COLORS, Image.Quantize.MEDIANCUT)
    colors = torch.tensor(strip.getpalette() or [0, 0, 0], dtype=torch.uint8).reshape(-1, 3)
    codes = np.split(np.asarray(strip)[0] + LEVELS, np.cumsum([block.tiles[..., 0].numel() for block in blocks])[:-1])
    return colors, [each.reshape(block.tiles.shape[:3]) for each, block in zip(codes, blocks, strict=True)]


def _palette(name: str, photos: UInt8[Tensor, "colors 3"]) -> Array:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:LEVELS] = colormap(name).numpy()
    palette[LEVELS : LEVELS + len(photos)] = photos.numpy()
    weights = np.linspace(0, 1, TONES)[:, None]
    palette[PAGE : PAGE + TONES] = (1 - weights) * np.array(WHITE) + weights * np.array(INK)
    palette[NOT_A_NUMBER] = MAGENTA
    return palette
