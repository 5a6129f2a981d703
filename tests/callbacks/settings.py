"""The settings in which people train: a row each for the matrix of `test_matrix.py`, and for that of the README."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import pytorch_lightning as L
import torch
from fits import Watched, data
from pytorch_lightning import callbacks as lightning
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset


@dataclass(frozen=True)
class Setting:
    """One way to train.

    Attributes:
        make: tiny net class -> the module.
        trainer: arguments of the Trainer.
        extra: makes the user's other callbacks.
        before: whether those stand before ours.
        train: makes the training data.
        val: makes the validation data.
        wrap: what is given to `fit`, from the module.
        tolerance: how near a plain run of the net must come to what was drawn.
        needs: a callback of Lightning that not all supported versions have.
    """

    make: Callable[[Any], L.LightningModule] = lambda tiny: Watched(tiny())
    trainer: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[], list[Any]] = list
    before: bool = False
    train: Callable[[], Any] | None = None
    val: Callable[[], Any] | None = None
    wrap: Callable[[Any], Any] = lambda module: module
    tolerance: float = 1e-5
    needs: str | None = None

    @property
    def is_possible(self) -> bool:
        """Whether this Lightning has the callback that is needed."""
        return self.needs is None or hasattr(lightning, self.needs)


# -- modules ----------------------------------------------------------------------------------------------------------


def frozen_norm(tiny: Any) -> Watched:
    """A BatchNorm that the user keeps in evaluation mode throughout."""
    module = Watched(tiny())
    module.net.bn1.eval()
    return module


def frozen_net(tiny: Any) -> Watched:
    module = Watched(tiny())
    for part in (module.net.conv1, module.net.bn1, module.net.conv2, module.net.bn2):
        part.requires_grad_(False)
    return module


def compiled(tiny: Any) -> Watched:
    module = Watched(tiny())
    module.compile(backend="aot_eager")
    return module


def part_compiled(tiny: Any) -> Watched:
    module = Watched(tiny())
    module.net = torch.compile(module.net, backend="eager")
    return module


class NoForward(Watched):
    """Calls its net from its steps."""

    forward = L.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0] + 0.1 * torch.randn_like(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


def no_forward_compiled(tiny: Any) -> Watched:
    module = NoForward(tiny())
    module.net = torch.compile(module.net, backend="eager")
    return module


class Checkpointed(nn.Module):
    """A net whose features are computed twice, to save memory."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Any) -> Any:
        maps = checkpoint(self.net.features, images, use_reentrant=False)
        return self.net.head(self.net.pool(self.net.dropout(maps)).flatten(1))


class Measures(Watched):
    """Counts with a torchmetrics metric in its forward, and observes ranges for quantization."""

    def __init__(self, net: Any) -> None:
        import torchmetrics

        super().__init__(net)
        self.seen = torchmetrics.MeanMetric()
        self.low = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("range", torch.zeros(2))

    def forward(self, images: Any) -> Any:
        self.seen(images.detach().mean())
        self.range.copy_(torch.stack([images.min(), images.max()]))
        return self.net(images)

    def on_validation_epoch_end(self) -> None:
        self.log("seen", self.seen)
        self.log(
            "count",
            self.seen.update_count.float()
            if torch.is_tensor(self.seen.update_count)
            else float(self.seen.update_count),
        )
        self.log("low", self.range[0])


def quantized(tiny: Any) -> Watched:
    """Fake quantization, whose observers change their ranges in evaluation too."""
    from torch.ao.quantization import FakeQuantize

    net = tiny()
    net.dropout = nn.Sequential(net.dropout, FakeQuantize())
    return Watched(net)


class ChannelsLast(Watched):
    def __init__(self, net: Any) -> None:
        super().__init__(net.to(memory_format=torch.channels_last))

    def forward(self, images: Any) -> Any:
        return self.net(images.to(memory_format=torch.channels_last))


