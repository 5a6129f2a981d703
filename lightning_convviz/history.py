"""Film strips: a few past drawings of the same pictures, bounded and small enough for a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One drawing: maps as value codes with their scale, not as colors, so that a later page can scale them anew.

    Attributes:
        number: which drawing it is, from 1.
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        codes: (n, y, x), 255 at `high`.
        high: a value.
        facts: plain values, one dict for each of the n pictures.
    """

    number: int
    epoch: int
    step: int
    codes: UInt8[Tensor, "n y x"]
    high: float
    facts: Sequence[Mapping[str, Any]]

    @classmethod
    def of(
        cls, maps: Float[Tensor, "n y x"], facts: Sequence[Mapping[str, Any]], *, number: int, epoch: int, step: int
    ) -> "Frame":
        """A frame of maps, of which values below 0 are not kept.

        >>> Frame.of(torch.tensor([[[-1.0, 1.0, 2.0]]]), [{}], number=1, epoch=0, step=9).maps()
        tensor([[[0.0000, 1.0039, 2.0000]]])
        """
        maps = maps.detach().float().cpu().nan_to_num(0, 0, 0).clamp(min=0)
        high = float(maps.max()) if maps.numel() else 0.0
        codes = (maps * (255 / max(high, 1e-12))).round().to(torch.uint8)
        return cls(number, epoch, step, codes, high, [dict(each) for each in facts])

    def maps(self) -> Float[Tensor, "n y x"]:
        """The values, within half a code."""
        return self.codes.float() * (self.high / 255)


class History:
    """A few frames: the first, the last, and between them some at distances that grow as the run does.

    Attributes:
        limit: how many are kept.
        frames: oldest first.

    Example:
        >>> history = History(4)
        >>> for number in range(1, 17):
        ...     history.add(Frame(number, number - 1, number, torch.zeros(1, 1, 1, dtype=torch.uint8), 1.0, [{}]))
        >>> [frame.number for frame in history.frames]
        [1, 3, 9, 16]
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.frames: list[Frame] = []

    def add(self, frame: Frame) -> None:
        """The newest drawing; one that is least missed goes."""
        self.frames.append(frame)
        if len(self.frames) > self.limit:
            # The one whose neighbors are nearest to each other in the logarithm: of equals the later.
            inner = range(1, len(self.frames) - 1)
            numbers = [each.number for each in self.frames]
            del self.frames[min(inner, key=lambda i: (numbers[i + 1] / numbers[i - 1], -i))]

    def state(self) -> list[dict[str, Any]]:
        """The frames as tensors and plain values."""
        return [{**vars(frame), "facts": [dict(each) for each in frame.facts]} for frame in self.frames]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the frames of an earlier run."""
        self.frames = [Frame(**frame) for frame in state]
