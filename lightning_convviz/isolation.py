"""Look at a model and leave no trace."""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

# What every nn.Module carries: hooks, parameter tables, flags. Everything else in a module's __dict__ is its author's.
_MACHINERY = frozenset(vars(nn.Module()))

# Models that are inside `isolated` at this moment.
_isolated_now: "WeakSet[nn.Module]" = WeakSet()

R = TypeVar("R")


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """A context in which `model` can be run and differentiated, and which puts everything back, also on an error.

    Inside, every sub-module is in evaluation mode, autograd records (also inside an outer `no_grad` or
    `inference_mode`; clone tensors that were made in inference mode), compiled models run eagerly, anomaly detection
    and cuDNN autotuning are off, and a LightningModule's `log` is mute. Afterwards the training flag of each
    sub-module, all buffers and plain attributes (counters, metric states, caches), and the random number generators of
    Python, NumPy, the CPU and the model's device are as before. Parameters and their `.grad` are never written:
    use `torch.autograd.grad`, not `backward()`. Attributes are followed one level into lists, dicts, sets and
    deques; what a forward changes deeper than that, or outside the module, is not put back.

    Example:
        >>> net = nn.Sequential(nn.Dropout()).train()
        >>> with isolated(net), torch.no_grad():
        ...     net(torch.ones(2)), net.training
        (tensor([1., 1.]), False)
        >>> net.training
        True
    """
    if model in _isolated_now:  # patterns within a drawing, say: what is to be put back is kept already
        with torch.inference_mode(False), torch.enable_grad():
            yield
        return
    with ExitStack() as stack:
        _isolated_now.add(model)
        stack.callback(_isolated_now.discard, model)
        # The stance first: hooks on modules inside compiled regions fire only where the forward is eager, and no probe
        # batch may leave a graph of its own behind (https://github.com/pytorch/pytorch/issues/117758).
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        stack.enter_context(same_randomness([device for device in devices(model) if device.type != "cpu"]))
        for keeper in (_modes, _buffers, _attributes, _muted):
            stack.enter_context(keeper(model))
        stack.enter_context(_no_autotuning())
        # Within a user's autocast, older torch would hand weights that were cast under our no_grad to his own forward.
        stack.callback(torch.clear_autocast_cache)
        yield


def devices(model: nn.Module) -> set[torch.device]:
    """The devices that hold the model's parameters and buffers, without "meta"."""
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.device for tensor in tensors if tensor.device.type != "meta"}


@contextmanager
def same_randomness(accelerators: Collection[torch.device] = ()) -> Iterator[None]:
    """Afterwards the random number generators of Python, NumPy, the CPU and the accelerators are as before."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    states = [(device, torch.get_device_module(device).get_rng_state(device)) for device in accelerators]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for device, state in states:
            torch.get_device_module(device).set_rng_state(state, device)


@contextmanager
def _modes(model: nn.Module) -> Iterator[None]:
    # The flag itself, not eval(): modules that override train() (to merge adapters, say) must not notice.
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    # By value: running statistics and quantization observers are updated in place, without a version bump.
    tables = [(module, dict(module._buffers)) for module in model.modules()]
    tensors = {id(b): b for _, table in tables for b in table.values() if b is not None and b.device.type != "meta"}
    values = _kept(tensors.values())
    try:
        yield
    finally:
        for module, table in tables:
            if not isinstance(module, torch.jit.ScriptModule):  # its table is a view that can't be rebuilt
                module._buffers.clear()
                module._buffers.update(table)
        _put_back(values)


@contextmanager
def _attributes(model: nn.Module) -> Iterator[None]:
    """Plain attributes: which there are, what they are bound to, and one level of what lists and tensors hold."""
    saved = [(module, _own(module)) for module in model.modules()]
    values = {id(value): value for _, own in saved for value in own.values()}.values()
    contents = [(value, _content(value)) for value in values if isinstance(value, list | dict | set | deque)]
    within = {id(part): part for _, content in contents for part in content}.values()
    tensors = _kept(value for value in [*values, *within] if _is_state(value))
    streams = [(value, value.get_state()) for value in [*values, *within] if isinstance(value, torch.Generator)]
    try:
        yield
    finally:
        for module, own in saved:
            for key in _own(module).keys() - own.keys():
                del module.__dict__[key]
            module.__dict__.update(own)
        for value, content in contents:
            now = _content(value)
            if len(now) != len(content) or any(a is not b for a, b in zip(now, content, strict=True)):
                _refill(value, content)
        for stream, state in streams:
            stream.set_state(state)
        _put_back(tensors)


def _kept(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Tensors with copies of their values; of one that repeats the same memory (`expand`), the part that repeats."""
    kept = []
    for tensor in tensors:
        if tensor.layout is torch.strided:
            for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
                tensor = tensor.narrow(dim, 0, 1) if stride == 0 and size > 1 else tensor  # noqa: PLW2901
            kept.append((tensor, tensor.detach().clone()))
    return kept


