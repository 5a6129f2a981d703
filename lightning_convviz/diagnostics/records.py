"""What goes in, what comes out, and what is remembered in between."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reading:
    """One layer at one drawing, over a whole validation.

    Attributes:
        layer: its name.
        epoch: as Lightning counts, from 0.
        step: `trainer.global_step`.
        initial: whether this is the network before its first training step.
        channels: how many.
        dead: the share of channels that were never above 0, in [0, 1].
        sparsity: the share of values that are not above 0, in [0, 1].
        mean: of all values.
        high: the 99.5th percentile of the values.
        effective_rank: of the mean-pooled features, from 1 to the number of channels.
        cka: linear CKA of these features and the last drawing's, in [0, 1]; None where not known.
        change: ‖w − w_last‖ / ‖w_last‖ of the layer's weights since the last drawing; None where not known.
        trainable: whether the layer's weights require a gradient; None where there are none.
        noise: of the first layer's kernels, see `noise`; else None.
    """

    layer: str
    epoch: int
    step: int
    initial: bool
    channels: int
    dead: float
    sparsity: float
    mean: float
    high: float
    effective_rank: float
    cka: float | None
    change: float | None
    trainable: bool | None
    noise: float | None

    @property
    def count(self) -> int:
        """How many channels are dead."""
        return round(self.dead * self.channels)


@dataclass(frozen=True)
class Alarm:
    """What is sick.

    Attributes:
        kind: "not finite", "dead", "exploding", "collapsing", "vanishing", "stopped", "never started" or "noise".
        layer: where.
        figure: what it was told by: for these kinds the mean, a share, a growth, a rank, a fall, a relative change (of
            both), `noise`.
        since: the epoch in which it began, as Lightning counts.
        text: one sentence for a log.
        advice: what people do about it.
    """

    kind: str
    layer: str
    figure: float
    since: int
    text: str
    advice: str


@dataclass
class LayerHistory:
    """What is remembered of a layer: plain values, as many after two hundred drawings as after three.

    Attributes:
        step: of the last drawing, whatever it was.
        drawings: how many there were of the network in training.
        initial: `high` of the initial network, None where not known.
        first: `high` of the first drawing in training.
        recent: `high` of the last two.
        level: the highest `high` that was held for two drawings, without the first one and those of an explosion.
        rank: the largest effective rank, the initial one included.
        noise: when it was first known.
        moved: whether the weights ever changed.
        rows: kind -> drawings in a row in which it was found.
        since: kind -> epoch of the first of them.
        active: kind -> the alarm, as a dict.
    """

    step: int = -1
    drawings: int = 0
    initial: float | None = None
    first: float | None = None
    recent: list[float] = field(default_factory=list)
    level: float = 0.0
    rank: float = 1.0
    noise: float | None = None
    moved: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    active: dict[str, dict[str, Any]] = field(default_factory=dict)
