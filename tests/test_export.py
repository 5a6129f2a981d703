"""Event files into folders, animations and a page: all that was logged, and what is broken as far as it goes."""

import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import three
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.util.tensor_util import make_tensor_proto
from torch.utils.tensorboard import SummaryWriter

from lightning_convviz.__main__ import main
from lightning_convviz.export import ExportError, export
from lightning_convviz.export.images import inspect
from lightning_convviz.export.records import _plain, crc32c, records
from lightning_convviz.sinks.table import file_name

ROOT = Path(__file__).parent.parent
KINDS = {b"\x89PN": ".png", b"\xff\xd8\xff": ".jpg", b"GIF": ".gif"}


def png(shade: int, size: tuple[int, int] = (8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 40, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def add(writer: SummaryWriter, tag: str, step: int, data: bytes, legend: str = "") -> None:
    """A picture in the classical field, as our sink writes it."""
    value = Summary.Value(tag=tag, image=Summary.Image(height=6, width=8, colorspace=3, encoded_image_string=data))
    if legend:
        plugin = SummaryMetadata.PluginData(plugin_name="images")
        value.metadata.CopyFrom(SummaryMetadata(plugin_data=plugin, summary_description=legend))
    writer._get_file_writer().add_summary(Summary(value=[value]), step)


def log(folder: Path, tags: tuple[str, ...] = ("a/x", "a/y"), steps: range = range(10, 50, 10), shade: int = 0) -> Path:
    """An event file with a picture for each tag and step; all are different. Gives the file."""
    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            for place, tag in enumerate(tags):
                add(writer, tag, step, png(shade + step + place), "Read **it** so." if step == steps[0] else "")
    return next(folder.glob("events.out.tfevents.*"))


def written(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def index(page: Path) -> dict:
    return json.loads(re.search(r'id="log">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)[1])


# -- what comes out ---------------------------------------------------------------------------------------------------


class Own(L.Callback):
    """A picture of the user's own logging."""

    def on_validation_epoch_end(self, trainer, module):
        if not trainer.sanity_checking:
            trainer.logger.experiment.add_image("mine", torch.rand(3, 5, 7), trainer.global_step)


def test_every_picture_of_a_real_run_comes_out_as_it_was_logged(fit, tmp_path, capsys):
    activations, _, gradcam = three()
    fit([activations, gradcam, Own()])
    (run,) = {path.parent for path in tmp_path.rglob("*tfevents*")}
    logged = EventAccumulator(str(run), size_guidance={"images": 0, "tensors": 0}).Reload()
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out), "--html"]) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    tags = logged.Tags()["images"]
    assert {"mine", "activations/net.conv1", "evolution/gradcam/probes", "gradcam/probes"} <= set(tags)
    expected = {
        f"{run.name}/{file_name(tag)}/step_{event.step:08d}{KINDS[event.encoded_image_string[:3]]}": (
            event.encoded_image_string
        )
        for tag in tags
        for event in logged.Images(tag)
    }
    files = written(out)
    assert {name: data for name, data in files.items() if "/step_" in name} == expected
    assert f"{len(expected)} pictures of {len(tags)} tags" in said.out
    (told,) = index(out / "index.html")["runs"]
    assert {entry["tag"] for entry in told["tags"]} == set(tags)
    assert told["steps"] == [[0, 0], [5, 0], [6, None], [11, 1], [12, None]]  # of one's own at 6 and 12
    legend = next(entry["legend"] for entry in told["tags"] if entry["tag"] == "gradcam/probes")
    assert legend.startswith("<p><strong>")
    carried = inspect(logged.Images("gradcam/probes")[0].encoded_image_string).facts
    assert json.dumps(carried["items"], separators=(",", ":"), ensure_ascii=False) in unescaped(out / "index.html")


def unescaped(page: Path) -> str:
    return page.read_text("utf-8").replace("&quot;", '"').replace("&#x27;", "'").replace("\\u003c", "<")


def test_runs_are_kept_apart_and_the_files_of_one_run_are_joined_in_order_of_time(tmp_path):
    logs, warnings = tmp_path / "logs", []
    early = log(logs / "one", steps=range(10, 30, 10))
    early.rename(early.with_name("events.out.tfevents.9999999999.late-by-name"))
    log(logs / "one", steps=range(20, 40, 10), shade=100)  # goes on from step 20, which is logged anew
    log(logs / "deep" / "two", tags=("a/x",))
    report = export(logs, tmp_path / "out", warn=warnings.append)
    files = written(tmp_path / "out")
    assert {name.rsplit("/", 1)[0] for name in files} == {"one/a/x", "one/a/y", "deep/two/a/x"}
    assert sorted(name for name in files if name.startswith("one/a/x")) == [
        f"one/a/x/step_000000{step}.png" for step in (10, 20, 30)
    ]
    assert files["one/a/x/step_00000020.png"] == png(120)
    assert report.pictures == len(files) == 10
    assert len(warnings) == 1
    assert "'one': 2 pictures were logged anew" in warnings[0]


def test_the_later_of_two_pictures_of_a_step_is_kept_whatever_kind_of_file_it_is(tmp_path):
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 6)).save(jpeg, "JPEG")
    with SummaryWriter(str(tmp_path / "run")) as writer:
        add(writer, "a", 1, png(1))
        add(writer, "a", 1, jpeg.getvalue())
    export(tmp_path / "run", tmp_path / "out")
    assert written(tmp_path / "out") == {"run/a/step_00000001.jpg": jpeg.getvalue()}


