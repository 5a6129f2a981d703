"""Pictures one after the other, as a GIF: every browser and every logger's page plays it."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from lightning_convviz.render.layout import Picture
from lightning_convviz.render.paint import WHITE, Array, Encoded, paint

BUDGET = 400_000  # bytes of a file: there is one for each tag, at the end of a run
SECONDS = 0.8
LAST = 3  # times as long as any other the last frame stays
PALETTE = 256
SAMPLED = 100_000  # pixels of all frames together that a palette is made from
FEWEST = 4  # frames that stay before colors go


@dataclass(frozen=True)
class Animation:
    """Pictures of one thing at several moments, shown one after the other.

    Attributes:
        pictures: the frames, oldest first; the last one stays longer, then it begins anew.
        about: the facts that travel with the file, as those of a `Picture`.
        legend: how to read animations of this tag, in Markdown.
        budget: how many bytes its file should take at most.
        seconds: that each frame stays.

    Raises:
        ValueError: without a picture.
    """

    pictures: Sequence[Picture]
    about: Mapping[str, Any]
    legend: str
    budget: int = BUDGET
    seconds: float = SECONDS

    def __post_init__(self) -> None:
        if not self.pictures:
            raise ValueError("`pictures` is empty. Give an animation one frame at least.")

    def cpu(self) -> "Animation":
        """The same animation with its tiles in main memory."""
        return replace(self, pictures=[picture.cpu() for picture in self.pictures])

    def json(self) -> str:
        """`about` as compact JSON; `v` counts the versions of this format."""
        return json.dumps({"v": 1, **self.about}, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def encode_animation(animation: Animation, *, budget: int | None = None) -> Encoded:
    """The animation as a GIF that carries its facts in a comment."""
    frames = [paint(picture) for picture in animation.pictures]
    budget = animation.budget if budget is None else budget
    data = animate(frames, seconds=animation.seconds, comment=animation.json().encode(), budget=budget)
    return Encoded(data, max(frame.width for frame in frames), max(frame.height for frame in frames))


def animate(
    frames: Sequence[Image.Image], *, seconds: float = SECONDS, comment: bytes = b"", budget: int | None = None
) -> bytes:
    """Images as a GIF that plays for ever; the last one stays longer.

    Images with palettes keep their very colors. Others share one palette, without dithering: what is the same in two
    frames stays the same.

    Args:
        frames: of any size and mode, one at least; smaller ones are padded with white on the right and below.
        seconds: that each stays, in hundredths.
        comment: what the file carries, any number of bytes.
        budget: of bytes. What is over it loses frames, never the first and the last, down to four, and then colors. It
            may still be over.

    Example:
        >>> still = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
        >>> Image.open(io.BytesIO(animate(still, comment=b"two colors"))).info["comment"]
        b'two colors'
    """
    width, height = max(frame.width for frame in frames), max(frame.height for frame in frames)
    even = [_padded(frame, (width, height)) for frame in frames]
    for count, colors in _smaller_settings(len(even)):
        kept = [even[round(index)] for index in np.linspace(0, len(even) - 1, count)]
        data = _gif(_with_palettes(kept, colors), seconds, comment)
        if budget is None or len(data) <= budget:
            break
    return data


def _smaller_settings(count: int) -> Iterator[tuple[int, int]]:
    """Numbers of frames and of colors, ever fewer.

    >>> list(_smaller_settings(9))
    [(9, 256), (6, 256), (4, 256), (4, 64), (4, 16)]
    """
    yield count, PALETTE
    while count > FEWEST:
        count = max(FEWEST, count * 2 // 3)
        yield count, PALETTE
    yield from ((count, colors) for colors in (64, 16))


def _gif(frames: Sequence[Image.Image], seconds: float, comment: bytes) -> bytes:
    still = max(2, round(100 * seconds)) * 10  # GIF counts hundredths; browsers slow down what is shorter than two
    shown = [still] * (len(frames) - 1) + [LAST * still]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format="GIF", save_all=True, append_images=frames[1:], duration=shown, loop=0, comment=comment
    )
    return buffer.getvalue()


def _padded(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image on white, without what else it carried; with its own palette, if that has room for the white."""
    mode = "P" if frame.mode == "P" and "transparency" not in frame.info else "RGB"
    white: Any = WHITE
    if mode == "P":
        white = 0 if frame.size == size else _index(frame, WHITE)
        mode = "RGB" if white is None else "P"
    page = Image.new(mode, size, WHITE if mode == "RGB" else white)
    if mode == "P":
        page.putpalette(frame.getpalette() or [])
    page.paste(frame.convert(mode))
    return page


def _index(frame: Image.Image, color: tuple[int, int, int]) -> int | None:
    """Which entry of an image's palette a color is."""
    entries = np.array(frame.getpalette()).reshape(-1, 3)
    found = np.flatnonzero((entries == color).all(1))
    return int(found[0]) if len(found) else None


def _with_palettes(frames: Sequence[Image.Image], colors: int) -> Sequence[Image.Image]:
    """The frames themselves where each has a palette of its own and may keep it; else with one that all share."""
    if colors == PALETTE and all(frame.mode == "P" for frame in frames):
        return frames
    pixels = [np.asarray(frame.convert("RGB")) for frame in frames]
    step = -(-sum(each[..., 0].size for each in pixels) // SAMPLED)
    sampled = np.concatenate([each.reshape(-1, 3)[::step] for each in pixels])[None]
    # One round of k-means halves the error of the cut.
    strip = Image.fromarray(sampled).quantize(colors - 1, Image.Quantize.MEDIANCUT, kmeans=1)
    palette = np.array([*WHITE, *(strip.getpalette() or [])], dtype=np.uint8).reshape(-1, 3)[:colors]
    return [_coded(each, palette) for each in pixels]


def _coded(pixels: Array, palette: Array) -> Image.Image:
    """An image in the nearest colors of a palette; of colors that agree in six bits, in the same one.

    Pillow's own search for the nearest takes the lowest of these for all, and grays what is white.
    """
    cells = pixels.astype(np.int32) >> 2
    cells = cells[..., 0] << 12 | cells[..., 1] << 6 | cells[..., 2]
    used = np.flatnonzero(np.bincount(cells.ravel(), minlength=1 << 18))
    middle = (np.stack([used >> 12, used >> 6 & 63, used & 63], axis=1) * 4 + 1.5).astype(np.float32)
    entries = palette.astype(np.float32)
    nearest = np.zeros(1 << 18, dtype=np.uint8)
    nearest[used] = ((entries**2).sum(1) - 2 * middle @ entries.T).argmin(1)
    image = Image.fromarray(nearest[cells])  # mode "L"; a palette makes the gray values codes
    image.putpalette(palette.tobytes())
    return image
