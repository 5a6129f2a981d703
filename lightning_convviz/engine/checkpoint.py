"""What outlives a run, as plain values that a checkpoint can hold and `weights_only=True` can load."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_convviz.engine.contract import Settings
from lightning_convviz.engine.failures import WarnOnce
from lightning_convviz.engine.participant import Participant
from lightning_convviz.engine.probe_store import ProbeStore
from lightning_convviz.probes import Probes

VERSION = 4
LIMIT = 5_000_000  # bytes of one callback's state: a checkpoint is the user's, and written often


def state_of(
    participant: Participant, store: ProbeStore, all_settings: Sequence[Settings], once: WarnOnce
) -> dict[str, Any]:
    """What a callback goes on with when its run is resumed."""
    settings, owner = participant.settings, participant.failures.owner
    own = participant.visualizer.export_state()
    state: dict[str, Any] = {
        "version": VERSION, "schedule": participant.schedule.state_dict(), "own": own, "probes": None,
    }  # fmt: skip
    probes = store.to_save(settings, all_settings)
    if probes is not None:
        plain = probes.state_dict()
        if size(plain) > LIMIT:
            once.warn(
                f"{owner} saves no probes in checkpoints: they take over {LIMIT / 1e6:.0f} MB. A run that is resumed "
                "takes them from its validation batches anew. A smaller `num_probes` fits; `save_images=False` says "
                "that this is fine."
            )
        else:
            wanted = store.wanted(settings.dataloader_idx, all_settings)
            state["probes"] = {**plain, "loader": settings.dataloader_idx, "wanted": wanted}
    for key, droppable in participant.visualizer.droppable.items():
        if size(state) > LIMIT and own.get(key) is not None:
            own[key] = None
            once.warn(
                f"{owner} saves no {droppable.what} in checkpoints: with the probes they take over "
                f"{LIMIT / 1e6:.0f} MB. A run that is resumed begins with new ones. A smaller `{droppable.argument}` "
                "fits."
            )
    return state


def size(state: Any) -> int:
    """Bytes of the tensors in dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(size(part) for part in parts)


def restore(participant: Participant, store: ProbeStore, state: Mapping[str, Any]) -> None:
    """Go on with what an earlier run saved.

    Raises:
        ValueError: for a state of another version.
    """
    if state.get("version") != VERSION:
        raise ValueError(f"its version is {state.get('version')}, and this is version {VERSION}")
    settings, plain = participant.settings, state["probes"]
    fits = plain is not None and settings.probes is None and plain["loader"] == settings.dataloader_idx
    found = Probes.from_state_dict(plain) if fits and plain["wanted"] >= settings.num_probes else None
    participant.visualizer.import_state(state["own"])
    participant.schedule.load_state_dict(state["schedule"])
    if found is not None:
        store.restore(settings.dataloader_idx, found)