def test_pictures_in_tensors_come_out_too_each_of_a_batch(tmp_path):
    plugins = [SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=name)) for name in ("images", "my")]
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in (1, 2):  # the second event has no metadata any more
            tensors = {"t": [b"8", b"6", png(step), png(step + 100)], "not ours": [b"8", b"6", b"x"]}
            for (tag, strings), plugin in zip(tensors.items(), plugins, strict=True):
                metadata = plugin if step == 1 else None
                value = Summary.Value(tag=tag, tensor=make_tensor_proto(strings), metadata=metadata)
                writer._get_file_writer().add_summary(Summary(value=[value]), step)
    export(tmp_path / "run", tmp_path / "out", warn=pytest.fail)
    assert written(tmp_path / "out") == {
        "run/t/step_00000001.png": png(1), "run/t/step_00000002.png": png(2),
        "run/t [2]/step_00000001.png": png(101), "run/t [2]/step_00000002.png": png(102),
    }  # fmt: skip


def test_what_is_no_picture_is_left_out_and_told(tmp_path):
    warnings = []
    with SummaryWriter(str(tmp_path / "run")) as writer:
        add(writer, "a", 1, png(1))
        add(writer, "a", 2, b"<svg>")
    assert export(tmp_path / "run", tmp_path / "out", warn=warnings.append).pictures == 1
    assert "1 pictures of 'a' are no PNG" in warnings[0]


@pytest.mark.parametrize("tag", ["a/b", "net.1: x?", "../../up", "/etc", "a//b", "con*|<>", "x/.hidden", "é/ü "])
def test_folders_have_the_names_that_the_sink_for_folders_gives_them_and_stay_within(tag, tmp_path):
    log(tmp_path / "run", tags=(tag,), steps=range(1, 2))
    export(tmp_path / "run", tmp_path / "out")
    assert list(written(tmp_path / "out")) == [f"run/{file_name(tag)}/step_00000001.png"]


def test_tags_whose_folders_would_be_one_get_two(tmp_path):
    log(tmp_path / "run", tags=("A_b", "a:b", "a?b"), steps=range(1, 2))
    export(tmp_path / "run", tmp_path / "out")
    files = written(tmp_path / "out")
    assert [files[f"run/{name}/step_00000001.png"] for name in ("A_b", "a_b~2", "a_b~3")] == [png(1), png(2), png(3)]


def test_exporting_again_updates_and_touches_nothing_that_is_right(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    log(run)
    export(run, out, html=True)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    broken = out / "run/a/x/step_00000020.png"
    broken.write_bytes(png(20)[:-9])
    log(run, steps=range(50, 60, 10))
    export(run, out, html=True)
    assert broken.read_bytes() == png(20)
    assert len(list(out.rglob("*.png"))) == 10
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != broken)
    assert not list(out.rglob(".*"))


def test_the_tags_that_globs_match_are_taken(tmp_path):
    log(tmp_path / "run", tags=("a/x", "a/y", "b/x"))
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--tag", "a/*", "--tag", "b/?"]) == 0
    assert {name.split("/step")[0] for name in written(tmp_path / "out")} == {"run/a/x", "run/a/y", "run/b/x"}
    export(tmp_path / "run", tmp_path / "fewer", tags=["*/x"])
    assert {name.split("/step")[0] for name in written(tmp_path / "fewer")} == {"run/a/x", "run/b/x"}


