"""What captions say of images: names, probabilities, and the line above a row of heatmaps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_convviz.pages.explained import Prediction
from lightning_convviz.render.layout import RIGHT, UNKNOWN, WRONG

WIDTH = 50  # letters that fit above a row

# Whether a prediction is right -> a mark, and the color of mark and caption.
MARKS = {True: ("✓", RIGHT), False: ("✗", WRONG), None: ("", UNKNOWN)}


@dataclass(frozen=True)
class RowCaption:
    """The line above a row.

    Attributes:
        text: it says.
        right: whether the prediction is right; None where that is not known.
        facts: that travel with the file.
    """

    text: str
    right: bool | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def name_caption(name: int | str) -> RowCaption:
    """The line above an image of which no class is predicted.

    >>> name_caption(3).text
    '#3'
    """
    return RowCaption(display_name(name), facts={"id": name})


def prediction_caption(prediction: Prediction) -> RowCaption:
    """The line above an image: the predicted class, the other one in question, and how far apart they are.

    Long names are cut; before that the margin goes.

    >>> prediction_caption(Prediction(3, "dog", "cat", 0.56, "dog", 0.12, 0.12, 1.54, False)).text
    '#3: cat 56%, truth dog 12%, margin 1.5'
    """
    facts = prediction.facts()
    predicted, instead = prediction.predicted, prediction.instead
    if predicted is None or instead is None:
        return RowCaption(f"{display_name(prediction.id)}: not a number", None, facts)
    what = "truth" if prediction.right is False else "2nd"
    head, separator = f"{display_name(prediction.id)}: ", f" {percent(prediction.p_predicted)}, {what} "
    tail, margin = f" {percent(prediction.p_instead)}", f", margin {number(prediction.margin)}"
    used = len(head) + len(separator) + len(tail)
    if used + len(margin) + len(predicted) + len(instead) > WIDTH:
        margin = ""
    room = max(WIDTH - used - len(margin), 12)
    first = truncate(predicted, max(room // 2, room - len(instead)))
    second = truncate(instead, max(room // 2, room - len(predicted)))
    return RowCaption(f"{head}{first}{separator}{second}{tail}{margin}", prediction.right, facts)


def display_name(name: int | str) -> str:
    """An image's name in a caption: its position in the data with a mark, or the name of its file.

    >>> display_name(3), display_name("cat.png")
    ('#3', 'cat.png')
    """
    return f"#{name}" if isinstance(name, int) else name


def percent(share: float | None) -> str:
    """A probability in a caption; of None, which is no number, nothing.

    >>> percent(0.123), percent(0.001), percent(0.0)
    ('12%', '<1%', '<1%')
    """
    if share is None:
        return ""
    return f"{share:.0%}" if share >= 0.005 else "<1%"


def number(value: float | None) -> str:
    """Two digits, and no powers of ten where they can be avoided; of None nothing.

    >>> number(0.123), number(12.3), number(26000.0)
    ('0.12', '12', '26000')
    """
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def truncate(name: str, width: int) -> str:
    """A name of at most `width` letters.

    >>> truncate("African elephant", 9)
    'African…'
    """
    return name if len(name) <= width else name[: width - 1].rstrip() + "…"
