"""Pictures of a tag as one GIF, written picture by picture: however long the run, one is held at a time."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_convviz.export.folders import LoggedImage, TagSeries, replacing

if TYPE_CHECKING:
    from PIL import Image

PAUSE = 50  # hundredths of a second that a picture stays
LAST = 200  # likewise, the last one
FOREVER = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
END = b"\x3b"
PAPER = (255, 255, 255)  # around pictures that are smaller than the largest


def animate(strip: TagSeries) -> Path | None:
    """Write `animation.gif` beside a tag's pictures; None where there is nothing to animate.

    That is where there is only one picture, or where they are animations themselves.
    """
    shots = [shot for shot in strip.ordered() if shot.path.suffix != ".gif"]
    size = _largest(shots)
    if len(shots) < 2 or size is None:
        return None
    path = strip.folder / "animation.gif"
    with replacing(path) as file:
        file.write(b"GIF89a" + _word(size[0]) + _word(size[1]) + b"\x70\x00\x00" + FOREVER)
        for shot in shots:
            frame = _opened(shot.path, size)
            if frame is not None:
                file.write(_block(frame, LAST if shot is shots[-1] else PAUSE))
        file.write(END)
    return path


def _largest(shots: Sequence[LoggedImage]) -> tuple[int, int] | None:
    from lightning_convviz.export.images import inspect

    infos = [inspect(shot.path.read_bytes()) for shot in shots]
    sizes = [(info.width, info.height) for info in infos if info.width]
    return (max(width for width, _ in sizes), max(height for _, height in sizes)) if sizes else None


def _opened(path: Path, size: tuple[int, int]) -> "Image.Image | None":
    """A picture on paper of that size, in at most 256 colors; None where its file is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            rgba = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError):
        return None
    paper = Image.new("RGB", size, PAPER)
    paper.paste(rgba, mask=rgba)
    return _indexed(paper)


def _indexed(paper: "Image.Image") -> "Image.Image":
    """With a palette: all its colors where they are few enough, as those of our maps are; else the nearest of 256."""
    import numpy as np
    from PIL import Image

    if paper.getcolors(256) is None:
        return paper.quantize(256, method=Image.Quantize.FASTOCTREE)
    values = np.asarray(paper).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colors, codes = np.unique(values, return_inverse=True)
    image = Image.fromarray(codes.reshape(values.shape).astype(np.uint8))
    image.putpalette(np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8).tobytes())
    return image


def _block(frame: "Image.Image", pause: int) -> bytes:
    """A picture as a part of an animation: what Pillow writes for it alone, with its colors as its own table."""
    buffer = io.BytesIO()
    frame.save(buffer, format="GIF", interlace=0, optimize=False)
    data = buffer.getvalue()
    bits = data[10] & 7
    colors = 3 << bits + 1
    table, rest = data[13 : 13 + colors], data[13 + colors : -1]
    while rest[:1] == b"\x21":  # an extension: what it says is said anew
        rest = rest[2:]
        while rest[0]:
            rest = rest[rest[0] + 1 :]
        rest = rest[1:]
    control = b"\x21\xf9\x04\x04" + _word(pause) + b"\x00\x00"
    return control + rest[:9] + bytes([0x80 | bits]) + table + rest[10:]


def _word(number: int) -> bytes:
    return number.to_bytes(2, "little")
