"""The pictures that channels answer to most, a few for each channel, running over all that pass.

Everything stays on the device, and nothing waits for it: this runs inside a user's own validation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lightning_convviz.layer_stats.responses import resize_like, resize_to_side

KEPT = 3  # pictures of a channel
SIDE = 96  # pixels: of larger images a smaller copy is kept
NONE = -torch.inf  # the value of a place that no picture has taken
Batch = tuple[Float[Tensor, "n k"], Int[Tensor, "n k"], tuple[int, int]]


@dataclass(frozen=True)
class TopImages:
    """The m pictures that each of k channels answered to most, the strongest first.

    Attributes:
        channels: which ones.
        count: how many pictures there were.
        peaks: (k, m), the largest value of the channel in each; -inf where there were fewer pictures.
        pictures: (k, m), which pictures, counted from 0 as they passed; -1 where there were fewer.
        images: (k, m, c, h, w).
        places: (k, m, 2), where the value is in the image, y and x as shares of its height and width, in (0, 1).
    """

    channels: list[int]
    count: int
    peaks: Float[Tensor, "k m"]
    pictures: Int[Tensor, "k m"]
    images: Float[Tensor, "k m c h w"]
    places: Float[Tensor, "k m 2"]

    def cpu(self) -> "TopImages":
        """The same in main memory."""
        moved: dict[str, Any] = {name: each.cpu() for name, each in vars(self).items() if isinstance(each, Tensor)}
        return replace(self, **moved)


class TopImagesAccumulator:
    """The running best pictures of some channels of a layer: `kept` for each, whatever passes.

    Of equal values the earlier picture stays, and a value that is no number wins nothing.

    Args:
        choose: how many channels the layer has -> which of them.
        kept: pictures of each.

    Example:
        >>> best = TopImagesAccumulator(lambda count: [0], kept=2)
        >>> maps = torch.tensor([0.0, 5.0, 2.0]).view(3, 1, 1, 1)
        >>> best.update(best.reduce(maps), torch.zeros(3, 3, 4, 4))
        >>> best.compute().peaks, best.compute().pictures
        (tensor([[5., 2.]]), tensor([[1, 2]]))
    """

    def __init__(self, choose: Callable[[int], Sequence[int]], kept: int = KEPT) -> None:
        self.choose = choose
        self.kept = kept
        self._channels: list[int] = []
        self._index: Tensor | None = None
        self._count = 0
        self._state: dict[str, Tensor] | None = None

    def reduce(self, output: Float[Tensor, "n c y x"]) -> Batch:
        """Of each image and chosen channel the largest value and its position `y · X + x`; the size of the maps."""
        if self._index is None:
            self._channels = list(self.choose(output.shape[1]))
            self._index = torch.as_tensor(self._channels, dtype=torch.long).to(output.device)
        chosen = output.index_select(1, self._index).flatten(2)
        peak, place = chosen.to(torch.promote_types(chosen.dtype, torch.float32)).max(2)
        return peak.nan_to_num(NONE), place, (output.shape[2], output.shape[3])

    def update(self, batch: Batch, images: Float[Tensor, "n c h w"]) -> None:
        """Take a batch: what `reduce` made of a layer's output, and its images.

        Images of another shape than the first ones are kept at the first ones' size.
        """
        with torch.inference_mode(False), torch.no_grad():
            peak, place, (y, x) = batch
            rows = peak.sort(dim=0, descending=True, stable=True).indices[: self.kept]
            where = place.gather(0, rows)
            new = {
                "peaks": peak.gather(0, rows).T, "pictures": rows.T + self._count,
                "images": _picked(images.detach(), rows.T).to(peak.device),
                "places": torch.stack([(where // x + 0.5) / y, (where % x + 0.5) / x], 2).transpose(0, 1),
            }  # fmt: skip
            self._count += len(images)
            self._state = _best(_empty(new, self.kept) if self._state is None else self._state, new)

    def compute(self) -> TopImages | None:
        """The best so far; None where nothing has passed."""
        return None if self._state is None else TopImages(self._channels, self._count, **self._state)

    @staticmethod
    def merge(parts: Sequence[TopImages | None]) -> TopImages | None:
        """What several processes found, each in a part of the pictures, in main memory.

        Pictures are numbered as Lightning's sampler deals them out: the i-th of process r of R is number `i R + r`. One
        that two processes were dealt, which fills up the last batch, counts once.
        """
        found = [(rank, part.cpu()) for rank, part in enumerate(parts) if part is not None]
        found = [(rank, part) for rank, part in found if part.channels == found[0][1].channels]
        if not found:
            return None
        state = _numbered(*found[0], len(parts))
        for rank, part in found[1:]:
            state = _best(state, _once(state, _numbered(rank, part, len(parts))))
        return TopImages(found[0][1].channels, sum(part.count for _, part in found), **state)


def _numbered(rank: int, part: TopImages, world: int) -> dict[str, Tensor]:
    numbers = torch.where(part.pictures < 0, -1, part.pictures * world + rank)
    return {"peaks": part.peaks, "pictures": numbers, "images": part.images, "places": part.places}


def _picked(images: Float[Tensor, "n c h w"], rows: Int[Tensor, "k m"]) -> Float[Tensor, "k m c v u"]:
    """Small copies of some images: of whichever are fewer, these or all."""
    rows = rows.to(images.device)
    if rows.numel() > len(images):
        return resize_to_side(images, SIDE)[rows]
    return _rows(resize_to_side(images[rows.flatten()], SIDE), len(rows))


def _rows(images: Float[Tensor, "km c h w"], k: int) -> Float[Tensor, "k m c h w"]:
    return images.reshape(k, -1, *images.shape[1:])


def _empty(like: dict[str, Tensor], kept: int) -> dict[str, Tensor]:
    """A state in which no place is taken."""
    empty = {name: each.new_zeros((len(each), kept, *each.shape[2:])) for name, each in like.items()}
    empty["peaks"].fill_(NONE)
    empty["pictures"].fill_(-1)
    return empty


def _best(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """The best of both for each channel; of equal values those of the lower number."""
    images = new["images"]
    if images.shape[2:] != old["images"].shape[2:]:
        images = _rows(resize_like(images.flatten(0, 1), old["images"].flatten(0, 1)), len(images))
    both = {name: torch.cat([old[name], {**new, "images": images}[name].to(old[name])], 1) for name in old}
    earlier = both["pictures"].argsort(dim=1, stable=True)
    order = earlier.gather(1, both["peaks"].gather(1, earlier).sort(dim=1, descending=True, stable=True).indices)
    row = torch.arange(len(order), device=order.device)[:, None]
    return {name: each[row, order[:, : old["peaks"].shape[1]]] for name, each in both.items()}


def _once(old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """`new` without the pictures that `old` has."""
    if new["images"].shape != old["images"].shape:
        return new
    alike = new["peaks"][:, :, None] == old["peaks"][:, None]
    alike &= (new["images"][:, :, None] == old["images"][:, None]).flatten(3).all(3)
    repeated = alike.any(2)
    return {
        **new, "peaks": new["peaks"].masked_fill(repeated, NONE), "pictures": new["pictures"].masked_fill(repeated, -1)
    }  # fmt: skip
