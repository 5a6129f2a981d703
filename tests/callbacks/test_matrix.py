"""Laws 1 and 2 in every setting: a fit with the callbacks ends as one without, bit for bit, without a trace, and the
promised pictures are there, of the net that made the metrics.
"""

import copy
import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as L
import torch
from conftest import traces
from fits import Events, Watched, data, three
from settings import COMBINATIONS, SETTINGS, NoForward, Setting, combined
from torch import nn
from torch.utils.data import DataLoader

from lightning_convviz import GradCAMLogger, sinks

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:You are overfitting to the training batches"),
    pytest.mark.filterwarnings("ignore:You requested to overfit"),
    pytest.mark.filterwarnings("ignore:You passed `Trainer.*precision='16-mixed'"),
    pytest.mark.filterwarnings("ignore:The `batch_idx` argument"),
    pytest.mark.filterwarnings("ignore:Swapping scheduler"),
    # Whole modules that are compiled, steps that call the forward twice: told once, and tested in test_gradcam.
    pytest.mark.filterwarnings("ignore:.*can't read the logits"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(autouse=True)
def nothing_is_dropped(monkeypatch):
    """These fits take a second, and a busy machine writes more slowly; how drawings are dropped is tested elsewhere."""
    monkeypatch.setattr(sinks.writer, "WAITING", 100)


class Seen(GradCAMLogger):
    """Keeps what was drawn, and the network that it was drawn from."""

    def __init__(self) -> None:
        super().__init__(on_error="raise", num_probes=4)
        self.results: list[Any] = []

    def draw(self, context, parts):
        if not context.snapshot.initial:
            self.results.append((copy.deepcopy(context.model.state_dict()), context.probes, context.result))
        return super().draw(context, parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=needs_cuda)])
def test_watching_changes_nothing_and_shows_what_is_there(fit, tiny, name, accelerator):
    if not SETTINGS[name].is_possible:
        pytest.skip(f"this Lightning has no {SETTINGS[name].needs}")
    changes_nothing(fit, tiny, SETTINGS[name], accelerator)


@pytest.mark.parametrize("names", COMBINATIONS, ids=", ".join)
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=needs_cuda)])
def test_watching_changes_nothing_in_settings_that_come_together(fit, tiny, names, accelerator):
    changes_nothing(fit, tiny, combined(names), accelerator)


def test_each_setting_comes_in_a_combination():
    assert SETTINGS.keys() == {name for names in COMBINATIONS for name in names}


def changes_nothing(fit: Any, tiny: Any, setting: Setting, accelerator: str) -> None:
    """A fit in this setting ends as one without the callbacks, and the pictures are those of the net at that step."""
    arguments = {"accelerator": accelerator, "deterministic": accelerator == "gpu"} | setting.trainer
    ends, seen = [], Seen()
    for watchers in ([], [*three()[:2], seen]):
        torch._dynamo.reset()
        module, others = setting.make(tiny), setting.extra()
        own = {key: make() for key in ("train", "val") if (make := getattr(setting, key)) is not None}
        callbacks = [*others, *watchers] if setting.before else [*watchers, *others]
        trainer = fit(
            callbacks, module=setting.wrap(module), loaders=not hasattr(module, "batch_size"), **own, **arguments
        )
        ends.append(_state(trainer, module))
    assert traces(*ends) == []
    events = Events(trainer.logger.log_dir)
    assert {tag.split("/")[0] for tag in events.tags} == {"activations", "filters", "gradcam"}
    expected = tuple(steps_of_metrics(events))
    assert expected
    assert {tuple(events.steps(tag)) for tag in events.tags} == {expected}
    assert _distance(setting, tiny, trainer, seen) <= setting.tolerance


def steps_of_metrics(events: Events) -> list[int]:
    """Where Lightning logged the metrics of each validation, or the next step where that is taken."""
    steps, last = [], 0 if events.has_initial else -1
    for step in events.metric("val_loss"):
        last = max(step, last + 1)
        steps.append(last)
    return steps