def test_animations_show_each_step_once_on_a_page_that_fits_the_largest(tmp_path):
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, size in ((30, (8, 6)), (10, (4, 9)), (20, (8, 6))):
            add(writer, "a", step, png(step, size))
        add(writer, "single", 1, png(1))
    report = export(tmp_path / "run", tmp_path / "out", gif=True)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in report.animations] == ["run/a/animation.gif"]
    with Image.open(report.animations[0]) as gif:
        assert (gif.size, gif.n_frames, gif.info["loop"]) == ((8, 9), 3, 0)
        colors, pauses = [], []
        for frame in range(3):
            gif.seek(frame)
            colors.append(gif.convert("RGB").getpixel((1, 1)))
            pauses.append(gif.info["duration"])
    assert colors == [(step, 40, 90) for step in (10, 20, 30)]
    assert pauses == [500, 500, 2000]


def test_an_animation_keeps_the_colors_of_a_palette_picture(tmp_path):
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(codes)
    image.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in (1, 2):
            add(writer, "a", step, buffer.getvalue())
    (path,) = export(tmp_path / "run", tmp_path / "out", gif=True).animations
    with Image.open(path) as gif:
        assert np.array_equal(np.asarray(gif.convert("RGB")), np.asarray(image.convert("RGB")))


def test_a_page_has_equal_pictures_once_and_no_html_of_the_logs(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in (1, 2, 3):
            add(writer, f"a/{evil}", step, png(7), f"{evil} `{evil}`" if step == 1 else "")
        writer.add_text("convviz/diagnostics/net", f"**conv1: dying** {evil}", 2)
        writer.add_scalar("convviz/net/dead/conv1", float("nan"), 2)
        writer.add_scalar("loss", 1.0, 2)
    page = export(tmp_path / "run", tmp_path / "out", html=True).page
    text = page.read_text("utf-8")
    assert text.count("data:image/png;base64,") == 1
    assert evil not in text
    assert "<img src" not in text
    (run,) = index(page)["runs"]
    assert run["tags"][0]["shots"] == [[1, 0], [2, 0], [3, 0]]
    assert run["alarms"][0]["html"].startswith("<p><strong>conv1: dying</strong> &lt;/script")
    assert run["alarms"][0]["tag"] == "convviz/diagnostics/net"
    assert run["figures"] == [{"tag": "convviz/net/dead/conv1", "points": [[2, None]]}]


# -- what is broken ---------------------------------------------------------------------------------------------------


def offsets(path: Path) -> list[int]:
    """Where each record begins, and where the last one ends."""
    data, found = path.read_bytes(), [0]
    while found[-1] < len(data):
        found.append(found[-1] + 16 + struct.unpack("<Q", data[found[-1] : found[-1] + 8])[0])
    return found


def exported(folder: Path) -> tuple[int, list[str]]:
    warnings = []
    report = export(folder, folder.parent / "out", warn=warnings.append)
    return report.pictures, warnings


@pytest.mark.parametrize("cut", [1, 5, 13, 300], ids=lambda cut: f"{cut} bytes missing")
def test_a_file_that_ends_within_a_record_is_read_up_to_it(tmp_path, cut):
    path = log(tmp_path / "run")
    places, size = offsets(path), path.stat().st_size - cut
    path.write_bytes(path.read_bytes()[:-cut])
    pictures, (warning,) = exported(tmp_path / "run")
    whole = [place for place in places if place <= size]
    assert pictures == len(whole) - 2  # without the version of the format, which is the first record
    assert warning.startswith(repr(str(path)))
    assert "still being written, or was cut off" in warning
    assert f"Read: the first {whole[-1]} of {size} bytes" in warning


def test_a_damaged_record_is_left_out_and_the_rest_is_read(tmp_path):
    path = log(tmp_path / "run")
    data, places = bytearray(path.read_bytes()), offsets(path)
    data[places[3] + 12 + 60] ^= 1  # in the contents of one
    data[places[5] - 1] ^= 1  # in the checksum of another
    path.write_bytes(data)
    pictures, (warning,) = exported(tmp_path / "run")
    assert pictures == 6
    assert f"2 damaged records are left out, at byte {places[3]}, ..." in warning


def test_after_a_damaged_length_nothing_can_be_found(tmp_path):
    path = log(tmp_path / "run")
    data, places = bytearray(path.read_bytes()), offsets(path)
    data[places[4]] ^= 1
    path.write_bytes(data)
    pictures, (warning,) = exported(tmp_path / "run")
    assert pictures == 3  # the first record holds the version of the format
    assert f"is damaged. Read: the first {places[4]} of {len(data)} bytes" in warning


def test_an_empty_file_beside_a_good_one_is_told_and_does_no_harm(tmp_path):
    path = log(tmp_path / "run")
    path.with_name("events.out.tfevents.1.empty").touch()
    pictures, (warning,) = exported(tmp_path / "run")
    assert pictures == 8
    assert "is empty" in warning


def test_records_that_are_no_events_are_told(tmp_path):
    path = log(tmp_path / "run")
    path.with_name("tfevents.other").write_bytes(record(b"\xff\xff\xff"))
    pictures, (warning,) = exported(tmp_path / "run")
    assert pictures == 8
    assert "no event" in warning


def record(contents: bytes) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = _plain(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    head = struct.pack("<Q", len(contents))
    return head + masked(head) + contents + masked(contents)


def test_a_file_that_grows_while_it_is_read_is_read_to_its_end(tmp_path):
    path = log(tmp_path / "run")
    more = log(tmp_path / "more", steps=range(100, 120, 10)).read_bytes()
    grown, warnings = [], []

    def grow(count: int) -> None:
        if not grown:
            grown.append(count)
            with path.open("ab") as file:
                file.write(more + b"half")

    report = export(tmp_path / "run", tmp_path / "out", warn=warnings.append, progress=grow)
    assert report.pictures == 12
    assert len(warnings) == 1
    assert "still being written" in warnings[0]


def test_progress_is_told_in_bytes_and_reaches_the_whole(tmp_path):
    path, told = log(tmp_path / "run"), []
    export(tmp_path / "run", tmp_path / "out", progress=told.append)
    assert sum(told) == path.stat().st_size


def test_records_are_those_that_tensorboard_reads(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        add(writer, "large", 1, png(1) + bytes(np.random.default_rng(0).integers(0, 256, 70_001, dtype=np.uint8)))
    (path,) = tmp_path.glob("*tfevents*")
    ours = list(records(path, warn=pytest.fail))
    assert ours == list(RawEventFileLoader(str(path)).Load())
    assert Event.FromString(ours[-1]).step == 1


@pytest.mark.parametrize("length", [0, 1, 2047, 2048, 2049, 4096, 4097, 100_003])
def test_checksums_are_those_of_the_plain_loop(length):
    data = bytes(np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8))
    assert crc32c(data) == _plain(data)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum", "--out", "out"], "`LOGDIR` is 'rum', which does not exist. Did you mean 'run'?"),
        (["void", "--out", "out"], "`LOGDIR` is 'void', where there is no event file. Give"),
        (["scalars", "--out", "out"], "`LOGDIR` is 'scalars', whose event files (1) hold no pictures."),
        (["run", "--out", "file"], "`--out` is 'file', but 'file' is a file. Give a folder."),
        (["run", "--out", "file/in"], "`--out` is 'file/in', but 'file' is a file. Give a folder."),
        (["run", "--out", "."], "`--out` is '.', where pictures would go among event files."),
        (["run", "--out", "run"], "`--out` is 'run', where pictures would go among event files."),
        (["run", "--out", "out", "--tag", "a/z"], "`--tag` is 'a/z', which matches no tag of a picture. Did you mean"),
        (["run"], "the following arguments are required: --out"),
    ],
)  # fmt: skip
def test_bad_input_is_an_error_of_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log(tmp_path / "run")
    Path("void").mkdir()
    Path("file").touch()
    with SummaryWriter("scalars") as writer:
        writer.add_scalar("loss", 1.0, 1)
    try:
        code = main(["export", *arguments])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_what_can_not_be_written_is_an_error_and_leaves_nothing_behind(tmp_path, capsys):
    log(tmp_path / "run")
    blocked = tmp_path / "out/run/a/x/step_00000020.png"
    blocked.mkdir(parents=True)
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 1
    assert blocked.name in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob(".*"))


def test_the_errors_are_exceptions_for_who_calls_from_python(tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        export(tmp_path / "nowhere", tmp_path / "out")


def test_the_command_runs_without_torch_and_says_what_it_did(tmp_path):
    log(tmp_path / "run")
    check = (
        "import sys; from lightning_convviz.__main__ import main\n"
        f"code = main(['export', {str(tmp_path / 'run')!r}, '--out', {str(tmp_path / 'out')!r}, '--gif', '--html'])\n"
        "sys.exit(code or ('torch' in sys.modules and 'torch was imported') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"8 pictures of 2 tags, 2 animations: .*out; page: .*index\.html \(0\.\d MB\)\n", done.stdout)


def test_without_arguments_it_helps_and_imports_next_to_nothing():
    command = [sys.executable, "-X", "importtime", "-m", "lightning_convviz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "export" in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "tensorboard", "PIL", "pytorch_lightning", "lightning", "tqdm"}
