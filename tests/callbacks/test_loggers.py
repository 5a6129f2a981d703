"""Pictures arrive in every kind of logger, through its own interface, and in folders where there is none."""

import io
import json
import logging
import zipfile
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from fits import Events, facts, three
from PIL import Image
from pytorch_lightning.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_convviz import ActivationLogger, GradCAMLogger, sinks
from lightning_convviz.render import Animation, Chart, PageLayout, Panel, encode, rgb

TAGS = {"activations", "filters", "gradcam"}
OVER_TIME = {"evolution", "layer_stats"}
KINDS = TAGS | OVER_TIME | {"kernels", "mistakes", "followed", "confusions"}


def _opened(file):
    return Image.open(io.BytesIO(file.read_bytes()))


def epochs(images):
    return [facts(image)["epoch"] for image in images]


ALARM = "**Dead channels** in `conv1` — Größe 猫"


def more(step):
    """A drawing of what few callbacks have: a chart, an animation and a text."""
    frames = []
    for color in (0.2, 0.8):
        sheet = PageLayout(0)
        frames.append(sheet.picture(main=sheet.tiles(rgb(torch.full((1, 3, 8, 8), color)), columns=1),
                                    colormap=None, legend="", about={}))  # fmt: skip
    chart = Chart("Depth", [], ["conv1"], ["epoch 0"], [Panel("share", [[0.5]])], {"kind": "depth"}, "How to read.")
    pictures = {"health/depth": chart, "evolution/conv1": Animation(frames, {"kind": "evolution"}, "A film.")}
    drawing = sinks.LoggedDrawing("health", 2, step, pictures, texts={"health/alarm": f"{ALARM}, step {step}"})
    return sinks.EncodedDrawing(drawing, {tag: encode(picture) for tag, picture in pictures.items()})


def _texts(folder, tag):
    read = EventAccumulator(str(folder))
    read.Reload()
    assert read.SummaryMetadata(f"{tag}/text_summary").plugin_data.plugin_name == "text"
    return read.Tensors(f"{tag}/text_summary")


def test_tensorboard_shows_animations_and_texts(tmp_path):
    logger = TensorBoardLogger(tmp_path, name=None)
    for step in (6, 12):
        sinks.write(logger, more(step))
    logger.experiment.close()
    events = Events(logger.log_dir)
    films = events.images("evolution/conv1")
    assert [(film.format, film.n_frames) for film in films] == [("GIF", 2)] * 2
    assert facts(events.images("health/depth")[1])["panels"] == {"share": [[0.5]]}
    texts = [(text.step, text.tensor_proto.string_val[0].decode()) for text in _texts(logger.log_dir, "health/alarm")]
    assert texts == [(6, f"{ALARM}, step 6"), (12, f"{ALARM}, step 12")]
    assert events.epochs("health")[0]["tags"] == ["health/depth", "evolution/conv1"]