class TwoOptimizers(Watched):
    """Manual optimization by two optimizers: the global step counts both."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        first, second = [*self.net.conv1.parameters()], [*self.net.conv2.parameters(), *self.net.head.parameters()]
        return [torch.optim.Adam(first, lr=0.01), torch.optim.SGD(second, lr=0.01)]


class Tuned(Watched):
    """What Lightning's tuners need."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.lr, self.batch_size = 0.01, 2

    def train_dataloader(self) -> Any:
        return DataLoader(data(), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(data(20, seed=1), batch_size=self.batch_size)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


# -- data -------------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    """Data of unknown length, or without end."""

    def __init__(self, count: int | None, seed: int) -> None:
        self.items, self.count = data(20, seed=seed), count

    def __iter__(self) -> Any:
        endless = itertools.cycle(range(len(self.items)))
        return (self.items[index] for index in itertools.islice(endless, self.count))


def stream(count: int | None, *, seed: int = 1) -> Callable[[], DataLoader]:
    return lambda: DataLoader(Stream(count, seed), batch_size=4)


def two_loaders() -> list[DataLoader]:
    return [DataLoader(data(20, seed=1), batch_size=8), DataLoader(data(12, seed=2), batch_size=4)]


# -- the rows ---------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Setting] = {
    "32-true": Setting(),
    "bf16-mixed": Setting(trainer={"precision": "bf16-mixed"}, tolerance=0.05),
    "16-mixed": Setting(trainer={"precision": "16-mixed"}, tolerance=0.05),
    "bf16-true": Setting(trainer={"precision": "bf16-true"}, tolerance=0.05),
    "64-true": Setting(trainer={"precision": "64-true"}, tolerance=1e-9),
    "module.compile()": Setting(compiled),
    "fit(torch.compile(module))": Setting(wrap=lambda module: torch.compile(module, backend="eager")),
    "a sub-network compiled": Setting(part_compiled),
    "a sub-network compiled, no forward": Setting(no_forward_compiled),
    "no forward": Setting(lambda tiny: NoForward(tiny())),
    "activation checkpointing": Setting(lambda tiny: Watched(Checkpointed(tiny()))),
    "channels last": Setting(lambda tiny: ChannelsLast(tiny())),
    "fake quantization": Setting(quantized),
    "torchmetrics and observers in forward": Setting(lambda tiny: Measures(tiny())),
    "self.log in forward": Setting(lambda tiny: Watched(tiny(), logs_in_forward=True)),
    "frozen BatchNorm": Setting(frozen_norm),
    "frozen backbone": Setting(frozen_net),
    "two optimizers": Setting(lambda tiny: TwoOptimizers(tiny())),
    "deterministic, anomalies detected": Setting(trainer={"deterministic": True, "detect_anomaly": True}),
    "accumulation over a validation": Setting(
        trainer={"accumulate_grad_batches": 4, "val_check_interval": 3}
    ),
    "no sanity check": Setting(trainer={"num_sanity_val_steps": 0}),
    "WeightAveraging": Setting(extra=lambda: [lightning.WeightAveraging()], needs="WeightAveraging"),
    "WeightAveraging, listed first": Setting(
        extra=lambda: [lightning.WeightAveraging()], before=True, needs="WeightAveraging"
    ),
    "EMAWeightAveraging": Setting(extra=lambda: [lightning.EMAWeightAveraging(decay=0.5)], needs="EMAWeightAveraging"),
    "EMAWeightAveraging, listed first": Setting(
        extra=lambda: [lightning.EMAWeightAveraging(decay=0.5)], before=True, needs="EMAWeightAveraging"
    ),
    # It validates once more, after an epoch for its BatchNorm statistics.
    "SWA": Setting(extra=lambda: [lightning.StochasticWeightAveraging(0.005, swa_epoch_start=1)]),
    "SWA, listed first": Setting(
        extra=lambda: [lightning.StochasticWeightAveraging(0.005, swa_epoch_start=1)], before=True
    ),
    "EarlyStopping": Setting(
        extra=lambda: [lightning.EarlyStopping("val_loss", patience=1, stopping_threshold=100.0)]
    ),
    "LearningRateFinder": Setting(
        lambda tiny: Tuned(tiny()), extra=lambda: [lightning.LearningRateFinder(num_training_steps=4)]
    ),
    "BatchSizeFinder": Setting(
        lambda tiny: Tuned(tiny()),
        extra=lambda: [lightning.BatchSizeFinder(steps_per_trial=1, max_trials=2)],
    ),
    "GradientAccumulationScheduler": Setting(
        extra=lambda: [lightning.GradientAccumulationScheduler({0: 1, 1: 3})]
    ),
    "val_check_interval=0.5": Setting(trainer={"val_check_interval": 0.5}),
    "val_check_interval=2": Setting(trainer={"val_check_interval": 2}),
    "validations by steps alone": Setting(
        trainer={"check_val_every_n_epoch": None, "val_check_interval": 4}
    ),
    "check_val_every_n_epoch=2": Setting(trainer={"check_val_every_n_epoch": 2}),
    "limit_val_batches": Setting(trainer={"limit_val_batches": 2}),
    "several validation loaders": Setting(val=two_loaders),
    "iterable data": Setting(train=stream(24, seed=0), val=stream(10)),
    "endless data": Setting(
        train=stream(None, seed=0), val=stream(None),
        trainer={"limit_val_batches": 3, "max_epochs": -1, "max_steps": 10, "val_check_interval": 5,
                 "check_val_every_n_epoch": None},
    ),
    "overfit_batches": Setting(trainer={"overfit_batches": 2}),
}  # fmt: skip


