"""One session for each trainer, shared by our callbacks in it: probes, the recorded forward, observers, the writer."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn

from lightning_convviz import _lightning, layers
from lightning_convviz.callbacks.collector import Collector
from lightning_convviz.callbacks.hooks import Hooks
from lightning_convviz.callbacks.outbox import Outbox
from lightning_convviz.callbacks.ranks import Ranks, adopt, statistics
from lightning_convviz.callbacks.scene import (
    Moment,
    Scene,
    View,
    checked,
    explained,
    for_each,
    key,
    looked,
    one_for_all,
    precisely,
    tried,
)
from lightning_convviz.pixels import estimate
from lightning_convviz.probes import Probes

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher

# Names of callbacks, probes of those that have new ones, running statistics.
News = tuple[list[str], dict[str, Probes], dict[str, Tensor]]


class Session:
    """Everything that the callbacks of one trainer share."""

    def __init__(self, trainer: Any = None, module: Any = None) -> None:
        # Weakly: the callbacks hold the session, and the trainer holds the callbacks.
        self._served = None if trainer is None else (ref(trainer), ref(module))
        self.watchers: list[Watcher] = []
        self.ranks = Ranks(trainer)
        self.outbox = Outbox()
        self._collectors: dict[int, Collector] = {}
        self._sent: dict[str, Probes] = {}  # by callback: rank 0's probes, as all ranks have them
        self._statistics: dict[str, Tensor] = {}
        self.hooks = Hooks()
        self._scenes: dict[tuple[int, ...], Scene] = {}

    def serves(self, trainer: Any, module: Any) -> bool:
        """Whether this is the session of a trainer and its model."""
        return self._served is not None and self._served[0]() is trainer and self._served[1]() is module

    # -- passing batches ---------------------------------------------------------------------------------------------

    def open(self, module: nn.Module) -> None:
        """At the start of a validation: let observers see the user's own forward."""
        self.hooks.close()
        for collector in self._collectors.values() if self.ranks.leads else ():
            if collector.missing(self.wanted(collector.loader)):  # a short sanity check's batches come again
                collector.keep(None)
                self._scenes.clear()
        self.hooks.open(module, self.watchers)

    def after(self, trainer: _lightning.Trainer, batch: Any, loader: int, returned: Any) -> None:
        """After a batch is validated: hear what was said of it; keep its images as probes while there are too few."""
        self.hooks.after(trainer, batch, loader, returned)
        if not self.ranks.leads:  # which sends its probes to the others
            return
        for wanted in {watcher.dataloader_idx for watcher in self.watchers if watcher.given is None}:
            collector = self._collector(wanted)
            here = loader == collector.loader or not _lightning.is_sequential(trainer)
            if here and collector.take(trainer, batch, self.wanted(collector.loader)):
                self._scenes.clear()

    def _collector(self, loader: int) -> Collector:
        return self._collectors.setdefault(loader, Collector(loader))

    def wanted(self, loader: int) -> int:
        """How many probes to take from a loader."""
        own = [each for each in self.watchers if each.given is None and each.dataloader_idx == loader]
        return max((watcher.num_probes for watcher in own), default=0)

    def begin(self, trainer: Any) -> None:
        """At the start of a fit, a validation or a test: its data may be others, and its callbacks too."""
        self.outbox.begin()
        self.ranks.sharing = False  # to be agreed upon for these data
        self.watchers = [watcher for watcher in self.watchers if any(watcher is each for each in trainer.callbacks)]
        for collector in self._collectors.values():
            if not collector.settled:
                collector.keep(None)
                self._scenes.clear()

    def settle(self) -> None:
        """At the first drawing of a training that is shown: from now on the probes stay the same."""
        for collector in self._collectors.values():
            collector.settled = collector.passed is not None

    # -- what a checkpoint holds -------------------------------------------------------------------------------------

    def collected(self, watcher: "Watcher") -> Probes | None:
        """The probes that this callback saves for all: the first to take its own from this loader does."""
        savers = [each for each in self.watchers if each.given is None and each.save_images]
        first = next((each for each in savers if each.dataloader_idx == watcher.dataloader_idx), None)
        collector = self._collector(watcher.dataloader_idx)
        return collector.passed if first is watcher and collector.settled else None

    def restore(self, watcher: "Watcher", probes: Probes) -> None:
        """The probes of the run that is resumed."""
        collector = self._collector(watcher.dataloader_idx)
        collector.keep(probes)
        collector.settled = True
        self._scenes.clear()

    # -- several ranks -----------------------------------------------------------------------------------------------

    def exchange(self, trainer: Any, module: Any, ordered: list["Watcher"]) -> list[str]:
        """On all ranks: rank 0 says which callbacks are to draw together, and on what; returns their names."""
        news: News | None = None
        if self.ranks.leads:
            try:
                news = self._news(module, ordered)
            except Exception as error:  # the others wait
                news = ([], {}, {})
                self.outbox.once.tell(f"lightning_convviz could not share its work ({type(error).__name__}: {error}).")
        told = self.ranks.broadcast(trainer, news)
        assert told is not None  # rank 0's
        names, probes, self._statistics = told
        if probes and not self.ranks.leads:
            self._sent.update(probes)
            self._scenes.clear()
        return names

    def _news(self, module: Any, ordered: list["Watcher"]) -> News:
        names, fresh = [], {}
        for watcher in ordered:
            with suppress(ValueError):  # it has no probes, and will say so
                probes = self.probes(watcher)
                names.append(watcher.name)
                if self._sent.get(watcher.name) is not probes:
                    self._sent[watcher.name] = probes
                    fresh[watcher.name] = probes.cpu()
        return names, fresh, statistics(module) if names else {}

    def is_sure(self, watcher: "Watcher") -> bool:
        """Whether the callback's probes will not change any more."""
        return watcher.given is not None or not self._collector(watcher.dataloader_idx).missing(watcher.num_probes)

    def adopt(self, module: Any) -> None:
        """Work for rank 0 with its running statistics; inside `isolated(module)`."""
        if not self.ranks.leads:
            adopt(module, self._statistics)

    # -- drawing -----------------------------------------------------------------------------------------------------

    def view(self, watcher: "Watcher", trainer: Any, module: Any, moment: Moment) -> View:
        """The model seen through a callback's probes; call it inside `isolated(module)`."""
        place, parts = key(watcher), [id(part) for part in module.modules()]
        if place not in self._scenes or self._scenes[place].parts != parts:  # the model may change while it trains
            self._scenes[place] = self._scene(watcher, trainer, module)
        scene = self._scenes[place]
        watcher.resolve(module, scene)
        if watcher not in scene.looks:
            self._look(watcher, scene, module)
        return View(
            model=module,
            forward=partial(one_for_all, scene.forward, scene.extra_inputs),
            runs=scene.runs,
            probes=scene.probes,
            photos=scene.photos,
            look=scene.looks[watcher],
            moment=moment,
            again=partial(for_each, scene.forward, scene.extra_inputs),
            explain=partial(explained, scene, module, watcher, partial(_lightning.as_input, trainer)),
        )

    def _scene(self, watcher: "Watcher", trainer: Any, module: Any) -> Scene:
        chosen = self.probes(watcher)
        wide = torch.float64 if module.dtype == torch.float64 else torch.float32
        images = _lightning.as_input(trainer, chosen.images.to(module.device, wide))
        extra_inputs = {name: other.to(module.device) for name, other in chosen.extra_inputs.items()}
        chosen = replace(chosen, images=images, extra_inputs=extra_inputs, space=chosen.space or estimate(images))
        call = self._forward(watcher.forward_, module)
        forward, arguments = partial(precisely, trainer, call), chosen.arguments(call)
        returned: list[Any] = []
        with torch.no_grad():
            runs = layers.trace(module, lambda: returned.append(tried(forward, images, arguments)))
        had, chosen = chosen.labels is not None, checked(chosen, returned[0], watcher)
        if had and chosen.labels is None:  # they were something else than labels, and so are those of the batches
            for each in self.watchers:
                each.hears = each.hears and each.given is not None
        parts = [id(part) for part in module.modules()]
        return Scene(chosen, chosen.display(), call, forward, arguments, runs, parts)

    def probes(self, watcher: "Watcher") -> Probes:
        """What a callback watches.

        Raises:
            ValueError: where no batch with images has passed.
        """
        if watcher.name in self._sent and not self.ranks.leads:
            return self._sent[watcher.name]
        if watcher.given is not None:
            return watcher.given
        collector = self._collector(watcher.dataloader_idx)
        if collector.passed is None:
            raise collector.unreadable or ValueError("no validation batch with images has passed. Give `probes=`.")
        return collector.first(watcher.num_probes)

    def _forward(self, given: str | Callable[..., Any] | None, module: Any) -> Callable[..., Any]:
        if isinstance(given, str):
            return layers.named_layers(module)[layers.find_one(module, given, argument="forward")]
        if given is not None:
            return partial(given, module)
        if _lightning.has_forward(module):
            call: Callable[..., Any] = module
            return call
        if self.hooks.receiver is None:
            raise ValueError(
                f"`{type(module).__name__}` has no `forward` of its own, and no part of it was seen to receive the "
                "images. Give `forward=` the name of a sub-module, or a function (model, images) -> logits."
            )
        return layers.named_layers(module)[self.hooks.receiver]

    def _look(self, watcher: "Watcher", scene: Scene, module: Any) -> None:
        """One forward for this callback and all others that are about to look at the same probes."""
        sharers = {watcher: watcher.wants(scene.probes)}
        for other in self.watchers:
            if other is not watcher and other.turn.due and key(other) == key(watcher):
                with suppress(Exception):  # it will say so itself when its turn comes
                    other.resolve(module, scene)
                    sharers[other] = other.wants(scene.probes)
        try:
            scene.looks.update(looked(scene, module, sharers))
        except Exception:  # perhaps another's fault: then each by itself
            if self.ranks.sharded:  # where a rank that tries again alone is out of step with the others
                raise
            scene.looks.update(looked(scene, module, {watcher: sharers[watcher]}))

    def forget(self) -> None:
        """After a validation: what was recorded is of no use any more."""
        for scene in self._scenes.values():
            scene.looks.clear()

    def end(self, trainer: Any) -> None:
        """At the end of a validation: what was recorded is of no use any more."""
        self.hooks.close()
        self.forget()
        self.outbox.flush(trainer)

    def finish(self, trainer: Any) -> None:
        """At the end of the run, also a broken one: write everything, let everything go."""
        self.hooks.close()
        self.outbox.finish(trainer)
        self._scenes.clear()
