"""Check the arguments of the callbacks: an error names the argument, what came, and what would be right."""

from pathlib import Path
from typing import Any

from torch import nn

from lightning_convviz import ascent, cams, targets
from lightning_convviz.render import colormap

MOST_STRONGEST = 12  # channels in a row
MOST_EXCITING = 24  # channels in a picture


def check_common(
    *,
    num_probes: Any,
    dataloader_idx: Any,
    every_n_epochs: Any,
    forward: Any,
    output: Any,
    reshape: Any,
    logits: Any,
    name: Any,
    save_dir: Any,
    save_images: Any,
    on_error: Any,
    initial: Any,
) -> None:
    """Check what all callbacks take.

    Raises:
        TypeError: for a wrong type.
        ValueError: for a value out of range.
    """
    at_least("num_probes", num_probes, 1)
    at_least("dataloader_idx", dataloader_idx, 0)
    if not isinstance(every_n_epochs, str) or every_n_epochs != "log":
        at_least("every_n_epochs", every_n_epochs, 1, alternative=", or 'log'")
    if forward is not None and not isinstance(forward, str) and not callable(forward):
        raise TypeError(
            f"`forward` is a {type(forward).__name__}. It can be the name of a sub-module or a function "
            "(model, images) -> logits."
        )
    if name is not None and not isinstance(name, str):
        raise TypeError(f"`name` is {name!r}. It must be a word for the tags, or None.")
    if name is not None and not name.strip("/ "):
        raise ValueError(f"`name` is {name!r}. It must be a word for the tags, or None.")
    if save_dir is not None and not isinstance(save_dir, str | Path):
        raise TypeError(f"`save_dir` is {save_dir!r}. It must be the path of a local folder, or None.")
    if save_dir is not None and (not str(save_dir).strip() or "://" in str(save_dir)):
        raise ValueError(f"`save_dir` is {save_dir!r}. It must be the path of a local folder, or None.")
    check_switches(save_images=save_images, initial=initial)
    _check_functions(output=output, reshape=reshape, logits=logits)
    _check_choice("on_error", on_error, "warn", "raise")


