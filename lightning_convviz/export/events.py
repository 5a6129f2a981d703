"""What an event file says, in the words of this package: pictures, epochs, legends, alarms and figures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

OWN = "convviz/"  # the first part of the tags that hold no pictures: epochs, figures, alarms
ALARMS = "convviz/diagnostics"


@dataclass(frozen=True)
class Logged:
    """A picture, as the bytes of its file."""

    tag: str
    step: int
    data: bytes


@dataclass(frozen=True)
class Legend:
    """How to read the pictures of a tag, in Markdown."""

    tag: str
    text: str


@dataclass(frozen=True)
class Epoch:
    """Which epoch a step belongs to."""

    step: int
    epoch: int


@dataclass(frozen=True)
class Alarm:
    """A text that warns, in Markdown."""

    tag: str
    step: int
    text: str


@dataclass(frozen=True)
class Figure:
    """A number, as `convviz/...` holds."""

    tag: str
    step: int
    value: float


Entry = Logged | Legend | Epoch | Alarm | Figure


def parse(record: bytes) -> Any:
    """TensorBoard's `Event` that a record holds.

    Raises:
        ValueError: where it holds something else.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        return Event.FromString(record)
    except Exception as error:  # of a class of its own, with each implementation of protobuf
        raise ValueError(f"what is no event ({error})") from None


class Decoder:
    """Decodes the events of one run. A tag's kind is told by its first event alone, so it is remembered."""

    def __init__(self) -> None:
        self._plugins: dict[str, str] = {}

    def entries(self, record: bytes) -> Iterator[Entry]:
        """What a record holds.

        Raises:
            ValueError: where it is no event.
        """
        event = parse(record)
        for value in event.summary.value:
            yield from self._entries(value, int(event.step))

    def _entries(self, value: Any, step: int) -> Iterator[Entry]:
        if value.HasField("metadata"):
            self._plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        plugin = self._plugins.get(value.tag, "")
        pictures = list(_pictures(value, plugin))
        for index, data in enumerate(pictures):
            tag = value.tag if index == 0 else f"{value.tag} [{index + 1}]"
            if value.metadata.summary_description:
                yield Legend(tag, value.metadata.summary_description)
            yield Logged(tag, step, data)
        if not pictures and value.tag.startswith(OWN):
            yield from _own(value, plugin, step)


def _pictures(value: Any, plugin: str) -> Iterator[bytes]:
    """An event's pictures: one in the classical field, or any number in a tensor after their width and height."""
    if value.HasField("image"):
        yield bytes(value.image.encoded_image_string)
    elif value.HasField("tensor") and plugin == "images":
        yield from map(bytes, value.tensor.string_val[2:])


def _own(value: Any, plugin: str, step: int) -> Iterator[Entry]:
    if value.HasField("simple_value"):
        yield Figure(value.tag, step, float(value.simple_value))
    elif value.HasField("tensor") and value.tensor.string_val:
        text = value.tensor.string_val[0].decode("utf-8", "replace")
        if plugin == "text" and value.tag.startswith(ALARMS):
            yield Alarm(value.tag.removesuffix("/text_summary"), step, text)
        elif plugin == "convviz":
            yield from _epochs(text)


def _epochs(text: str) -> Iterator[Epoch]:
    try:
        fields = json.loads(text)
        yield Epoch(int(fields["step"]), int(fields["epoch"]))
    except (ValueError, TypeError, KeyError):  # of another version than this
        return
