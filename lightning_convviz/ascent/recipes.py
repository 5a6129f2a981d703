"""How patterns are made: what a caller names, as what the ascent needs."""

from dataclasses import dataclass
from typing import Any

from lightning_convviz.ascent.objectives import ObjectiveFactory, resolve
from lightning_convviz.canvas import CANVASES, Canvas


@dataclass(frozen=True)
class Recipe:
    """How patterns are made; see `patterns`."""

    steps: int
    rate: float
    seed: int
    factory: ObjectiveFactory
    canvas: type[Canvas]
    contrast: float | None
    augment: bool
    shrink: float


def build_config(
    steps: int | None, rate: float | None, seed: int, objective: str | ObjectiveFactory, canvas: str,
    recipe: str | None, augment: bool, shrink: float,
) -> Recipe:  # fmt: skip
    """The recipe that the arguments of `patterns_of_layers` ask for.

    Raises:
        TypeError: for an objective or a canvas that is none.
        ValueError: for an unknown name or a number out of range.
    """
    if recipe not in (None, "textbook"):
        raise ValueError(f"`recipe` is {recipe!r}. It can be 'textbook' or None.")
    textbook = recipe == "textbook"
    if textbook and canvas not in ("fourier", "textbook"):
        raise ValueError(f"`canvas` is {canvas!r}, and `recipe` 'textbook' has its own. Give one of them.")
    kind = CANVASES[check_canvas("textbook" if textbook else canvas)]
    if steps is not None and steps < 0:
        raise ValueError(f"`steps` is {steps}. It must be at least 0.")
    if not 0 <= shrink <= 1:
        raise ValueError(f"`shrink` is {shrink}. It must lie in [0, 1].")
    return Recipe(
        steps=(30 if textbook else 64) if steps is None else steps,
        rate=kind.rate if rate is None else rate,
        seed=seed,
        factory=resolve("mean" if textbook else objective),
        canvas=kind,
        contrast=0.06 if textbook else None,  # uniform between .4 and .6 of the range, in the book
        augment=augment and not textbook,
        shrink=shrink,
    )


def check_canvas(canvas: Any) -> str:
    """The name of a canvas.

    Raises:
        TypeError: for something other than a name.
        ValueError: for an unknown name.
    """
    if not isinstance(canvas, str):
        raise TypeError(f"`canvas` is a {type(canvas).__name__}. It can be {sorted(CANVASES)}.")
    if canvas not in CANVASES:
        raise ValueError(f"`canvas` is {canvas!r}. It can be {sorted(CANVASES)}.")
    return canvas