def _put_back(values: Iterable[tuple[Tensor, Tensor]]) -> None:
    # In inference mode, where tensors made in it can be written too; through `.data`, which leaves the version counter
    # alone: a graph of the user's that awaits its backward may hold the tensor (BatchNorm's statistics, for one).
    with torch.inference_mode():
        for tensor, value in values:
            tensor.data.copy_(value)


def _own(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _MACHINERY}


def _content(value: Any) -> list[Any]:
    return [part for item in value.items() for part in item] if isinstance(value, dict) else list(value)


def _refill(value: Any, content: list[Any]) -> None:
    value.clear()
    if isinstance(value, dict):
        value.update(zip(content[::2], content[1::2], strict=True))
    else:
        (value.update if isinstance(value, set) else value.extend)(content)


def _is_state(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type != "meta"


@contextmanager
def _muted(model: nn.Module) -> Iterator[None]:
    # A module that logs in `forward` would overwrite the metrics of the user's own validation with the probes'.
    loggers = [
        module for module in model.modules() if any(c.__name__ == "LightningModule" for c in type(module).__mro__)
    ]
    try:
        for module in loggers:
            module.__dict__.update(log=_ignore, log_dict=_ignore)
        yield
    finally:
        for module in loggers:
            for name in ("log", "log_dict"):
                module.__dict__.pop(name, None)


def _ignore(*args: Any, **kwargs: Any) -> None:
    return None


@contextmanager
def _no_autotuning() -> Iterator[None]:
    # Not `cudnn.flags()`: its default for `enabled` is False.
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def autograd_everywhere(model: nn.Module) -> Iterator[None]:
    """Within the block autograd records in all of `model`, also where its forward puts a backbone under `no_grad`."""

    def enable(module: nn.Module, args: Any) -> None:
        torch.set_grad_enabled(True)

    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    handles = [module.register_forward_pre_hook(enable) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gradients(total: Tensor, inputs: Sequence[Tensor], **options: Any) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`, which leaves every `.grad` alone.

    Raises:
        ValueError: where activation checkpointing forbids it.
    """
    try:
        found: tuple[Tensor | None, ...] = torch.autograd.grad(total, inputs, **options)
    except RuntimeError as error:
        if "heckpoint" not in str(error):
            raise
        raise ValueError(
            "the model uses activation checkpointing of the kind that knows no gradients but `backward()`. Use "
            "`torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`, or a layer after the last checkpoint."
        ) from error
    return found


def in_chunks(function: Callable[[slice], R], count: int, *, whole: bool = False, size: int | None = None) -> list[R]:
    """`function` over `slice(0, count)`, or over smaller and smaller slices where memory runs out.

    Args:
        function: computes the result for a slice of the images; must not depend on the others.
        count: how many images there are.
        whole: no smaller than asked for, or not at all: for ranks that have to stay in step.
        size: how many at once, to begin with; all by default.

    Returns:
        The results in order, one for each slice that fitted.

    Raises:
        torch.OutOfMemoryError: where even one image does not fit.
    """
    done: list[R] = []
    start, size = 0, min(count, size or count)
    while start < count:
        try:
            done.append(function(slice(start, min(start + size, count))))
            start += size
            continue
        except torch.OutOfMemoryError:
            if size == 1 or whole:
                raise
        # Outside the handler: the exception's traceback keeps the failed attempt's tensors alive.
        size = (size + 1) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return done