def test_tensorboard_in_a_remote_folder(fit):
    """TensorBoard's own writer writes, to whatever it knows."""
    fsspec = pytest.importorskip("fsspec")
    fit([GradCAMLogger(on_error="raise")], logger=TensorBoardLogger("memory://runs", name=None, version="remote"))
    (path,) = fsspec.filesystem("memory").glob("/runs/remote/events*")
    assert fsspec.filesystem("memory").cat(path).count(b"gradcam/probes") >= 2


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(fit, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="convviz")
    fit(three(), logger=logger)
    wandb.finish()
    files = sorted(tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.*"))
    images = list(map(_opened, files))
    assert {facts(image)["kind"] for image in images} == KINDS
    assert sorted(epochs(image for image in images if facts(image)["kind"] == "gradcam")) == [
        0,
        0,
        1,
    ]  # the initial network, and two epochs


@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_animations_and_texts(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="convviz")
    for step in (6, 12):
        sinks.write(logger, more(step))
    wandb.finish()
    media = tmp_path / "wandb"
    (depth, _) = sorted(media.rglob("media/images/**/*.png"))
    assert facts(_opened(depth))["kind"] == "depth"
    films = list(map(_opened, media.rglob("media/videos/**/*.gif")))
    assert [(film.n_frames, json.loads(film.info["comment"])["kind"]) for film in films] == [(2, "evolution")] * 2
    tables = [json.loads(file.read_text()) for file in media.rglob("*.table.json")]
    assert sorted(table["data"][0] for table in tables) == [
        [2, 6, f"{ALARM}, step 6"], [2, 12, f"{ALARM}, step 12"],
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_local_store(fit, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ARTIFACT_URI", str(tmp_path / "artifacts"))
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(tmp_path / "artifacts"))
    fit(three(), logger=logger)
    files = list((tmp_path / "artifacts").rglob("*.png"))
    names = [file.name.split("+") for file in files]  # MLflow: <key>+step+<step>+timestamp+...
    assert {name[0].split("~")[0] for name in names} == TAGS | OVER_TIME
    assert {int(name[2]) for name in names} == {0, 5, 11}
    assert all(_opened(file).width >= 300 for file in files)
    history = mlflow.MlflowClient(logger._tracking_uri).get_metric_history(logger.run_id, "convviz/seconds/gradcam")
    assert [metric.step for metric in history] == [0, 5, 11]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_animations_and_texts(tmp_path):
    pytest.importorskip("mlflow")
    place = tmp_path / "artifacts"
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(place))
    for step in (6, 12):
        sinks.write(logger, more(step))
    (root,) = place.glob("*/artifacts")
    films = [_opened(root / f"evolution/conv1/step_{step:08d}.gif") for step in (6, 12)]
    assert [film.n_frames for film in films] == [2, 2]
    texts = [(root / f"health/alarm/step_{step:08d}.md").read_text("utf-8") for step in (6, 12)]
    assert texts == [f"{ALARM}, step {step}" for step in (6, 12)]
    assert len([file for file in root.glob("images/*.png") if file.name.startswith("health~depth")]) == 2


@pytest.mark.filterwarnings("ignore")
def test_comet_offline(fit, tmp_path):
    comet_ml = pytest.importorskip("comet_ml")
    logger = CometLogger(online=False, project="convviz")
    # Lightning 2.6 makes the experiment of an offline logger a disabled one; a user's own is what works.
    logger._experiment = comet_ml.OfflineExperiment(
        offline_directory=str(tmp_path), log_code=False, log_env_details=False
    )
    fit(three(), logger=logger)
    logger.experiment.end()
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        messages = [json.loads(line) for line in packed.read("messages.json").decode().splitlines()]
        images = [Image.open(io.BytesIO(packed.read(name))) for name in names if name != "messages.json"
                  and packed.read(name)[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")]  # fmt: skip
    assert {facts(image)["kind"] for image in images} == KINDS
    uploads = [each["payload"]["additional_params"] for each in messages if each["type"] == "file_upload"]
    uploads = [each for each in uploads if each.get("figName") == "gradcam/probes"]
    assert sorted(int(each["step"]) for each in uploads) == [0, 5, 11]


@pytest.mark.filterwarnings("ignore")
def test_comet_keeps_animations_and_texts(tmp_path):
    comet_ml = pytest.importorskip("comet_ml")
    logger = CometLogger(online=False, project="convviz")
    logger._experiment = comet_ml.OfflineExperiment(
        offline_directory=str(tmp_path), log_code=False, log_env_details=False
    )
    for step in (6, 12):
        sinks.write(logger, more(step))
    logger.experiment.end()
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        messages = packed.read("messages.json").decode().splitlines()
        contents = [packed.read(name) for name in packed.namelist()]
    films = [Image.open(io.BytesIO(each)) for each in contents if each.startswith(b"GIF8")]
    assert [film.n_frames for film in films] == [2, 2]
    texts = [content.decode() for content in contents if content.startswith(ALARM.encode())]
    assert sorted(texts) == sorted(f"{ALARM}, step {step}" for step in (6, 12))
    uploads = [each["payload"] for each in map(json.loads, messages) if each["type"] == "file_upload"]
    about = [each["metadata"] for each in uploads if each["upload_type"] == "text-sample"]
    assert about == [{"epoch": 2, "tag": "health/alarm"}] * 2


def test_a_logger_without_pictures_gets_them_in_its_folder(fit, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        trainer = fit(three(), logger=CSVLogger(tmp_path))
    folder = Path(trainer.logger.log_dir, "convviz")
    assert sum(f"writes its pictures as files into '{folder}'" in record.message for record in caplog.records) == 1
    assert [file.name for file in sorted((folder / "gradcam/probes").iterdir())] == [
        "step_00000000.jpg",
        "step_00000005.jpg",
        "step_00000011.jpg",
    ]
    assert {path.name for path in folder.iterdir()} == TAGS | OVER_TIME | {"animation"}


def test_a_logger_that_takes_pictures_is_enough(fit, tmp_path):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board", name=None)]
    fit([GradCAMLogger(on_error="raise")], logger=loggers)
    assert not list(tmp_path.rglob("*.png"))
    assert Events(loggers[1].log_dir).steps("gradcam/probes") == [5, 11]


def test_without_a_logger_pictures_go_into_save_dir(fit, tmp_path):
    fit([GradCAMLogger(save_dir=tmp_path / "mine", on_error="raise")], logger=False)
    files = sorted((tmp_path / "mine/gradcam/probes").iterdir())
    assert epochs(map(_opened, files)) == [0, 0, 1]


def test_save_dir_comes_beside_the_loggers(fit, tmp_path):
    first = ActivationLogger(on_error="raise")
    trainer = fit([first, GradCAMLogger(save_dir=str(tmp_path / "mine"), on_error="raise")])
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"gradcam", "evolution", "animation"}
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [5, 11]


def test_without_a_logger_and_a_folder_there_is_one_warning(fit):
    with pytest.warns(UserWarning, match="found no logger that takes pictures.*`save_dir=`") as told:
        fit(three(), logger=False)
    assert sum("lightning_convviz" in str(warning.message) for warning in told) == 1


def test_names_of_files_are_fit_for_every_system():
    assert sinks.table.file_name('filters/a:b*"c"/..') == "filters/a_b__c_/_"


def test_a_disk_that_is_nearly_full_is_left_to_the_run(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(sinks.table, "RESERVE", 1e18)
    with pytest.warns(UserWarning, match="could not write everything.*pictures leave the last of it alone"):
        trainer = fit([GradCAMLogger()])
    assert isinstance(trainer, L.Trainer)
    assert "gradcam/probes" not in Events(trainer.logger.log_dir).tags
