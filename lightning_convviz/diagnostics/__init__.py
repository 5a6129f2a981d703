"""Figures of layers over time -> what is sick, and since when.

The thresholds (`rules`) were fixed for ReLU networks that are validated once an epoch or thereabouts. An alarm is a
reason to look, not a verdict: `tests/benchmarks/results/alarms.md` has how near healthy trainings come to each of them.
"""

from lightning_convviz.diagnostics.kernels import noise
from lightning_convviz.diagnostics.monitor import Alarms
from lightning_convviz.diagnostics.records import Alarm, Reading

__all__ = ["Alarm", "Alarms", "Reading", "noise"]
