"""One function for each kind of logger. They run in the writer's thread, one drawing after the other."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning_convviz.render import Encoded
from lightning_convviz.sinks.table import EncodedDrawing, Folder, file_name, register, require_room

# The tags that each writer has described: only a tag's first event carries metadata.
_described: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()


@register("TensorBoardLogger")
def tensorboard(logger: Any, files: EncodedDrawing) -> None:
    """Write through the logger's own writer: a second event file in its folder would hide the first."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.util.tensor_util import make_tensor_proto

    require_room(logger.log_dir, files.size())
    writer, drawing = logger.experiment, files.drawing
    described = _described.setdefault(writer, set())
    values = []
    for tag, image in files.images.items():
        value = Summary.Value(tag=tag, image=_image(image))
        if tag not in described:
            # Without the data class TensorBoard's default loader drops the description.
            value.metadata.CopyFrom(_metadata("images", "DATA_CLASS_BLOB_SEQUENCE", drawing.pictures[tag].legend))
        values.append(value)
    tag = f"convviz/{drawing.name}"
    epochs = json.dumps({"v": 1, "epoch": drawing.epoch, "step": drawing.step, "tags": list(files.images)})
    value = Summary.Value(tag=tag, tensor=make_tensor_proto(epochs))
    if tag not in described:
        value.metadata.CopyFrom(_metadata("convviz", "DATA_CLASS_TENSOR", "Which epoch each drawing belongs to."))
    described.update([*files.images, tag])
    for one in [*values, value]:
        writer._get_file_writer().add_summary(Summary(value=[one]), drawing.step)
        _written(writer)
    for tag, text in drawing.texts.items():
        writer.add_text(tag, text, drawing.step)
        _written(writer)
    for tag, number in drawing.numbers().items():
        writer.add_scalar(tag, number, drawing.step)
    writer.flush()  # now, so that a run that is killed leaves every picture readable


def _written(writer: Any) -> None:
    """Wait for TensorBoard's own thread without holding its lock, as `flush` does, which the training thread needs."""
    events = getattr(writer._get_file_writer(), "event_writer", None)
    queue = getattr(getattr(events, "_async_writer", None), "_byte_queue", None)
    if queue is not None:
        queue.join()


def _image(image: Encoded) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Image(height=image.height, width=image.width, colorspace=3, encoded_image_string=image.data)


def _metadata(plugin: str, data_class: str, description: str) -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name=plugin),
        summary_description=description,
        data_class=getattr(summary_pb2, data_class),
    )


@register("WandbLogger")
def wandb(logger: Any, files: EncodedDrawing) -> None:
    """Give W&B the files as they are, with the epoch as caption; a GIF is a video to it, a text a table of one row."""
    drawing, caption = files.drawing, [_moment(files)]
    with tempfile.TemporaryDirectory() as folder:
        for index, (tag, image) in enumerate(files.images.items()):
            path = Path(folder, f"{index}{image.suffix}")
            path.write_bytes(image.data)
            log = logger.log_video if image.suffix == ".gif" else logger.log_image
            log(tag, [str(path)], drawing.step, caption=caption)
    for tag, text in drawing.texts.items():
        logger.log_text(tag, ["epoch", "step", "text"], [[drawing.epoch, drawing.step, text]], step=drawing.step)
    logger.log_metrics(drawing.numbers(), drawing.step)


@register("MLFlowLogger")
def mlflow(logger: Any, files: EncodedDrawing) -> None:
    """Log time-stepped images, which MLflow shows with a slider; a GIF and a text are files among the artifacts."""
    from PIL import Image

    client, run, step = logger.experiment, logger.run_id, files.drawing.step
    for tag, image in files.images.items():
        if image.suffix == ".gif":  # as an image MLflow would make a PNG of its first frame
            with tempfile.TemporaryDirectory() as place:
                path = Path(place, _name(files, ".gif"))
                path.write_bytes(image.data)
                client.log_artifact(run, str(path), file_name(tag))
        else:
            client.log_image(run, Image.open(io.BytesIO(image.data)), key=tag, step=step)
    for tag, text in files.drawing.texts.items():
        client.log_text(run, text, f"{file_name(tag)}/{_name(files, '.md')}")
    logger.log_metrics(files.drawing.numbers(), step)


@register("CometLogger")
def comet(logger: Any, files: EncodedDrawing) -> None:
    """Log the files as Comet's images, by name and step, and texts with their tag."""
    experiment, step = logger.experiment, files.drawing.step
    for tag, image in files.images.items():
        experiment.log_image(io.BytesIO(image.data), name=tag, step=step, image_format=image.suffix[1:])
    for tag, text in files.drawing.texts.items():
        experiment.log_text(text, step=step, metadata={"tag": tag, "epoch": files.drawing.epoch})
    logger.log_metrics(files.drawing.numbers(), step)


@register("Folder")
def folder(place: Folder, files: EncodedDrawing) -> None:
    """Write `<tag>/step_<step>.png` (`.jpg`, `.gif`, texts `.md`); a reader never meets half a file."""
    contents = [(tag, image.suffix, image.data) for tag, image in files.images.items()]
    contents += [(tag, ".md", text.encode()) for tag, text in files.drawing.texts.items()]
    for tag, suffix, data in contents:
        path = place.path / file_name(tag) / _name(files, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        require_room(path.parent, len(data))
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_bytes(data)
        unfinished.replace(path)


def _name(files: EncodedDrawing, suffix: str) -> str:
    return f"step_{files.drawing.step:08d}{suffix}"


def _moment(files: EncodedDrawing) -> str:
    return f"epoch {files.drawing.epoch} · step {files.drawing.step}"
