"""What outlives a run: probes as plain values that a checkpoint can hold and `weights_only=True` can load."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from lightning_convviz.pixels import Denormalization
from lightning_convviz.probes import Probes

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher

VERSION = 3
LIMIT = 5_000_000  # bytes of one callback's state: a checkpoint is the user's, and written often


def packed(probes: Probes) -> dict[str, Any] | None:
    """Probes as tensors, strings and numbers; None where they take more than `LIMIT` bytes."""
    masks = [] if probes.masks is None else [probes.masks]
    tensors = [probes.images, *probes.extra_inputs.values(), *masks]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > LIMIT:
        return None
    space = probes.space
    return {
        "images": probes.images.cpu(),
        "labels": None if probes.labels is None else torch.as_tensor(probes.labels).tolist(),
        "class_names": None if probes.class_names is None else [str(name) for name in probes.class_names],
        "ids": list(probes.ids or ()),
        "extra_inputs": {key: other.cpu() for key, other in probes.extra_inputs.items()},
        "space": None if space is None else [list(space.scale), list(space.offset)],
        "masks": None if probes.masks is None else probes.masks.cpu(),
    }


def unpacked(state: Mapping[str, Any]) -> Probes:
    """The probes that `packed` made plain."""
    space = state["space"]
    return Probes(
        state["images"],
        state["labels"],
        state["class_names"],
        ids=tuple(state["ids"]),
        extra_inputs=dict(state["extra_inputs"]),
        space=None if space is None else Denormalization(tuple(space[0]), tuple(space[1])),
        masks=state.get("masks"),  # states of older versions have none
    )


def state(watcher: "Watcher") -> dict[str, Any]:
    """What a callback goes on with when its run is resumed."""
    turn = watcher.turn
    found: dict[str, Any] = {"v": VERSION, "schedule": turn.schedule.state(), "kept": watcher.kept(), "probes": None}
    probes = turn.session.collected(watcher)
    if probes is not None:
        plain = packed(probes)
        if plain is None:
            turn.session.outbox.once.tell(
                f"{type(watcher).__name__} saves no probes in checkpoints: they take over {LIMIT / 1e6:.0f} MB. A run "
                "that is resumed takes them from its validation batches anew. A smaller `num_probes` fits; "
                "`save_images=False` says that this is fine."
            )
        else:
            wanted = turn.session.wanted(watcher.dataloader_idx)
            found["probes"] = {**plain, "loader": watcher.dataloader_idx, "wanted": wanted}
    for name, (what, argument) in watcher.spare.items():
        if size(found) > LIMIT and found["kept"].get(name) is not None:
            found["kept"][name] = None
            turn.session.outbox.once.tell(
                f"{type(watcher).__name__} saves no {what} in checkpoints: with the probes they take over "
                f"{LIMIT / 1e6:.0f} MB. A run that is resumed begins with new ones. A smaller `{argument}` fits."
            )
    return found


def size(state: Any) -> int:
    """Bytes of the tensors in dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(size(part) for part in parts)


def restore(watcher: "Watcher", saved: Mapping[str, Any]) -> None:
    """Go on with what an earlier run saved.

    Raises:
        ValueError: for a state of another version.
    """
    if saved.get("v") != VERSION:
        raise ValueError(f"its version is {saved.get('v')}, and this is version {VERSION}")
    turn, plain = watcher.turn, saved["probes"]
    fits = plain is not None and watcher.given is None and plain["loader"] == watcher.dataloader_idx
    probes = unpacked(plain) if fits and plain["wanted"] >= watcher.num_probes else None
    watcher.keep(saved["kept"])
    turn.schedule.restore(saved["schedule"])
    if probes is not None:
        turn.session.restore(watcher, probes)
