"""Tensors -> pictures; knows neither models nor Lightning.

`color` turns values into color codes on the device, `sheet` lays tiles and captions out, `paint` makes the image file.
"""

from lightning_convviz.render.color import colormap, encode_values, overlay, rgb
from lightning_convviz.render.paint import Encoded, encode, paint
from lightning_convviz.render.sheet import Picture, Sheet

__all__ = ["Encoded", "Picture", "Sheet", "colormap", "encode", "encode_values", "overlay", "paint", "rgb"]
