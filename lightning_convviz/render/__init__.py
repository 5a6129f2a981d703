"""Tensors -> pictures; knows neither models nor Lightning.

`color` turns values into color codes on the device, `sheet` lays tiles and captions out, `paint` makes the image file.
`heat` and `filters` make the pages of heatmaps and of patterns.
"""

from lightning_convviz.render.color import colormap, encode_values, overlay, rgb
from lightning_convviz.render.filters import grid
from lightning_convviz.render.paint import Encoded, encode, paint
from lightning_convviz.render.sheet import Picture, Sheet

__all__ = ["Encoded", "Picture", "Sheet", "colormap", "encode", "encode_values", "grid", "overlay", "paint", "rgb"]
