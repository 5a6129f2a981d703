"""Film strips: a few past drawings of the same pictures, bounded and small enough for a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

KEPT = 9  # drawings in a strip: eight, and the current one


@dataclass(frozen=True)
class Snapshot:
    """Which network is looked at.

    Attributes:
        epoch: as Lightning counts, from 0.
        step: at which Lightning logs the metrics of the same validation.
        caption: the same for a reader.
        initial: whether this is the network before its first step.
        training: whether it is being trained, and not looked at by a validation or test of its own.
    """

    epoch: int
    step: int
    caption: str
    initial: bool = False
    training: bool = True

    @property
    def short(self) -> str:
        """The epoch, as the head of a column."""
        return "the initial network" if self.initial else f"ep. {self.epoch}"


@dataclass(frozen=True)
class Frame:
    """One drawing: maps or images as value codes with their scale, not as colors: a later page scales them anew.

    Attributes:
        number: which drawing it is, from 1; 0 is the initial network.
        epoch: as Lightning counts, from 0.
        step: at which it was logged.
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
        ...     history.append(torch.zeros(1, 1, 1), [{}], Snapshot(number, number, "", initial=number == 0))
        >>> [frame.number for frame in history.frames]
        [0, 1, 3, 7, 16]
    """

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = limit
        self.frames: list[Frame] = []

    def append(self, maps: Float[Tensor, "n ..."], facts: Sequence[Mapping[str, Any]], snapshot: Snapshot) -> None:
        """Add the newest drawing; where there are too many, the one that is least missed goes."""
        number = 0 if snapshot.initial else self.frames[-1].number + 1 if self.frames else 1
        self.frames.append(Frame.of(maps, facts, number=number, epoch=snapshot.epoch, step=snapshot.step))
        if len(self.frames) > self.limit:
            # The one whose neighbors are nearest to each other in the logarithm: of equals the later.
            inner = range(1, len(self.frames) - 1)
            numbers = [each.number + 1 for each in self.frames]
            del self.frames[min(inner, key=lambda i: (numbers[i + 1] / numbers[i - 1], -i))]

    def titles(self) -> list[str]:
        """What the drawings are called: by epoch, or where several are of one by step.

        >>> history = History()
        >>> history.append(torch.zeros(1, 1, 1), [{}], Snapshot(0, 0, "", initial=True))
        >>> history.append(torch.zeros(1, 1, 1), [{}], Snapshot(0, 50, ""))
        >>> history.titles()
        ['initial', 'ep. 0']
        """
        epochs = [frame.epoch for frame in self.frames if frame.number]
        distinct = len(set(epochs)) == len(epochs)
        called = [f"ep. {frame.epoch}" if distinct else f"s. {frame.step}" for frame in self.frames]
        return [name if frame.number else "initial" for name, frame in zip(called, self.frames, strict=True)]

    def state_dict(self) -> list[dict[str, Any]]:
        """The frames as tensors and plain values."""
        return [{**vars(frame), "facts": [dict(each) for each in frame.facts]} for frame in self.frames]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the frames of an earlier run."""
        self.frames = [Frame(**frame) for frame in state]
