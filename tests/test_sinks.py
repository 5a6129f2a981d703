"""The writer thread and the table of loggers."""

import threading
import time

import pytest
import torch

from lightning_convviz import sinks
from lightning_convviz.render import Animation, Chart, PageLayout, Panel, Picture, rgb


def picture() -> Picture:
    sheet = PageLayout(100)
    block = sheet.tiles(rgb(torch.rand(2, 3, 8, 8)), columns=2)
    return sheet.picture(main=block, colormap=None, legend="How to read it.", about={"kind": "test"})


class Logger:
    """Records what its sink is given."""


@pytest.fixture
def written(monkeypatch):
    files = []
    monkeypatch.setattr(sinks.table, "SINKS", {"Logger": lambda logger, each: files.append(each)})
    return files


def drawing(step: int) -> sinks.LoggedDrawing:
    return sinks.LoggedDrawing("test", 0, step, {"test/a": picture()})


def test_a_sink_is_found_by_the_name_of_the_class_or_of_one_it_inherits_from(written):
    class Mine(Logger):
        pass

    assert sinks.find(Mine()) is sinks.table.SINKS["Logger"]
    assert sinks.find(object()) is None


def test_drawings_are_written_in_order_and_the_thread_ends(written):
    writer = sinks.Writer()
    for step in range(5):
        writer.submit([(drawing(step), [Logger()])])
        assert writer.drain()
    assert [each.drawing.step for each in written] == list(range(5))
    assert written[0].images["test/a"].data.startswith(b"\x89PNG")
    assert not any(thread.name == "convviz-writer" for thread in threading.enumerate())


def test_draining_gives_up_after_its_time(monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(sinks.table, "SINKS", {"Logger": lambda logger, files: gate.wait(10)})
    writer = sinks.Writer()
    writer.submit([(drawing(1), [Logger()])])
    start = time.monotonic()
    assert not writer.drain(timeout=0.05)
    assert time.monotonic() - start < 5
    gate.set()
    assert writer.drain()


def test_one_logger_that_fails_does_not_keep_the_others_from_theirs(monkeypatch, written):
    class Broken(Logger):
        pass

    def fail(logger, files):
        raise OSError("no space left")

    monkeypatch.setitem(sinks.table.SINKS, "Broken", fail)
    writer = sinks.Writer()
    writer.submit([(drawing(1), [Broken(), Logger()])])
    writer.drain()
    assert len(written) == 1
    assert writer.new_errors() == ["OSError: no space left"]
    assert writer.new_errors() == []


def shown() -> sinks.LoggedDrawing:
    """One of each kind of thing that a drawing may have."""
    chart = Chart("Depth", [], ["conv1"], ["epoch 0"], [Panel("share", [[0.5]])], {"kind": "depth"}, "")
    animation = Animation([picture(), picture()], {"kind": "evolution"}, "")
    everything = {"test/a": picture(), "test/depth": chart, "test/film": animation}
    return sinks.LoggedDrawing("test", 3, 40, everything, texts={"test/alarm": "**Wake up**, Größe 猫"})


def test_charts_and_animations_are_encoded_by_the_writer_and_texts_come_along(written):
    """A logger's function that knows no texts is given them, and that is all."""
    writer = sinks.Writer()
    writer.submit([(shown(), [Logger()]), (drawing(50), [Logger()])])
    assert writer.drain()
    assert not writer.new_errors()
    first, second = written
    assert {tag: image.suffix for tag, image in first.images.items()} == {
        "test/a": ".png", "test/depth": ".png", "test/film": ".gif",
    }  # fmt: skip
    assert first.drawing.texts == {"test/alarm": "**Wake up**, Größe 猫"}
    assert second.drawing.texts == {}
    assert first.size() == sum(len(image.data) for image in first.images.values()) + 24


def test_a_folder_gets_animations_and_texts(tmp_path):
    writer = sinks.Writer()
    writer.submit([(shown(), [sinks.Folder(tmp_path)])])
    assert writer.drain()
    assert not writer.new_errors()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "test/a/step_00000040.png", "test/alarm/step_00000040.md", "test/depth/step_00000040.png",
        "test/film/step_00000040.gif",
    ]  # fmt: skip
    assert (tmp_path / "test/alarm/step_00000040.md").read_text("utf-8") == "**Wake up**, Größe 猫"
    assert (tmp_path / "test/film/step_00000040.gif").read_bytes().startswith(b"GIF89a")
