"""Where values stand on an axis, and which of them are written beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TICKS = 4  # about how many values stand at an axis
LEAST = 0.3  # decades that a logarithmic axis spans at least: noise must not look like change


@dataclass(frozen=True)
class Axis:
    """A range of values.

    Attributes:
        low: at the foot.
        high: at the head.
        ticks: values and what is written for them.
        log: whether equal distances are equal factors.
    """

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def place(self, value: float) -> float:
        """From 0, at the foot, to 1.

        >>> Axis(1.0, 100.0, [], log=True).place(10.0)
        0.5
        """
        if self.log and value <= self.low:
            return 0.0
        scaled: Callable[[float], float] = math.log10 if self.log else float
        low, high = scaled(self.low), scaled(self.high)
        return min(max((scaled(value) - low) / (high - low), 0.0), 1.0)


def linear(values: Sequence[float], low: float | None = None, high: float | None = None, *, percent: bool) -> Axis:
    """An axis for finite values, which begins at 0 where that is not far from them.

    Args:
        values: any number of them.
        low: that it reaches down to at least.
        high: that it reaches up to at least.
        percent: whether the values are shares, to be written as percentages.

    Example:
        >>> [text for _, text in linear([0.02, 0.31], percent=True).ticks]
        ['0%', '10%', '20%', '30%']
    """
    known = [*values, *(each for each in (low, high) if each is not None)] or [0.0, 1.0]
    bottom, top = min(known), max(known)
    if low is None and 0 <= bottom <= top / 2:
        bottom = 0.0
    if top - bottom <= 1e-9 * max(abs(top), abs(bottom)):
        bottom, top = (0.0, 1.0) if top == 0 else (top - abs(top) / 10, top + abs(top) / 10)
    step = _step((top - bottom) / TICKS)
    margin = (top - bottom) * 0.04  # for the thickness of a line
    span = range(math.ceil((bottom - margin) / step), math.floor((top + margin) / step) + 1)
    return Axis(bottom - margin, top + margin, [(each * step, _label(each * step, percent)) for each in span])


def logarithmic(
    values: Sequence[float], low: float | None = None, high: float | None = None, *, percent: bool = False
) -> Axis:
    """A logarithmic axis for the positive ones of finite values; the others stand at its foot, on a tick of their own.

    Args:
        values: any number of them.
        low: that it reaches down to at least.
        high: that it reaches up to at least.
        percent: whether the values are shares, to be written as percentages.

    Example:
        >>> [text for _, text in logarithmic([0.0, 0.2, 30.0]).ticks]
        ['0', '0.3', '1', '3', '10', '30']
    """
    known = [each for each in (*values, low, high) if each is not None and each > 0] or [1.0, 10.0]
    bottom, top = math.log10(min(known)), math.log10(max(known))
    bottom, top = bottom - max(0.0, LEAST - top + bottom) / 2, top + max(0.0, LEAST - top + bottom) / 2
    bottom, top = bottom - (top - bottom) * 0.04, top + (top - bottom) * 0.04
    marks = _decades(bottom, top)
    below = [value for value in values if value <= 0]
    foot = bottom - (top - bottom) * 0.2 if below else bottom
    zero = [(0.0, "0" if min(below) == 0 else "≤ 0")] if below else []
    return Axis(10**foot, 10**top, [*zero, *((mark, _label(mark, percent)) for mark in marks)], log=True)


def _step(least: float) -> float:
    """The least of ... 1, 2, 2.5, 5, 10 ... that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(each * power for each in (1, 2, 2.5, 5, 10, 20) if each * power >= least * (1 - 1e-9))


def _decades(bottom: float, top: float) -> list[float]:
    """Powers of ten between two, and of these threefold ones or more where there are too few."""
    first, last = math.floor(bottom), math.ceil(top)
    every = max(1, math.ceil((top - bottom) / TICKS))
    marks: list[float] = []
    for leading in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        powers = [power for power in range(first, last + 1) if power % every == 0]
        marks = [digit * 10.0**power for power in powers for digit in leading]
        marks = [mark for mark in marks if bottom <= math.log10(mark) <= top]
        if len(marks) >= 3:
            break
    return marks


def _label(value: float, percent: bool) -> str:
    """A number, as short as it can be.

    >>> [_label(each, False) for each in (0.30000000000000004, 1e-05, 2000000.0, -0.0)], _label(0.005, True)
    (['0.3', '1e-5', '2e6', '0'], '0.5%')
    """
    value *= 100 if percent else 1
    text = f"{value:.4g}" if abs(value) > 1e-12 else "0"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e") + "%" * percent
