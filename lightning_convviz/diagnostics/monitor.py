"""Hear the readings of each drawing; tell what is new."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import isfinite, isnan
from typing import Any

from lightning_convviz.diagnostics.records import Alarm, LayerHistory, Reading
from lightning_convviz.diagnostics.rules import FASTEST, PATIENCE, RULES, Finding, RuleInput

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
        >>> [[alarm.kind for alarm in alarms.update(readings(*each))] for each in enumerate([0, 0.3, 0.4, 0.4])]
        [[], [], ['dead'], []]
        >>> print(alarms.active()[0].text)
        conv1: 8 of 20 channels (40%) were above 0 for no picture, since epoch 1.
    """

    def __init__(self) -> None:
        self._history: dict[str, LayerHistory] = {}

    def update(self, readings: Sequence[Reading]) -> list[Alarm]:
        """Take the readings of one drawing, in order of depth; layers that are no longer read are forgotten.

        Returns:
            What is newly sick. Of what layers pass on (not finite, exploding, collapsing, vanishing) only the first one
            is told of, and nothing behind a layer that is dead for the most part.
        """
        self._history = {each.layer: self._history.get(each.layer, LayerHistory()) for each in readings}
        found: list[Alarm] = []
        passed_on = False
        for place, reading in enumerate(readings):
            history = self._history[reading.layer]
            findings = _judged(RuleInput(reading, history, _fastest(reading, readings), place == len(readings) - 1))
            passed_on |= findings["dead"].verdict == "urgent"
            if passed_on:
                findings |= dict.fromkeys(FLOWING, UNKNOWN)
            passed_on |= any(findings[kind].verdict in ("urgent", "sick") for kind in FLOWING)
            found += [alarm for kind, finding in findings.items() if (alarm := _noted(kind, finding, reading, history))]
            _remember(reading, history, findings["stopped"])
        return found

    def active(self) -> list[Alarm]:
        """What is sick now, in order of depth."""
        return [Alarm(**alarm) for history in self._history.values() for alarm in history.active.values()]

    def state(self) -> dict[str, Any]:
        """All that is remembered, as plain values."""
        return {layer: asdict(history) for layer, history in self._history.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on where another left off."""
        self._history = {
            layer: LayerHistory(**asdict(LayerHistory(**history))) for layer, history in state.items()
        }  # nothing is shared with it


def _judged(inputs: RuleInput) -> dict[str, Finding]:
    finite = RULES["not finite"].judge(inputs)
    if inputs.reading.initial or finite.verdict == "urgent":  # whose other figures mean nothing
        return dict.fromkeys(RULES, UNKNOWN) | {"not finite": finite}
    return {kind: rule.judge(inputs) for kind, rule in RULES.items()}


def _noted(kind: str, finding: Finding, reading: Reading, history: LayerHistory) -> Alarm | None:
    """Count what was found; an alarm where it is one, and is new."""
    if finding.verdict == "unknown":
        return None
    if finding.verdict in ("between", "well"):
        history.rows.pop(kind, None)
        if finding.verdict == "well":
            history.active.pop(kind, None)
        return None
    history.rows[kind] = min(history.rows.get(kind, 0) + 1, PATIENCE)
    if kind in history.active:
        return None
    if history.rows[kind] == 1:
        history.since[kind] = reading.epoch
    if finding.verdict == "sick" and history.rows[kind] < PATIENCE:
        return None
    alarm = _alarm(kind, finding.figure, reading, history.since[kind])
    history.active[kind] = asdict(alarm)
    return alarm


def _alarm(kind: str, figure: float, reading: Reading, since: int) -> Alarm:
    finding_text = RULES[kind].text.format(figure=figure, reading=reading)
    return Alarm(
        kind, reading.layer, figure, since, f"{reading.layer}: {finding_text}, since epoch {since}.", RULES[kind].advice
    )


def _remember(reading: Reading, history: LayerHistory, motion: Finding) -> None:
    history.step = reading.step
    history.noise = reading.noise if history.noise is None else history.noise
    history.moved |= motion.verdict == "well" and motion.figure > 0
    if not (isfinite(reading.high) and isfinite(reading.effective_rank)):
        return
    history.rank = max(history.rank, reading.effective_rank)
    if reading.initial:
        history.initial = reading.high
        return
    history.drawings += 1
    history.first = reading.high if history.first is None else history.first
    if history.drawings > PATIENCE and "exploding" not in history.rows and "exploding" not in history.active:
        history.level = max(history.level, min(history.recent[-1], reading.high))
    history.recent = [*history.recent[-1:], reading.high]


def _fastest(reading: Reading, readings: Iterable[Reading]) -> float:
    changes = [each.change for each in readings if each is not reading and each.trainable and each.change is not None]
    return max((min(change, FASTEST) for change in changes if not isnan(change)), default=-1.0)
