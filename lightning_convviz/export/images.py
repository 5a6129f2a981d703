"""The bytes of a picture: what kind of file they are, and the facts that they carry."""

import io
import json
import warnings
from dataclasses import dataclass, field
from typing import Any

# The kinds that a browser shows too, by what their files begin with.
KINDS = {
    b"\x89PNG\r\n\x1a\n": (".png", "image/png"),
    b"\xff\xd8\xff": (".jpg", "image/jpeg"),
    b"GIF8": (".gif", "image/gif"),
    b"RIFF": (".webp", "image/webp"),
    b"BM": (".bmp", "image/bmp"),
}


@dataclass(frozen=True)
class Info:
    """What a picture's bytes tell.

    Attributes:
        width: in pixels; 0 where the file can't be read.
        height: in pixels.
        facts: what our own pictures show: kind, layer, epoch, step, tiles, and so on; else empty.
    """

    width: int = 0
    height: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def epoch(self) -> int | None:
        """As the facts tell it."""
        epoch = self.facts.get("epoch")
        return epoch if isinstance(epoch, int) else None


def suffix(data: bytes) -> str | None:
    r"""What a file of these bytes ends in; None for what is no picture.

    >>> suffix(b"GIF89a..."), suffix(b"<svg>")
    ('.gif', None)
    """
    return next((kind[0] for start, kind in KINDS.items() if data.startswith(start)), None)


def media_type(data: bytes) -> str:
    """The MIME type of a picture."""
    return next(kind[1] for start, kind in KINDS.items() if data.startswith(start))


def inspect(data: bytes) -> Info:
    """Read a picture's head; nothing but empty facts for one that is damaged or another's."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a very large picture: only its head is read
            with Image.open(io.BytesIO(data)) as image:
                carried = image.info.get("convviz") or image.info.get("comment") or "{}"
                return Info(*image.size, _facts(carried))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Info()


def _facts(carried: str | bytes) -> dict[str, Any]:
    try:
        facts = json.loads(carried)
    except (ValueError, RecursionError):  # somebody else's comment
        return {}
    return facts if isinstance(facts, dict) and "kind" in facts else {}
