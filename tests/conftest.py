"""What the tests share: a tiny net with everything that betrays an observer, its probes, and the no-trace watch."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from beartype._check.code import codemain
from torch import Tensor, nn

# The type checks of the tests pick an item of each list at random: not with the numbers of the run that is watched.
codemain.getrandbits = random.Random(0).getrandbits

from fits import fit  # noqa: E402  (it imports the package, whose checks are made at that moment)

__all__ = ["fit"]

torch.set_num_threads(1)  # faster for nets this small, and kind to other runs on the machine


# -- nets -------------------------------------------------------------------------------------------------------------


class TinyNet(nn.Module):
    """Two convolutions, global pooling, a linear head. BatchNorm, Dropout and the in-place ReLU are there to betray:
    a forgotten `eval()` shows in the first two, a hook that hands out its tensor in the third.
    """

    def __init__(self, *, inplace: bool = True, bias: bool = True, classes: int = 5) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace)
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace)
        self.dropout, self.pool = nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, classes, bias=bias)
        stream = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=stream))
            for norm in (self.bn1, self.bn2):
                norm.weight.add_(1)
                norm.running_mean.copy_(0.1 * torch.randn(norm.num_features, generator=stream))
                norm.running_var.copy_(0.5 + torch.rand(norm.num_features, generator=stream))

    def features(self, images: Tensor) -> Tensor:
        images = self.relu1(self.bn1(self.conv1(images)))
        return self.relu2(self.bn2(self.conv2(images)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.dropout(self.features(images))).flatten(1))


class BusyNet(TinyNet):
    """A net whose forward counts, caches and draws random numbers; with `fails`, it raises halfway."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails, self.calls, self.seen, self.last = fails, 0, [], {"mean": 0.0}
        self.total = torch.zeros(())
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def features(self, images: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(tuple(images.shape))
        self.last["mean"] = images.mean().item()
        self.cached = images
        self.total += 1
        self.count += 1
        random.random(), np.random.rand(), torch.rand(())
        images = self.relu1(self.bn1(self.conv1(images)))
        if self.fails:
            raise RuntimeError("the forward failed")
        return self.relu2(self.bn2(self.conv2(images)))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with torch.enable_grad():  # a test that leaks another mode fails alone
        yield


@pytest.fixture
def tiny() -> type[TinyNet]:
    return TinyNet


@pytest.fixture
def busy() -> type[BusyNet]:
    return BusyNet


@pytest.fixture
def net() -> TinyNet:
    """In training mode, as a fit would hand it over, with a gradient that is not ours."""
    net = TinyNet()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    return net


@pytest.fixture
def images() -> Tensor:
    """Four probes, not square, so that mixed-up axes show."""
    return torch.randn(4, 3, 12, 16)


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


# -- no trace ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def leaves_no_trace() -> Callable[[nn.Module], AbstractContextManager[None]]:
    """`with leaves_no_trace(model): ...` fails where the block changed anything, also if it raises."""

    @contextmanager
    def watch(model: nn.Module) -> Iterator[None]:
        before = snapshot(model)
        try:
            yield
        finally:
            found = traces(before, snapshot(model))
            if found:
                pytest.fail(f"traces were left: {', '.join(found)}")

    return watch


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that a look at a model may not change, by name."""
    facts: dict[str, Any] = {f"value of {name}": value.clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        facts[f"grad of {name}"] = (id(parameter.grad), None if parameter.grad is None else parameter.grad.clone())
        facts[f"requires_grad of {name}"] = parameter.requires_grad
    for name, module in model.named_modules():
        facts[f"training of {name!r}"] = module.training
        facts |= {f"{key} of {name!r}": _held(value) for key, value in vars(module).items() if key not in _TABLES}
        facts |= {f"number of {key} of {name!r}": len(table) for key, table in vars(module).items() if "hooks" in key}
    facts |= {"Python's RNG": random.getstate(), "NumPy's RNG": repr(np.random.get_state(legacy=False))}
    facts |= {"torch's RNG": torch.get_rng_state(), "cuDNN autotuning": torch.backends.cudnn.benchmark}
    if torch.cuda.is_available():
        facts["CUDA's RNG"] = torch.cuda.get_rng_state_all()
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()
    return facts | {"grad, inference and anomaly mode": modes}


def traces(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before | after if not _same(before.get(name, "new"), after.get(name, "gone"))]


_TABLES = vars(nn.Module()).keys()


def _held(value: Any) -> Any:
    """An attribute's identity, and what it holds one level down."""
    if isinstance(value, Tensor):
        return id(value), value.detach().clone()
    return id(value), type(value)(value) if type(value) in (list, dict, set) else None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
