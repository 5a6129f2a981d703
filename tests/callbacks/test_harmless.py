"""Law 1: a fit with the callbacks ends as one without, bit for bit, and the promised pictures are there."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from fits import Events, Watched, data, three
from pytorch_lightning.callbacks import WeightAveraging
from torch import nn
from torch.utils.data import DataLoader


def frozen_norm(tiny: type[nn.Module]) -> Watched:
    """A BatchNorm that the user keeps in evaluation mode throughout."""
    module = Watched(tiny())
    module.net.bn1.eval()
    return module


def frozen_net(tiny: type[nn.Module]) -> Watched:
    module = Watched(tiny())
    for part in (module.net.conv1, module.net.bn1, module.net.conv2, module.net.bn2):
        part.requires_grad_(False)
    return module


def compiled(tiny: type[nn.Module]) -> Watched:
    module = Watched(tiny())
    module.compile(backend="eager")
    return module


def part_compiled(tiny: type[nn.Module]) -> Watched:
    module = Watched(tiny())
    module.net = torch.compile(module.net, backend="eager")
    return module


def plain(tiny: type[nn.Module]) -> Watched:
    return Watched(tiny())


SETTINGS: dict[str, tuple[Callable[[Any], Watched], dict[str, Any]]] = {
    "plain": (plain, {}),
    "accumulation over a validation": (plain, {"accumulate_grad_batches": 4, "val_check_interval": 3}),
    "bf16": (plain, {"precision": "bf16-mixed"}),
    "frozen BatchNorm": (frozen_norm, {}),
    "frozen backbone": (frozen_net, {}),
    "logs in forward": (lambda tiny: Watched(tiny(), logs_in_forward=True), {}),
    "compiled": (compiled, {}),
    "part compiled": (part_compiled, {}),
    "deterministic, anomalies detected": (plain, {"deterministic": True, "detect_anomaly": True}),
    "no sanity check": (plain, {"num_sanity_val_steps": 0}),
    "averaged weights": (plain, {"callbacks": [WeightAveraging]}),
}


@pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode at the start of training")
@pytest.mark.parametrize("setting", SETTINGS)
def test_watching_changes_nothing(fit, tiny, setting, tmp_path):
    make, arguments = SETTINGS[setting]
    arguments = dict(arguments)
    extra = [kind() for kind in arguments.pop("callbacks", [])]
    ends = []
    for watchers in ([], three()):
        torch._dynamo.reset()
        module = make(tiny)
        trainer = fit([*watchers, *extra], module=module, **arguments)
        ends.append(_state(trainer, module))
        extra = [type(one)() for one in extra]
    assert _differences(*ends) == []
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == {"activations", "filters", "gradcam"}
    assert all(len(events.steps(tag)) >= 2 for tag in events.tags)


def test_the_users_own_generator_of_validation_batches_is_not_touched(fit):
    """A loader that shuffles its validation data takes its order from the global generator."""
    ends = []
    for watchers in ([], three()):
        val = DataLoader(data(20, seed=1), batch_size=8, shuffle=True)
        with pytest.warns(UserWarning, match="shuffling"):
            trainer = fit(watchers, val=val)
        ends.append(_state(trainer, trainer.lightning_module))
    assert _differences(*ends) == []


def _state(trainer: L.Trainer, module: nn.Module) -> dict[str, Any]:
    state = {f"weight {name}": value.clone() for name, value in module.state_dict().items()}
    for index, part in enumerate(trainer.optimizers[0].state.values()):
        state |= {f"optimizer {index} {key}": torch.as_tensor(value).clone() for key, value in part.items()}
    state |= {f"metric {name}": value.clone() for name, value in trainer.callback_metrics.items()}
    state |= {"torch": torch.get_rng_state(), "numpy": torch.as_tensor(np.random.get_state()[1].astype("int64"))}
    state["python"] = torch.tensor(random.getstate()[1])
    return state


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
