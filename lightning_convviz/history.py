"""Film strips: a few past drawings of the same pictures, bounded and small enough for a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

KEPT = 9  # drawings in a strip: eight, and the current one


@dataclass(frozen=True)
class Frame:
    """One drawing: maps or images as value codes with their scale, not as colors: a later page scales them anew.

    Attributes:
        number: which drawing it is, from 1; 0 is the initial network.
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        codes: (n, ...), 255 at `high`.
        high: a value.
        facts: plain values, one dict for each of the n pictures.
    """

    number: int
    epoch: int
    step: int
    codes: UInt8[Tensor, "n ..."]
    high: float
    facts: Sequence[Mapping[str, Any]]

    @classmethod
    def of(
        cls, maps: Float[Tensor, "n ..."], facts: Sequence[Mapping[str, Any]], *, number: int, epoch: int, step: int
    ) -> "Frame":
        """A frame of maps, of which values below 0 are not kept.

        >>> Frame.of(torch.tensor([[[-1.0, 1.0, 2.0]]]), [{}], number=1, epoch=0, step=9).maps()
        tensor([[[0.0000, 1.0039, 2.0000]]])
        """
        maps = maps.detach().float().cpu().nan_to_num(0, 0, 0).clamp(min=0)
        high = float(maps.max()) if maps.numel() else 0.0
        codes = (maps * (255 / max(high, 1e-12))).round().to(torch.uint8)
        return cls(number, epoch, step, codes, high, [dict(each) for each in facts])

    def maps(self) -> Float[Tensor, "n ..."]:
        """The values, within half a code."""
        return self.codes.float() * (self.high / 255)

    def take(self, rows: Sequence[int]) -> "Frame":
        """Some of the pictures, in this order."""
        return replace(self, codes=self.codes[list(rows)], facts=[self.facts[row] for row in rows])


class History:
    """A few frames: the first, the last, and between them some at distances that grow as the run does.

    Attributes:
        limit: how many are kept.
        frames: oldest first.

    Example:
        >>> history = History(5)
        >>> for number in range(17):
        ...     history.note(torch.zeros(1, 1, 1), [{}], epoch=number, step=number, initial=number == 0)
        >>> [frame.number for frame in history.frames]
        [0, 1, 3, 7, 16]
    """

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = limit
        self.frames: list[Frame] = []

    def note(
        self,
        maps: Float[Tensor, "n ..."],
        facts: Sequence[Mapping[str, Any]],
        *,
        epoch: int,
        step: int,
        initial: bool = False,
    ) -> None:
        """One more drawing."""
        number = 0 if initial else self.frames[-1].number + 1 if self.frames else 1
        self.add(Frame.of(maps, facts, number=number, epoch=epoch, step=step))

    def add(self, frame: Frame) -> None:
        """The newest drawing; one that is least missed goes."""
        self.frames.append(frame)
        if len(self.frames) > self.limit:
            # The one whose neighbors are nearest to each other in the logarithm: of equals the later.
            inner = range(1, len(self.frames) - 1)
            numbers = [each.number + 1 for each in self.frames]
            del self.frames[min(inner, key=lambda i: (numbers[i + 1] / numbers[i - 1], -i))]

    def titles(self) -> list[str]:
        """What the drawings are called: by epoch, or where several are of one by step.

        >>> history = History()
        >>> history.note(torch.zeros(1, 1, 1), [{}], epoch=0, step=0, initial=True)
        >>> history.note(torch.zeros(1, 1, 1), [{}], epoch=0, step=50)
        >>> history.titles()
        ['initial', 'ep. 0']
        """
        epochs = [frame.epoch for frame in self.frames if frame.number]
        distinct = len(set(epochs)) == len(epochs)
        called = [f"ep. {frame.epoch}" if distinct else f"s. {frame.step}" for frame in self.frames]
        return [name if frame.number else "initial" for name, frame in zip(called, self.frames, strict=True)]

    def state(self) -> list[dict[str, Any]]:
        """The frames as tensors and plain values."""
        return [{**vars(frame), "facts": [dict(each) for each in frame.facts]} for frame in self.frames]

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the frames of an earlier run."""
        self.frames = [Frame(**frame) for frame in state]
