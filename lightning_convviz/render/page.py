"""A page that matplotlib draws, of lines and texts alone: nothing that a user's style could change.

Only matplotlib's objects: neither `pyplot` nor settings, which the training thread may be using. And no `Axes`, which
read dozens of settings when they are made, and again when they are drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lightning_convviz.render.layout import CARD, INK, font
from lightning_convviz.render.paint import Array

Color = tuple[int, int, int]

# All in pixels of a page that TensorBoard's card shows at half its size.
WIDTH = 2 * CARD
EDGE = 10
TITLE, TEXT, SMALL = 24, 21, 18  # heights of letters


@dataclass
class Page:
    """Lines and texts in pixels from the left upper corner; as high as what was put on it.

    Attributes:
        y: the next free line of pixels.
    """

    y: float = EDGE
    _artists: list[Any] = field(default_factory=list)
    _colors: list[Color] = field(default_factory=list)

    def text(
        self, text: str, x: float, y: float, *, size: int = TEXT, bold: bool = False, color: Color = INK, **options: Any
    ) -> None:
        """A line of text; `x` is where it begins, `y` its middle."""
        from matplotlib.font_manager import FontProperties
        from matplotlib.text import Text

        self._colors.append(color)
        face = FontProperties(fname=str(font(size, bold).path), size=size)
        options = {"va": "center", "ha": "left", "rotation_mode": "anchor", "antialiased": True, **options}
        self._artists.append(
            Text(x, y, text, color=_share(color), fontproperties=face, usetex=False, parse_math=False, **options)
        )

    def line(
        self, x: Sequence[float], y: Sequence[float], *, color: Color = INK, width: float = 1, **more: Any
    ) -> None:
        """A line through points, with gaps at NaN, or marks on them alone where `width` is 0."""
        from matplotlib.lines import Line2D

        self._colors.append(color)
        paint = _share(color)
        options: dict[str, Any] = {"linestyle": "-" if width else "", "marker": "", "antialiased": True}
        options |= {"solid_capstyle": "butt", "dash_capstyle": "butt"}
        options |= {"solid_joinstyle": "round", "dash_joinstyle": "round"}
        options |= {"markerfacecolor": paint, "markeredgecolor": paint, "markeredgewidth": 0, **more}
        self._artists.append(Line2D(x, y, color=paint, linewidth=width, **options))

    def pixels(self) -> Array:
        """What was drawn, on white, in RGB."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        height = math.ceil(self.y + EDGE)
        figure = Figure((WIDTH / 72, height / 72), 72, facecolor="white", edgecolor="white")
        down = Affine2D().scale(1, -1).translate(0, height)
        for order, artist in enumerate(self._artists):
            artist.set(transform=down, zorder=order, clip_on=False)
            figure.add_artist(artist)
        for artist in (figure.patch, *self._artists):  # a user's sketch of everything, as `plt.xkcd` makes it
            artist.set(path_effects=[], sketch_params=None)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]

    def reduced(self, pixels: Array, tones: int) -> Image.Image:
        """The page with a palette: `tones` steps from white to each color that was used.

        So lines have the very color that the key has; an adaptive palette mixes neighbors, and Pillow's search for the
        nearest entry is off by some, which grays the page.
        """
        weights = np.linspace(0, 1, tones + 1)[1:, None, None]
        colors = 255 - weights * (255 - np.array(list(dict.fromkeys(self._colors)), dtype=float).reshape(-1, 3))
        palette = np.concatenate([np.full((1, 3), 255), colors.round().astype(int).reshape(-1, 3)])[:256]
        packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
        inked = packed != 0xFFFFFF
        found, places = np.unique(packed[inked], return_inverse=True)
        known = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(int)
        codes = np.zeros(packed.shape, dtype=np.uint8)
        codes[inked] = ((known[:, None] - palette) ** 2).sum(-1).argmin(1)[places]
        image = Image.fromarray(codes)  # mode "L"; a palette makes the gray values codes
        image.putpalette(palette.astype(np.uint8).tobytes())
        return image


def _share(color: Color) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255
