"""Law 1 on real pictures: the example's net on CIFAR-10, with all three callbacks at their defaults."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fits import Events
from torch.utils.data import DataLoader, TensorDataset

from lightning_convviz import ActivationLogger, FilterPatternLogger, GradCAMLogger, Probes

FOLDER = os.environ.get("CONVVIZ_DATA")
pytestmark = pytest.mark.skipif(not FOLDER, reason="CONVVIZ_DATA names no folder with cifar10/")


def example():
    path = Path(__file__).parents[2] / "examples"
    spec = importlib.util.spec_from_file_location("train", path / "train.py", submodule_search_locations=[str(path)])
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        spec.loader.exec_module(module)
    return module


def cifar10(part: str, count: int) -> TensorDataset:
    found = np.load(Path(FOLDER, "cifar10", f"{part}.npz"))
    images = torch.from_numpy(found["images"][:count]).permute(0, 3, 1, 2).float() / 255
    return TensorDataset((images - 0.47) / 0.25, torch.from_numpy(found["labels"][:count]).long())


def test_a_run_on_cifar10_ends_bit_for_bit_as_one_without(fit):
    train, val = cifar10("train", 1000), cifar10("test", 200)
    ends = []
    probes = Probes(val.tensors[0][:8], val.tensors[1][:8])
    for watchers in ([], [ActivationLogger(probes=probes), FilterPatternLogger(probes=probes), GradCAMLogger()]):
        torch.manual_seed(0)
        module = example().ConvNet(channels=3, classes=10)
        trainer = fit(
            watchers, module=module, train=DataLoader(train, 100, shuffle=True), val=DataLoader(val, 100), max_epochs=2
        )
        ends.append({**module.state_dict(), **trainer.callback_metrics, "generator": torch.get_rng_state()})
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == {"activations", "filters", "gradcam"}
    assert sum(events.sizes().values()) < 1_000_000
