"""Event files -> pictures in folders, animations and one page: a run to look at without TensorBoard, every step of it.

Nothing here imports torch. `python -m lightning_convviz export` is the command.
"""

from lightning_convviz.export.run import ExportError, Report, export

__all__ = ["ExportError", "Report", "export"]
