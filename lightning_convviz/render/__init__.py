"""Tensors -> pictures; knows neither models nor Lightning.

`color` turns values into color codes on the device, `layout` lays tiles and captions out, `paint` makes the image file.
`heat` makes the pages of heatmaps, `image_grid` images with a word under each, `chart` draws numbers over depth and
epoch, `animation` shows pictures one after the other.
"""

from typing import TypeAlias

from lightning_convviz.render.animation import Animation, animate, encode_animation
from lightning_convviz.render.chart import Chart, Panel
from lightning_convviz.render.color import colormap, encode_values, overlay, rgb
from lightning_convviz.render.image_grid import grid, picture_grid
from lightning_convviz.render.layout import PageLayout, Picture
from lightning_convviz.render.paint import Encoded, encode_picture, paint
from lightning_convviz.render.plot import encode_chart

# Whatever becomes an image file; each has `cpu()`, `json()`, a `legend` and a `budget`.
Drawable: TypeAlias = Picture | Chart | Animation


def encode(drawable: Drawable, *, budget: int | None = None) -> Encoded:
    """A picture, a chart or an animation as an image file that carries its facts.

    Args:
        drawable: what to make a file of.
        budget: how many bytes it should take at most; by default the drawable's own.
    """
    if isinstance(drawable, Chart):
        return encode_chart(drawable, budget=budget)
    if isinstance(drawable, Animation):
        return encode_animation(drawable, budget=budget)
    return encode_picture(drawable, budget=budget)


__all__ = [
    "Animation",
    "Chart",
    "Drawable",
    "Encoded",
    "PageLayout",
    "Panel",
    "Picture",
    "animate",
    "colormap",
    "encode",
    "encode_values",
    "grid",
    "overlay",
    "paint",
    "picture_grid",
    "rgb",
]
