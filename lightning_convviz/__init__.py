"""Watch what a ConvNet sees while it trains: three Lightning callbacks, and the concepts behind them.

Everything is imported on first use: `import lightning_convviz` alone loads neither torch nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lightning_convviz import (
        ascent,
        cams,
        canvas,
        diagnostics,
        heatmap_metrics,
        history,
        isolation,
        layer_stats,
        layers,
        mistakes,
        outputs,
        pixels,
        render,
        sinks,
        targets,
        transforms,
    )  # fmt: skip
    from lightning_convviz.callbacks import (
        ActivationLogger,
        FilterPatternLogger,
        GradCAMLogger,
        VisualizationCallback,
    )
    from lightning_convviz.probes import Probes

_HOMES = {
    "ActivationLogger": "lightning_convviz.callbacks",
    "FilterPatternLogger": "lightning_convviz.callbacks",
    "GradCAMLogger": "lightning_convviz.callbacks",
    "Probes": "lightning_convviz.probes",
    "VisualizationCallback": "lightning_convviz.callbacks",
}

__all__ = [
    "ActivationLogger",
    "FilterPatternLogger",
    "GradCAMLogger",
    "Probes",
    "VisualizationCallback",
    "__version__",
    "ascent",
    "cams",
    "canvas",
    "diagnostics",
    "heatmap_metrics",
    "history",
    "isolation",
    "layer_stats",
    "layers",
    "mistakes",
    "outputs",
    "pixels",
    "render",
    "sinks",
    "targets",
    "transforms",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