def at_least(argument: str, value: Any, lowest: int, *, alternative: str = "") -> None:
    """Check an integer argument.

    Raises:
        TypeError: where it is no integer.
        ValueError: where it is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{argument}` is {value!r}. It must be an integer of at least {lowest}{alternative}.")
    if value < lowest:
        raise ValueError(f"`{argument}` is {value}. It must be at least {lowest}{alternative}.")


def check_layers(layers: Any) -> None:
    """Check what an argument `layers` may be.

    Raises:
        TypeError: where it is not names, globs or module classes.
        ValueError: where it is an empty list.
    """
    items = list(layers) if isinstance(layers, list | tuple) else [layers]
    for item in items:
        if not isinstance(item, str) and not (isinstance(item, type) and issubclass(item, nn.Module)):
            raise TypeError(f"`layers` is {layers!r}. It can be names, globs, module classes, or a list of these.")
    if not items:
        raise ValueError("`layers` is empty. Name a layer, or leave it 'auto'.")


def check_activations(
    *, max_channels: Any, cmap: Any, scale: Any, layer_stats: Any, evolution: Any, strongest: Any, exciting: Any
) -> None:
    """Check what only ActivationLogger takes.

    Raises:
        TypeError: for a wrong type.
        ValueError: for an unknown name or a value out of range.
    """
    at_least("max_channels", max_channels, 1)
    if not isinstance(cmap, str):
        raise TypeError(f"`cmap` is {cmap!r}. It must be the name of a matplotlib colormap.")
    try:
        colormap(cmap)
    except ValueError as error:
        raise ValueError(f"`cmap` is {cmap!r}: {error}") from None
    _check_choice("scale", scale, "layer", "channel")
    check_switches(layer_stats=layer_stats, evolution=evolution)
    at_least("strongest", strongest, 0)
    if strongest > MOST_STRONGEST:
        raise ValueError(f"`strongest` is {strongest}. A row has room for {MOST_STRONGEST} channels.")
    if isinstance(exciting, list | tuple | range):
        _check_numbers("exciting", exciting)
    else:
        at_least("exciting", exciting, 0, alternative=", or a list of channels")
    if (count := exciting if isinstance(exciting, int) else len(exciting)) > MOST_EXCITING:
        raise ValueError(f"`exciting` asks for {count} channels. A picture has room for {MOST_EXCITING}.")


def _check_choice(argument: str, value: Any, one: str, other: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"`{argument}` is {value!r}. It can be {one!r} or {other!r}.")
    if value not in (one, other):
        raise ValueError(f"`{argument}` is {value!r}. It can be {one!r} or {other!r}.")


def check_switches(**given: Any) -> None:
    """Check arguments that are on or off.

    Raises:
        TypeError: for anything else.
    """
    for argument, value in given.items():
        if not isinstance(value, bool):
            raise TypeError(f"`{argument}` is {value!r}. It must be True or False.")


def check_gradcam(
    *,
    layer: Any,
    method: Any,
    target: Any,
    high_res_layer: Any,
    signed: Any,
    num_mistakes: Any,
    heatmap_metrics: Any,
    evolution: Any,
) -> None:
    """Check what only GradCAMLogger takes.

    Raises:
        TypeError: for a wrong type.
        ValueError: for an unknown name or a value out of range.
    """
    names = layer if isinstance(layer, list) and layer else [layer]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"`layer` is a {type(layer).__name__}. It must be the name of one layer, or 'auto'.")
    cams.check(method)
    if isinstance(layer, list) and not (isinstance(method, str) and method in cams.FUSIONS):
        raise ValueError(
            f"`layer` is a list, and `method` {method!r} explains one layer. Name one, or take a method that fuses "
            f"layers: {sorted(cams.FUSIONS)}."
        )
    if high_res_layer is not None and not isinstance(high_res_layer, str):
        raise TypeError(
            f"`high_res_layer` is a {type(high_res_layer).__name__}. It must be the name of a layer, 'auto' or None."
        )
    known = ["auto", "label", *targets.TARGETS]
    if isinstance(target, bool) or not (isinstance(target, str | int) or callable(target)):
        raise TypeError(f"`target` is a {type(target).__name__}. It can be {known}, a class, or a function.")
    if isinstance(target, str) and target not in known:
        raise ValueError(f"`target` is {target!r}. It can be {known}, a class, or a function logits (n, k) -> (n,).")
    at_least("num_mistakes", num_mistakes, 0)
    check_switches(signed=signed, heatmap_metrics=heatmap_metrics, evolution=evolution)


def check_patterns(
    *,
    num_filters: Any,
    filters: Any,
    important_for: Any,
    classes: Any,
    steps: Any,
    cold_steps: Any,
    warm: Any,
    size: Any,
    seed: Any,
    chunk: Any,
    examples: Any,
    kernels: Any,
    objective: Any,
    canvas: Any,
    evolution: Any,
) -> None:
    """Check what only FilterPatternLogger takes.

    Raises:
        TypeError: for a wrong type.
        ValueError: for an unknown name or a value out of range.
    """
    for argument, value in {"num_filters": num_filters, "steps": steps, "cold_steps": cold_steps}.items():
        at_least(argument, value, 1)
    for argument, value, lowest in (("size", size, 8), ("chunk", chunk, 1), ("important_for", important_for, 0)):
        if value is not None:
            at_least(argument, value, lowest)
    at_least("seed", seed, 0)
    check_switches(warm=warm, examples=examples, kernels=kernels, evolution=evolution)
    if isinstance(filters, str) and filters not in ("spread", "active"):
        raise ValueError(f"`filters` is {filters!r}. It can be 'spread', 'active', or a list of channels.")
    if not isinstance(filters, str):
        _check_numbers("filters", filters)
        if not filters:
            raise ValueError("`filters` is empty. Name at least one channel.")
    if important_for is not None and filters != "spread":
        raise ValueError(f"`filters` is {filters!r}, and `important_for` chooses filters, too. Give one of them.")
    _check_numbers("classes", classes)
    _check_objective(objective)
    ascent.check_canvas(canvas)


def _check_objective(objective: Any) -> None:
    ascent.resolve(objective)
    if objective == "diverse":
        raise ValueError(
            "`objective` is 'diverse', and the callback draws one image of each filter, with nothing to differ from. "
            "Use `ascent.patterns`, with a channel named several times."
        )


def _check_numbers(argument: str, given: Any) -> None:
    fine = isinstance(given, list | tuple | range) and all(
        isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in given
    )
    if not fine:
        raise TypeError(f"`{argument}` is {given!r}. It must be a list of integers of at least 0.")
    if len(set(given)) < len(given):
        raise ValueError(f"`{argument}` is {list(given)}, which repeats itself. Name each number once.")


def _check_functions(**given: Any) -> None:
    what = {
        "output": "model output -> logits",
        "reshape": "a layer's output -> maps (n, c, y, x)",
        "logits": "what `validation_step` returns -> logits",
    }
    for argument, value in given.items():
        if value is not None and not callable(value):
            raise TypeError(f"`{argument}` is a {type(value).__name__}. It must be a function: {what[argument]}.")
