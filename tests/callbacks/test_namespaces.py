"""Lightning exists twice, as `pytorch_lightning` and as `lightning.pytorch`: the callbacks belong to both."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fits import Events, data
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, cams

NAMESPACES = ["pytorch_lightning", "lightning.pytorch"]


def namespace(name):
    pytest.importorskip("lightning") if name.startswith("lightning.") else None
    return importlib.import_module(name)


def make(L, net):
    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images):
            return self.net(images)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Module


def three():
    return [
        ActivationLogger(on_error="raise"),
        FilterPatternLogger(steps=1, cold_steps=1, num_filters=2),
        GradCAMLogger(),
    ]


@pytest.mark.parametrize("name", NAMESPACES)
@pytest.mark.parametrize("form", ["list", "single"])
def test_a_trainer_of_either_namespace_takes_the_callbacks(name, form, tiny, tmp_path):
    L = namespace(name)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        logger=importlib.import_module(f"{name}.loggers").TensorBoardLogger(tmp_path, name=None),
        callbacks=three() if form == "list" else GradCAMLogger(on_error="raise"),
    )  # fmt: skip
    loader = DataLoader(data(16), batch_size=8)
    trainer.fit(make(L, tiny())(), loader, loader)
    assert Events(trainer.logger.log_dir).steps("gradcam/probes") == [1]


@pytest.mark.parametrize("blocked", ["pytorch_lightning", "lightning"])
def test_one_namespace_is_enough(blocked):
    pytest.importorskip("lightning")
    check = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {blocked!r} or name.startswith({blocked!r} + "."):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from lightning_convviz import GradCAMLogger
bases = {{base.__module__.split(".")[0] for base in GradCAMLogger.__mro__ if base.__name__ == "Callback"}}
assert {blocked.split(".")[0]!r} not in bases and len(bases) >= 1, bases
GradCAMLogger()
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


CONFIG = """
seed_everything: 1
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  log_every_n_steps: 1
  logger: {{class_path: {name}.loggers.TensorBoardLogger, init_args: {{save_dir: {folder}, name: null}}}}
  callbacks:
    - class_path: lightning_convviz.ActivationLogger
      init_args: {{layers: [net.conv1, torch.nn.ReLU], max_channels: 4, every_n_epochs: log, on_error: raise}}
    - class_path: lightning_convviz.FilterPatternLogger
      init_args: {{layers: torch.nn.Conv2d, num_filters: 2, steps: 2, size: 8, probes: {folder}/probes, name: patterns}}
    - class_path: lightning_convviz.GradCAMLogger
      init_args: {{method: lightning_convviz.cams.hirescam, forward: net, output: torch.nn.Identity, num_probes: 2}}
    - class_path: lightning_convviz.GradCAMLogger
      init_args: {{layer: net.conv1, name: early, dataloader_idx: 0, save_dir: {folder}/files, save_images: false}}
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jsonargparse, inside Lightning
@pytest.mark.parametrize("name", NAMESPACES)
def test_a_command_line_of_either_namespace_makes_the_callbacks_from_yaml(name, tiny, tmp_path, monkeypatch):
    from PIL import Image

    pytest.importorskip("jsonargparse")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    L, cli = namespace(name), importlib.import_module(f"{name}.cli")
    (tmp_path / "probes").mkdir()
    Image.new("RGB", (16, 12), "red").save(tmp_path / "probes" / "red.png")
    (tmp_path / "config.yaml").write_text(CONFIG.format(name=name, folder=tmp_path))

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(data(16), batch_size=8)

        val_dataloader = train_dataloader

    made = cli.LightningCLI(
        make(L, tiny()), Data, save_config_callback=None, args=["fit", "--config", str(tmp_path / "config.yaml")]
    )
    by_name = {getattr(each, "name", None): each for each in made.trainer.callbacks}
    assert by_name["activations"].layers == ["net.conv1", nn.ReLU]
    assert by_name["patterns"].layers is nn.Conv2d
    assert by_name["gradcam"]._explainer.method is cams.hirescam
    events = Events(made.trainer.logger.log_dir)
    assert {"activations/net.relu2", "patterns/net.conv2", "gradcam/probes", "early/probes"} <= events.tags
    files = sorted(path.stem for path in Path(tmp_path, "files", "early", "probes").iterdir())
    assert files == ["step_00000000", "step_00000001"]


def test_the_help_of_every_argument_comes_from_its_docstring(capsys):
    jsonargparse = pytest.importorskip("jsonargparse")
    for kind in (ActivationLogger, FilterPatternLogger, GradCAMLogger):
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(kind, "callback")
        told = parser.format_help()
        options = [line.strip() for line in told.splitlines() if line.strip().startswith("--callback.")]
        assert len(options) > 10
        for action in parser._actions:
            if action.dest.startswith("callback.") and "help" not in action.dest:
                assert action.help
                assert not action.help.startswith("(type"), action.dest