def test_the_users_own_generator_of_validation_batches_is_not_touched(fit):
    """A loader that shuffles its validation data takes its order from the global generator."""
    ends = []
    for watchers in ([], three()):
        val = DataLoader(data(20, seed=1), batch_size=8, shuffle=True)
        with pytest.warns(UserWarning, match="shuffling"):
            trainer = fit(watchers, val=val)
        ends.append(_state(trainer, trainer.lightning_module))
    assert traces(*ends) == []


def test_the_matrix_would_see_a_watcher_that_touches(fit, tiny):
    """Each of these would pass unseen if the state that is compared were too small."""

    class Touches(L.Callback):
        def __init__(self, touch):
            self.touch = touch

        def on_validation_end(self, trainer, pl_module):
            self.touch(pl_module)

    touches = {
        "torch": lambda module: torch.rand(1),
        "python": lambda module: random.random(),
        "hooks": lambda module: module.net.conv1.register_forward_hook(lambda *args: None),
        "training": lambda module: setattr(module.net.bn1, "affine", 1),
        "weight": lambda module: module.net.conv1.weight.data.add_(1e-6),
    }
    trainer = fit([], module=Watched(tiny()))
    before = _state(trainer, trainer.lightning_module)
    for touch in touches.values():
        trainer = fit([Touches(touch)], module=Watched(tiny()))
        assert traces(before, _state(trainer, trainer.lightning_module)) != []


def _state(trainer: L.Trainer, module: nn.Module) -> dict[str, Any]:
    """All that training leaves: the model with its flags and hooks, optimizers, metrics, random numbers."""
    state = {f"value of {name}": value.clone() for name, value in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        state[f"requires_grad of {name}"] = parameter.requires_grad
        state[f"grad of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, bool | int | float | str)}
        plain.pop("_torchdynamo_wrapper_id", None)  # a number for each time that something is compiled
        state |= {f"{key} of {name!r}": value for key, value in plain.items()}
        state |= {f"number of {key} of {name!r}": len(table) for key, table in vars(part).items() if "hooks" in key}
    for number, optimizer in enumerate(trainer.optimizers):
        for index, part in enumerate(optimizer.state.values()):
            state |= {
                f"optimizer {number}, {index}, {key}": torch.as_tensor(value).clone() for key, value in part.items()
            }
        state |= {f"optimizer {number} lr": [group["lr"] for group in optimizer.param_groups]}
    state |= {f"metric {name}": value.clone() for name, value in trainer.callback_metrics.items()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    state |= {"torch": torch.get_rng_state(), "numpy": torch.as_tensor(np.random.get_state()[1].astype("int64"))}
    return state | {"python": torch.tensor(random.getstate()[1]), "step": trainer.global_step}


def _distance(setting: Any, tiny: Any, trainer: L.Trainer, seen: Seen) -> float:
    """How far what was drawn last is from a plain run of the same net: logits, and Grad-CAM written from the paper."""
    state, probes, result = seen.results[-1]
    plain = setting.make(tiny)
    for owner in plain.modules():  # never compiled
        for name, part in owner.named_children():
            setattr(owner, name, getattr(part, "_orig_mod", part))
    plain = plain.to(probes.images).eval()
    plain.load_state_dict({key.replace("_orig_mod.", ""): value for key, value in state.items()})
    plain.log = lambda *args, **kwargs: None
    net = plain.net if isinstance(plain, NoForward) else plain.forward
    kept: list[Any] = []

    def keep(part: Any, args: Any, output: Any) -> Any:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    dict(plain.named_modules())[seen._explainer.layer].register_forward_hook(keep)
    with trainer.precision_plugin.forward_context(), torch.enable_grad():
        logits = net(probes.images.clone())
    score = logits if logits.dtype == torch.float64 else logits.float()
    best = score.argsort(dim=1, descending=True, stable=True)[:, :1]  # of equal ones, as rounding makes them, the first
    (gradients,) = torch.autograd.grad(score.gather(1, best).sum(), kept[0])
    activations, gradients = kept[0].detach().double(), gradients.double()
    heat = (gradients.mean((2, 3), keepdim=True) * activations).sum(1)
    pairs = [(result.logits, logits.detach().double()), (result.maps[0], heat)]
    return max(float((found.double() - expected).abs().max() / expected.abs().max()) for found, expected in pairs)