# -- several at once ---------------------------------------------------------------------------------------------------

# Names of rows that go together in one fit, so that a few fits have all rows.
COMBINATIONS: list[tuple[str, ...]] = [
    ("bf16-mixed", "no forward", "val_check_interval=0.5", "WeightAveraging"),
    ("16-mixed", "channels last", "limit_val_batches", "EMAWeightAveraging, listed first"),
    ("bf16-true", "self.log in forward", "validations by steps alone", "no sanity check"),
    ("64-true", "activation checkpointing", "several validation loaders", "SWA"),
    ("module.compile()", "val_check_interval=2", "bf16-mixed"),
    ("fit(torch.compile(module))", "WeightAveraging, listed first", "EarlyStopping"),
    ("a sub-network compiled", "EMAWeightAveraging", "overfit_batches", "32-true"),
    ("a sub-network compiled, no forward", "check_val_every_n_epoch=2", "no sanity check"),
    ("fake quantization", "accumulation over a validation", "several validation loaders"),
    ("torchmetrics and observers in forward", "SWA, listed first", "64-true"),
    ("frozen BatchNorm", "iterable data", "GradientAccumulationScheduler"),
    ("frozen backbone", "endless data", "bf16-true"),
    ("two optimizers", "deterministic, anomalies detected", "limit_val_batches"),
    ("LearningRateFinder", "no sanity check"),
    ("BatchSizeFinder", "deterministic, anomalies detected"),
]


def combined(names: tuple[str, ...]) -> Setting:
    """One setting of several, without those that this Lightning lacks.

    Raises:
        ValueError: where two of them say different things of one field.
    """
    plain, parts = Setting(), [SETTINGS[name] for name in names if SETTINGS[name].is_possible]
    found: dict[str, Any] = {"extra": lambda: [callback for part in parts for callback in part.extra()]}
    found["trainer"] = {key: value for part in parts for key, value in part.trainer.items()}
    if len(found["trainer"]) < sum(len(part.trainer) for part in parts):
        raise ValueError(f"{names} can't be combined: two of them give one argument of the Trainer.")
    for item in [item.name for item in fields(Setting) if item.name not in ("extra", "trainer", "needs")]:
        said = [value for part in parts if (value := getattr(part, item)) != getattr(plain, item)]
        if len(said) > 1:
            raise ValueError(f"{names} can't be combined: two of them give `{item}`.")
        found |= {item: said[0]} if said else {}
    return Setting(**found)
