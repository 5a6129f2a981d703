"""One callback's way through a run: from a validation that is due to a drawing that is handed over."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lightning_convviz import _lightning, layers, sinks
from lightning_convviz.callbacks.arguments import require_folder, require_loader
from lightning_convviz.callbacks.scene import Moment, View
from lightning_convviz.callbacks.schedule import Failures, Schedule, moment
from lightning_convviz.callbacks.session import Session
from lightning_convviz.isolation import isolated
from lightning_convviz.render import Drawable
from lightning_convviz.render.strips import Strip

if TYPE_CHECKING:
    from lightning_convviz.callbacks.base import Watcher


class Turn:
    """The state of one callback in one run.

    Attributes:
        due: whether the validation that runs is to be drawn by this process.
        shared: whether all ranks take part of this drawing.
        loaded: epoch and step of the checkpoint that was loaded.
        initial_pictures: what the dry run before training drew, by tag.
    """

    def __init__(self, watcher: "Watcher", session: Session) -> None:
        self.watcher = watcher
        self.session = session
        self.schedule = Schedule(watcher.every_n_epochs)
        self.failures = Failures(type(watcher).__name__)
        self.initial_pictures: dict[str, Drawable] = {}
        self.due = False
        self.shared = False
        self.loaded: tuple[int, int] | None = None
        self._begun: tuple[View, Any, float] | None = None
        self._failed: Exception | None = None
        self._drawn: sinks.LoggedDrawing | None = None
        self._misfit: Exception | None = None
        self._agreed = False
        self._last: tuple[int, int, dict[str, Strip]] | None = None  # the last drawing's epoch, step and strips
        self._in_step = True  # with the other ranks of a model in pieces

    @property
    def leads(self) -> bool:
        """Whether this is the session's first callback, which does what is done once for all."""
        return self.session.watchers[:1] == [self.watcher]

    # -- the moments of a run ----------------------------------------------------------------------------------------

    def check(self, module: Any) -> None:
        """Before anything runs: names that the model does not have.

        Raises:
            ValueError: for such a name.
        """
        require_folder(self.watcher.save_dir)
        self.watcher.check(module)
        if isinstance(self.watcher.forward_, str):
            layers.find_one(module, self.watcher.forward_, argument="forward")

    def start(self, trainer: Any, module: Any) -> None:
        """When training starts. Without a sanity check, given probes are tried here; others are not there yet."""
        if self.leads:
            self.session.ranks.agree_to_share(trainer)
        require_loader(self.watcher, trainer)
        # Every rank has to decide this alike: not by pictures, which rank 0 alone has.
        fresh = trainer.global_step == 0 and not self._agreed
        if self.watcher.initial and fresh and self.watcher.given is not None:
            self.due = self._is_active(trainer)
            if self.session.ranks.sharded:
                self._order(trainer, module, [self.watcher])
            self._attempt(trainer, module, initial=True)
            self.session.forget()
            self.agree(trainer)

    def open(self, trainer: Any, module: Any) -> None:
        """When a validation starts, on every rank that has batches for it."""
        if trainer.sanity_checking:
            require_loader(self.watcher, trainer)
        if not _lightning.is_fit(trainer):
            self.check(module)
        self.due, self.shared, self._begun, self._failed = self._is_due(trainer), False, None, None
        self.watcher.opened()
        if self.leads:
            self._safely(partial(self.session.open, module))

    def before(self, trainer: Any, module: Any, batch: Any, *, first: bool) -> None:
        """Before a batch is validated."""
        if not self.leads:
            return
        self._safely(partial(self.session.hooks.before, trainer, batch))
        if first and self.session.ranks.sharing and _lightning.is_fit(trainer):
            # Now: a callback that validates averaged weights has them in place, wherever it stands in the list.
            self._order(trainer, module, [each for each in self.session.watchers if each.shares])

    def after(self, trainer: Any, module: Any, returned: Any, batch: Any, loader: int) -> None:
        """After a batch was validated; the drawing moment is after the last one.

        Not the end of the epoch, where averaged weights may be gone again. Only ranks that have to run the model
        together meet there.
        """
        if self.leads:
            self._safely(partial(self.session.after, trainer, batch, loader, returned))
        if _lightning.is_last_batch(trainer) and not self.session.ranks.sharded:
            self._attempt(trainer, module, initial=trainer.sanity_checking)

    def meet(self, trainer: Any, module: Any) -> None:
        """At the end of a validation, where ranks may talk to each other."""
        if self.leads and self.session.ranks.sharded:
            self._order(trainer, module, self.session.watchers)
        self._attempt(trainer, module, initial=trainer.sanity_checking)  # also where no batch announced to be the last
        if self.shared:
            # Errors as text: not every exception survives the way to another process.
            broken = None if self._failed is None else f"{type(self._failed).__name__}: {self._failed}"
            parts = self.session.ranks.gather(broken or (self._begun or (None, "it saw no last batch"))[1])
            if self.session.ranks.leads:
                self._finish(trainer, parts)
        self._begun = None
        self.hand_over()

    def agree(self, trainer: Any) -> None:
        """After the dry run, on all ranks: what did not fit on the one that drew ends the run on all of them.

        An error on one rank alone would leave the others waiting in their next collective.
        """
        own, self._misfit, self._agreed = self._misfit, None, True
        told, chosen = self.session.ranks.broadcast(trainer, (None if own is None else str(own), self.watcher.chosen()))
        if not self.session.ranks.leads:  # which ran no drawing, and is to observe the same layers
            self.watcher.choose(chosen)
        if told is not None:
            raise own or ValueError(told)

    def hand_over(self) -> None:
        """Let the session write what was drawn."""
        if self._drawn is not None:
            self.session.outbox.put(self._drawn, self.watcher.save_dir)
            self._drawn = None

    # -- how ---------------------------------------------------------------------------------------------------------

    def _is_active(self, trainer: Any) -> bool:
        heard = sinks.has_sink(trainer.loggers) or self.watcher.save_dir is not None
        return heard and self.session.ranks.leads and not self.failures.too_many

    def _is_due(self, trainer: Any) -> bool:
        if trainer.sanity_checking:
            return self._is_active(trainer) and self.watcher.initial and trainer.global_step == 0
        if not _lightning.is_fit(trainer):
            return self._is_active(trainer)
        due = self.schedule.count(trainer.current_epoch, trainer.global_step)
        return due and self._is_active(trainer)

    def _order(self, trainer: Any, module: Any, watchers: list["Watcher"]) -> None:
        """On all ranks: rank 0 says who draws together now; the others do as it says."""
        sharded = self.session.ranks.sharded
        ready = [each for each in watchers if each.turn.due and (sharded or self.session.is_sure(each))]
        names = self.session.exchange(trainer, module, ready)
        for watcher in watchers:
            turn, told = watcher.turn, watcher.name in names
            if sharded and turn.due and not told:  # no probes: the error is told, and nobody runs the model
                turn._guarded(partial(self.session.probes, watcher), initial=trainer.sanity_checking)
            turn.shared = told and not sharded
            turn.due = told if sharded else turn.due or told

    def _attempt(self, trainer: Any, module: Any, *, initial: bool) -> None:
        """Draw; what goes wrong before training is an error, what goes wrong in it is told and endured."""
        if not self.due:
            return
        self.due = False
        self._guarded(partial(self._draw, trainer, module, initial), initial=initial)

    def _guarded(self, action: Callable[[], object], *, initial: bool) -> None:
        try:
            action()
        except Exception as error:
            self._failed = error
            if initial and not isinstance(error, torch.OutOfMemoryError):
                self._misfit = error
            elif not self._in_step and not isinstance(error, ValueError):
                raise  # this rank alone, perhaps: the collectives of the training would meet those of the drawing
            elif self.shared or not self.session.ranks.leads:
                pass  # rank 0 hears of it where it gathers, or met the same error
            elif self.watcher.on_error == "raise":
                raise
            else:
                self.failures.add(error)
        finally:
            self._in_step = True

    def _draw(self, trainer: Any, module: Any, initial: bool) -> None:
        start = time.perf_counter()
        session, ranks = self.session, self.session.ranks
        session.hooks.close()  # the last batch has passed, and observers are not to see the probes
        self._in_step = not ranks.sharded
        with isolated(module), torch.no_grad():
            if self.shared:
                session.adopt(module)
            view = session.view(self.watcher, trainer, module, moment(trainer, self.loaded, initial))
            part = self.watcher.compute(view, ranks.share() if self.shared else slice(None))
        self._in_step = True
        self._begun = view, part, time.perf_counter() - start
        if ranks.leads and not self.shared:
            self._paint(trainer, [part])
        if _lightning.is_fit(trainer) and not initial:
            session.settle()

    def _finish(self, trainer: Any, parts: list[Any]) -> None:
        """What was computed by all ranks, as pictures; one that failed is a drawing that failed."""

        def action() -> None:
            for rank, part in enumerate(parts):
                if isinstance(part, str):
                    raise RuntimeError(f"rank {rank}: {part}")
            self._paint(trainer, parts)

        self.shared = False
        self._guarded(action, initial=False)

    def _paint(self, trainer: Any, parts: list[Any]) -> None:
        assert self._begun is not None  # this rank has drawn its part
        view, _, seconds = self._begun
        start = time.perf_counter()
        with torch.inference_mode(False), torch.no_grad():
            drawn = self.watcher.draw(view, parts)
            drawn = {tag: picture.cpu() for tag, picture in drawn.items()}  # waits for the device: the time is whole
        seconds += time.perf_counter() - start
        self.failures.in_a_row = 0
        if not view.is_finite():
            self.session.outbox.once.tell(
                f"lightning_convviz ({view.moment.caption}): the network answers the probes with values that are not "
                f"finite (NaN or infinite). {self._why(view)}",
                once="not finite",
            )
        if view.moment.initial:
            self.initial_pictures = drawn
            return
        self._drawn = self._drawing(trainer, view.moment, drawn, seconds)

    @staticmethod
    def _why(view: View) -> str:
        if not bool(view.probes.images.isfinite().all()):
            return "So are the probes: look at your data."
        return "Its training has probably diverged."

    def _drawing(self, trainer: Any, when: Moment, drawn: dict[str, Drawable], seconds: float) -> sinks.LoggedDrawing:
        name, step = self.watcher.name, when.step
        if _lightning.is_fit(trainer):
            self.schedule.last_step = step
            strips = {tag: strip for tag, strip in self.watcher.strips().items() if len(strip.columns) > 1}
            self._last = (when.epoch, step, strips) if strips else None
        else:  # under tags of their own: every trainer counts its steps anew, and a tag's steps must not fall
            stage = _lightning.stage(trainer)
            name, drawn = f"{stage}/{name}", {f"{stage}/{tag}": picture for tag, picture in drawn.items()}
            places = sinks.with_folder(sinks.destinations(trainer.loggers), self.watcher.save_dir)
            step = sinks.next_step(places, name, step)
        own = {f"convviz/{name}/{tag}": value for tag, value in self.watcher.scalars().items()}
        text = self.watcher.text() if _lightning.is_fit(trainer) else ""
        texts = {f"convviz/diagnostics/{name}": text} if text else {}
        return sinks.LoggedDrawing(name, when.epoch, step, drawn, {f"convviz/seconds/{name}": seconds, **own}, texts)

    def conclude(self, trainer: Any) -> None:
        """At the end of a fit: the film strips of its last drawing, once more in time."""
        if self._last is not None:
            epoch, step, strips = self._last
            drawn: dict[str, Drawable] = {f"animation/{tag}": strip.animation() for tag, strip in strips.items()}
            name, self._last = f"animation/{self.watcher.name}", None
            self.session.outbox.put(sinks.LoggedDrawing(name, epoch, step, drawn), self.watcher.save_dir)

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            if self.watcher.on_error == "raise":
                raise
            self.session.outbox.once.tell(
                f"lightning_convviz could not watch a validation batch pass ({type(error).__name__}: {error}).",
                once=type(error).__name__,
            )
