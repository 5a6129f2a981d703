"""Hear the readings of each drawing; tell what is new."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite, isnan
from typing import Any

from lightning_convviz.alarms.records import Alarm, Past, Reading
from lightning_convviz.alarms.rules import FASTEST, PATIENCE, RULES, Case, Finding

FLOWING = ("not finite", "exploding", "collapsing", "vanishing")  # what a layer passes on to those behind it
UNKNOWN = Finding("unknown")


class Alarms:
    """Hears the readings of each drawing and tells what is newly sick: each kind and layer once, again if it recovered.

    The initial network is only compared with; it is alarming where its figures are not finite. Layers whose weights are
    frozen on purpose (`trainable` is False) may be dead, alike, noisy and still.

    Example:
        >>> def readings(epoch, dead):
        ...     same = dict(channels=20, sparsity=0.5, mean=0.2, high=2.0, effective_rank=8.0, cka=0.9, change=0.1)
        ...     where = dict(epoch=epoch, step=100 * epoch + 100, initial=False, trainable=True, noise=None)
        ...     return [Reading("conv1", dead=dead, **same, **where), Reading("conv2", dead=0.0, **same, **where)]
        >>> alarms = Alarms()
        >>> [[alarm.kind for alarm in alarms.hear(readings(*each))] for each in enumerate([0, 0.3, 0.4, 0.4])]
        [[], [], ['dead'], []]
        >>> print(alarms.active()[0].text)
        conv1: 8 of 20 channels (40%) were above 0 for no picture, since epoch 1.
    """

    def __init__(self) -> None:
        self._past: dict[str, Past] = {}

    def hear(self, readings: Sequence[Reading]) -> list[Alarm]:
        """Take the readings of one drawing, in order of depth; layers that are no longer read are forgotten.

        Returns:
            What is newly sick. Of what layers pass on (not finite, exploding, collapsing, vanishing) only the first one
            is told of, and nothing behind a layer that is dead for the most part.
        """
        self._past = {each.layer: self._past.get(each.layer, Past()) for each in readings}
        found: list[Alarm] = []
        passed_on = False
        for place, reading in enumerate(readings):
            past = self._past[reading.layer]
            findings = _judged(Case(reading, past, _fastest(reading, readings), place == len(readings) - 1))
            passed_on |= findings["dead"].verdict == "urgent"
            if passed_on:
                findings |= dict.fromkeys(FLOWING, UNKNOWN)
            passed_on |= any(findings[kind].verdict in ("urgent", "sick") for kind in FLOWING)
            found += [alarm for kind, finding in findings.items() if (alarm := _noted(kind, finding, reading, past))]
            _remember(reading, past, findings["stopped"])
        return found

    def active(self) -> list[Alarm]:
        """What is sick now, in order of depth."""
        return [Alarm(**alarm) for past in self._past.values() for alarm in past.active.values()]

    def state(self) -> dict[str, Any]:
        """All that is remembered, as plain values."""
        return {layer: asdict(past) for layer, past in self._past.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on where another left off."""
        self._past = {layer: Past(**asdict(Past(**past))) for layer, past in state.items()}  # nothing is shared with it


def _judged(case: Case) -> dict[str, Finding]:
    finite = RULES["not finite"].judge(case)
    if case.reading.initial or finite.verdict == "urgent":  # whose other figures mean nothing
        return dict.fromkeys(RULES, UNKNOWN) | {"not finite": finite}
    return {kind: rule.judge(case) for kind, rule in RULES.items()}


def _noted(kind: str, finding: Finding, reading: Reading, past: Past) -> Alarm | None:
    """Count what was found; an alarm where it is one, and is new."""
    if finding.verdict == "unknown":
        return None
    if finding.verdict in ("between", "well"):
        past.rows.pop(kind, None)
        if finding.verdict == "well":
            past.active.pop(kind, None)
        return None
    past.rows[kind] = min(past.rows.get(kind, 0) + 1, PATIENCE)
    if kind in past.active:
        return None
    if past.rows[kind] == 1:
        past.since[kind] = reading.epoch
    if finding.verdict == "sick" and past.rows[kind] < PATIENCE:
        return None
    alarm = _alarm(kind, finding.figure, reading, past.since[kind])
    past.active[kind] = asdict(alarm)
    return alarm


def _alarm(kind: str, figure: float, reading: Reading, since: int) -> Alarm:
    told = RULES[kind].text.format(figure=figure, reading=reading)
    return Alarm(
        kind, reading.layer, figure, since, f"{reading.layer}: {told}, since epoch {since}.", RULES[kind].advice
    )


def _remember(reading: Reading, past: Past, motion: Finding) -> None:
    past.step = reading.step
    past.noise = reading.noise if past.noise is None else past.noise
    past.moved |= motion.verdict == "well" and motion.figure > 0
    if not (isfinite(reading.high) and isfinite(reading.effective_rank)):
        return
    past.rank = max(past.rank, reading.effective_rank)
    if reading.initial:
        past.initial = reading.high
        return
    past.drawings += 1
    past.first = reading.high if past.first is None else past.first
    if past.drawings > PATIENCE and "exploding" not in past.rows and "exploding" not in past.active:
        past.level = max(past.level, min(past.recent[-1], reading.high))
    past.recent = [*past.recent[-1:], reading.high]


def _fastest(reading: Reading, readings: Iterable[Reading]) -> float:
    changes = [each.change for each in readings if each is not reading and each.trainable and each.change is not None]
    return max((min(change, FASTEST) for change in changes if not isnan(change)), default=-1.0)
