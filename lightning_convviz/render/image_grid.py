"""Images in a grid with a word under each: for notebooks, and for callbacks of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lightning_convviz.render.color import rgb
from lightning_convviz.render.layout import CARD, GAP, MARGIN, PageLayout, Picture, near_square, zoom_for
from lightning_convviz.render.paint import paint


def picture_grid(
    images: Float[Tensor, "n 3 h w"],
    names: Sequence[object],
    *,
    title: str = "",
    lines: Sequence[str] = (),
    legend: str = "",
    about: Mapping[str, Any] | None = None,
) -> Picture:
    """Images with a word under each, as a picture that a callback can return from `draw`.

    Args:
        images: in [0, 1]; `DrawContext.photos` are the probes as such.
        names: what stands below, one for each.
        title: of the page.
        lines: more captions below it.
        legend: how to read it, in Markdown.
        about: facts that travel with the file, by default that this is a grid of these names.

    Raises:
        ValueError: where there is not one name for each image.

    Example:
        >>> import torch
        >>> picture = picture_grid(torch.rand(2, 3, 8, 8), ["cat", "dog"], title="probes")
        >>> [label.text for label in picture.labels]
        ['probes', 'cat', 'dog']
    """
    if len(names) != len(images):
        raise ValueError(f"`names` has {len(names)} items for {len(images)} images. Give one for each.")
    h, w = images.shape[2:]
    columns = near_square(len(images))
    zoom = zoom_for(max(h, w), columns)
    gap = max(GAP, (CARD - 2 * MARGIN) // columns - w * zoom)
    page = PageLayout(2 * MARGIN + columns * (w * zoom + GAP))
    if title:
        page.write(title, bold=True)
    for line in lines:
        page.write(line)
    tiles = page.tiles(rgb(images), columns=columns, zoom=zoom, gap=gap, below=page.line)
    for index, name in enumerate(names):
        x, y = tiles.corner(index)
        page.label(str(name), x, y + tiles.size[1], width=tiles.dx - GAP)
    facts = {"kind": "grid", "columns": [str(name) for name in names]} if about is None else about
    return page.picture(main=tiles, colormap=None, legend=legend, about=facts)


def grid(images: Float[Tensor, "n 3 h w"], names: Sequence[object], *, title: str = "") -> Image.Image:
    """Images with a word under each, for a notebook, which shows it.

    Args:
        images: in [0, 1]; `pixels.estimate(examples).display(...)` makes such of model inputs.
        names: what stands below, one for each.
        title: of the page.

    Raises:
        ValueError: where there is not one name for each image.

    Example:
        >>> import torch
        >>> grid(torch.rand(4, 3, 32, 32), ["a", "b", "c", "d"], title="noise").size
        (350, 385)
    """
    return paint(picture_grid(images, names, title=title))
