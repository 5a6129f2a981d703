"""Find layers by name, glob or type; record what they output; stop the forward early."""

import difflib
import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Names of attributes that wrappers put between a module and its parent; they mean nothing to the user.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})

# Classes, by name, of modules whose parameters are spread over ranks: torch need not be built with them.
PIECES = frozenset({"FSDPModule", "FullyShardedDataParallel"})

Layers = str | type[nn.Module] | Sequence[str | type[nn.Module]]


def canonical_name(name: str) -> str:
    """A module's name without the parts that `torch.compile`, FSDP and checkpointing insert.

    >>> canonical_name("backbone._orig_mod.layer1.0")
    'backbone.layer1.0'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All sub-modules by clean name, in the order of `named_modules()`; of a wrapper and its content, the content."""
    return {canonical_name(name): module for name, module in model.named_modules() if canonical_name(name)}


def compiled_regions(model: nn.Module) -> list[str]:
    """Names of the sub-modules that `torch.compile` or `compile()` made the outside of a compiled region."""
    optimized = torch._dynamo.OptimizedModule
    return [
        canonical_name(name)
        for name, module in model.named_modules()
        if isinstance(module, optimized) or getattr(module, "_compiled_call_impl", None) is not None
    ]


def wrappers(model: nn.Module) -> dict[str, nn.Module]:
    """By the name of what they hold, the outermost wrappers that `torch.compile` made of sub-modules.

    Hooks on them run outside the compiled region.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(f"{canonical_name(name)}.".startswith(f"{outer}.") for outer in found)
        if name and isinstance(module, torch._dynamo.OptimizedModule) and not inside:
            found[canonical_name(name)] = module
    return found


def find(model: nn.Module, layers: Layers, *, argument: str = "layers") -> list[str]:
    """Names of the sub-modules that names, globs or module types stand for, without repetition.

    Args:
        model: the module to look into.
        layers: a name as in `named_modules()`, a glob (`"features.*"`), a module class, or a list of these.
        argument: what the caller's argument is called, for the error.

    Raises:
        ValueError: where something matches no layer; the message offers the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
        >>> find(net, nn.Conv2d), find(net, ["2", "1"]), find(net, "*")
        (['0', '2'], ['2', '1'], ['0', '1', '2'])
    """
    modules = named_layers(model)
    wanted = [layers] if isinstance(layers, str | type) else list(layers)
    found: dict[str, None] = {}
    for item in wanted:
        names = _matches(modules, item)
        if not names:
            raise ValueError(_no_such_layer(model, modules, item, argument))
        found.update(dict.fromkeys(names))
    return list(found)


def find_one(model: nn.Module, layer: str, *, argument: str = "layer") -> str:
    """The name of the one sub-module that a name or a glob stands for.

    Raises:
        ValueError: where it matches no layer, or several.
    """
    names = find(model, layer, argument=argument)
    if len(names) > 1:
        raise ValueError(f"`{argument}` is {layer!r}, which stands for {len(names)} layers, {names[:8]}. Name one.")
    return names[0]


def _matches(modules: Mapping[str, nn.Module], item: str | type[nn.Module]) -> list[str]:
    if isinstance(item, type):
        return [name for name, module in modules.items() if isinstance(module, item)]
    if canonical_name(item) in modules:
        return [canonical_name(item)]
    return fnmatch.filter(modules, item) if any(letter in item for letter in "*?[") else []


def _no_such_layer(model: nn.Module, modules: Collection[str], item: object, argument: str) -> str:
    close = difflib.get_close_matches(str(item), modules, n=3, cutoff=0.5)
    shown = list(modules)[:8]
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Its layers begin {shown}."
    return f"`{argument}` is {item!r}, which `{type(model).__name__}` does not have. {hint}"


class StopForward(BaseException):
    """Ends a forward once everything asked for is recorded.

    A `BaseException`, so that a model's own `except Exception` does not swallow it.
    """


@contextmanager
def record(
    model: nn.Module,
    names: Sequence[str],
    *,
    differentiable: Collection[str] = (),
    before: Collection[str] = (),
    first: bool = False,
    stop: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """Within the block, a forward of `model` fills the yielded dict: layer name -> the layer's output.

    What is recorded is the output as the layer returned it: the rest of the net goes on with a clone, so that an
    in-place ReLU after the layer cannot overwrite it (https://github.com/pytorch/pytorch/issues/61519). A layer that
    runs several times in one forward is recorded at its last call (with `first` or `stop`, at its first).

    Args:
        model: its forward runs inside the block, called by you.
        names: layers, as `find` returns them.
        differentiable: those of `names` to which gradients will be taken. Autograd starts recording at the first of
            them to run, also under `no_grad` and with all parameters frozen: what lies before it costs no memory.
        before: those of `names` whose input is recorded instead of their output.
        first: record a layer that runs several times at its first call.
        stop: leave the block as soon as every layer has run; a model in pieces (FSDP) always runs to its end.

    Raises:
        ValueError: for an unknown name, or a layer that `torch.jit` compiled.
        TypeError: where a layer returns something other than a tensor.

    Example:
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
        >>> with record(net, ["0"]) as outputs:
        ...     _ = net(torch.tensor([-1.0, 2.0]))
        >>> outputs
        {'0': tensor([-1.,  2.])}
    """
    modules = named_layers(model)
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise TypeError(f"layer {name!r} returns a {type(output).__name__}. Choose a layer that returns a tensor.")
        if first and name in outputs:
            return output
        outputs[name] = _tracked(output) if name in differentiable else output
        if stop and len(outputs) == len(names):
            raise StopForward
        return outputs[name].clone()

    def hooked(name: str) -> RemovableHandle:
        if name in before:
            return modules[name].register_forward_pre_hook(partial(_entered, partial(keep, name)), with_kwargs=True)
        return modules[name].register_forward_hook(lambda _, args, output: keep(name, output))

    names = find(model, list(names)) if names else []
    _require_python(modules, names)
    first, stop = first or stop, stop and not is_fsdp(model)
    handles = [hooked(name) for name in names]
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # puts back what `_tracked` sets
            yield outputs
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _entered(keep: Callable[[Any], Tensor], module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A hook before a module: what it is given first, by place or by name, goes through `keep`."""
    if args:
        return (keep(args[0]), *args[1:]), kwargs
    first = next(iter(kwargs))
    return args, {**kwargs, first: keep(kwargs[first])}


def is_fsdp(model: nn.Module) -> bool:
    """Whether parts of the model gather their parameters in front of their forward, and let them go after it (FSDP)."""
    kinds = {base.__name__ for module in model.modules() for base in type(module).__mro__}
    return bool(kinds & PIECES)


def _require_python(modules: Mapping[str, nn.Module], names: Sequence[str]) -> None:
    for name in names:
        if isinstance(modules[name], torch.jit.ScriptModule):
            raise ValueError(
                f"layer {name!r} is compiled by `torch.jit`, which lets nobody see what it outputs. Watch the module "
                "as it was before `torch.jit`, or choose a layer outside of it."
            )


def _tracked(output: Tensor) -> Tensor:
    """The output as a node of the graph: a new leaf where nothing before it needs a gradient."""
    torch.set_grad_enabled(True)
    return output if output.requires_grad else output.detach().requires_grad_()


def require(outputs: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Check that a recorded forward ran every layer.

    Raises:
        ValueError: naming the layers that did not run, and why that happens.
    """
    missing = [name for name in names if name not in outputs]
    if missing:
        raise ValueError(
            f"layers {missing} never ran in this forward: their weights are used without calling them, or another "
            "path was taken. Choose layers that the forward calls."
        )
